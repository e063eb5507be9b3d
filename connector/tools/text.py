"""Events as text: JSON, one line for people, and the parts of such a line."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from connector.config.secrets import printable
from connector.core.model import MICROS, Event, Kind, LevelChange, Levels

if TYPE_CHECKING:
    from connector.kafka.event_stream import ReceivedEvent

# One event may change dozens of levels; this many fit on a line.
_MAX_SHOWN_CHANGES: Final = 4

# Between two changes, and in place of those that do not fit.
_GAP: Final = "  "
_MORE: Final = "..."

# An event observed longer ago is a replay of the topic, so its date is worth showing and
# the delay ends when it was observed, not now.
_REPLAY_AFTER_SECONDS: Final = 10

# Prices from here on are written with two decimals and thousands separators.
_LARGE_PRICE: Final = 1000

# ANSI colours.
_RED: Final = 31
_GREEN: Final = 32
_YELLOW: Final = 33
_CYAN: Final = 36
_COLOURS: Final = {
    Kind.SNAPSHOT: _CYAN,
    Kind.CHANGED: _GREEN,
    Kind.FRESH: _GREEN,
    Kind.RESTORED: _GREEN,
    Kind.STALE: _YELLOW,
    Kind.MISSING: _YELLOW,
    Kind.INVALID: _RED,
    Kind.REMOVED: _RED,
}


def json_line(event: Event) -> str:
    """Return the event as a JSON object, named as in the Avro schema."""
    return msgspec.json.encode(event).decode()


def text_line(
    received: ReceivedEvent, *, colour: bool | None = None, width: int | None = None
) -> str:
    """Return moment, symbol, kind, changes and delay.

    `colour` None asks the terminal. Changes are left out so that the line fits into `width`.
    """
    event = received.event
    if colour is None:
        colour = wants_colour()

    age_seconds = (received.received_at - event.observed_at) / MICROS
    is_replay = age_seconds > _REPLAY_AFTER_SECONDS
    time_format = "%Y-%m-%d %H:%M:%S.%f" if is_replay else "%H:%M:%S.%f"
    observed = datetime.fromtimestamp(event.observed_at / MICROS, UTC)
    moment = observed.strftime(time_format)[:-3]  # milliseconds

    delay = ""
    if event.computed_at is not None:
        delay_ends_at = event.observed_at if is_replay else received.received_at
        delay = f"  +{(delay_ends_at - event.computed_at) / MICROS:.2f} s"

    # `all` is the feed that the environment variables define, usually the only one.
    name = event.symbol if event.feed == "all" else f"{event.feed}/{event.symbol}"
    start = f"{moment}  {name:<9} #{event.sequence:<5} "
    # Pad before colouring: control sequences take no room on the screen.
    kind = f"{event.kind:<8}"
    details = describe(event)
    if width is not None:
        taken = len(start) + len(kind) + len("  ") + len(delay)
        details = shortened(details, width - taken)
    if colour:
        kind = f"\x1b[{_COLOURS[event.kind]}m{kind}\x1b[0m"
    return f"{start}{kind}  {details}{delay}"


def wants_colour() -> bool:
    """Return True if the output is a terminal whose user has not set NO_COLOR."""
    # https://no-color.org: any value but an empty one.
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def describe(event: Event) -> str:
    """Return the levels that changed, or the main levels if none did."""
    if event.after is None:
        return f"no levels: {event.reason or event.status.lower()}"

    has_changes = bool(event.changed_levels or event.changed_sections)
    if event.kind is Kind.SNAPSHOT or not has_changes:
        return _main_levels(event.after, event.reason)

    shown = _changes(event)
    if event.reason is not None:
        shown.append(f"({event.reason})")
    return _GAP.join(shown)


def shortened(details: str, room: int) -> str:
    """Return the details, or the first of them that fit, with a mark for the rest.

    None is cut in the middle: the rest of a price would look like another price.
    """
    if len(details) <= room:
        return details
    shown = ""
    for part in details.split(_GAP):
        if len(f"{shown}{part}{_GAP}{_MORE}") > room:
            break
        shown += f"{part}{_GAP}"
    return f"{shown}{_MORE}"


def format_price(value: float | None) -> str:
    """Return a price with as many decimals as its size needs; a dash for None."""
    if value is None:
        return "-"
    if abs(value) >= _LARGE_PRICE:
        return f"{value:,.2f}"
    return f"{value:.6g}"


def arrow() -> str:
    """Return an arrow that the terminal can show."""
    try:
        "→".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return "->"
    return "→"


def _main_levels(levels: Levels, reason: str | None) -> str:
    all_expiry = levels.all_expiry
    prices = {
        "spot_price": levels.spot_price,
        "hvl": all_expiry.hvl,
        "call_resistance": all_expiry.call_resistance,
        "put_support": all_expiry.put_support,
    }
    shown = [f"{name} {format_price(value)}" for name, value in prices.items()]
    if levels.positioning is not None:
        shown.append(f"model {_model(levels)}")
    if reason:
        shown.append(f"({reason})")
    return _GAP.join(shown)


def _model(levels: Levels) -> str:
    text = f"{levels.positioning}"
    if levels.positioning_fallback_reason is not None:
        text += f", fallback: {levels.positioning_fallback_reason}"
    # Both are texts of the API, which must not control the terminal.
    return printable(text)


def _changes(event: Event) -> list[str]:
    # Traders look at the levels over all expiries first. The sort is stable.
    def is_secondary(change: LevelChange) -> bool:
        return not change.path.startswith("all_expiry")

    changes = sorted(event.changed_levels, key=is_secondary)
    shown = [_change(change) for change in changes[:_MAX_SHOWN_CHANGES]]
    hidden = len(changes) - len(shown)
    if hidden:
        shown.append(f"and {hidden} more")
    return [*shown, *event.changed_sections]


def _change(change: LevelChange) -> str:
    name = change.path.removeprefix("all_expiry.")
    return (
        f"{name} {format_price(change.before)} {arrow()} {format_price(change.after)}"
    )
