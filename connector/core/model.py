"""The values everything else speaks of: levels, observations, events and the state between them.

Moments (`_at`) are integers, microseconds since the Unix epoch, UTC. Prices are floats in quote units, or None.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

MICROS: Final = 1_000_000


class Value(msgspec.Struct, frozen=True, gc=False):
    """Base of the plain values: immutable, compared by content."""


class Status(StrEnum):
    """What a consumer may rely on: only LIVE levels are current."""

    LIVE = "LIVE"
    STALE = "STALE"
    MISSING = "MISSING"
    INVALID = "INVALID"
    REMOVED = "REMOVED"

    @property
    def has_levels(self) -> bool:
        """True where an event of this status says levels in `after`."""
        return self in (Status.LIVE, Status.STALE)


class Kind(StrEnum):
    """Why an event was published."""

    SNAPSHOT = "SNAPSHOT"
    CHANGED = "CHANGED"
    STALE = "STALE"
    FRESH = "FRESH"
    MISSING = "MISSING"
    INVALID = "INVALID"
    RESTORED = "RESTORED"
    REMOVED = "REMOVED"


class AllExpiry(Value, frozen=True):
    """Levels over all expiries; `hvl` is the gamma-flip price."""

    hvl: float | None = None
    call_resistance: float | None = None
    call_wall_2: float | None = None
    call_wall_3: float | None = None
    put_support: float | None = None
    put_wall_2: float | None = None
    put_wall_3: float | None = None


class Odte(Value, frozen=True):
    """The same for options that expire today."""

    hvl: float | None = None
    call_resistance: float | None = None
    put_support: float | None = None


class MaxPain(Value, frozen=True):
    """`include=max_pain`."""

    strike: float | None = None
    value: float | None = None


class ExpectedMove(Value, frozen=True):
    """`include=expected_move`: the one and two sigma band."""

    upper_1sd: float | None = None
    lower_1sd: float | None = None
    upper_2sd: float | None = None
    lower_2sd: float | None = None


class Row(Value, frozen=True):
    """A row whose shape the vendor does not document: its strike where that can be read, and all of it as JSON."""

    strike: float | None
    json: str


class Ranked(Value, frozen=True):
    """`include=ranked`: strikes by gamma exposure, largest first."""

    all_expiry_top_10: tuple[Row, ...] | None = None
    odte_top_10: tuple[Row, ...] | None = None


class Levels(Value, frozen=True):
    """One symbol's entry, typed. An absent section and one full of nulls are the same: all its levels are null.

    `extra` holds every field nobody documented, as canonical JSON of an object of the entry's own shape.
    """

    spot_price: float | None = None
    all_expiry: AllExpiry = AllExpiry()
    odte: Odte = Odte()
    max_pain: MaxPain = MaxPain()
    expected_move: ExpectedMove = ExpectedMove()
    ranked: Ranked = Ranked()
    zones: tuple[Row, ...] | None = None
    extra: str | None = None


class Entry(Value, frozen=True):
    """What the upstream said of one symbol: its levels, and when they were computed (None where it did not say)."""

    levels: Levels
    computed_at: int | None


class Source(Value, frozen=True):
    """Where an event comes from."""

    version: str
    group: str
    worker: str
    request_id: str | None = None
    exchanges: tuple[str, ...] = ()


class Observation(Value, frozen=True):
    """What one check showed of one symbol.

    `status` is LIVE with an entry, or MISSING or INVALID without one. `observed_at` is when the response was
    complete, by our clock; `age_at` is the same moment by the upstream's clock, as well as it is known.
    """

    symbol: str
    status: Status
    entry: Entry | None
    observed_at: int
    age_at: int
    source: Source
    reason: str | None = None
    collapsed: int = 0


class State(Value, frozen=True):
    """What `current` says of a symbol; schema `gex.levels.LevelsState`.

    `levels` is the last entry seen; `published` what the last event that had levels said, None where `levels`
    differs from it in nothing that counts. `computed_at` never goes back; `event_computed_at` is the last event's.
    `recent_computed_at` are the moments of the last refreshes, ascending: whoever
    restores the state knows the symbol's rhythm from them.
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
    levels: Levels | None = None
    published: Levels | None = None

    @property
    def said(self) -> Levels | None:
        """The levels a consumer holds: those of the last event that had some."""
        return self.levels if self.published is None else self.published


class LevelChange(Value, frozen=True):
    """One number that differs; `path` such as `all_expiry.call_resistance`."""

    path: str
    before: float | None
    after: float | None


class Event(Value, frozen=True):
    """One change of one symbol; schema `gex.levels.LevelsEvent`."""

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
