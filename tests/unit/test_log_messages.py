"""The log messages that other tests look for exist.

A test that asserts the absence of a message would otherwise pass once the message is
reworded, and a test that waits for it would fail only after its timeout.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import connector
from tests.support.log_messages import PARTS_OF_MESSAGES, WHOLE_MESSAGES


def texts_in(path: Path) -> set[str]:
    """Return the strings of a module, except strings that stand alone, such as docstrings."""
    tree = ast.parse(path.read_text())

    # Collect the statements that are nothing but an expression: docstrings among them.
    alone: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            alone.add(node.value)

    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or node in alone:
            continue
        if isinstance(node.value, str):
            found.add(node.value)
    return found


@pytest.fixture(scope="module")
def texts() -> set[str]:
    """Return all strings that the connector could log."""
    folder = Path(connector.__file__).parent
    found = set()
    for path in folder.rglob("*.py"):
        found |= texts_in(path)
    return found


@pytest.mark.parametrize("message", WHOLE_MESSAGES)
def test_the_connector_has_each_message_that_tests_look_for(
    message: str, texts: set[str]
) -> None:
    assert message in texts


@pytest.mark.parametrize("part", PARTS_OF_MESSAGES)
def test_a_message_of_the_connector_contains_each_part_that_tests_search_for(
    part: str, texts: set[str]
) -> None:
    containing = [text for text in texts if part in text]

    assert containing != []
