"""The evidence of a chaos run: upstream answers, records in Kafka, and the workers' logs."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from connector.core.model import MICROS
from tests.chaos.fleet import KEYS
from tests.support.log_messages import LISTENING, SHARD_HANDED_OVER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TypeAlias

    from connector.core.model import Event, Levels, State
    from tests.chaos.fleet import Life
    from tests.support.checker import Record

    # For each partition of `current` the offsets and states of all its records, in order.
    States: TypeAlias = Mapping[int, Sequence[tuple[int, State]]]

SECTIONS = ("all_expiry", "odte")

# Paths and values of an entry's levels, sorted.
Numbers = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Refresh:
    """A refresh as a consumer can tell it from others: by its moment and its numbers."""

    symbol: str
    computed_at: int
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class BadEntry:
    """An entry that cannot be used."""

    symbol: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Showing:
    """An answer that showed a refresh to a worker.

    The request arrived at `requested_at` and was answered at `answered_at`, in Unix
    seconds.
    """

    requested_at: float
    answered_at: float
    life: Life
    sha256: str


@dataclass(slots=True)
class Evidence:
    """Everything that a run leaves.

    Attributes:
        answers: the upstream's truth log.
        contents: each entry that an answer held, by its SHA-256.
        events: of all topics that `changes` has been.
        troubles: when something stood between the workers and Kafka, in Unix seconds.
        stand_ins: the number of events that nobody has read before their topic was deleted.
        quarantined: also what was read before the quarantine was deleted.
        quarantine_gone: the times from such a reading until the topic was back.
    """

    answers: Sequence[Mapping[str, Any]]
    contents: Mapping[str, str]
    events: Sequence[Event]
    current: States
    quarantined: Sequence[Record]
    lives: Sequence[Life]
    shards: int
    troubles: Sequence[tuple[float, float]] = ()
    stand_ins: int = 0
    quarantine_gone: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class ShardMessage:
    """A message about a shard in a worker's log. `at` is in Unix seconds.

    `began_at` is when the change that it reports began, `at` when it was over.
    """

    at: float
    text: str
    began_at: float


class WorkerLogs:
    """The workers' logs, parsed once."""

    def __init__(self, lives: Sequence[Life]) -> None:
        self._workers: dict[int, str] = {}
        self._messages: dict[tuple[int, str], list[ShardMessage]] = defaultdict(list)
        for life in lives:
            for line in life.lines():
                if line["message"] == LISTENING:
                    self._workers[id(life)] = str(line["worker"])
                # Other messages say nothing about who owns a shard.
                if "shard" in line:
                    at = datetime.fromisoformat(line["ts"]).timestamp()
                    text = line["message"]
                    # A shard takes no more answers from the beginning of its hand-over.
                    is_hand_over = text == SHARD_HANDED_OVER
                    seconds = line["seconds"] if is_hand_over else 0.0
                    message = ShardMessage(at, text, at - seconds)
                    self._messages[id(life), str(line["shard"])].append(message)

    def worker(self, life: Life) -> str | None:
        """Return the name of a process's worker, or None if it ended before it had one."""
        return self._workers.get(id(life))

    def of_shard(self, life: Life, shard: str) -> Sequence[ShardMessage]:
        """Return the messages of a process about a shard, in order."""
        return self._messages.get((id(life), shard), ())


def showings_of(evidence: Evidence) -> dict[Refresh, list[Showing]]:
    """Return for each refresh the first and the last answer that showed it to each process."""
    by_life: dict[Refresh, dict[int, list[Showing]]] = defaultdict(dict)
    for symbol, shown, showing in _entries_shown(evidence):
        refresh = _refresh_shown(symbol, shown, evidence.contents)
        if refresh is not None:
            showings = by_life[refresh].setdefault(id(showing.life), [])
            # Keep the first, and replace the last one: those in between add nothing.
            showings[1:] = [showing]
    found: dict[Refresh, list[Showing]] = {}
    for refresh, lives in by_life.items():
        found[refresh] = [
            showing for showings in lives.values() for showing in showings
        ]
    return found


def bad_entries_of(evidence: Evidence) -> dict[BadEntry, list[Showing]]:
    """Return for each bad entry the first answer that showed it to each process."""
    by_life: dict[BadEntry, dict[int, Showing]] = defaultdict(dict)
    for symbol, shown, showing in _entries_shown(evidence):
        if (
            shown is not None
            and _numbers_in(evidence.contents[shown["sha256"]]) is None
        ):
            entry = BadEntry(symbol, shown["sha256"])
            by_life[entry].setdefault(id(showing.life), showing)
    return {entry: list(lives.values()) for entry, lives in by_life.items()}


def refresh_of(event: Event) -> Refresh | None:
    """Return the refresh that an event carries, if any."""
    if event.after is None or event.computed_at is None:
        return None
    return Refresh(event.symbol, event.computed_at, numbers_of(event.after))


def numbers_of(levels: Levels) -> Numbers:
    """Return the numbers of published levels."""
    found = []
    for section in SECTIONS:
        values = msgspec.structs.asdict(getattr(levels, section))
        for name, value in sorted(values.items()):
            if value is not None:
                found.append((f"{section}.{name}", value))
    return tuple(found)


def complete_answers(
    answers: Sequence[Mapping[str, Any]],
) -> list[Mapping[str, Any]]:
    """Return the answers with symbols in them, in the order in which they were sent."""
    complete = [answer for answer in answers if answer["status"] == 200]
    # The truth log has them in the order in which the requests came.
    complete.sort(key=lambda answer: answer["answered_at"])
    return complete


def _entries_shown(
    evidence: Evidence,
) -> Iterator[tuple[str, Mapping[str, Any] | None, Showing]]:
    """Yield symbol, entry and showing for each symbol of each answer to a worker."""
    for answer in complete_answers(evidence.answers):
        # Other keys are not a worker's.
        if answer["key"] not in KEYS:
            continue
        requested_at = answer["received_at"] / MICROS
        answered_at = answer["answered_at"] / MICROS
        life = _alive(evidence.lives, KEYS.index(answer["key"]), requested_at)
        if life is None:
            continue
        for symbol, shown in answer["shown"].items():
            sha256 = "" if shown is None else shown["sha256"]
            yield symbol, shown, Showing(requested_at, answered_at, life, sha256)


def _refresh_shown(
    symbol: str, shown: Mapping[str, Any] | None, contents: Mapping[str, str]
) -> Refresh | None:
    """Return the refresh that an answer showed for a symbol, None if it had no usable entry."""
    if shown is None or shown["computed_at"] is None:
        return None
    numbers = _numbers_in(contents[shown["sha256"]])
    if numbers is None:
        return None
    moment = datetime.fromisoformat(shown["computed_at"])
    computed_at = round(moment.timestamp() * MICROS)
    return Refresh(symbol, computed_at, numbers)


def _alive(lives: Sequence[Life], slot: int, at: float) -> Life | None:
    """Return the process that a slot had at a moment."""
    for life in lives:
        ended_at = life.ended_at or time.time()
        if life.slot == slot and life.started_at <= at <= ended_at:
            return life
    return None


def _numbers_in(text: str) -> Numbers | None:
    """Return the numbers of an entry as the upstream sent it, None if they are not usable.

    This decoder is independent of the connector's on purpose.
    """
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
            # One wrong number sends the whole entry to quarantine.
            if not isinstance(value, int | float) or math.isnan(value):
                return None
            found.append((f"{section}.{name}", float(value)))
    return tuple(found)
