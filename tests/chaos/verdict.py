"""The judge of a chaos run: compares the truth log, events, `current` and the workers' logs.

It believes two statements of the connector about itself: the observations that an event
counts as collapsed (`collapsed_observations`), and the log messages by which a worker
opens or gives up a shard.
"""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from connector.core.model import Event, Kind, State
from tests.chaos.evidence import (
    Refresh,
    WorkerLogs,
    complete_answers,
    refresh_of,
    showings_of,
)
from tests.chaos.excuses import ContentExcuses, WorkerExcuses
from tests.chaos.fleet import ENDED_AS_ASKED
from tests.chaos.quarantined import missing_entries
from tests.support import checker
from tests.support.log_messages import DEFECT, SHARD_OPEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.chaos.evidence import Evidence, Showing
    from tests.chaos.fleet import Life

# Faults of the upstream that make a symbol absent from an answer.
_ABSENT = frozenset({"missing", "invalid", "absent"})

_SHOWN = ""


@dataclass(slots=True)
class Verdict:
    """The judge's findings. All invariants held if `violations` is empty.

    Attributes:
        shown: refreshes that the upstream showed. published: refreshes that have an
        event. without_event: refreshes that have none, by excuse. absences_shown: turns
        of absence in the upstream's answers. absences_published: events of an absence.
        A short absence may be over before it is published. stand_ins: events whose topic
        was deleted before anybody read them. oldest_in_hand_seconds: how long the oldest
        observation that died with a worker had waited there. It is long only while Kafka
        is away.
    """

    shown: int = 0
    events: int = 0
    published: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    zombie_writes: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    absences_shown: int = 0
    absences_published: int = 0
    without_event: Counter[str] = field(default_factory=Counter)
    stand_ins: int = 0
    oldest_in_hand_seconds: float = 0.0

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
        excuses = []
        for excuse, count in sorted(self.without_event.items()):
            excuses.append(f"{excuse} {count}")
        return (
            f"refreshes shown {self.shown}, with an event {self.published}, "
            f"events {self.events} ({self.stand_ins} deleted unread); "
            f"absences shown {self.absences_shown}, "
            f"published {self.absences_published}\n"
            f"without an event of their own: {', '.join(excuses) or 'none'} "
            f"(oldest in hand {self.oldest_in_hand_seconds:.1f} s)\n"
            f"lost {len(self.lost)}  duplicated {len(self.duplicated)}  "
            f"out of order {len(self.out_of_order)}  "
            f"zombie writes {len(self.zombie_writes)}  other {len(self.other)}"
        )


def judge(evidence: Evidence) -> Verdict:
    """Check all invariants against the evidence of a run."""
    verdict = Verdict(events=len(evidence.events), stand_ins=evidence.stand_ins)
    logs = WorkerLogs(evidence.lives)
    by_symbol = checker.by_symbol(evidence.events)
    last_states = _last_states(evidence)
    showings = showings_of(evidence)

    # Invariants that need no excuse.
    _check_sequences(by_symbol, verdict)
    verdict.other += checker.violations(evidence.events, last_states)
    _check_writers(evidence, logs, verdict)
    _check_processes(evidence.lives, verdict)
    _check_absences(evidence.answers, by_symbol, verdict)
    _check_last_states(showings, last_states, verdict)
    verdict.lost += missing_entries(evidence, logs)

    # Events and refreshes must match in both directions, but for the excuses.
    published = _published(evidence.events)
    verdict.shown = len(showings)
    verdict.published = len(published)
    for refresh in published - showings.keys():
        verdict.other.append(
            f"{refresh.symbol}: an event has levels that the upstream never showed, "
            f"computed {refresh.computed_at}"
        )

    content = ContentExcuses(evidence, by_symbol, showings)
    workers = WorkerExcuses(evidence, by_symbol, logs)
    for refresh, its_showings in showings.items():
        if refresh not in published:
            _excuse(refresh, its_showings, content, workers, verdict)
    verdict.oldest_in_hand_seconds = workers.oldest_in_hand_seconds
    return verdict


def _excuse(
    refresh: Refresh,
    showings: Sequence[Showing],
    content: ContentExcuses,
    workers: WorkerExcuses,
    verdict: Verdict,
) -> None:
    """Count the excuse of a refresh without an event, or call it lost.

    If its content is no excuse, every worker that it was shown to needs one.
    """
    excuse = content.find(refresh, showings[0])
    if excuse is None:
        # Any of these workers could have published it.
        for showing in showings:
            excuse = workers.find(refresh, showing)
            if excuse is None:
                seen = datetime.fromtimestamp(showing.answered_at).astimezone()
                verdict.lost.append(
                    f"{refresh.symbol}: computed {refresh.computed_at}, "
                    f"shown to slot {showing.life.slot} at {seen.time()}"
                )
                return
    if excuse is not None:
        verdict.without_event[excuse] += 1


def _last_states(evidence: Evidence) -> dict[str, State]:
    found = {}
    for records in evidence.current.values():
        for _, state in records:
            found[state.symbol] = state
    return found


def _published(events: Iterable[Event]) -> set[Refresh]:
    found = set()
    for event in events:
        refresh = refresh_of(event)
        if refresh is not None:
            found.add(refresh)
    return found


