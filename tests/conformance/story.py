"""The history of a symbol, as a case makes it up: events, and the state after each."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from connector.core.model import AllExpiry, Event, Kind, Levels, Source, State, Status
from connector.kafka.names import partition_of
from connector.kafka.shard_log import Transaction

FEED: Final = "all"
# Only events and states of aborted transactions have this level.
ABORTED_HVL: Final = 13.0
# Any moment will do, as long as later events are younger.
_FIRST_AT: Final = 1_700_000_000_000_000
_SECOND: Final = 1_000_000
_SOURCE: Final = Source("0", "group", "worker")
_WITH_LEVELS: Final = (Status.LIVE, Status.STALE)


def levels(
    hvl: float | None, model: str | None = "flow", extra: str | None = None
) -> Levels:
    """Return levels around a gamma flip, or without one."""
    around = AllExpiry()
    if hvl is not None:
        around = AllExpiry(hvl, call_resistance=hvl + 1000.5, put_support=hvl - 1000)
    return Levels(positioning=model, all_expiry=around, extra=extra)


class Symbol:
    """The history of one symbol. Each call of `then` continues it by one event."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._sequence = 0
        self._levels: Levels | None = None
        self._last: State | None = None

    def changed(self, hvl: float) -> Transaction:
        """Continue with new levels."""
        return self.then(Kind.CHANGED, Status.LIVE, levels(hvl))

    def then(
        self,
        kind: Kind,
        status: Status,
        new_levels: Levels | None = None,
        *,
        reason: str | None = None,
        is_dated: bool = True,
    ) -> Transaction:
        """Continue with an event. Without new levels, the last ones stay in the state."""
        self._sequence += 1
        self._levels = new_levels or self._levels
        moment = self._moment(kind, status, self._levels, reason, is_dated=is_dated)
        (self._last,) = moment.states
        return moment

    def refreshed(self) -> Transaction:
        """Return the state that a refresh now writes. Nothing has changed, so no event."""
        assert self._last is not None
        now = time.time_ns() // 1_000
        return Transaction([], [msgspec.structs.replace(self._last, observed_at=now)])

    def skip(self) -> None:
        """Continue as if an event were lost."""
        self._sequence += 1

    def aborted(self, extra: str | None = None) -> Transaction:
        """Return the next event of a worker that dies before its commit."""
        self._sequence += 1
        wrong = levels(ABORTED_HVL, extra=extra)
        moment = self._moment(Kind.CHANGED, Status.LIVE, wrong, None, is_dated=True)
        self._sequence -= 1
        return moment

    def _moment(
        self,
        kind: Kind,
        status: Status,
        latest: Levels | None,
        reason: str | None,
        *,
        is_dated: bool,
    ) -> Transaction:
        at = _FIRST_AT + self._sequence * _SECOND
        computed_at = at if is_dated else None
        event = Event(
            event_id=f"{FEED}/{self.name}/{self._sequence}",
            feed=FEED,
            symbol=self.name,
            sequence=self._sequence,
            kind=kind,
            status=status,
            reason=reason,
            computed_at=computed_at,
            previous_computed_at=None,
            observed_at=at,
            changed_levels=(),
            changed_sections=(),
            collapsed_observations=0,
            source=_SOURCE,
            before=None,
            after=latest if status in _WITH_LEVELS else None,
        )
        state = State(
            feed=FEED,
            symbol=self.name,
            sequence=self._sequence,
            status=status,
            computed_at=computed_at,
            observed_at=at,
            request_fingerprint="",
            source=_SOURCE,
            levels=latest,
        )
        return Transaction([event], [state])


def moving_and_staying(partitions: int) -> tuple[Symbol, Symbol]:
    """Return a symbol of another partition than 0, and one of partition 0."""
    names = [f"S{number}" for number in range(100)]
    moving = [name for name in names if partition_of(name, partitions) != 0]
    staying = [name for name in names if partition_of(name, partitions) == 0]
    return Symbol(moving[0]), Symbol(staying[0])
