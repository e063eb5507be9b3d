"""What a run broke: the truth log of the upstream, the events, `current` and the workers' logs held against each other.

Nothing of the connector's own accounting is believed but what an event says to its consumers
(`collapsed_observations`) and when a worker says that it opened or gave up a shard.
"""

from __future__ import annotations

import hashlib
import json
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from connector.core.model import MICROS, Event, Levels, State
from connector.kafka.partition import partition_of
from tests.chaos.fleet import ENDED_AS_ASKED, KEYS, Life
from tests.support import checker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.support.checker import Record

SECTIONS = ("all_expiry", "odte")
LEFT = ("another worker took the shard", "shard lost")
HANDED_OVER = "shard handed over"
OPENED = "shard open"
_IN_FLIGHT_SECONDS = 1.0

Numbers = tuple[tuple[str, float | None], ...]


@dataclass(frozen=True, slots=True)
class What:
    """A refresh as a consumer tells it from others: when it was computed, and its numbers."""

    symbol: str
    computed_at: int
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class Sight:
    """The first answer that showed it: between these moments, to this worker."""

    from_at: float
    at: float
    life: Life
    sha256: str


@dataclass(slots=True)
class Evidence:
    """Everything that is left after a run. `current`: its records by partition, in their order."""

    answers: Sequence[Mapping[str, Any]]
    contents: Mapping[str, str]
    events: Sequence[Event]
    current: Mapping[int, Sequence[State]]
    quarantined: Sequence[Record]
    lives: Sequence[Life]
    shards: int


@dataclass(slots=True)
class Verdict:
    """`violations` is empty where all invariants held. `without_event`: refreshes that have none, by reason."""

    shown: int = 0
    events: int = 0
    published: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    zombie_writes: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    without_event: Counter[str] = field(default_factory=Counter)
    oldest_in_hand: float = 0.0
    """Seconds that the oldest observation that died with a worker had waited: long only while Kafka was away."""

    @property
    def violations(self) -> list[str]:
        return [*self.lost, *self.duplicated, *self.out_of_order, *self.zombie_writes, *self.other]

    def text(self) -> str:
        rest = ", ".join(f"{why} {count}" for why, count in sorted(self.without_event.items())) or "none"
        counts = "  ".join(
            f"{name} {len(getattr(self, name))}"
            for name in ("lost", "duplicated", "out_of_order", "zombie_writes", "other")
        )
        return (
            f"refreshes shown {self.shown}, with an event {self.published}, events {self.events}\n"
            f"without an event of their own: {rest} (oldest in hand {self.oldest_in_hand:.1f} s)\n{counts}"
        )


def judge(evidence: Evidence) -> Verdict:
    """Hold everything against everything."""
    verdict = Verdict(events=len(evidence.events))
    by_symbol = checker.by_symbol(evidence.events)
    last = {state.symbol: state for states in evidence.current.values() for state in states}
    _ask_the_events(by_symbol, last, verdict)
    _ask_the_writers(evidence, verdict)
    _ask_the_logs(evidence.lives, verdict)
    sights = _sights(evidence)
    verdict.shown = len(sights)
    published = {what for event in evidence.events if (what := _said(event)) is not None}
    verdict.published = len(published)
    for what in published - sights.keys():
        verdict.other.append(f"{what.symbol}: an event says what was never shown, computed {what.computed_at}")
    reasons = _Reasons(evidence, by_symbol, sights)
    for what, sight in sights.items():
        if what in published:
            continue
        why = reasons.of(what, sight)
        if why is None:
            seen = datetime.fromtimestamp(sight.at).astimezone().time()
            verdict.lost.append(
                f"{what.symbol}: computed {what.computed_at}, shown to slot {sight.life.slot} at {seen}"
            )
        else:
            verdict.without_event[why] += 1
    verdict.oldest_in_hand = reasons.oldest_in_hand
    return verdict


