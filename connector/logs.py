"""Logging: one line per record, text for people and JSON for machines, bounded, and without secrets."""

from __future__ import annotations

import logging
import math
import sys
from contextlib import suppress
from datetime import UTC, datetime
from json import dumps
from typing import TYPE_CHECKING, Final, TextIO

from connector.hidden import printable, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

MAX_VALUE_CHARACTERS: Final = 2_000
MAX_MESSAGE_CHARACTERS: Final = 4_000
MAX_EXCEPTION_CHARACTERS: Final = 16_000

_STANDARD: Final = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"}
_OURS: Final = ("ts", "level", "logger", "message", "exception")


def configure(
    level: int | str,
    *,
    stream: TextIO | None = None,
    json: bool | None = None,
    secrets: Callable[[], Iterable[str]],
) -> None:
    """Send every record to `stream` (None: standard error): ours from `level` on, those of libraries from WARNING on.

    `json` None: JSON unless the stream is a terminal. `secrets` says what must not appear, asked for every line.
    """
    stream = sys.stderr if stream is None else stream
    handler = _Handler(stream)
    handler.setFormatter(_Formatter(not stream.isatty() if json is None else json, secrets))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(__package__).setLevel(level)
    logging.captureWarnings(True)


class Bounded:
    """Lets the same thing be said at most once per interval. `clock` is monotonic, in seconds."""

    def __init__(self, interval_seconds: float, clock: Callable[[], float], *, max_keys: int = 1_000) -> None:
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._max_keys = max_keys
        self._said: dict[Hashable, tuple[float, int]] = {}

    def admit(self, key: Hashable) -> int | None:
        """None: say nothing. Otherwise say it, and how many times it was not said since the last time."""
        now = self._clock()
        said_at, suppressed = self._said.get(key, (-math.inf, 0))
        if now - said_at < self._interval_seconds:
            self._said[key] = (said_at, suppressed + 1)
            return None
        self._said.pop(key, None)
        self._said[key] = (now, 0)
        if len(self._said) > self._max_keys:
            del self._said[next(iter(self._said))]
        return suppressed


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say that a record is lost, and not its arguments as logging would: they may hold the key."""
        with suppress(OSError, ValueError):
            self.stream.write(f"a log record of {printable(record.name)} could not be written\n")


class _Formatter(logging.Formatter):
    def __init__(self, json: bool, secrets: Callable[[], Iterable[str]]) -> None:
        super().__init__()
        self._line = _json_line if json else _text_line
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        secrets = tuple(filter(None, self._secrets()))
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message = redact(record.getMessage(), secrets)[:MAX_MESSAGE_CHARACTERS]
        ours = {"ts": at, "level": record.levelname, "logger": record.name, "message": message}
        if record.exc_info:
            ours["exception"] = redact(self.formatException(record.exc_info), secrets)[-MAX_EXCEPTION_CHARACTERS:]
        extra = {
            f"{key}_" if key in _OURS else key: _bounded(value, secrets)
            for key, value in vars(record).items()
            if key not in _STANDARD
        }
        line = self._line(ours, extra)
        return redact(line, secrets)


def _bounded(value: object, secrets: Iterable[str]) -> str | float | None:
    """Numbers as they are, everything else as a text without secrets, cut (after that: no half of one is left)."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return redact(str(value), secrets)[:MAX_VALUE_CHARACTERS]


def _json_line(ours: dict[str, str], extra: dict[str, str | float | None]) -> str:
    return dumps(ours | extra)


def _text_line(ours: dict[str, str], extra: dict[str, str | float | None]) -> str:
    """One line, and a traceback below it, indented so that no text in it can pass for a line of its own."""
    values = "".join(f" {printable(key)}={_quoted(str(value))}" for key, value in extra.items())
    line = printable(f"{ours['ts']} {ours['level']} {ours['logger']} {ours['message']}") + values
    return "\n    ".join([line, *map(printable, ours.get("exception", "").splitlines())])


def _quoted(text: str) -> str:
    escaped = printable(text).replace('"', '\\"')
    return f'"{escaped}"' if not text or any(char in escaped for char in ' "=') else escaped
