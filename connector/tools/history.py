"""`gex-connector history`: the events of one symbol between two moments."""

from __future__ import annotations

import csv
import re
import sys
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from connector.config.secrets import quote
from connector.core.diff import NUMBERS
from connector.core.model import MICROS
from connector.errors import ConfigError
from connector.kafka.events import END, ReceivedEvent
from connector.kafka.names import partition_of
from connector.tools.watch import as_json_line, line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connector.core.model import Event
    from connector.kafka.avro import Codec
    from connector.kafka.events import Log
    from connector.kafka.names import Topics

_UNITS: Final = {
    "s": "seconds",
    "m": "minutes",
    "h": "hours",
    "d": "days",
    "w": "weeks",
}
_HEAD: Final = (
    "observed_at",
    "computed_at",
    "feed",
    "symbol",
    "sequence",
    "kind",
    "status",
    "reason",
)


def moment(text: str, option: str) -> int:
    """Microseconds since the epoch, of `2h` (ago: s, m, h, d, w) or of ISO 8601, without a zone UTC.

    Raises ConfigError: it is neither.
    """
    try:
        if ago := re.fullmatch(r"(\d{1,6})([smhdw])", text.strip()):
            at = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            at = datetime.fromisoformat(text.strip())
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return round(at.timestamp() * MICROS)
    except (ValueError, OverflowError):
        raise ConfigError(
            [f"history: {option} {quote(text)}, expected 2h, 3d or 2026-01-31T12:00Z"]
        ) from None


def history(found: Iterator[Event], form: str) -> int:
    """Print them as `table`, `csv` or `json`."""
    show, none = _FORMS[form](), True
    for event in found:
        show(event)
        none = False
    if none:
        sys.stderr.write("no event of this symbol at this time\n")
    return 0


def events(
    log: Log, topics: Topics, codec: Codec, symbol: str, between: tuple[int, int | None]
) -> Iterator[Event]:
    """The events of a symbol observed between two moments, feed by feed, to where the topics end now.

    Only the partition that its key belongs to is read. Raises KafkaUnavailable, ShardCorrupt.
    """
    since, until = between
    for feed in log.feeds:
        name = topics.changes(feed)
        place = name, partition_of(symbol, log.partitions[name])
        end = log.offsets([place], END)
        start = {
            at: offset if offset >= 0 else end[at]
            for at, offset in log.offsets([place], since // 1000).items()
        }
        for record in log.read(start, end):
            if record.key == symbol.encode():
                event = record.decoded(codec.decode_event)
                if since <= event.observed_at and (
                    until is None or event.observed_at <= until
                ):
                    yield event


def _table() -> Callable[[Event], None]:
    def show(event: Event) -> None:
        day = f"{datetime.fromtimestamp(event.observed_at / MICROS, UTC):%Y-%m-%d}"
        sys.stdout.write(f"{day} {line(ReceivedEvent(event, event.observed_at))}\n")

    return show


def _csv() -> Callable[[Event], None]:
    """A row for each event: what it is, then each level of `after`, empty where there is none."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((*_HEAD, *NUMBERS))

    def iso(at: int | None) -> str | None:
        return (
            None
            if at is None
            else datetime.fromtimestamp(at / MICROS, UTC).isoformat(
                timespec="microseconds"
            )
        )

    def show(event: Event) -> None:
        levels = [
            None if event.after is None else attrgetter(path)(event.after)
            for path in NUMBERS
        ]
        named = [getattr(event, name) for name in _HEAD[2:]]
        writer.writerow(
            (iso(event.observed_at), iso(event.computed_at), *named, *levels)
        )

    return show


def _json() -> Callable[[Event], None]:
    def show(event: Event) -> None:
        sys.stdout.write(f"{as_json_line(event)}\n")

    return show


_FORMS: Final = {"table": _table, "csv": _csv, "json": _json}
