"""The past that `simulate --replay` shows: what the API had at each moment of a day.

It comes from the events that `gex-connector history --json` prints, an event a line. The
schema of events is public, and this module reads it without the connector's own code.
"""

from __future__ import annotations

import gzip
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from connector.devkit.simulator.levels import MICROS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_GZIP: Final = b"\x1f\x8b"
_NULL: Final = b"null"

# Refreshes that changed nothing made no event. While a symbol was LIVE, there must have been
# such ones about as often as the API refreshes.
_USUAL_PERIOD: Final = 30 * MICROS


class PastEvent(msgspec.Struct, gc=False):
    """The fields of an event that tell what the API had. Others are skipped."""

    feed: str
    symbol: str
    sequence: int
    kind: str
    status: str
    observed_at: int
    computed_at: int | None
    previous_computed_at: int | None
    before: msgspec.Raw
    after: msgspec.Raw


class Step(NamedTuple):
    """What the API had for a symbol from `at` on: levels as JSON, or nothing.

    Moments are those of the past. `computed_at` is None if the entry did not say.
    """

    at: int
    levels: bytes | None
    computed_at: int | None


class Past(NamedTuple):
    """The steps of each symbol, from the first moment of the replay on."""

    begins_at: int
    steps: dict[str, list[Step]]


def read_past(path: Path) -> Past:
    """Read a file of events, which may be compressed by gzip.

    Raises ValueError if it cannot be read, if a line is no event, if there are no events, or
    if a symbol is in several feeds.
    """
    histories: dict[str, list[PastEvent]] = {}
    for event in _read_events(path):
        history = histories.setdefault(event.symbol, [])
        if history and history[0].feed != event.feed:
            raise ValueError(
                f"{path} has {event.symbol} in the feeds {history[0].feed} and "
                f"{event.feed}, expected one feed; write it with `history --feed`"
            )
        history.append(event)
    if not histories:
        raise ValueError(f"{path} has no events")

    all_events = list(chain.from_iterable(histories.values()))
    begins_at = min(event.observed_at for event in all_events)
    ends_at = max(event.observed_at for event in all_events)
    steps = {}
    for symbol, events in histories.items():
        # Not by time: the clocks of two workers differ.
        events.sort(key=lambda event: event.sequence)
        steps[symbol] = list(_steps_of(events, begins_at, ends_at))
    return Past(begins_at, steps)


def _read_events(path: Path) -> Iterator[PastEvent]:
    decoder = msgspec.json.Decoder(PastEvent)
    number = 0
    try:
        with path.open("rb") as file:
            is_compressed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            lines: Iterable[bytes] = file
            if is_compressed:
                lines = gzip.GzipFile(fileobj=file)
            for line in lines:
                number += 1
                yield decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}, line {number}: {error}; expected an event as `gex-connector "
            "history --json` prints it"
        ) from None
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read {path}: {reason}") from None


def _steps_of(events: list[PastEvent], begins_at: int, ends_at: int) -> Iterator[Step]:
    """Yield what events tell, and between them the refreshes that changed nothing."""
    last = _first_step(events[0], begins_at)
    yield last
    was_live = last.levels is not None
    for event in events:
        if was_live:
            # Levels are STALE when there were no more refreshes, so this ends there, too.
            until = event.computed_at or event.observed_at
            for step in _unchanged(last, until):
                yield step
                last = step
        was_live = event.status == "LIVE"

        levels = _levels(event.after)
        # A symbol that is not configured any more tells nothing about the API.
        if levels is None and event.kind == "REMOVED":
            continue
        computed_at = None if levels is None else event.computed_at
        if (levels, computed_at) != (last.levels, last.computed_at):
            at = event.observed_at
            if computed_at is not None and computed_at > last.at:
                at = computed_at
            last = Step(max(at, last.at), levels, computed_at)
            yield last
    if was_live:
        yield from _unchanged(last, ends_at)


def _first_step(event: PastEvent, begins_at: int) -> Step:
    """Return what the API had before a symbol's first event."""
    was_absent = event.kind == "RESTORED"
    if was_absent:
        return Step(begins_at, None, None)
    before = _levels(event.before)
    if before is not None:
        return Step(begins_at, before, event.previous_computed_at)
    # The connector saw the symbol for the first time, but the API had it before.
    after = _levels(event.after)
    return Step(begins_at, after, None if after is None else begins_at)


def _unchanged(step: Step, until: int) -> Iterator[Step]:
    """Yield refreshes with the same levels, until shortly before a moment."""
    if step.computed_at is None:
        return
    at = step.computed_at + _USUAL_PERIOD
    while at < until - _USUAL_PERIOD // 2:
        if at > step.at:
            yield Step(at, step.levels, at)
        at += _USUAL_PERIOD


def _levels(raw: msgspec.Raw) -> bytes | None:
    text = bytes(raw)
    return None if text == _NULL else text


class _Spot(msgspec.Struct):
    spot_price: float | None


def spot_price(text: bytes) -> float:
    """Return the price in the levels of an event, 0 if they have none."""
    return msgspec.json.decode(text, type=_Spot).spot_price or 0.0


def entry_of_levels(
    text: bytes, include: frozenset[str], computed_at: str | None
) -> dict[str, Any]:
    """Return the API's entry for the levels of an event, with the sections of `include`."""
    levels: dict[str, Any] = msgspec.json.decode(text)
    entry: dict[str, Any] = {
        "all_expiry": levels["all_expiry"],
        "odte": levels["odte"],
        "spot_price": levels["spot_price"],
        "computed_at": computed_at,
    }
    for name in ("positioning", "positioning_fallback_reason"):
        if levels[name] is not None:
            entry[name] = levels[name]
    for name in ("max_pain", "expected_move"):
        if name in include:
            entry[name] = levels[name]
    if "ranked" in include:
        entry["ranked"] = {
            name: _ranked_rows(rows) for name, rows in levels["ranked"].items()
        }
    if "zones" in include and levels["zones"] is not None:
        entry["zones"] = [msgspec.json.decode(row["json"]) for row in levels["zones"]]
    if levels["extra"] is not None:
        _merge(entry, msgspec.json.decode(levels["extra"]))
    return entry


def _ranked_rows(rows: list[dict[str, Any]] | None) -> list[Any] | None:
    if rows is None:
        return None
    found: list[Any] = []
    for row in rows:
        extra = None
        if row["extra"] is not None:
            extra = msgspec.json.decode(row["extra"])
        # A row that was no object is in `extra` as a whole.
        if extra is not None and not isinstance(extra, dict):
            found.append(extra)
            continue
        known = {}
        for name in ("rank", "strike", "gex", "abs_gex"):
            if row[name] is not None:
                known[name] = row[name]
        found.append({**known, **(extra or {})})
    return found


def _merge(entry: dict[str, Any], extra: dict[str, Any]) -> None:
    """Put undocumented fields back where they were."""
    for name, value in extra.items():
        inner = entry.get(name)
        if isinstance(inner, dict) and isinstance(value, dict):
            inner.update(value)
        else:
            entry[name] = value
