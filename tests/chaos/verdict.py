"""What a run broke: the truth log of the upstream, the events, `current` and the workers' logs held against each other.

Nothing of the connector's own accounting is believed but what an event says to its consumers
(`collapsed_observations`) and when a worker says that it opened or gave up a shard.
"""

from __future__ import annotations

import hashlib
import json
import math
import signal
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from connector.core.model import MICROS, Event, Kind, Levels, State
from connector.kafka.names import partition_of
from tests.chaos.fleet import ENDED_AS_ASKED, KEYS, Life
from tests.support import checker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.support.checker import Record

SECTIONS = ("all_expiry", "odte")
LEFT = ("another worker took the shard", "shard lost")
HANDED_OVER = "shard handed over"
OPENED = "shard open"
_IN_FLIGHT_SECONDS = 0.2
_IN_HAND_SECONDS = 3.0
"""How long an answer may take to Kafka where nothing stands between."""

_RECOVERY_SECONDS = 35.0
"""After a trouble: a commit is tried for 30 s."""

_TIMEOUT_SECONDS = 4.0
"""Of a request to the upstream, about: an answer to a worker that was frozen for so long is not taken."""

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
    """Everything that is left after a run.

    `current`: its records by partition, with their offsets, in their order. `troubles`: from when until when something
    stood between the workers and Kafka.
    """

    answers: Sequence[Mapping[str, Any]]
    contents: Mapping[str, str]
    events: Sequence[Event]
    current: Mapping[int, Sequence[tuple[int, State]]]
    quarantined: Sequence[Record]
    lives: Sequence[Life]
    shards: int
    troubles: Sequence[tuple[float, float]] = ()


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
    absences: tuple[int, int] = (0, 0)
    """Turns of absence that were shown, and events that say one: a short one may be over before it is said."""
    without_event: Counter[str] = field(default_factory=Counter)
    oldest_in_hand: float = 0.0
    """Seconds that the oldest observation that died with a worker had waited: long only while Kafka was away."""

    @property
    def violations(self) -> list[str]:
        return [
            *self.lost,
            *self.duplicated,
            *self.out_of_order,
            *self.zombie_writes,
            *self.other,
        ]

    def text(self) -> str:
        rest = (
            ", ".join(
                f"{why} {count}" for why, count in sorted(self.without_event.items())
            )
            or "none"
        )
        counts = "  ".join(
            f"{name} {len(getattr(self, name))}"
            for name in ("lost", "duplicated", "out_of_order", "zombie_writes", "other")
        )
        return (
            f"refreshes shown {self.shown}, with an event {self.published}, events {self.events}; "
            f"absences shown {self.absences[0]}, said {self.absences[1]}\n"
            f"without an event of their own: {rest} (oldest in hand {self.oldest_in_hand:.1f} s)\n{counts}"
        )


def judge(evidence: Evidence) -> Verdict:
    """Hold everything against everything."""
    verdict = Verdict(events=len(evidence.events))
    by_symbol = checker.by_symbol(evidence.events)
    last = {
        state.symbol: state
        for states in evidence.current.values()
        for _, state in states
    }
    _ask_the_events(by_symbol, last, verdict)
    _ask_the_writers(evidence, verdict)
    _ask_the_logs(evidence.lives, verdict)
    _ask_the_turns(evidence.answers, by_symbol, verdict)
    sights = _sights(evidence)
    _ask_the_end(sights, last, verdict)
    verdict.shown = len(sights)
    published = {
        what for event in evidence.events if (what := _said(event)) is not None
    }
    verdict.published = len(published)
    for what in published - sights.keys():
        verdict.other.append(
            f"{what.symbol}: an event says what was never shown, computed {what.computed_at}"
        )
    reasons = _Reasons(evidence, by_symbol, sights)
    for what, its in sights.items():
        if what in published:
            continue
        why = reasons.of_what_was_shown(what, its[0])
        for sight in () if why else its:
            why = reasons.of_whom_it_was_shown_to(what, sight)
            if why is None:
                seen = datetime.fromtimestamp(sight.at).astimezone().time()
                verdict.lost.append(
                    f"{what.symbol}: computed {what.computed_at}, shown to slot {sight.life.slot} at {seen}"
                )
                break
        if why is not None:
            verdict.without_event[why] += 1
    verdict.oldest_in_hand = reasons.oldest_in_hand
    return verdict


