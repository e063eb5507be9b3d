"""The judge of chaos runs: which refreshes without an event it excuses or calls lost.

A judge that excuses too much would pass a connector that loses events, and nobody would
notice.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from connector.core.entry import decode_entry
from connector.core.model import MICROS, Observation, Source, Status
from connector.core.transition import FeedRules, observe_all
from tests.chaos.deleted_events import DeletedTopic, all_events, covers
from tests.chaos.evidence import Evidence
from tests.chaos.fleet import KEYS, Life
from tests.chaos.verdict import judge
from tests.support.checker import Record
from tests.support.log_messages import (
    LISTENING,
    SHARD_HANDED_OVER,
    SHARD_LOST,
    SHARD_OPEN,
)

if TYPE_CHECKING:
    from connector.core.model import State
    from tests.chaos.verdict import Verdict

START = 1_795_446_000.0
SYMBOL = "BTCUSDT"
RULES = FeedRules("all")

BAD_ENTRY = b'{"all_expiry":{"hvl":NaN}}'

# Exit statuses of a process, as `subprocess` shows them.
STOPPED_CLEANLY = 0
ABORTED = -6
KILLED = -9


@dataclass
class Logged:
    """A program of which only the log is left."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    def lines(self) -> list[str]:
        return [json.dumps(message) for message in self.messages]

    def log(self) -> str:
        return "\n".join(self.lines())


def micros(second: float) -> int:
    """Return a second of the run in microseconds since the epoch."""
    return round((START + second) * MICROS)


def iso(second: float) -> str:
    """Return a second of the run in ISO 8601."""
    return datetime.fromtimestamp(START + second, UTC).isoformat()


def entry(number: int) -> str:
    """Return the upstream's entry of refresh `number`, computed at that second."""
    levels = {
        "all_expiry": {"hvl": number},
        "computed_at": iso(number),
    }
    return json.dumps(levels)


