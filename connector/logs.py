"""Logging: one line per record, text for people and JSON for machines, bounded, and without secrets."""

from __future__ import annotations

import logging
import math
import sys
from contextlib import suppress
from datetime import UTC, datetime
from json import dumps
from typing import TYPE_CHECKING, Final, TextIO

from connector.config.secrets import printable, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

MAX_VALUE_CHARACTERS: Final = 2_000
MAX_MESSAGE_CHARACTERS: Final = 4_000
MAX_EXCEPTION_CHARACTERS: Final = 16_000

_STANDARD: Final = {
    *logging.makeLogRecord({}).__dict__,
    "message",
    "asctime",
    "taskName",
}
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
    handler.setFormatter(
        _Formatter(not stream.isatty() if json is None else json, secrets)
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(__package__).setLevel(level)
    logging.captureWarnings(True)


class Bounded:
    """Lets the same thing be said at most once per interval. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        interval_seconds: float,
        clock: Callable[[], float],
        *,
        max_keys: int = 1_000,
    ) -> None:
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._max_keys = max_keys
        self._said: dict[Hashable, tuple[float, int]] = {}

    def admit(self, key: Hashable) -> int | None:
        """None: say nothing. Otherwise say it, and how many times it was not said since the last time."""
        now = self._clock()
        said_at, suppressed = self._said.pop(key, (-math.inf, 0))
        due = now - said_at >= self._interval_seconds
        self._said[key] = (now, 0) if due else (said_at, suppressed + 1)
        if len(self._said) > self._max_keys:
            del self._said[next(iter(self._said))]
        return suppressed if due else None


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say that a record is lost, and not its arguments as logging would: they may hold the key."""
        with suppress(OSError, ValueError):
            self.stream.write(
                f"a log record of {printable(record.name)} could not be written\n"
            )


class _Formatter(logging.Formatter):
    def __init__(self, json: bool, secrets: Callable[[], Iterable[str]]) -> None:
        super().__init__()
        self._json = json
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        def safe(value: object) -> str:
            return redact(str(value), secrets)

        secrets = tuple(self._secrets())
        at = (
            datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z")
        )
        line: dict[str, object] = {
            "ts": at,
            "level": record.levelname,
            "logger": safe(record.name),
        }
        line["message"] = safe(record.getMessage())[:MAX_MESSAGE_CHARACTERS]
        if record.exc_info:
            line["exception"] = safe(self.formatException(record.exc_info))[
                -MAX_EXCEPTION_CHARACTERS:
            ]
        for key, value in vars(record).items():
            if key not in _STANDARD:
                line[safe(f"{key}_" if key in _OURS else key)] = _plain(
                    value, safe(value)[:MAX_VALUE_CHARACTERS]
                )
        return dumps(line) if self._json else _text(line)


def _plain(value: object, text: str) -> object:
    """Numbers as they are, unless one is a secret, and everything else as its text."""
    number = (
        value is None
        or isinstance(value, bool | int)
        or (isinstance(value, float) and math.isfinite(value))
    )
    return value if number and str(value) == text else text


def _text(line: dict[str, object]) -> str:
    """One line, and a traceback below it, indented so that no text in it can pass for a line of its own."""
    traceback = str(line.pop("exception", "")).splitlines()
    head = " ".join(str(line.pop(key)) for key in _OURS[:4])
    values = "".join(
        f" {printable(key)}={_quoted(printable(str(value)))}"
        for key, value in line.items()
    )
    return "\n    ".join([printable(head) + values, *map(printable, traceback)])


def _quoted(text: str) -> str:
    escaped = text.replace('"', '\\"')
    return (
        f'"{escaped}"'
        if not text or any(char in escaped for char in ' "=')
        else escaped
    )
