"""The log messages that other tests look for exist."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import connector
from tests.support.log_messages import PARTS_OF_MESSAGES, WHOLE_MESSAGES

LOG_METHODS = {"debug", "info", "warning", "error", "critical", "exception", "log"}


def logged_texts() -> set[str]:
    """Return every string in a positional argument of a call to a logger."""
    texts = set()
    for path in Path(connector.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(
                call.func, ast.Attribute
            ):
                continue
            if call.func.attr not in LOG_METHODS:
                continue
            for argument in call.args:
                for node in ast.walk(argument):
                    if isinstance(node, ast.Constant) and isinstance(node.value, str):
                        texts.add(node.value)
    return texts


@pytest.fixture(scope="module")
def texts() -> set[str]:
    return logged_texts()


@pytest.mark.parametrize("message", WHOLE_MESSAGES)
def test_the_connector_logs_each_message_that_tests_look_for(
    message: str, texts: set[str]
) -> None:
    assert message in texts


@pytest.mark.parametrize("part", PARTS_OF_MESSAGES)
def test_a_message_of_the_connector_contains_each_part_that_tests_search_for(
    part: str, texts: set[str]
) -> None:
    assert [text for text in texts if part in text] != []