def answer(
    slot: int,
    second: float,
    shown: dict[str, dict[str, str]],
    faults: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the upstream's record of an answer to a slot, which took a millisecond."""
    received_at = micros(second)
    return {
        "status": 200,
        "key": KEYS[slot],
        "faults": list(faults),
        "symbols": [SYMBOL],
        "received_at": received_at,
        "answered_at": received_at + 1000,
        "shown": shown,
    }


def source(slot: int) -> Source:
    return Source("1", "group", f"worker-{slot}")


@dataclass
class Deletion:
    """A deletion of `changes`, by numbers of events and offsets in `current`, from 0 on.

    Events before `read_until` were read before the deletion, and those from `next_from` on
    are in the next topic. `since` and `until` are those of `DeletedTopic`.
    """

    read_until: int
    next_from: int
    since: int
    until: int


@dataclass
class Case:
    """Two workers in slots 0 and 1; the upstream shows refresh `n`, computed at second `n`."""

    lives: list[Life] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    contents: dict[str, str] = field(default_factory=dict)
    observations: list[Observation] = field(default_factory=list)
    deletion: Deletion | None = None
    joined: set[int] = field(default_factory=set)
    """Numbers of events that are in one transaction with the next, which has the state."""
    troubles: list[tuple[float, float]] = field(default_factory=list)
    quarantined: list[Record] = field(default_factory=list)
    quarantine_gone: list[tuple[float, float]] = field(default_factory=list)

    def start(self, slot: int, status: int = STOPPED_CLEANLY) -> Life:
        """Start a worker at the first second. `status` is its exit status at the end."""
        program: Any = Logged()
        # The judge reads the program's log, never the file.
        log_file: Any = None
        life = Life(slot, program, log_file, START, status=status)
        self.lives.append(life)
        self.log(life, 0, LISTENING, worker=f"worker-{slot}")
        return life

    def log(self, life: Life, second: float, message: str, **fields: Any) -> None:
        program: Any = life.program
        line = {"ts": iso(second), "message": message, **fields}
        program.messages.append(line)

    def open(self, life: Life, second: float, end: int) -> None:
        """Let a worker open the shard when its topic ends at offset `end`."""
        self.log(life, second, SHARD_OPEN, shard="all-0", end=end)

    def show(self, slot: int, number: int) -> None:
        """Show refresh `number` to a slot."""
        digest = f"sha-{number}"
        self.contents[digest] = entry(number)
        refresh = {"computed_at": iso(number), "sha256": digest}
        with_refresh = answer(slot, number, shown={SYMBOL: refresh})
        self.answers.append(with_refresh)

    def show_bad(self, slot: int, at: int) -> None:
        """Show an entry that cannot be used."""
        digest = hashlib.sha256(BAD_ENTRY).hexdigest()
        self.contents[digest] = BAD_ENTRY.decode()
        bad = {"computed_at": iso(at), "sha256": digest}
        self.answers.append(answer(slot, at, shown={SYMBOL: bad}))

    def quarantine(self) -> None:
        """Write that entry to the quarantine."""
        record = Record(SYMBOL.encode(), BAD_ENTRY, {}, 0, 0, 0)
        self.quarantined.append(record)

    def show_again(self, slot: int, number: int, at: int) -> None:
        """Show the levels of refresh `number` to a slot in a refresh computed at `at`."""
        digest = f"sha-{number}-{at}"
        self.contents[digest] = entry(number)
        refresh = {"computed_at": iso(at), "sha256": digest}
        self.answers.append(answer(slot, at, shown={SYMBOL: refresh}))

    def publish(self, slot: int, number: int, collapsed: int = 0) -> None:
        """Show a refresh to a slot, which publishes it."""
        self.show(slot, number)
        at = micros(number)
        raw = entry(number).encode()
        observation = Observation(
            SYMBOL,
            Status.LIVE,
            decode_entry(raw, at),
            observed_at=at,
            upstream_at=at,
            source=source(slot),
            collapsed=collapsed,
        )
        self.observations.append(observation)

    def evidence(self) -> Evidence:
        """Return the events that the connector's own rules make of the observations."""
        events = []
        current: list[tuple[int, State]] = []
        for number, step in enumerate(observe_all({}, self.observations, RULES)):
            assert step.event is not None
            assert step.state is not None
            events.append(step.event)
            if number not in self.joined:
                offset = len(current)
                current.append((offset, step.state))

        deleted = []
        if self.deletion is not None:
            cut = self.deletion
            read = events[: cut.read_until]
            deleted.append(DeletedTopic(read, {0: cut.since}, {0: cut.until}))
            events = events[cut.next_from :]
        found = all_events(deleted, events, {0: current})
        return Evidence(
            answers=self.answers,
            contents=self.contents,
            events=found.events,
            current={0: current},
            quarantined=self.quarantined,
            lives=self.lives,
            shards=1,
            troubles=self.troubles,
            stand_ins=found.stand_ins,
            quarantine_gone=self.quarantine_gone,
        )

    def judge(self) -> Verdict:
        return judge(self.evidence())


def killed_case(ended_at: float) -> tuple[Case, Life]:
    """Return a run in which slot 0 is shown refresh 10, is killed, and slot 1 goes on."""
    case = Case()
    first = case.start(0, status=KILLED)
    case.open(first, 1, end=0)
    case.publish(0, 5)
    case.show(0, 10)
    first.ended_at = START + ended_at

    second = case.start(1)
    case.open(second, 31, end=1)
    case.publish(1, 40)
    case.publish(1, 50)
    return case, first


# --- lost or not ---


def test_a_run_in_which_every_refresh_is_published_has_no_violation() -> None:
    case = Case()
    life = case.start(0)
    case.open(life, 1, end=0)
    case.publish(0, 5)
    case.publish(0, 10)

    verdict = case.judge()

    assert verdict.violations == []
    assert verdict.shown == 2
    assert verdict.published == 2


def test_a_refresh_that_a_running_worker_left_out_is_lost() -> None:
    case = Case()
    life = case.start(0)
    case.open(life, 1, end=0)
    case.publish(0, 5)
    case.show(0, 10)
    case.publish(0, 15)
    case.publish(0, 20)

    verdict = case.judge()

    assert len(verdict.lost) == 1


# --- a worker that died ---


def test_a_refresh_in_hand_of_a_worker_killed_at_once_is_excused() -> None:
    case, _ = killed_case(ended_at=12)

    verdict = case.judge()

    assert verdict.violations == []
    assert verdict.without_event == {"in hand of a worker that died": 1}


def test_a_refresh_that_a_worker_had_for_long_before_it_died_is_lost() -> None:
    # Eighteen seconds are more than a running worker takes from an answer to Kafka.
    case, _ = killed_case(ended_at=28)

    verdict = case.judge()

    assert len(verdict.lost) == 1


def test_a_refresh_in_hand_of_a_worker_killed_while_it_was_frozen_is_excused() -> None:
    case, first = killed_case(ended_at=28)
    # Freezes can overlap; each second counts once. It was awake for two seconds only.
    long_freeze = (START + 12, START + 29)
    short_freeze = (START + 13, START + 14)
    first.frozen = [long_freeze, short_freeze]

    verdict = case.judge()

    assert verdict.violations == []
    assert verdict.oldest_in_hand_seconds == pytest.approx(2, abs=0.01)


def test_a_worker_woken_long_before_it_died_has_no_excuse() -> None:
    case, first = killed_case(ended_at=28)
    first.frozen = [(START + 10.5, START + 12)]

    verdict = case.judge()

    assert len(verdict.lost) == 1


def stopped_case(trouble: tuple[float, float]) -> Case:
    """Return a run in which slot 0 is shown refresh 10, and is stopped 10 s later.

    Kafka could not be written to for a while.
    """
    case, first = killed_case(ended_at=28)
    first.status = STOPPED_CLEANLY
    first.stopping_at = START + 20
    began_at, over_at = trouble
    case.troubles.append((START + began_at, START + over_at))
    return case


def test_a_refresh_that_could_not_be_written_before_the_stop_is_excused() -> None:
    # For example, the topic of events was deleted.
    verdict = stopped_case(trouble=(9, 27)).judge()

    assert verdict.violations == []
    reason = "in hand of a worker that was stopped while Kafka was away"
    assert verdict.without_event == {reason: 1}


def test_a_trouble_long_before_or_after_the_stop_is_no_excuse() -> None:
    over_before = stopped_case(trouble=(-60, -40)).judge()
    began_after = stopped_case(trouble=(29, 40)).judge()

    assert len(over_before.lost) == 1
    assert len(began_after.lost) == 1


def test_a_trouble_is_no_excuse_for_a_worker_that_goes_on() -> None:
    case = Case()
    life = case.start(0)
    case.open(life, 1, end=0)
    case.publish(0, 5)
    case.show(0, 10)
    case.publish(0, 40)
    case.publish(0, 45)
    case.troubles.append((START + 9, START + 27))

    verdict = case.judge()

    assert len(verdict.lost) == 1


def stuck_case(seconds: float, began_after: float = 0) -> Case:
    """Return a run in which the worker's event loop is stuck when refresh 10 is shown."""
    case = Case()
    life = case.start(0)
    case.open(life, 1, end=0)
    case.publish(0, 5)
    case.show(0, 10)
    began_at = START + 10 + began_after
    life.frozen.append((began_at, began_at + seconds))
    case.publish(0, 30)
    case.publish(0, 35)
    return case


@pytest.mark.parametrize("began_after", [0, 0.9])
def test_an_answer_to_a_worker_that_is_stuck_for_long_is_excused(
    began_after: float,
) -> None:
    # The worker gives the request up by its time-out, even if the answer is there.
    verdict = stuck_case(6, began_after).judge()

    assert verdict.violations == []
    assert verdict.without_event == {"under way to a worker that was frozen": 1}


def test_an_answer_that_a_worker_has_read_before_it_is_stuck_is_lost() -> None:
    verdict = stuck_case(6, began_after=1.1).judge()

    assert len(verdict.lost) == 1


def test_an_answer_to_a_worker_that_is_stuck_for_a_moment_is_lost() -> None:
    verdict = stuck_case(seconds=3).judge()

    assert len(verdict.lost) == 1


# --- a worker that lost its shard ---


def test_a_refresh_in_hand_of_a_worker_that_lost_its_shard_is_excused() -> None:
    case, first = killed_case(ended_at=60)
    first.status = STOPPED_CLEANLY
    case.log(first, 30, SHARD_LOST, shard="all-0")

    verdict = case.judge()

    assert verdict.violations == []
    assert verdict.without_event == {"in hand of a worker that was fenced": 1}


def handed_over_case(over_at: float, seconds: float) -> Case:
    """Return a run in which slot 0 is shown refresh 10, and hands its shard over to slot 1."""
    case, first = killed_case(ended_at=60)
    first.status = STOPPED_CLEANLY
    case.log(first, over_at, SHARD_HANDED_OVER, shard="all-0", seconds=seconds)
    return case


def test_an_answer_that_came_during_a_slow_hand_over_is_excused() -> None:
    case = handed_over_case(over_at=12.4, seconds=1.5)

    verdict = case.judge()

    assert verdict.violations == []
    reason = "under way when its shard was opened, lost or handed over"
    assert verdict.without_event == {reason: 1}


def test_an_answer_that_came_well_before_a_hand_over_is_lost() -> None:
    # A shard that is handed over commits all answers that it accepted before.
    case = handed_over_case(over_at=13, seconds=1.5)

    verdict = case.judge()

    assert len(verdict.lost) == 1


def wrong_clock_case(span: tuple[float, float], over_at: float) -> Case:
    """Return a hand-over by a worker whose clock was wrong for a while, shown refresh 10."""
    case = handed_over_case(over_at=over_at, seconds=0)
    case.lives[0].clock_ahead.append((START + span[0], START + span[1]))
    return case


def test_an_answer_to_a_worker_that_gives_up_for_its_clock_is_excused() -> None:
    verdict = wrong_clock_case(span=(8, 19), over_at=14).judge()

    assert verdict.violations == []
    assert verdict.without_event == {"in hand of a worker whose clock was wrong": 1}


def test_a_wrong_clock_is_no_excuse_before_it_was_wrong_or_after() -> None:
    wrong_after = wrong_clock_case(span=(12, 19), over_at=14).judge()
    wrong_before = wrong_clock_case(span=(1, 8), over_at=14).judge()

    assert len(wrong_after.lost) == 1
    assert len(wrong_before.lost) == 1


def test_a_wrong_clock_is_no_excuse_long_before_the_shard_is_given_up() -> None:
    verdict = wrong_clock_case(span=(8, 59), over_at=51).judge()

    assert len(verdict.lost) == 1


# --- collapsed ---


def test_a_refresh_collapsed_into_an_absence_is_excused() -> None:
    case, _ = killed_case(ended_at=28)
    at = micros(12)
    # The event of the absence counts the refresh that it replaced. Without this excuse
    # the refresh would be lost, since the worker had it for eighteen seconds.
    absence = Observation(
        SYMBOL,
        Status.MISSING,
        entry=None,
        observed_at=at,
        upstream_at=at,
        source=source(0),
        collapsed=1,
    )
    case.observations.insert(1, absence)
    # The upstream must have shown the absence, or the event itself is a violation.
    without_symbol = answer(0, 12, shown={}, faults=("missing",))
    case.answers.append(without_symbol)

    verdict = case.judge()

    assert verdict.without_event == {"collapsed, as an event after it says": 1}
    assert verdict.lost == []


def test_a_refresh_collapsed_into_one_without_an_event_is_excused_by_the_next() -> None:
    case = Case()
    life = case.start(0)
    case.open(life, 1, end=0)
    case.publish(0, 5)
    # Levels that came and went while Kafka was away.
    case.show(0, 10)
    case.show_again(0, 5, at=12)
    case.publish(0, 15, collapsed=1)
    case.publish(0, 20)

    verdict = case.judge()

    assert verdict.violations == []
    assert verdict.without_event == {
        "collapsed, as an event after it says": 1,
        "no difference to the last event": 1,
    }


def test_a_refresh_that_came_and_went_and_that_no_event_counts_is_lost() -> None:
    case = Case()
    life = case.start(0)
    case.open(life, 1, end=0)
    case.publish(0, 5)
    case.show(0, 10)
    case.show_again(0, 5, at=12)
    case.publish(0, 15)
    # Counts refreshes after 15, not the one before.
    case.publish(0, 20, collapsed=1)

    verdict = case.judge()

    assert len(verdict.lost) == 1


# --- a deleted topic of events ---


def deleted_case(read_until: int, next_from: int, since: int, until: int) -> Case:
    """Return a run of five events, numbers 0 to 4, in which `changes` is deleted."""
    case = Case()
    life = case.start(0)
    case.open(life, 1, end=0)
    for number in (5, 10, 15, 20, 25):
        case.publish(0, number)
    case.deletion = Deletion(read_until, next_from, since, until)
    return case


def test_events_deleted_before_anybody_read_them_are_excused() -> None:
    # Numbers 2 and 3 were committed between the reading and the deletion.
    verdict = deleted_case(read_until=2, next_from=4, since=2, until=4).judge()

    assert verdict.violations == []
    assert verdict.stand_ins == 2
    assert verdict.published == 5


def test_an_event_that_was_committed_before_the_reading_is_lost() -> None:
    # The state of number 2 was there when everything was read, so its event was not.
    verdict = deleted_case(read_until=2, next_from=4, since=3, until=4).judge()

    assert verdict.lost
    assert verdict.stand_ins == 1


def test_a_state_that_was_committed_without_its_event_is_lost() -> None:
    # The state of number 3 came after the deletion, so the next topic must have its event.
    verdict = deleted_case(read_until=2, next_from=4, since=2, until=3).judge()

    assert verdict.lost
    assert verdict.stand_ins == 1


def test_an_event_that_both_topics_have_is_a_duplicate() -> None:
    verdict = deleted_case(read_until=3, next_from=2, since=3, until=3).judge()

    assert verdict.duplicated
    assert verdict.stand_ins == 0


def test_a_sequence_that_starts_again_in_the_next_topic_is_a_violation() -> None:
    evidence = deleted_case(read_until=2, next_from=2, since=2, until=2).evidence()
    events = list(evidence.events[:2])
    for sequence, event in enumerate(evidence.events[2:], 1):
        event_id = f"all/{SYMBOL}/{sequence}"
        events.append(replace(event, sequence=sequence, event_id=event_id))
    evidence.events = events

    verdict = judge(evidence)

    assert verdict.duplicated
    assert verdict.out_of_order


def test_each_event_of_a_deleted_transaction_excuses_one_refresh() -> None:
    case = deleted_case(read_until=2, next_from=4, since=2, until=3)
    # Only the state of number 3 is in `current`.
    case.joined.add(2)

    verdict = case.judge()

    assert verdict.violations == []
    assert verdict.stand_ins == 2
    assert sum(verdict.without_event.values()) == 1


def test_a_deleted_transaction_excuses_no_further_refresh() -> None:
    case = deleted_case(read_until=2, next_from=4, since=2, until=3)
    case.joined.add(2)
    case.show(0, 17)

    verdict = case.judge()

    assert len(verdict.lost) == 1


def test_a_refresh_that_no_state_shows_is_lost_also_if_the_topic_was_deleted() -> None:
    case = deleted_case(read_until=2, next_from=4, since=2, until=4)
    case.show(0, 17)

    verdict = case.judge()

    assert len(verdict.lost) == 1


def test_events_cover_the_states_only_if_each_symbol_has_its_last_event() -> None:
    evidence = deleted_case(read_until=5, next_from=5, since=5, until=5).evidence()

    assert covers(evidence.events, evidence.current)
    assert not covers(evidence.events[:4], evidence.current)


# --- the quarantine ---


def bad_entry_case() -> tuple[Case, Life]:
    """Return a run in which slot 0 is shown a bad entry at second 10."""
    case = Case()
    life = case.start(0)
    case.open(life, 1, end=0)
    case.publish(0, 5)
    case.show_bad(0, 10)
    case.publish(0, 30)
    return case, life


def test_a_bad_entry_that_is_in_the_quarantine_is_no_violation() -> None:
    case, _ = bad_entry_case()
    case.quarantine()

    assert case.judge().violations == []


def test_a_bad_entry_that_is_not_in_the_quarantine_is_lost() -> None:
    case, _ = bad_entry_case()

    assert len(case.judge().lost) == 1


def test_a_bad_entry_is_excused_while_the_quarantine_is_gone() -> None:
    case, _ = bad_entry_case()
    case.quarantine_gone.append((START + 9, START + 20))

    assert case.judge().violations == []


def test_a_quarantine_gone_at_another_time_is_no_excuse() -> None:
    before, _ = bad_entry_case()
    before.quarantine_gone.append((START - 30, START - 10))
    after, _ = bad_entry_case()
    after.quarantine_gone.append((START + 21, START + 25))

    assert len(before.judge().lost) == 1
    assert len(after.judge().lost) == 1


def test_a_bad_entry_in_hand_of_a_worker_killed_at_once_is_excused() -> None:
    # It is no part of a transaction, so nobody else writes it.
    case, _ = killed_case(ended_at=12)
    case.show_bad(0, 11)

    assert case.judge().violations == []


def test_a_bad_entry_that_a_worker_had_for_long_before_it_died_is_lost() -> None:
    case, _ = killed_case(ended_at=17)
    case.show_bad(0, 6)

    assert len(case.judge().lost) == 1


# --- other violations ---


def test_a_worker_that_writes_after_others_opened_the_shard_is_a_zombie() -> None:
    case, _ = killed_case(ended_at=60)
    # Slot 1 has written in between, and slot 0 has not opened the shard again.
    case.publish(0, 55)

    verdict = case.judge()

    assert len(verdict.zombie_writes) == 1


def test_an_event_of_levels_that_were_never_shown_is_a_violation() -> None:
    case, _ = killed_case(ended_at=12)
    case.answers.clear()

    verdict = case.judge()

    # One for each of the three events.
    assert len(verdict.other) == 3


def test_a_process_that_ends_by_an_abort_is_a_violation() -> None:
    case, first = killed_case(ended_at=12)
    # Nobody sends SIGABRT: a library gave up. SIGKILL is a fault of the chaos run.
    first.status = ABORTED

    verdict = case.judge()

    assert len(verdict.other) == 1
