"""The conformance suite of consumers: it passes right programs and refuses wrong ones."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.conformance import cases
from tests.conformance.program import Program
from tests.conformance.stage import World
from tests.conformance.suite import play

if TYPE_CHECKING:
    from connector.devkit.local_kafka import LocalKafka


def naive(isolation: str) -> Program:
    command = (sys.executable, "-m", "tests.conformance.naive_consumer")
    return Program(isolation, (*command, "--isolation", isolation))


def test_a_consumer_that_reads_uncommitted_records_is_refused(
    kafka: LocalKafka,
) -> None:
    programs = [naive("read_committed"), naive("read_uncommitted")]
    right, wrong = play(cases.aborted, World(kafka), programs)
    assert right.faults == []
    assert "does the program read with isolation.level=read_committed?" in str(
        wrong.faults
    )


def test_a_consumer_that_ends_without_an_error_is_refused(kafka: LocalKafka) -> None:
    silent = Program("silent", (sys.executable, "-c", ""))
    (result,) = play(cases.wrong_feed, World(kafka), [silent])
    assert result.faults == ["its exit status is 0, expected 1"]
