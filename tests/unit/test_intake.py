"""Answers become observations, entries to quarantine, or nothing new."""

from __future__ import annotations

import pytest

from connector.core.model import Source, Status
from connector.runtime.intake import Intake, Reading
from connector.runtime.ports import AnswerTimes

ME = Source("1", "group", "worker", "request-1")
SECOND = 1_000_000
# 2027-01-15T08:00:00Z, by our clock.
NOW = 1_800_000_000 * SECOND

# The upstream's clock minus ours.
AHEAD = 2 * SECOND


def at(seconds: int = 0) -> AnswerTimes:
    moment = NOW + seconds * SECOND
    return AnswerTimes(0.0, moment, moment + AHEAD, ME)


def entry(computed: str = "2027-01-15T08:00:00Z") -> bytes:
    return f'{{"spot_price": 1, "computed_at": "{computed}"}}'.encode()


@pytest.fixture
def intake() -> Intake:
    return Intake()


def test_the_first_entry_is_an_observation_and_no_refresh(intake: Intake) -> None:
    reading = intake.accept("A", entry(), at())
    assert reading.observation is not None
    assert reading.observation.observed_at == NOW
    assert reading.observation.upstream_at == NOW + AHEAD
    assert (reading.computed_at, reading.detection_seconds) == (NOW, None)
    assert intake.computed_at("A") == NOW
    assert intake.observed_at("A") == NOW


def test_a_refresh_is_detected_late_by_the_upstreams_clock(intake: Intake) -> None:
    intake.accept("A", entry(), at())
    reading = intake.accept("A", entry("2027-01-15T08:00:10Z"), at(11))
    assert reading.computed_at == NOW + 10 * SECOND
    assert reading.detection_seconds == 3.0


def test_a_restored_moment_makes_the_next_one_a_refresh(intake: Intake) -> None:
    intake.learn_computed_at("A", NOW - SECOND)
    intake.learn_computed_at("A", NOW - 9 * SECOND)
    intake.learn_computed_at("A", None)
    assert intake.computed_at("A") == NOW - SECOND
    assert intake.accept("A", entry(), at()).detection_seconds == 2.0


def test_an_older_entry_is_an_observation_and_moves_nothing_back(
    intake: Intake,
) -> None:
    intake.accept("A", entry(), at())
    reading = intake.accept("A", entry("2027-01-15T07:00:00Z"), at(1))
    assert reading.observation is not None
    assert reading.computed_at is None
    assert intake.computed_at("A") == NOW


@pytest.mark.parametrize("answer", [entry(), Status.MISSING])
def test_the_same_answer_is_nothing_new_but_counts_as_an_answer(
    intake: Intake, answer: bytes | Status
) -> None:
    intake.accept("A", answer, at())
    assert intake.accept("A", answer, at(5)) == Reading()
    assert intake.last_answers() == {"A": NOW + 5 * SECOND + AHEAD}
    assert intake.observed_at("A") == NOW + 5 * SECOND


def test_the_same_answer_is_decoded_again_while_levels_are_stale(
    intake: Intake,
) -> None:
    intake.accept("A", entry(), at())
    again = intake.accept("A", entry(), at(5), is_stale=True)
    assert again.observation is not None


def test_the_same_answer_is_compared_again_after_a_restart(intake: Intake) -> None:
    intake.accept("A", entry(), at())
    intake.restart()
    assert intake.last_answers() == {}
    assert intake.computed_at("A") == NOW
    assert intake.accept("A", entry(), at(5)).observation is not None


def test_a_bad_entry_is_quarantined_once_and_is_no_answer(intake: Intake) -> None:
    bad = b'{"spot_price": NaN}'
    reading = intake.accept("A", bad, at())
    assert reading.observation is None
    assert reading.quarantined is not None
    assert reading.quarantined.raw == bad
    assert reading.quarantined.request_id == "request-1"
    assert intake.accept("A", bad, at(1)) == Reading()
    assert intake.last_answers() == {}
    assert intake.accept("A", entry(), at(2)).observation is not None
    assert intake.accept("A", bad, at(3)).quarantined is not None


def test_an_entry_from_the_future_is_taken_once_its_moment_is_near(
    intake: Intake,
) -> None:
    early = entry("2027-01-15T08:02:00Z")
    assert intake.accept("A", early, at()).quarantined is not None
    assert intake.accept("A", early, at(120)).observation is not None


def test_a_status_has_a_reason_and_no_levels(intake: Intake) -> None:
    reading = intake.accept("A", Status.INVALID, at(), "refused")
    observation = reading.observation
    assert observation is not None
    assert (observation.status, observation.entry) == (Status.INVALID, None)
    assert observation.reason == "refused"