def _ask_the_events(by_symbol: Mapping[str, list[Event]], last: Mapping[str, State], verdict: Verdict) -> None:
    for symbol, its in by_symbol.items():
        counts = Counter(event.event_id for event in its)
        verdict.duplicated += [f"{event_id}: {count} times" for event_id, count in counts.items() if count > 1]
        for before, after in pairwise(its):
            if after.sequence > before.sequence + 1:
                verdict.lost.append(f"{symbol}: #{after.sequence} follows #{before.sequence}")
            elif after.sequence < before.sequence:
                verdict.out_of_order.append(f"{symbol}: #{after.sequence} follows #{before.sequence}")
    verdict.other += checker.violations([one for its in by_symbol.values() for one in its], last)


def _ask_the_writers(evidence: Evidence, verdict: Verdict) -> None:
    """Whoever writes to a shard again after somebody else did has opened it again in between."""
    opened = Counter(
        (line["shard"], worker)
        for life in evidence.lives
        if (worker := _worker(life))
        for line in _said_of(life, OPENED)
    )
    for partition, states in evidence.current.items():
        turns = Counter(worker for worker, _ in groupby(state.source.worker for state in states))
        for worker, count in turns.items():
            times = opened[f"all-{partition}", worker]
            if count > times:
                verdict.zombie_writes.append(
                    f"all-{partition}: {worker} wrote in {count} turns, opened it {times} times"
                )


def _ask_the_logs(lives: Iterable[Life], verdict: Verdict) -> None:
    for life in lives:
        if life.status not in ENDED_AS_ASKED:
            verdict.other.append(f"slot {life.slot} ended with {life.status}: {life.program.log()[-500:]}")
        if "Traceback" in life.program.log() or "a defect" in life.program.log():
            verdict.other.append(f"slot {life.slot} has a defect: {life.program.log()[-2000:]}")


def _sights(evidence: Evidence) -> dict[What, Sight]:
    sights: dict[What, Sight] = {}
    for answer in evidence.answers:
        if answer["status"] != 200 or answer["key"] not in KEYS:
            continue
        from_at, at = answer["received_at"] / MICROS, answer["answered_at"] / MICROS
        life = _alive(evidence.lives, KEYS.index(answer["key"]), from_at)
        for symbol, shown in answer["shown"].items():
            if life is None or shown is None or shown["computed_at"] is None:
                continue
            numbers = _numbers_of(evidence.contents[shown["sha256"]])
            if numbers is not None:
                moment = datetime.fromisoformat(shown["computed_at"])
                what = What(symbol, round(moment.timestamp() * MICROS), numbers)
                sights.setdefault(what, Sight(from_at, at, life, shown["sha256"]))
    return sights


def _alive(lives: Iterable[Life], slot: int, at: float) -> Life | None:
    return next(
        (one for one in lives if one.slot == slot and one.started_at <= at <= (one.ended_at or time.time())), None
    )


def _numbers_of(text: str) -> Numbers | None:
    """The levels of an entry as it was sent; None where it is no use."""
    entry = json.loads(text)
    if not isinstance(entry, dict):
        return None
    found = []
    for section in SECTIONS:
        values = entry.get(section) or {}
        if not isinstance(values, dict):
            return None
        for name, value in sorted(values.items()):
            if value is not None and (not isinstance(value, int | float) or value != value):  # noqa: PLR0124 -- NaN
                return None
            if value is not None:
                found.append((f"{section}.{name}", float(value)))
    return tuple(found)


def _said(event: Event) -> What | None:
    if event.after is None or event.computed_at is None:
        return None
    return What(event.symbol, event.computed_at, _numbers(event.after))


def _numbers(levels: Levels) -> Numbers:
    found = []
    for section in SECTIONS:
        values = msgspec.structs.asdict(getattr(levels, section))
        found += [(f"{section}.{name}", value) for name, value in sorted(values.items()) if value is not None]
    return tuple(found)


def _worker(life: Life) -> str | None:
    return next((str(line["worker"]) for line in life.lines() if line["message"] == "listening"), None)


def _said_of(life: Life, *messages: str) -> list[Mapping[str, Any]]:
    return [line for line in life.lines() if line["message"] in messages]