def _ask_the_events(
    by_symbol: Mapping[str, list[Event]], last: Mapping[str, State], verdict: Verdict
) -> None:
    for symbol, its in by_symbol.items():
        counts = Counter(event.event_id for event in its)
        verdict.duplicated += [
            f"{event_id}: {count} times"
            for event_id, count in counts.items()
            if count > 1
        ]
        said = None
        for event in its:
            if event.kind is Kind.CHANGED and checker.counted(
                event.after
            ) == checker.counted(said):
                verdict.duplicated.append(
                    f"{symbol}: #{event.sequence} says what was said before"
                )
            said = event.after or said
        for before, after in pairwise(its):
            if after.sequence > before.sequence + 1:
                verdict.lost.append(
                    f"{symbol}: #{after.sequence} follows #{before.sequence}"
                )
            elif after.sequence < before.sequence:
                verdict.out_of_order.append(
                    f"{symbol}: #{after.sequence} follows #{before.sequence}"
                )
    verdict.other += checker.violations(
        [one for its in by_symbol.values() for one in its], last
    )


def _ask_the_writers(evidence: Evidence, verdict: Verdict) -> None:
    """Whoever writes to a shard after somebody else has opened it in between: behind the other's last record."""
    opened = [
        (line["shard"], worker, int(line["end"]))
        for life in evidence.lives
        if (worker := _worker(life))
        for line in _said_of(life, OPENED)
    ]
    for partition, states in evidence.current.items():
        shard, before = f"all-{partition}", -1
        for worker, turn in groupby(states, lambda one: one[1].source.worker):
            offsets = [offset for offset, _ in turn]
            if not any(
                where == shard and who == worker and before < end <= offsets[0]
                for where, who, end in opened
            ):
                verdict.zombie_writes.append(
                    f"{shard}: {worker} wrote at {offsets[0]} and had not opened it since {before}"
                )
            before = offsets[-1]


def _ask_the_turns(
    answers: Iterable[Mapping[str, Any]],
    by_symbol: Mapping[str, list[Event]],
    verdict: Verdict,
) -> None:
    """No more events of absence and of its end than the upstream showed turns of it."""
    turns: dict[str, list[str]] = defaultdict(list)
    for answer in sorted(answers, key=lambda one: one["answered_at"]):
        for symbol in answer["symbols"] if answer["status"] == 200 else ():
            absent = "+".join(
                sorted({"missing", "invalid", "absent"} & set(answer["faults"]))
            )
            status = "" if answer["shown"].get(symbol) else absent or "cold"
            if not turns[symbol] or turns[symbol][-1] != status:
                turns[symbol].append(status)
    found = [0, 0]
    for symbol, its in by_symbol.items():
        absences = sum(event.kind in {Kind.MISSING, Kind.INVALID} for event in its)
        ends = sum(event.kind is Kind.RESTORED for event in its)
        shown = sum(map(bool, turns[symbol])) + sum(
            "+" in status for status in turns[symbol]
        )
        found = [found[0] + sum(map(bool, turns[symbol])), found[1] + absences]
        if absences > shown or ends > sum(not status for status in turns[symbol]):
            verdict.duplicated.append(
                f"{symbol}: {absences} absences and {ends} ends of them, shown were {turns[symbol]}"
            )
    verdict.absences = (found[0], found[1])


def _ask_the_end(
    sights: Mapping[What, Sequence[Sight]], last: Mapping[str, State], verdict: Verdict
) -> None:
    """After the last calm `current` holds the last refresh, or the one before where the stop cut it off."""
    computed: dict[str, set[int]] = defaultdict(set)
    for what in sights:
        computed[what.symbol].add(what.computed_at)
    for symbol, moments in computed.items():
        state = last.get(symbol)
        if state is None or state.computed_at not in sorted(moments)[-2:]:
            found = None if state is None else state.computed_at
            verdict.other.append(
                f"{symbol}: current ends with {found}, shown were {sorted(moments)[-2:]}"
            )


