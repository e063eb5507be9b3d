"""The process that describes the group: it may fail, but the worker goes on."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from connector.config.model import Kafka
from connector.config.secrets import ClientSettings
from connector.errors import AccessDenied, KafkaUnavailable
from connector.kafka.clients import Clients
from connector.kafka.members import Member, Members
from connector.kafka.names import ShardId

if TYPE_CHECKING:
    from pathlib import Path

    Json = dict[str, Any]

PASSWORD = "secret-4711"
TOPIC = "levels.all.current"
# Kafka's number for the error.
GROUP_AUTHORIZATION_FAILED = 30


@dataclass
class Child:
    """Replaces the process by a shell script, which runs in an empty folder."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def running(self, script: str, timeout_seconds: int = 60) -> Members:
        """Return the members of a group that this script describes."""
        program = self.folder / "program"
        program.write_text(f"#!/bin/sh\ncd {self.folder}\n{script}\n")
        program.chmod(0o700)
        self.monkeypatch.setattr(sys, "executable", str(program))

        client = ClientSettings({"sasl.password": PASSWORD})
        settings = Clients(Kafka(client=client)).admin()
        return Members(settings, "group", {TOPIC: "all"}, timeout_seconds)

    def answering(
        self, *members: Json, state: str = "STABLE", error: Json | None = None
    ) -> Members:
        """Return the members of a group that a script with this answer describes."""
        return self.running(answer(*members, state=state, error=error))

    def wrote(self, name: str) -> str:
        """Return the content of a file that the script wrote."""
        return (self.folder / name).read_text()


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    return Child(tmp_path, monkeypatch)


def answer(*members: Json, state: str = "STABLE", error: Json | None = None) -> str:
    """Return a script that stores the question and prints this answer."""
    text = json.dumps({"members": members, "state": state, "error": error})
    return f"cat > question\ncat << 'END'\n{text}\nEND"


def failure(members: Members) -> str:
    """Describe the group, and return the text of the error that this raises."""
    with pytest.raises(KafkaUnavailable) as caught:
        members.now()
    return str(caught.value)


def test_members_are_sorted_and_have_only_shards_of_our_topics(child: Child) -> None:
    partitions = [[TOPIC, 1], [TOPIC, 0], ["other", 2]]
    # Kafka writes a slash before an address that has no host name.
    owner = {"client_id": "b", "host": "/10.0.0.2", "partitions": partitions}
    standby = {"client_id": "a", "host": "10.0.0.1", "partitions": []}

    found = child.answering(owner, standby).now()

    shards = (ShardId("all", 0), ShardId("all", 1))
    assert found == (Member("a", "10.0.0.1", ()), Member("b", "10.0.0.2", shards))


# Between two assignments the brokers know of no owner. That must not look like a shard that
# nobody has.
def test_the_members_of_a_group_that_rebalances_are_not_settled(child: Child) -> None:
    member = {"client_id": "a", "host": "10.0.0.1", "partitions": []}
    expected = (Member("a", "10.0.0.1", ()),)
    assert child.answering(member).settled() == expected

    rebalancing = child.answering(member, state="PREPARING_REBALANCING")

    assert rebalancing.now() == expected
    with pytest.raises(
        KafkaUnavailable, match="not known in state PREPARING_REBALANCING"
    ):
        rebalancing.settled()


# Any user of the host can read the arguments of a process.
def test_the_question_with_its_password_goes_by_standard_input_only(
    child: Child,
) -> None:
    record = 'echo "$@" > arguments\nenv > environment\n'

    assert child.running(record + answer()).now() == ()

    question = json.loads(child.wrote("question"))
    assert question["settings"]["sasl.password"] == PASSWORD
    assert question["group_id"] == "group"
    # The process that asks has a time for its start, and the child outlives the wait.
    assert question["request_seconds"] < 60 < question["life_seconds"]
    assert PASSWORD not in child.wrote("arguments")
    assert PASSWORD not in child.wrote("environment")


def test_an_error_of_kafka_has_the_same_explanation_as_everywhere(
    child: Child,
) -> None:
    error = {"code": GROUP_AUTHORIZATION_FAILED, "text": "not authorized"}
    refused = child.answering(error=error)

    expected = "describing the group: GROUP_AUTHORIZATION_FAILED"
    remedy = "grant READ on the group"
    with pytest.raises(AccessDenied, match=f"{expected}.*{remedy}"):
        refused.now()


# librdkafka can abort the process while it describes a group. Hence the process.
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
def test_a_process_that_fails_makes_an_error_only(
    child: Child, script: str, expected: str
) -> None:
    error = failure(child.running(script))

    assert f"describing the group: {expected}" in error


def test_the_output_of_a_failed_process_is_cut_and_logged_for_debugging_only(
    child: Child, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    long_story = "yes a long story | head -10000 >&2"

    failure(child.running(f"{long_story}\necho the reason >&2\nexit 1"))

    [record] = caplog.records
    assert record.levelno == logging.DEBUG
    stderr = str(vars(record)["stderr"])
    # The reason of a failure is at the end.
    assert stderr.endswith("the reason\n")
    assert len(stderr) <= 500
    assert capfd.readouterr() == ("", "")


def test_a_process_that_does_not_end_is_killed(child: Child) -> None:
    script = "echo $$ > pid\nexec sleep 60"

    error = failure(child.running(script, timeout_seconds=2))

    assert "describing the group: no answer within 2 s" in error
    pid = int(child.wrote("pid"))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_that_cannot_be_started_is_an_error(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    unstartable = child.running("")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    error = failure(unstartable)

    assert "cannot start a process: No such file or directory" in error
