"""Periods of time, as people type them: the options `--since` and `--until`."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from connector.config.secrets import quote
from connector.core.model import MICROS, Value
from connector.errors import UsageError

if TYPE_CHECKING:
    import argparse

DEFAULT_SINCE: Final = "1d"

_UNITS: Final = {
    "s": "seconds",
    "m": "minutes",
    "h": "hours",
    "d": "days",
    "w": "weeks",
}

_DAYS_AGO: Final = {"today": 0, "yesterday": 1}


class Period(Value, frozen=True):
    """A period, both ends included. Moments are microseconds since the epoch."""

    since: int
    until: int

    def __contains__(self, moment: int) -> bool:
        return self.since <= moment <= self.until


def add_period_arguments(
    parser: argparse.ArgumentParser, default_since: str | None = DEFAULT_SINCE
) -> None:
    """Declare the options of a period."""
    about = "start of the period: 2h or 3d (ago), yesterday, today, or ISO 8601 (UTC)"
    if default_since is not None:
        about += " (default: %(default)s)"
    parser.add_argument("--since", default=default_since, help=about)
    parser.add_argument(
        "--until", help="end of the period, typed like its start (default: now)"
    )


def period_of(options: argparse.Namespace, command: str) -> Period:
    """Return the period that the options describe. Without `--until` it ends now.

    Raises UsageError if a moment cannot be read, or if the period ends before it begins.
    """
    since = parse_moment(options.since, f"{command}: --since")
    until = time.time_ns() // 1000
    if options.until is not None:
        until = parse_moment(options.until, f"{command}: --until")
    if since > until:
        raise UsageError(f"{command}: expected --since to be before --until")
    return Period(since, until)


def parse_moment(text: str, option: str) -> int:
    """Return microseconds since the epoch for `2h` (ago), `today` or an ISO 8601 moment.

    Units are s, m, h, d and w. A moment without a zone is UTC. A day is its first moment in
    UTC. Raises UsageError, whose message begins with `option`.
    """
    try:
        return round(_parse(text.strip()).timestamp() * MICROS)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option} {quote(text)}, expected 2h, 3d, yesterday, today or "
            "2026-01-31T12:00Z"
        ) from None


def iso(at: int) -> str:
    """Return a moment as ISO 8601 in UTC, with microseconds."""
    moment = datetime.fromtimestamp(at / MICROS, UTC)
    return moment.isoformat(timespec="microseconds")


def _parse(text: str) -> datetime:
    duration = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if duration is not None:
        amount, unit = duration.groups()
        ago = timedelta(**{_UNITS[unit]: int(amount)})
        return datetime.now(UTC) - ago

    if text in _DAYS_AGO:
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=_DAYS_AGO[text])

    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