def _ask_the_logs(lives: Iterable[Life], verdict: Verdict) -> None:
    for life in lives:
        early = life.status == -signal.SIGTERM and not any(
            life.lines()
        )  # stopped before it listened for that
        if life.status not in ENDED_AS_ASKED and not early:
            verdict.other.append(
                f"slot {life.slot} ended with {life.status}: {life.program.log()[-500:]}"
            )
        if "Traceback" in life.program.log() or "a defect" in life.program.log():
            verdict.other.append(
                f"slot {life.slot} has a defect: {life.program.log()[-2000:]}"
            )


def _sights(evidence: Evidence) -> dict[What, list[Sight]]:
    """The first and the last time that each refresh was shown to each worker, oldest first."""
    sights: dict[What, dict[int, list[Sight]]] = defaultdict(lambda: defaultdict(list))
    for answer in sorted(evidence.answers, key=lambda one: one["answered_at"]):
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
                its = sights[what][id(life)]
                its[1:] = [Sight(from_at, at, life, shown["sha256"])]
    return {
        what: [sight for its in lives.values() for sight in its]
        for what, lives in sights.items()
    }


def _alive(lives: Iterable[Life], slot: int, at: float) -> Life | None:
    return next(
        (
            one
            for one in lives
            if one.slot == slot
            and one.started_at <= at <= (one.ended_at or time.time())
        ),
        None,
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
            if value is None:
                continue
            if not isinstance(value, int | float) or math.isnan(value):
                return None
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
        found += [
            (f"{section}.{name}", value)
            for name, value in sorted(values.items())
            if value is not None
        ]
    return tuple(found)


def _worker(life: Life) -> str | None:
    return next(
        (
            str(line["worker"])
            for line in life.lines()
            if line["message"] == "listening"
        ),
        None,
    )


def _said_of(life: Life, *messages: str) -> list[Mapping[str, Any]]:
    return [line for line in life.lines() if line["message"] in messages]


class _Reasons:
    """Why a refresh that was shown has no event."""

    def __init__(
        self,
        evidence: Evidence,
        by_symbol: Mapping[str, list[Event]],
        sights: Mapping[What, Sequence[Sight]],
    ) -> None:
        self._evidence = evidence
        self._by_symbol = by_symbol
        self._sights = sights
        self._quarantined = {
            hashlib.sha256(record.value).hexdigest() for record in evidence.quarantined
        }
        self._workers = {id(life): _worker(life) for life in evidence.lives}
        self._lines: dict[tuple[int, str], list[tuple[float, str]]] = defaultdict(list)
        for life in evidence.lives:
            for line in life.lines():
                if "shard" in line:
                    at = datetime.fromisoformat(line["ts"]).timestamp()
                    self._lines[id(life), str(line["shard"])].append(
                        (at, line["message"])
                    )
        self._newest: dict[str, tuple[list[float], list[int]]] = {}
        for symbol in by_symbol:
            first = sorted(
                (its[0].at, what.computed_at)
                for what, its in sights.items()
                if what.symbol == symbol
            )
            self._newest[symbol] = (
                [at for at, _ in first],
                list(accumulate((at for _, at in first), max)),
            )
        self._collapsed = Counter[str]()
        self.oldest_in_hand = 0.0

    def of_what_was_shown(self, what: What, sight: Sight) -> str | None:
        """Whoever it was shown to."""
        following = self._following(what)
        its = self._by_symbol[what.symbol]
        before = its if following is None else its[: following.sequence - 1]
        older = [
            event for event in before if (event.computed_at or 0) < what.computed_at
        ]
        # Of one refresh there can be several versions.
        for events in (before, older):
            said = next(
                (event.after for event in reversed(events) if event.after is not None),
                None,
            )
            if said is not None and _numbers(said) == what.numbers:
                return "no difference to what was said"
        if sight.sha256 in self._quarantined:
            return "quarantined"
        if self._is_older(what, sight):
            return "older than what was shown before"
        same = [
            event
            for event in self._by_symbol[what.symbol]
            if event.computed_at == what.computed_at
        ]
        for event in (*same, *([] if following is None else [following])):
            if self._collapsed[event.event_id] < event.collapsed_observations:
                self._collapsed[event.event_id] += 1
                return "collapsed, as an event after it says"
        return None

    def of_whom_it_was_shown_to(self, what: What, sight: Sight) -> str | None:
        """One time that it was shown. None: it is lost."""
        following, life = self._following(what), sight.life
        theirs = following is None or following.source.worker != self._workers[id(life)]
        for at, message in self._told(what, life):
            if (
                message in LEFT
                and at >= sight.from_at
                and (theirs or self._is_between(what, following, life))
            ):
                return "in hand of a worker that was fenced"
            if (
                message in {*LEFT, HANDED_OVER, OPENED}
                and sight.from_at - 0.05 <= at <= sight.at + 0.25
            ):
                return "under way when its shard was opened, lost or handed over"
        if any(
            ended - began > _TIMEOUT_SECONDS and began - 0.05 < sight.from_at < ended
            for began, ended in life.frozen
        ):
            return "under way to a worker that was frozen"
        return self._of_its_end(what, sight) if theirs else None

    def _of_its_end(self, what: What, sight: Sight) -> str | None:
        life = sight.life
        if (
            life.stopping_at is not None
            and life.ended_at is not None
            and self._is_troubled(sight.at, life.ended_at)
        ):
            return "in hand of a worker that was stopped while Kafka was away"
        if any(
            at >= sight.from_at
            for at, message in self._told(what, life)
            if message in {*LEFT, HANDED_OVER}
        ):
            return None
        if life.status not in {0, None} and life.ended_at is not None:
            waited = life.ended_at - sight.at
            if waited < _IN_HAND_SECONDS or self._is_troubled(sight.at, life.ended_at):
                self.oldest_in_hand = max(self.oldest_in_hand, waited)
                return "in hand of a worker that died"
        if (
            life.stopping_at is not None
            and sight.at > life.stopping_at - _IN_FLIGHT_SECONDS
        ):
            return "under way to a worker that stopped"
        return None

    def _is_troubled(self, since: float, until: float) -> bool:
        return any(
            began < until and since < ended + _RECOVERY_SECONDS
            for began, ended in self._evidence.troubles
        )

    def _following(self, what: What) -> Event | None:
        its = self._by_symbol[what.symbol]
        return next(
            (event for event in its if (event.computed_at or 0) > what.computed_at),
            None,
        )

    def _is_between(self, what: What, following: Event | None, life: Life) -> bool:
        """Whether another worker wrote to the shard between what this one had written before and the event after."""
        if following is None:
            return True
        states = [
            state
            for _, state in self._evidence.current[
                partition_of(what.symbol, self._evidence.shards)
            ]
        ]
        its = [
            (index, state)
            for index, state in enumerate(states)
            if state.symbol == what.symbol
        ]
        until = next(
            (index for index, state in its if state.sequence >= following.sequence),
            len(states),
        )
        worker = self._workers[id(life)]
        before = [
            index
            for index, state in its
            if index < until
            and state.source.worker == worker
            and (state.computed_at or 0) < what.computed_at
        ]
        since = before[-1] if before else -1
        return any(state.source.worker != worker for state in states[since + 1 : until])

    def _told(self, what: What, life: Life) -> list[tuple[float, str]]:
        """What a worker said of a symbol's shard, and when."""
        return self._lines[
            id(life), f"all-{partition_of(what.symbol, self._evidence.shards)}"
        ]

    def _is_older(self, what: What, sight: Sight) -> bool:
        moments, newest = self._newest[what.symbol]
        index = bisect_right(moments, sight.at) - 1
        return index >= 0 and newest[index] > what.computed_at
