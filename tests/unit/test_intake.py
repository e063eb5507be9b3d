"""Answers become observations, entries to quarantine, or nothing new."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connector.core.model import MICROS, Source, Status
from connector.core.positioning import ResponseModels
from connector.core.transition import DROPPED_OLDER, FeedRules
from connector.runtime.intake import DROPPED_FLAPPING, Intake, Reading
from connector.runtime.ports import AnswerTimes

ME = Source("1", "group", "worker", "request-1")

# 08:00:00 on 2027-01-15 in UTC, by our clock.
NOW = 1_800_000_000 * MICROS

# The upstream's clock minus ours.
AHEAD = 2 * MICROS

BAD_ENTRY = b'{"spot_price": NaN}'


def at(seconds: int = 0, sent_at: float = 0.0) -> AnswerTimes:
    """Return the moments of an answer that came some seconds after `NOW`."""
    moment = NOW + seconds * MICROS
    return AnswerTimes(
        sent_at=sent_at,
        at=moment,
        upstream_at=moment + AHEAD,
        source=ME,
    )


def entry(computed: str = "08:00:00") -> bytes:
    """Return an entry computed at a time of the day of `NOW`."""
    moment = f"2027-01-15T{computed}Z"
    return f'{{"spot_price": 1, "computed_at": "{moment}"}}'.encode()


@pytest.fixture
def intake() -> Intake:
    return Intake(FeedRules("all"))


def test_the_first_entry_is_an_observation_and_no_refresh(intake: Intake) -> None:
    reading = intake.accept("A", entry(), at())

    observation = reading.observation
    assert observation is not None
    assert observation.observed_at == NOW
    assert observation.upstream_at == NOW + AHEAD
    assert reading.computed_at == NOW
    # Nobody knows how long the upstream has shown the first one.
    assert reading.detection_seconds is None
    assert intake.computed_at("A") == NOW
    assert intake.observed_at("A") == NOW


def test_a_refresh_is_detected_late_by_the_upstreams_clock(intake: Intake) -> None:
    intake.accept("A", entry(), at())

    reading = intake.accept("A", entry("08:00:10"), at(11))

    assert reading.computed_at == NOW + 10 * MICROS
    # One second by our clock, and the two that the upstream's is ahead.
    assert reading.detection_seconds == 3.0


def test_a_restored_moment_makes_the_next_one_a_refresh(intake: Intake) -> None:
    newest = NOW - MICROS
    older = NOW - 9 * MICROS
    intake.learn_computed_at("A", newest)
    # Neither an older moment nor none at all moves it back.
    intake.learn_computed_at("A", older)
    intake.learn_computed_at("A", None)
    assert intake.computed_at("A") == newest

    reading = intake.accept("A", entry(), at())

    assert reading.detection_seconds == 2.0


def test_an_older_entry_is_an_observation_and_moves_nothing_back(
    intake: Intake,
) -> None:
    intake.accept("A", entry(), at())

    # Two servers of the upstream may disagree for a while.
    reading = intake.accept("A", entry("07:00:00"), at(1))

    assert reading.observation is not None
    assert reading.computed_at is None
    assert intake.computed_at("A") == NOW


@pytest.mark.parametrize("answer", [entry(), Status.MISSING])
def test_the_same_answer_is_nothing_new_but_counts_as_an_answer(
    intake: Intake, answer: bytes | Status
) -> None:
    intake.accept("A", answer, at())

    again = intake.accept("A", answer, at(5))

    assert again == Reading()
    # The symbol stays fresh as long as the upstream confirms it.
    assert intake.last_answers() == {"A": NOW + 5 * MICROS + AHEAD}
    assert intake.observed_at("A") == NOW + 5 * MICROS


def test_the_same_answer_is_decoded_again_while_levels_are_stale(
    intake: Intake,
) -> None:
    intake.accept("A", entry(), at())

    same = entry()
    again = intake.accept("A", same, at(5), may_become_fresh=True)

    # The observation makes the levels live again.
    assert again.observation is not None


def test_the_same_answer_is_compared_again_after_a_restart(intake: Intake) -> None:
    intake.accept("A", entry(), at())

    intake.restart()

    # The restored state may differ from the answer that was seen before.
    assert intake.last_answers() == {}
    assert intake.computed_at("A") == NOW
    again = intake.accept("A", entry(), at(5))
    assert again.observation is not None


def test_a_value_that_was_replaced_is_news_after_a_restart(intake: Intake) -> None:
    first = entry()
    second = first.replace(b'"spot_price": 1', b'"spot_price": 2')
    intake.accept("A", first, at())
    intake.accept("A", second, at(1))
    assert intake.accept("A", first, at(2)).dropped == DROPPED_FLAPPING

    # Another worker may have published yet another value meanwhile.
    intake.restart()

    assert intake.accept("A", first, at(3)).observation is not None


def test_a_bad_entry_is_quarantined_once_and_is_no_answer(intake: Intake) -> None:
    reading = intake.accept("A", BAD_ENTRY, at())

    assert reading.observation is None
    quarantined = reading.quarantined
    assert quarantined is not None
    assert quarantined.raw == BAD_ENTRY
    assert quarantined.request_id == "request-1"

    # The upstream repeats it with every check, which must not fill the topic.
    assert intake.accept("A", BAD_ENTRY, at(1)) == Reading()
    assert intake.last_answers() == {}

    # After a good entry the same bytes are a new fault.
    good = intake.accept("A", entry(), at(2))
    assert good.observation is not None
    relapse = intake.accept("A", BAD_ENTRY, at(3))
    assert relapse.quarantined is not None


def test_an_entry_from_the_future_is_taken_once_its_moment_is_near(
    intake: Intake,
) -> None:
    early = entry("08:02:00")

    too_early = intake.accept("A", early, at())
    in_time = intake.accept("A", early, at(120))

    assert too_early.quarantined is not None
    # The bytes are the same, so comparing them would have skipped the entry.
    assert in_time.observation is not None


def test_a_status_has_a_reason_and_no_levels(intake: Intake) -> None:
    reading = intake.accept("A", Status.INVALID, at(), "refused")

    observation = reading.observation
    assert observation is not None
    assert observation.status is Status.INVALID
    assert observation.entry is None
    assert observation.reason == "refused"


def test_the_same_entry_under_another_model_is_decoded_again(intake: Intake) -> None:
    flow = replace(at(), models=ResponseModels.of({"positioning": "flow"}))
    std = replace(at(5), models=ResponseModels.of({"positioning": "std"}))
    intake.accept("A", entry(), flow)

    # The same bytes, but the metadata of the response names another model for them.
    observation = intake.accept("A", entry(), std).observation

    assert observation is not None
    assert observation.entry is not None
    assert observation.entry.levels.positioning == "std"
    assert intake.accept("A", entry(), std) == Reading()


UNDATED = b'{"spot_price": 1}'


@pytest.mark.parametrize("answer", [Status.MISSING, UNDATED])
def test_an_answer_that_does_not_tell_its_age_is_dropped_if_a_later_one_has_come(
    intake: Intake, answer: bytes | Status
) -> None:
    intake.accept("A", entry(), at(1, sent_at=2.0))

    overtaken = intake.accept("A", answer, at(2, sent_at=1.0))
    assert overtaken == Reading(dropped=DROPPED_OLDER)

    assert intake.accept("A", answer, at(3, sent_at=3.0)).observation is not None


def test_levels_that_tell_their_age_count_in_whatever_order_they_come(
    intake: Intake,
) -> None:
    intake.accept("A", entry(), at(1, sent_at=2.0))

    # The server may have taken the earlier request later.
    newer = intake.accept("A", entry("08:00:01"), at(2, sent_at=1.0))
    assert newer.observation is not None


def test_a_copy_confirms_levels_only_if_they_tell_their_age(intake: Intake) -> None:
    intake.accept("A", UNDATED, at())
    intake.accept("B", entry(), at())

    copied = replace(at(5), is_copy=True)
    intake.accept("A", UNDATED, copied)
    intake.accept("B", entry(), copied)

    answered_at = intake.last_answers()
    assert answered_at["A"] == NOW + AHEAD
    assert answered_at["B"] == NOW + 5 * MICROS + AHEAD


def test_a_refused_answer_is_left_alone_for_a_while(intake: Intake) -> None:
    intake.accept("A", entry(), at(sent_at=0.0))
    intake.refuse("A", until=600.0)
    # The shard was closed, and is open again.
    intake.restart()

    same = intake.accept("A", entry(), at(5, sent_at=5.0), may_become_fresh=True)
    assert same == Reading()
    # The symbol becomes stale by its own age, not because nobody answers.
    assert intake.last_answers() == {"A": NOW + 5 * MICROS + AHEAD}
    other = intake.accept("A", entry("08:00:06"), at(7, sent_at=7.0))
    assert other.observation is not None

    # A limit of the topic may have been raised.
    later = intake.accept("A", entry(), at(601, sent_at=601.0))
    assert later.observation is not None
