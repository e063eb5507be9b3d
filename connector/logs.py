"""Log lines: one per record, text for people or JSON for machines, bounded, without secrets."""

from __future__ import annotations

import json
import logging
import math
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TextIO

from connector.config.secrets import printable, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

MAX_VALUE_CHARACTERS: Final = 2_000
MAX_MESSAGE_CHARACTERS: Final = 4_000
MAX_EXCEPTION_CHARACTERS: Final = 16_000

# Attributes of every log record. All others came in as `extra`.
_RECORD_ATTRIBUTES: Final = {
    *logging.makeLogRecord({}).__dict__,
    "message",
    "asctime",
    "taskName",
}

_HEAD_FIELDS: Final = ("ts", "level", "logger", "message")
_OUR_FIELDS: Final = (*_HEAD_FIELDS, "exception")


def configure(
    level: int | str,
    *,
    stream: TextIO | None = None,
    json: bool | None = None,
    secrets: Callable[[], Iterable[str]],
) -> None:
    """Send all log records to `stream` (None: standard error).

    Our own records appear from `level`, those of libraries from WARNING. If `json` is None, lines
    are text on a terminal and JSON otherwise. `secrets` is called for every line, because the API
    key may change while we run.
    """
    stream = sys.stderr if stream is None else stream
    as_json = not stream.isatty() if json is None else json
    handler = _Handler(stream)
    handler.setFormatter(_Formatter(as_json, secrets))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(__package__).setLevel(level)
    logging.captureWarnings(True)


class Bounded:
    """Admits the same log message at most once per interval.

    `clock` is monotonic, in seconds. At most `max_keys` messages are remembered.
    """

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
        self._admitted: dict[Hashable, tuple[float, int]] = {}

    def admit(self, key: Hashable) -> int | None:
        """Return None to suppress the message, or how often it was suppressed since the last."""
        now = self._clock()
        admitted_at, suppressed = self._admitted.pop(key, (-math.inf, 0))
        is_due = now - admitted_at >= self._interval_seconds
        # The pop above moves the key to the end, so that the first key is the one unused longest.
        if is_due:
            self._admitted[key] = (now, 0)
        else:
            self._admitted[key] = (admitted_at, suppressed + 1)
        if len(self._admitted) > self._max_keys:
            oldest = next(iter(self._admitted))
            del self._admitted[oldest]
        return suppressed if is_due else None


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        """Report a lost record without its arguments. Logging would print them, key and all."""
        # The stream itself may be the cause.
        with suppress(OSError, ValueError):
            self.stream.write(
                f"cannot write a log record of {printable(record.name)}\n"
            )


class _Formatter(logging.Formatter):
    def __init__(self, as_json: bool, secrets: Callable[[], Iterable[str]]) -> None:
        super().__init__()
        self._as_json = as_json
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        secrets = tuple(self._secrets())

        def safe(value: object) -> str:
            return redact(str(value), secrets)

        # Redact before cutting: half a secret would not be found.
        line: dict[str, object] = {
            "ts": _timestamp(record.created),
            "level": record.levelname,
            "logger": safe(record.name),
            "message": safe(record.getMessage())[:MAX_MESSAGE_CHARACTERS],
        }
        if record.exc_info:
            traceback = safe(self.formatException(record.exc_info))
            # Keep the end: it has the exception itself.
            line["exception"] = traceback[-MAX_EXCEPTION_CHARACTERS:]
        for key, value in vars(record).items():
            if key in _RECORD_ATTRIBUTES:
                continue
            name = f"{key}_" if key in _OUR_FIELDS else key
            line[safe(name)] = _plain(value, safe(value)[:MAX_VALUE_CHARACTERS])
        return json.dumps(line) if self._as_json else _as_text(line)


def _timestamp(seconds: float) -> str:
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _plain(value: object, text: str) -> object:
    """Return a number as it is, and anything else as its redacted text."""
    is_finite = not isinstance(value, float) or math.isfinite(value)
    is_plain = value is None or isinstance(value, bool | int | float)
    # A number can be a secret too; then its redacted text differs.
    if is_plain and is_finite and str(value) == text:
        return value
    return text


def _as_text(line: dict[str, object]) -> str:
    """Return one line, with the traceback below it.

    The traceback is indented, so that text within it cannot be mistaken for a log line.
    """
    traceback = str(line.pop("exception", "")).splitlines()
    head = " ".join(str(line.pop(field)) for field in _HEAD_FIELDS)
    parts = [printable(head)]
    for name, value in line.items():
        parts.append(f"{printable(name)}={_quoted(printable(str(value)))}")
    lines = [" ".join(parts)]
    lines += [printable(frame) for frame in traceback]
    return "\n    ".join(lines)


def _quoted(text: str) -> str:
    escaped = text.replace('"', '\\"')
    needs_quotes = not text or any(char in escaped for char in ' "=')
    return f'"{escaped}"' if needs_quotes else escaped
