"""The process that describes the group: it may fail, but the worker goes on."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from connector.config.model import Kafka
from connector.config.secrets import ClientSettings
from connector.errors import AccessDenied, KafkaUnavailable
from connector.kafka import members
from connector.kafka.clients import Clients
from connector.kafka.members import Member, Members
from connector.kafka.names import ShardId

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Child = Callable[[str], Members]

PASSWORD = "secret-4711"
GROUP_AUTHORIZATION_FAILED = 30


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    """Members whose process is this shell script, run in an empty folder."""

    def with_script(script: str) -> Members:
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
        program.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(program))
        settings = Clients(
            Kafka(client=ClientSettings({"sasl.password": PASSWORD}))
        ).admin()
        return Members(settings, "group", {"levels.all.current": "all"})

    return with_script


def saying(answer: Any) -> str:
    return f"cat > question\ncat << 'END'\n{json.dumps(answer)}\nEND"


def test_members_are_sorted_and_have_only_shards_of_our_topics(child: Child) -> None:
    partitions = [["levels.all.current", 1], ["levels.all.current", 0], ["other", 2]]
    owner = {"client_id": "b", "host": "/10.0.0.2", "partitions": partitions}
    standby = {"client_id": "a", "host": "10.0.0.1", "partitions": []}
    found = child(saying({"members": [owner, standby], "error": None})).now()
    shards = (ShardId("all", 0), ShardId("all", 1))
    assert found == (Member("a", "10.0.0.1", ()), Member("b", "10.0.0.2", shards))


def test_the_question_goes_by_standard_input_only(child: Child, tmp_path: Path) -> None:
    script = 'echo "$@" > arguments\nenv > environment\n'
    assert child(script + saying({"members": [], "error": None})).now() == ()
    question = json.loads((tmp_path / "question").read_text())
    assert question["settings"]["sasl.password"] == PASSWORD
    assert question["group_id"] == "group"
    assert PASSWORD not in (tmp_path / "arguments").read_text()
    assert PASSWORD not in (tmp_path / "environment").read_text()


def test_an_error_of_kafka_is_explained_as_everywhere(child: Child) -> None:
    error = {"code": GROUP_AUTHORIZATION_FAILED, "text": "not authorized"}
    with pytest.raises(
        AccessDenied,
        match=r"describing the group: GROUP_AUTHORIZATION_FAILED.*grant READ on the group",
    ):
        child(saying({"members": [], "error": error})).now()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("kill -ABRT $$", "the process that asks Kafka was ended by signal 6"),
        ("kill -SEGV $$", "the process that asks Kafka was ended by signal 11"),
        ("exit 3", "the process that asks Kafka ended with status 3"),
        ("exit 0", "cannot read the answer"),
        ("echo '{}'", "cannot read the answer"),
        ("printf '\\377'", "cannot read the answer"),
    ],
)
def test_a_process_that_fails_is_an_error_and_no_more(
    child: Child, script: str, expected: str
) -> None:
    with pytest.raises(KafkaUnavailable, match=f"describing the group: {expected}"):
        child(script).now()


def test_what_a_failed_process_wrote_is_for_debugging_only(
    child: Child, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(KafkaUnavailable):
        child("yes a long story | head -10000 >&2\necho the reason >&2\nexit 1").now()
    [record] = caplog.records
    assert record.levelno == logging.DEBUG
    stderr = str(vars(record)["stderr"])
    assert stderr.endswith("the reason\n")
    assert len(stderr) <= 500
    assert capfd.readouterr() == ("", "")


def test_a_process_that_does_not_end_is_killed(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "_CHILD_SECONDS", 0.5)
    with pytest.raises(
        KafkaUnavailable, match=r"describing the group: no answer within 0\.5 s"
    ):
        child("echo $$ > pid\nexec sleep 60").now()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_process_that_cannot_be_started_is_an_error(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = child("")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(
        KafkaUnavailable, match="cannot start a process: No such file or directory"
    ):
        asked.now()
