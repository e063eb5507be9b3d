"""The judge of chaos runs: which refreshes without an event it excuses, and which it calls lost."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from connector.core.entry import decode_entry
from connector.core.model import MICROS, Observation, Source, Status
from connector.core.transition import FeedRules, observe_all
from tests.chaos.evidence import Evidence
from tests.chaos.fleet import KEYS, Life
from tests.chaos.verdict import judge
from tests.support.log_messages import LISTENING, SHARD_LOST, SHARD_OPEN

if TYPE_CHECKING:
    from connector.core.model import State
    from tests.chaos.verdict import Verdict

START = 1_795_446_000.0
SYMBOL = "BTCUSDT"
RULES = FeedRules("all")


@dataclass
class Logged:
    """A program of which only the log is left."""

    lines: list[dict[str, Any]] = field(default_factory=list)

    def log(self) -> str:
        return "\n".join(json.dumps(line) for line in self.lines)


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def entry(hvl: int, computed_at: float) -> str:
    levels = {"all_expiry": {"hvl": hvl}, "computed_at": moment(computed_at)}
    return json.dumps(levels)


@dataclass
class Case:
    """Two workers in slots 0 and 1; the upstream shows refresh `n`, computed at second `n`."""

    lives: list[Life] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    contents: dict[str, str] = field(default_factory=dict)
    observations: list[Observation] = field(default_factory=list)

    def start(self, slot: int, at: float) -> Life:
        name = f"worker-{slot}"
        program: Any = Logged()
        life = Life(slot, program, None, START + at)  # type: ignore[arg-type]
        self.lives.append(life)
        self.log(life, at, LISTENING, worker=name)
        return life

    def log(self, life: Life, at: float, message: str, **fields: Any) -> None:
        program: Any = life.program
        line = {"ts": moment(START + at), "message": message, **fields}
        program.lines.append(line)

    def open(self, life: Life, at: float, end: int) -> None:
        self.log(life, at, SHARD_OPEN, shard="all-0", end=end)

    def show(self, slot: int, number: int) -> None:
        at = round((START + number) * MICROS)
        digest = f"sha-{number}"
        self.contents[digest] = entry(number, START + number)
        shown = {"computed_at": moment(START + number), "sha256": digest}
        self.answers.append(
            {
                "status": 200,
                "key": KEYS[slot],
                "faults": [],
                "symbols": [SYMBOL],
                "received_at": at,
                "answered_at": at + 1000,
                "shown": {SYMBOL: shown},
            }
        )

    def publish(self, slot: int, number: int) -> None:
        """Show a refresh to a slot, which publishes it."""
        self.show(slot, number)
        at = round((START + number) * MICROS)
        raw = self.contents[f"sha-{number}"].encode()
        source = Source("1", "group", f"worker-{slot}")
        self.observations.append(
            Observation(SYMBOL, Status.LIVE, decode_entry(raw, at), at, at, source)
        )

    def judge(self) -> Verdict:
        events = []
        current: list[tuple[int, State]] = []
        for step in observe_all({}, self.observations, RULES):
            assert step.event is not None
            assert step.state is not None
            events.append(step.event)
            current.append((len(current), step.state))
        return judge(
            Evidence(
                answers=self.answers,
                contents=self.contents,
                events=events,
                current={0: current},
                quarantined=[],
                lives=self.lives,
                shards=1,
            )
        )


def killed_case(ended_at: float) -> tuple[Case, Life]:
    """Return a run in which slot 0 is shown refresh 10, is killed, and slot 1 goes on."""
    case = Case()
    first = case.start(0, 0)
    case.open(first, 1, 0)
    case.publish(0, 5)
    case.show(0, 10)
    first.ended_at, first.status = START + ended_at, -9
    second = case.start(1, 0)
    second.status = 0
    case.open(second, 21, 1)
    case.publish(1, 30)
    case.publish(1, 40)
    return case, first


def test_a_run_in_which_every_refresh_is_published_has_no_violation() -> None:
    case = Case()
    life = case.start(0, 0)
    life.status = 0
    case.open(life, 1, 0)
    case.publish(0, 5)
    case.publish(0, 10)
    verdict = case.judge()
    assert verdict.violations == []
    assert (verdict.shown, verdict.published) == (2, 2)


def test_a_refresh_that_a_running_worker_left_out_is_lost() -> None:
    case = Case()
    life = case.start(0, 0)
    life.status = 0
    case.open(life, 1, 0)
    case.publish(0, 5)
    case.show(0, 10)
    case.publish(0, 15)
    case.publish(0, 20)
    assert len(case.judge().lost) == 1


def test_a_refresh_in_hand_of_a_worker_killed_at_once_is_excused() -> None:
    case, _ = killed_case(ended_at=12)
    verdict = case.judge()
    assert verdict.violations == []
    assert verdict.without_event == {"in hand of a worker that died": 1}


def test_a_refresh_that_a_worker_had_for_long_before_it_died_is_lost() -> None:
    case, _ = killed_case(ended_at=18)
    assert len(case.judge().lost) == 1


def test_a_refresh_in_hand_of_a_worker_killed_while_it_was_frozen_is_excused() -> None:
    case, first = killed_case(ended_at=18)
    first.frozen = [(START + 11, START + 19), (START + 12, START + 13)]
    verdict = case.judge()
    assert verdict.violations == []
    assert verdict.oldest_in_hand_seconds == pytest.approx(1, abs=0.01)


def test_a_worker_woken_long_before_it_died_has_no_excuse() -> None:
    case, first = killed_case(ended_at=18)
    first.frozen = [(START + 10.5, START + 12)]
    assert len(case.judge().lost) == 1


def test_a_refresh_in_hand_of_a_worker_that_lost_its_shard_is_excused() -> None:
    case, first = killed_case(ended_at=50)
    first.status = 0
    case.log(first, 20, SHARD_LOST, shard="all-0")
    verdict = case.judge()
    assert verdict.violations == []
    assert verdict.without_event == {"in hand of a worker that was fenced": 1}


def test_a_refresh_collapsed_into_an_absence_is_excused() -> None:
    case, _ = killed_case(ended_at=18)
    at = round((START + 12) * MICROS)
    source = Source("1", "group", "worker-0")
    absence = Observation(
        SYMBOL, Status.MISSING, None, at, at, source, reason=None, collapsed=1
    )
    case.observations.insert(1, absence)
    case.answers.append(
        {
            "status": 200,
            "key": KEYS[0],
            "faults": ["missing"],
            "symbols": [SYMBOL],
            "received_at": at,
            "answered_at": at + 1000,
            "shown": {},
        }
    )
    verdict = case.judge()
    assert verdict.without_event == {"collapsed, as an event after it says": 1}
    assert verdict.lost == []


def test_a_worker_that_writes_after_others_opened_the_shard_is_a_zombie() -> None:
    case, _ = killed_case(ended_at=50)
    case.publish(0, 45)
    assert len(case.judge().zombie_writes) == 1


def test_an_event_of_levels_that_were_never_shown_is_a_violation() -> None:
    case, _ = killed_case(ended_at=12)
    case.answers = [answer for answer in case.answers if answer["received_at"] < 0]
    assert len(case.judge().other) == 3


def test_a_process_that_ends_by_an_abort_is_a_violation() -> None:
    case, first = killed_case(ended_at=12)
    first.status = -6
    assert len(case.judge().other) == 1