def _check_sequences(
    by_symbol: Mapping[str, Sequence[Event]], verdict: Verdict
) -> None:
    """Find gaps, duplicates and disorder in the events of each symbol."""
    for symbol, events in by_symbol.items():
        # The id holds the sequence number: twice the same is a duplicate.
        counts = Counter(event.event_id for event in events)
        for event_id, count in counts.items():
            if count > 1:
                verdict.duplicated.append(f"{event_id}: {count} times")

        # A change must differ from what consumers hold in something that counts.
        published = None
        for event in events:
            is_same = checker.counted(event.after) == checker.counted(published)
            if event.kind is Kind.CHANGED and is_same:
                verdict.duplicated.append(
                    f"{symbol}: #{event.sequence} repeats the levels before it"
                )
            published = event.after or published

        for before, after in pairwise(events):
            text = f"{symbol}: #{after.sequence} follows #{before.sequence}"
            if after.sequence > before.sequence + 1:
                verdict.lost.append(text)
            elif after.sequence < before.sequence:
                verdict.out_of_order.append(text)


@dataclass(frozen=True, slots=True)
class _Opening:
    """A worker opened a shard when its topic ended at an offset."""

    shard: str
    worker: str
    end: int

    def precedes_turn(self, shard: str, worker: str, since: int, first: int) -> bool:
        """Return whether the worker opened the shard after the others' last record."""
        is_same = (self.shard, self.worker) == (shard, worker)
        return is_same and since < self.end <= first


def _check_writers(evidence: Evidence, logs: WorkerLogs, verdict: Verdict) -> None:
    """Find zombies: workers that write after others did without opening the shard in between."""
    openings = []
    for life in evidence.lives:
        worker = logs.worker(life)
        if worker is None:
            continue
        for line in life.lines():
            if line["message"] == SHARD_OPEN:
                openings.append(_Opening(line["shard"], worker, int(line["end"])))
    for partition, records in evidence.current.items():
        shard = f"all-{partition}"
        # A turn is a run of records by one worker. It must have opened the shard before
        # its turn, and after the last record of the turn before.
        last_of_others = -1
        for worker, turn in groupby(records, lambda record: record[1].source.worker):
            offsets = [offset for offset, _ in turn]
            if not any(
                opening.precedes_turn(shard, worker, last_of_others, offsets[0])
                for opening in openings
            ):
                verdict.zombie_writes.append(
                    f"{shard}: {worker} wrote at {offsets[0]} "
                    f"and had not opened it since {last_of_others}"
                )
            last_of_others = offsets[-1]


def _check_absences(
    answers: Sequence[Mapping[str, Any]],
    by_symbol: Mapping[str, Sequence[Event]],
    verdict: Verdict,
) -> None:
    """Find more absences, or ends of them, than the upstream's answers had."""
    turns = _turns_of_presence(answers)
    for symbol, events in by_symbol.items():
        kinds = Counter(event.kind for event in events)
        absences = kinds[Kind.MISSING] + kinds[Kind.INVALID]
        absences_shown = presences_shown = two_reasons = 0
        for turn in turns[symbol]:
            if turn == _SHOWN:
                presences_shown += 1
            else:
                absences_shown += 1
                # With two reasons at once, each of them may have an event.
                if "+" in turn:
                    two_reasons += 1
        verdict.absences_shown += absences_shown
        verdict.absences_published += absences
        too_many = absences > absences_shown + two_reasons
        if too_many or kinds[Kind.RESTORED] > presences_shown:
            verdict.duplicated.append(
                f"{symbol}: {absences} absences and {kinds[Kind.RESTORED]} ends of "
                f"them were published, shown were {turns[symbol]}"
            )


def _turns_of_presence(answers: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return for each symbol _SHOWN or the reasons of its absence, in turns."""
    turns: dict[str, list[str]] = defaultdict(list)
    for answer in complete_answers(answers):
        reasons = "+".join(sorted(_ABSENT.intersection(answer["faults"])))
        for symbol in answer["symbols"]:
            turn = _SHOWN
            if not answer["shown"].get(symbol):
                turn = reasons or "cold"
            if not turns[symbol] or turns[symbol][-1] != turn:
                turns[symbol].append(turn)
    return turns


def _check_last_states(
    showings: Iterable[Refresh], last_states: Mapping[str, State], verdict: Verdict
) -> None:
    """Check that `current` ends with the last refresh.

    The refresh before it will do, since the stop may have cut the last one off.
    """
    moments: dict[str, set[int]] = defaultdict(set)
    for refresh in showings:
        moments[refresh.symbol].add(refresh.computed_at)
    for symbol, its_moments in moments.items():
        expected = sorted(its_moments)[-2:]
        state = last_states.get(symbol)
        found = None
        if state is not None:
            found = state.computed_at
        if found not in expected:
            verdict.other.append(
                f"{symbol}: current ends with {found}, shown were {expected}"
            )


def _check_processes(lives: Iterable[Life], verdict: Verdict) -> None:
    """Find processes that ended in another way than asked, and defects in their logs."""
    for life in lives:
        log = life.program.log()
        # A process has no handler for SIGTERM until it logs for the first time.
        was_terminated = life.status == -signal.SIGTERM
        is_early_stop = was_terminated and not any(life.lines())
        if life.status not in ENDED_AS_ASKED and not is_early_stop:
            verdict.other.append(
                f"slot {life.slot} ended with {life.status}: {log[-500:]}"
            )
        if "Traceback" in log or DEFECT in log:
            verdict.other.append(f"slot {life.slot} has a defect: {log[-2000:]}")
