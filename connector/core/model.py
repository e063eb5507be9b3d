"""The shared values: levels, observations, events, and the state between two events.

Names that end in `_at` are integers: microseconds since the Unix epoch, UTC. Prices are floats in
quote units, or None if the upstream has no value.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from statistics import median
from typing import Final

import msgspec

MICROS: Final = 1_000_000


class Value(msgspec.Struct, frozen=True, gc=False):
    """Base of the plain values: immutable, compared by content.

    `gc=False` takes them out of the garbage collector, because none of them can be part of a cycle.
    """


class Moment(Value, frozen=True):
    """The same moment on two clocks: ours, and the upstream's as well as we know it."""

    local_at: int
    upstream_at: int


class Status(StrEnum):
    """The status of a symbol. Consumers may rely on its levels only while it is LIVE."""

    LIVE = "LIVE"
    STALE = "STALE"
    MISSING = "MISSING"
    INVALID = "INVALID"
    REMOVED = "REMOVED"

    @property
    def has_levels(self) -> bool:
        """True if events with this status carry levels in `after`."""
        return self in (Status.LIVE, Status.STALE)


class Kind(StrEnum):
    """The reason for an event."""

    SNAPSHOT = "SNAPSHOT"
    CHANGED = "CHANGED"
    STALE = "STALE"
    FRESH = "FRESH"
    MISSING = "MISSING"
    INVALID = "INVALID"
    RESTORED = "RESTORED"
    REMOVED = "REMOVED"


class AllExpiry(Value, frozen=True):
    """The levels across all expiries.

    `hvl` is the gamma flip. The resistance and the call walls are the strikes above spot with
    the largest, second and third positive net gamma. The support and the put walls are the
    same below spot.
    """

    hvl: float | None = None
    call_resistance: float | None = None
    call_wall_2: float | None = None
    call_wall_3: float | None = None
    put_support: float | None = None
    put_wall_2: float | None = None
    put_wall_3: float | None = None


class Odte(Value, frozen=True):
    """The levels of options that expire today. The day ends at 08:00 UTC."""

    hvl: float | None = None
    call_resistance: float | None = None
    put_support: float | None = None


class MaxPain(Value, frozen=True):
    """Max pain of today's expiry, present if the request has `include=max_pain`.

    `value` is no price: it is the payout to option buyers at `strike`, in USD.
    """

    strike: float | None = None
    value: float | None = None


class ExpectedMove(Value, frozen=True):
    """The move expected within one day, present if the request has `include=expected_move`.

    The bands come from the price of the at-the-money straddle.
    """

    upper_1sd: float | None = None
    lower_1sd: float | None = None
    upper_2sd: float | None = None
    lower_2sd: float | None = None


class RankedRow(Value, frozen=True):
    """A strike and its gamma exposure, in USD per 1 % move of spot.

    A field is None if the row has no readable value for it. `extra` holds everything else of
    the row as canonical JSON.
    """

    rank: int | None = None
    strike: float | None = None
    gex: float | None = None
    abs_gex: float | None = None
    extra: str | None = None


class Row(Value, frozen=True):
    """A row of a list. The vendor does not document its shape.

    `strike` is None if the row has no readable strike; `json` holds the complete row.
    """

    strike: float | None
    json: str


class Ranked(Value, frozen=True):
    """Strikes by absolute gamma exposure, present if the request has `include=ranked`."""

    all_expiry_top_10: tuple[RankedRow, ...] | None = None
    odte_top_10: tuple[RankedRow, ...] | None = None


class Levels(Value, frozen=True):
    """The levels in one symbol's entry.

    `positioning` is the model behind the levels, and `positioning_fallback_reason` says why it
    is not the requested one. Both are None if the upstream does not name them.

    An absent section equals a section full of nulls: all its levels are None. `extra` holds every
    undocumented field as canonical JSON, nested as in the entry.
    """

    spot_price: float | None = None
    positioning: str | None = None
    positioning_fallback_reason: str | None = None
    all_expiry: AllExpiry = AllExpiry()
    odte: Odte = Odte()
    max_pain: MaxPain = MaxPain()
    expected_move: ExpectedMove = ExpectedMove()
    ranked: Ranked = Ranked()
    zones: tuple[Row, ...] | None = None
    extra: str | None = None


class Entry(Value, frozen=True):
    """The decoded entry of a symbol. `computed_at` is None if the upstream sent none."""

    levels: Levels
    computed_at: int | None


class Source(Value, frozen=True):
    """The origin of an event: our version, group and worker, and the upstream's request."""

    version: str
    group: str
    worker: str
    request_id: str | None = None
    exchanges: tuple[str, ...] = ()


class Observation(Value, frozen=True):
    """The result of one check for one symbol.

    `status` is LIVE if there is an entry, otherwise MISSING or INVALID.

    `observed_at` is the moment when the response was complete on our clock. `upstream_at` is
    the same moment on the upstream's clock, against which the age of the levels is measured.
    `collapsed` counts the earlier observations that this one replaced while Kafka was not
    writable, and those that no event has counted before it. `plan_keeps_fresh` is False if
    the budget permits checks so rarely that the levels become stale before the next one.
    """

    symbol: str
    status: Status
    entry: Entry | None
    observed_at: int
    upstream_at: int
    source: Source
    reason: str | None = None
    collapsed: int = 0
    plan_keeps_fresh: bool = True

    def with_collapsed(self, more: int) -> Observation:
        """Return this observation with `more` collapsed ones to count."""
        if more == 0:
            return self
        return msgspec.structs.replace(self, collapsed=self.collapsed + more)


class State(Value, frozen=True):
    """The record in `current` for one symbol; schema `gex.levels.LevelsState`.

    `levels` are the latest levels observed. `published` are the levels of the last event that had
    some; it is None if `levels` do not differ from them in anything that counts, which keeps most
    records small. `computed_at` never goes back. `event_computed_at` belongs to the last event.
    `recent_computed_at` holds the latest refreshes in ascending order, so that a worker that
    restores the state knows how often the symbol is refreshed. `positioning` is the model that
    the upstream named last: answers that name none in between must not hide a change of it.
    """

    feed: str
    symbol: str
    sequence: int
    status: Status
    computed_at: int | None
    observed_at: int
    request_fingerprint: str
    source: Source
    event_computed_at: int | None = None
    recent_computed_at: tuple[int, ...] = ()
    positioning: str | None = None
    levels: Levels | None = None
    published: Levels | None = None

    @property
    def last_published(self) -> Levels | None:
        """The levels that consumers hold: those of the last event that had some."""
        return self.levels if self.published is None else self.published

    @property
    def usual_period_seconds(self) -> float | None:
        """The usual time between two refreshes, None until two are known."""
        gaps = [later - earlier for earlier, later in pairwise(self.recent_computed_at)]
        # A refresh that was skipped or not seen must not double the period.
        return median(gaps) / MICROS if gaps else None


class LevelChange(Value, frozen=True):
    """A changed number; `path` looks like `all_expiry.call_resistance`."""

    path: str
    before: float | None
    after: float | None


class Event(Value, frozen=True):
    """A published change of a symbol; schema `gex.levels.LevelsEvent`."""

    event_id: str
    feed: str
    symbol: str
    sequence: int
    kind: Kind
    status: Status
    reason: str | None
    computed_at: int | None
    previous_computed_at: int | None
    observed_at: int
    changed_levels: tuple[LevelChange, ...]
    changed_sections: tuple[str, ...]
    collapsed_observations: int
    source: Source
    before: Levels | None
    after: Levels | None