class _Reasons:
    """Why a refresh that was shown has no event."""

    def __init__(self, evidence: Evidence, by_symbol: Mapping[str, list[Event]], sights: Mapping[What, Sight]) -> None:
        self._by_symbol = by_symbol
        self._sights = sights
        self._shards = evidence.shards
        self._quarantined = {hashlib.sha256(record.value).hexdigest() for record in evidence.quarantined}
        self._workers = {id(life): _worker(life) for life in evidence.lives}
        self._moments: dict[tuple[int, str], list[tuple[float, str]]] = defaultdict(list)
        for life in evidence.lives:
            for line in life.lines():
                if "shard" in line:
                    at = datetime.fromisoformat(line["ts"]).timestamp()
                    self._moments[id(life), str(line["shard"])].append((at, line["message"]))
        self._newest: dict[str, tuple[list[float], list[int]]] = {}
        for symbol in by_symbol:
            first = sorted((sight.at, what.computed_at) for what, sight in sights.items() if what.symbol == symbol)
            newest, so_far = [], 0
            for _, computed_at in first:
                so_far = max(so_far, computed_at)
                newest.append(so_far)
            self._newest[symbol] = [at for at, _ in first], newest
        self._collapsed = Counter[str]()
        self.oldest_in_hand = 0.0

    def of(self, what: What, sight: Sight) -> str | None:
        """The first that fits; None: it is lost."""
        its = self._by_symbol[what.symbol]
        following = next((event for event in its if (event.computed_at or 0) > what.computed_at), None)
        before = its if following is None else its[: following.sequence - 1]
        said = next((event.after for event in reversed(before) if event.after is not None), None)
        if said is not None and _numbers(said) == what.numbers:
            return "no difference to what was said"
        return (
            self._of_what_was_shown(what, sight, following)
            or self._of_its_shard(what, sight, following)
            or self._of_its_worker(what, sight, following)
        )

    def _of_what_was_shown(self, what: What, sight: Sight, following: Event | None) -> str | None:
        if sight.sha256 in self._quarantined:
            return "quarantined"
        if self._is_older(what, sight):
            return "older than what was shown before"
        if following is not None and self._collapsed[following.event_id] < following.collapsed_observations:
            self._collapsed[following.event_id] += 1
            return "collapsed, as the event after it says"
        return None

    def _of_its_worker(self, what: What, sight: Sight, following: Event | None) -> str | None:
        life = sight.life
        if following is None or following.source.worker != self._workers[id(life)]:
            kept = all(at < sight.from_at for at, message in self._told(what, life) if message in {*LEFT, HANDED_OVER})
            if kept and life.status not in {0, None} and life.ended_at is not None:
                self.oldest_in_hand = max(self.oldest_in_hand, life.ended_at - sight.at)
                return "in hand of a worker that died"
            if life.stopping_at is not None and sight.at > life.stopping_at - _IN_FLIGHT_SECONDS:
                return "under way to a worker that stopped"
        if any(began - _IN_FLIGHT_SECONDS < sight.at < ended + _IN_FLIGHT_SECONDS for began, ended in life.frozen):
            return "under way to a worker that was frozen"
        return None

    def _of_its_shard(self, what: What, sight: Sight, following: Event | None) -> str | None:
        until = float("inf")
        if following is not None and following.source.worker == self._workers[id(sight.life)]:
            seen_next = self._sights.get(_said(following) or what)
            until = until if seen_next is None else seen_next.at
        for at, message in self._told(what, sight.life):
            if message in LEFT and sight.from_at <= at <= until:
                return "in hand of a worker that was fenced"
            if message == HANDED_OVER and sight.from_at - 0.05 <= at <= sight.at + 0.25:
                return "under way when its shard was handed over"
            if message == OPENED and sight.from_at - 0.05 <= at <= sight.at + 0.25:
                return "under way when its shard was opened"
        return None

    def _told(self, what: What, life: Life) -> list[tuple[float, str]]:
        """What a worker said of a symbol's shard, and when."""
        return self._moments[id(life), f"all-{partition_of(what.symbol, self._shards)}"]

    def _is_older(self, what: What, sight: Sight) -> bool:
        moments, newest = self._newest[what.symbol]
        index = bisect_right(moments, sight.at) - 1
        return index >= 0 and newest[index] > what.computed_at
