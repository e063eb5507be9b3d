"""Follow a feed without a gap or a duplicate, and without storing an offset.

The client restores the present states from `current`, then follows `changes`: see
connector/client/restore.py for the protocol. It needs only three packages, which
docs/how-to/client.md names.

A line of `--json` is a state, an event or `restored`. docs/how-to/write-a-consumer.md has its
fields.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from connector.client import (
    ClientError,
    LiveLevels,
    SchemaError,
    SymbolView,
    TopicMissing,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.client import Event, EventStream

LOOK_SECONDS = 1.0
# Use LIVE levels, use STALE levels with care, and use none with any other status.
ACTIONS = {"LIVE": "use", "STALE": "careful"}
SHOWN_LEVELS = ("hvl", "call_resistance", "put_support")


class Printer:
    """Prints states and events; a trading system would act here."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._models: dict[str, str] = {}

    def show(self, record: SymbolView | Event) -> None:
        """Print a state or an event."""
        if self._as_json:
            self._line(self._fields(record))
            return
        kind = "state" if isinstance(record, SymbolView) else record.kind
        text = "no levels"
        if record.status in ACTIONS:
            values = shown_levels(record).items()
            text = " ".join(f"{name}={value}" for name, value in values)
        warning = " (old: careful)" if record.status == "STALE" else ""
        number = f"#{record.sequence}"
        print(f"{record.symbol} {number} {kind} {record.status} {text}{warning}")
        sys.stdout.flush()

    def restored(self, count: int) -> None:
        """Say that all states were printed."""
        if self._as_json:
            self._line({"type": "restored", "symbols": count})

    def _fields(self, record: SymbolView | Event) -> dict[str, Any]:
        is_state = isinstance(record, SymbolView)
        fields = {
            "type": "state" if is_state else "event",
            "symbol": record.symbol,
            "sequence": record.sequence,
            "kind": None if isinstance(record, SymbolView) else record.kind,
            "reason": None if isinstance(record, SymbolView) else record.reason,
            "status": record.status,
            "computed_at": record.computed_at,
            "act": ACTIONS.get(record.status, "none"),
        }
        levels = levels_of(record)
        model = None if levels is None else levels.positioning
        known = self._models.get(record.symbol)
        # After another model, forget everything that was derived from older levels.
        fields["model"] = model
        fields["model_changed"] = None not in {model, known} and model != known
        if model is not None:
            self._models[record.symbol] = model
        return fields | shown_levels(record)

    def _line(self, fields: dict[str, Any]) -> None:
        print(json.dumps(fields), flush=True)


def levels_of(record: SymbolView | Event) -> Any:
    """Return the levels of a state or an event, None if there are none to use."""
    if record.status not in ACTIONS:
        return None
    return record.levels if isinstance(record, SymbolView) else record.after


def shown_levels(record: SymbolView | Event) -> dict[str, float | None]:
    """Return the levels to print."""
    levels = levels_of(record)
    values = {}
    for name in SHOWN_LEVELS:
        values[name] = None if levels is None else getattr(levels.all_expiry, name)
    return values


class SilenceNotes:
    """Says on standard error when LIVE levels are no longer refreshed, and when they are.

    A connector that is dead writes no event. A trading system would stop here.
    """

    def __init__(self, levels: LiveLevels) -> None:
        self._levels = levels
        self._silent: set[str] = set()
        self._look_at = 0.0

    def look(self) -> None:
        """Look at each symbol, at most once a second. Raises ClientError."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        for symbol, view in self._levels.items():
            if view.status != "LIVE":
                # No levels are refreshed, or their status says already that they are old.
                self._silent.discard(symbol)
                continue
            reason = self._levels.why_not_fresh(symbol)
            if reason is not None and symbol not in self._silent:
                self._silent.add(symbol)
                print(f"{symbol}: not refreshed: {reason}", file=sys.stderr, flush=True)
            elif reason is None and symbol in self._silent:
                self._silent.discard(symbol)
                print(f"{symbol}: refreshed again", file=sys.stderr, flush=True)


def until(
    events: EventStream, end_at: float, count: int | None
) -> Iterator[Event | None]:
    """Yield at most `count` events until a moment, and None if none came for a second."""
    left = math.inf if count is None else count
    while left > 0:
        wait_seconds = min(end_at - time.monotonic(), LOOK_SECONDS)
        if wait_seconds <= 0:
            return
        event = events.next_event(timeout=wait_seconds)
        if event is not None:
            left -= 1
        yield event


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Follow one feed of gex-levels-connector until Ctrl-C."
    )
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument(
        "--prefix", default="gex.levels", help="the connector's kafka.topic_prefix"
    )
    parser.add_argument("--feed", default="all")
    parser.add_argument(
        "--registry", metavar="URL", help="schema registry, if the connector uses one"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        help="end this long after the states are restored",
    )
    parser.add_argument(
        "--max-events", type=int, help="end after this number of events"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=90,
        help="end with an error if an event is missing for so many seconds "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a line"
    )
    return parser.parse_args()


def main() -> None:
    """Print the states of a feed, then its events."""
    options = parse_options()
    printer = Printer(as_json=options.json)
    with (
        LiveLevels(
            options.bootstrap,
            feed=options.feed,
            prefix=options.prefix,
            registry=options.registry,
            patience_seconds=options.patience,
        ) as levels,
        levels.events() as events,
    ):
        end_at = time.monotonic() + options.seconds
        for view in events.start.values():
            printer.show(view)
        printer.restored(len(events.start))
        notes = SilenceNotes(levels)
        for event in until(events, end_at, options.max_events):
            if event is not None:
                printer.show(event)
            notes.look()


if __name__ == "__main__":
    # The client logs records that it skips.
    logging.basicConfig(format="%(message)s")
    with suppress(KeyboardInterrupt):
        try:
            main()
        except TopicMissing as error:
            sys.exit(f"error: {error} (here: --feed, --prefix)")
        except SchemaError as error:
            sys.exit(f"error: {error} (here: --registry)")
        except ClientError as error:
            sys.exit(f"error: {error}")
