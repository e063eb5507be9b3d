"""Log lines: one per record, text for people or JSON for machines, bounded, without secrets.

Nobody who logs ever waits for a reader: a thread writes the lines.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import sys
import threading
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TextIO

from connector.config.secrets import printable, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

MAX_VALUE_CHARACTERS: Final = 2_000
MAX_MESSAGE_CHARACTERS: Final = 4_000
MAX_EXCEPTION_CHARACTERS: Final = 16_000

# Lines that wait for a reader. Enough for hours at INFO, and little beside a worker's memory.
MAX_WAITING_CHARACTERS: Final = 4_000_000

# Wait for a reader when the process ends. A supervisor kills it a few seconds later.
_FLUSH_SECONDS: Final = 2.0

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


def dropped_lines() -> int:
    """Return how many lines of this process nobody read, so that they were dropped."""
    total = 0
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            total += handler.dropped
    return total


class _Handler(logging.Handler):
    """Writes lines to a stream, in a thread of its own.

    A full pipe, a stopped terminal or a journal that hangs would block the event loop, and
    the worker would keep its shards without serving them. So only the thread waits. Lines
    beyond MAX_WAITING_CHARACTERS are dropped and counted.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.dropped = 0
        self._write_line = _writer(stream)
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        """The lines that are not written yet. The first may be in the middle of it."""
        self._waiting_characters = 0
        self._gap = 0
        """Lines dropped since the last one that was kept."""
        self._closed = False
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or drop it."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 -- the record's arguments may be of any kind
            # Logging would print the record with its arguments, key and all.
            line = f"cannot write a log record of {printable(record.name)}"
        with self._changed:
            # After a gap wait until half the room is free. Otherwise a slow reader would get
            # a notice about a gap for every other line.
            room = MAX_WAITING_CHARACTERS
            if self._gap:
                room //= 2
            if self._waiting_characters + len(line) > room:
                self._gap += 1
                self.dropped += 1
                return
            if self._gap:
                self._queue(self._notice())
                self._gap = 0
            self._queue(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until every line is written, but not for long: there may be no reader."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines, _FLUSH_SECONDS)

    def close(self) -> None:
        """End the thread once it has written the lines that wait. Does not wait for that."""
        # `logging.shutdown` has called `flush` before: without a reader, waiting again would
        # only delay the end of the process.
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        super().close()

    def _queue(self, line: str) -> None:
        self._lines.append(f"{line}\n")
        self._waiting_characters += len(line) + 1

    def _notice(self) -> str:
        fields = {
            "name": __name__,
            "levelname": "WARNING",
            "msg": "lines were dropped here: nobody read the log",
            "lines": self._gap,
        }
        return self.format(logging.makeLogRecord(fields))

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closed)
                if not self._lines:
                    return
                line = self._lines[0]
            # Without the lock: this may never return.
            try:
                self._write_line(line)
                written = True
            except (OSError, ValueError):
                # The reader is gone, the disk is full, or the stream is closed.
                written = False
            with self._changed:
                self._lines.popleft()
                self._waiting_characters -= len(line)
                if not written:
                    self.dropped += 1
                self._changed.notify_all()


def _writer(stream: TextIO) -> Callable[[str], None]:
    """Return a function that writes a line to a stream, and waits for as long as it takes."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):

        def write_to_object(line: str) -> None:
            stream.write(line)
            stream.flush()

        return write_to_object

    encoding = stream.encoding

    def write(line: str) -> None:
        # Past the stream's own buffer: while a write hangs, that is locked, and whoever
        # flushes it at the end of the process hangs as well.
        data = line.encode(encoding, "backslashreplace")
        while data:
            try:
                written = os.write(descriptor, data)
            except BlockingIOError:
                # A parent made the pipe non-blocking.
                select.select([], [descriptor], [])
            else:
                data = data[written:]

    return write


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
