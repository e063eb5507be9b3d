"""The conformance suite of consumers: it passes right programs and refuses wrong ones."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.conformance import cases, error_cases
from tests.conformance.program import PYTHON, Program
from tests.conformance.stage import World
from tests.conformance.suite import Result, play, play_all

if TYPE_CHECKING:
    from connector.devkit.local_kafka import LocalKafka


# The first test plays all cases.
pytestmark = pytest.mark.timeout(900)

# A wrong program does nothing meanwhile, however fast the machine is.
WAIT_FOR_WRONG_SECONDS = 3.0

# `make test-all` plays the others, with the programs in every language.
CASES = (
    error_cases.gap,
    cases.partitions_added,
    cases.open_at_the_start,
    error_cases.deleted_topic,
    error_cases.recreated_topic,
    cases.aborted,
    cases.statuses,
    cases.strays,
    cases.old_states,
    cases.silence,
    error_cases.retention,
    error_cases.held_back,
    error_cases.wrong_feed,
    error_cases.unknown_fingerprint,
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


def naive(fault: str | None = None) -> Program:
    """Return the program of `naive_consumer` with one of its faults."""
    command = (sys.executable, "-m", "tests.conformance.naive_consumer")
    if fault is None:
        return Program("right", command)
    return Program(fault, (*command, "--fault", fault))


@pytest.mark.parametrize(
    ("case", "fault", "words"),
    [
        (
            cases.aborted,
            "uncommitted",
            "does the program read with isolation.level=read_committed?",
        ),
        (cases.old_states, "last_state", "sequence is 1 instead of"),
    ],
)
def test_a_consumer_that_prints_wrong_lines_is_refused(
    kafka: LocalKafka, case: cases.Case, fault: str, words: str
) -> None:
    right, wrong = play(case, World(kafka), [naive(), naive(fault)])
    assert right.faults == []
    assert words in str(wrong.faults)


@pytest.mark.parametrize(
    ("case", "fault"),
    [
        (error_cases.retention, "skips_errors"),
        # It compares no ids of topics, and waits for an open transaction without an end.
        (error_cases.recreated_topic, None),
        (error_cases.held_back, None),
        # It does not follow `current`.
        (cases.silence, None),
    ],
)
def test_a_consumer_that_does_not_say_what_is_wrong_is_refused(
    kafka: LocalKafka, case: cases.Case, fault: str | None
) -> None:
    world = World(kafka, patience_seconds=WAIT_FOR_WRONG_SECONDS)
    (wrong,) = play(case, world, [naive(fault)])
    assert wrong.faults != []


def test_a_consumer_that_makes_brokers_create_topics_is_refused(
    kafka: LocalKafka,
) -> None:
    programs = [naive("creates_topics")]
    (result,) = play(error_cases.wrong_feed, World(kafka), programs)
    (fault,) = result.faults
    assert "a program made the broker create" in fault


def test_a_consumer_that_ends_without_an_error_is_refused(kafka: LocalKafka) -> None:
    silent = Program("silent", (sys.executable, "-c", ""))
    (result,) = play(error_cases.wrong_feed, World(kafka), [silent])
    assert result.faults == ["its exit status is 0, expected 1"]
