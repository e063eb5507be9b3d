"""The conformance suite of consumers: it passes right programs and refuses wrong ones."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.conformance import cases
from tests.conformance.program import PYTHON, Program
from tests.conformance.stage import World
from tests.conformance.suite import Result, play, play_all

if TYPE_CHECKING:
    from connector.devkit.local_kafka import LocalKafka


# The first test plays all cases.
pytestmark = pytest.mark.timeout(900)

# `make test-all` plays the others, with the programs in every language.
CASES = (
    cases.partitions_added,
    cases.open_at_the_start,
    cases.deleted_topic,
    cases.aborted,
    cases.statuses,
    cases.strays,
    cases.gap,
    cases.retention,
    cases.wrong_feed,
    cases.unknown_fingerprint,
)


@pytest.fixture(scope="module")
def results(kafka: LocalKafka) -> dict[str, Result]:
    """Play the cases with the example in Python."""
    played = play_all(World(kafka), [PYTHON], CASES)
    return {result.case: result for result in played}


@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_the_example_prints_what_was_committed(
    results: dict[str, Result], case: str
) -> None:
    assert results[case].faults == []


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
