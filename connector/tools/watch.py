"""Events as a person would want to read them."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from connector.core.model import MICROS, Event, Kind, LevelChange, Value

if TYPE_CHECKING:
    from connector.kafka.events import Events, ReceivedEvent

_SHOWN_CHANGES: Final = 4
_REPLAYED_SECONDS: Final = 10
"""An event that was observed longer ago was lying there: how long until it was observed is what is worth showing."""

_COLOURS: Final = {
    Kind.SNAPSHOT: 36,
    Kind.CHANGED: 32,
    Kind.FRESH: 32,
    Kind.RESTORED: 32,
    Kind.STALE: 33,
    Kind.MISSING: 33,
    Kind.INVALID: 31,
    Kind.REMOVED: 31,
}


class EventFilter(Value, frozen=True):
    """Which events are to be shown; empty: all."""

    symbols: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()

    def has(self, symbol: str, kind: str | None, status: str) -> bool:
        """Whether one of such is."""
        given = ((self.symbols, symbol), (self.kinds, kind), (self.statuses, status))
        return all(value in wanted for wanted, value in given if wanted)


def watch(events: Events, wanted: EventFilter, *, as_json: bool) -> int:
    """Print every event that is wanted until Ctrl-C."""
    for received in events.until(lambda: False):
        if received is not None:
            event = received.event
            if wanted.has(event.symbol, event.kind, event.status):
                sys.stdout.write(
                    f"{as_json_line(event) if as_json else line(received)}\n"
                )
                sys.stdout.flush()
    return 0


def as_json_line(event: Event) -> str:
    """The event as one JSON object, named as in the schema, moments in microseconds."""
    return msgspec.json.encode(event).decode()


def line(received: ReceivedEvent, *, colour: bool | None = None) -> str:
    """One line: when, whose, what kind, what changed, and how long after it was computed."""
    event = received.event
    at = datetime.fromtimestamp(event.observed_at / MICROS, UTC)
    kind = f"{event.kind:<8}"
    if sys.stdout.isatty() if colour is None else colour:
        kind = f"\x1b[{_COLOURS[event.kind]}m{kind}\x1b[0m"
    replayed = received.received_at - event.observed_at > _REPLAYED_SECONDS * MICROS
    until = event.observed_at if replayed else received.received_at
    when = f"{at:%Y-%m-%d %H:%M:%S.%f}" if replayed else f"{at:%H:%M:%S.%f}"
    whose = event.symbol if event.feed == "all" else f"{event.feed}/{event.symbol}"
    delay = (
        ""
        if event.computed_at is None
        else f"  +{(until - event.computed_at) / MICROS:.2f} s"
    )
    return f"{when[:-3]}  {whose:<9} #{event.sequence:<5} {kind}  {what(event)}{delay}"


def what(event: Event) -> str:
    """The changes, those of the levels that traders look at first."""
    if event.after is None:
        return f"no levels: {event.reason or event.status.lower()}"
    if event.kind is Kind.SNAPSHOT or not (
        event.changed_levels or event.changed_sections
    ):
        all_expiry = event.after.all_expiry
        names = {"spot_price": event.after.spot_price, "hvl": all_expiry.hvl}
        names |= {
            "call_resistance": all_expiry.call_resistance,
            "put_support": all_expiry.put_support,
        }
        line = "  ".join(f"{name} {price(value)}" for name, value in names.items())
        return f"{line}  ({event.reason})" if event.reason else line
    changes = sorted(
        event.changed_levels,
        key=lambda change: not change.path.startswith("all_expiry"),
    )
    said = [_change(change) for change in changes[:_SHOWN_CHANGES]]
    more = len(changes) - len(said)
    return "  ".join(
        [*said, *([f"and {more} more"] if more else []), *event.changed_sections]
    )


def _change(change: LevelChange) -> str:
    name = change.path.removeprefix("all_expiry.")
    return f"{name} {price(change.before)} → {price(change.after)}"


def price(value: float | None) -> str:
    """A price with as many decimals as its size wants; an absent one as a dash."""
    if value is None:
        return "-"
    return f"{value:,.2f}" if abs(value) >= 1000 else f"{value:.6g}"  # noqa: PLR2004 -- as traders write them
