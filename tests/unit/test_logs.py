"""The form of a log line, and the things that must never be in it."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from connector import logs
from connector.logs import Bounded, configure, dropped_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "bq_live_0123456789abcdef"
LOG = logging.getLogger("connector.test")


@pytest.fixture(autouse=True)
def _restore_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo everything that `configure` changes."""
    # A flush ends with the last line. On a slow machine it must not end before.
    monkeypatch.setattr(logs, "_FLUSH_SECONDS", 60)
    root = logging.getLogger()
    ours = logging.getLogger("connector")
    root_level = root.level
    our_level = ours.level
    handlers = list(root.handlers)
    root.handlers.clear()

    yield

    logging.captureWarnings(False)
    for handler in root.handlers:
        handler.close()
    root.setLevel(root_level)
    root.handlers[:] = handlers
    ours.setLevel(our_level)
    LOG.setLevel(logging.NOTSET)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def logged(
    write: Callable[[], object],
    *,
    json: bool | None = False,
    stream: io.StringIO | None = None,
    secret: str = KEY,
) -> str:
    """Return everything that is written while `write` logs."""

    def secrets() -> list[str]:
        # The empty text stands for a key that is not set: replacing it would garble each line.
        return [secret, ""]

    if stream is None:
        stream = io.StringIO()
    configure("INFO", stream=stream, json=json, secrets=secrets)
    write()
    flush()
    return stream.getvalue()


def flush() -> None:
    """Wait until the lines are written, by a thread of their own."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def logged_as_json(write: Callable[[], object]) -> dict[str, Any]:
    """Return the fields of the only line that `write` logs as JSON."""
    line = logged(write, json=True)
    assert line.count("\n") == 1
    fields: dict[str, Any] = json.loads(line)
    return fields


def fail(message: str) -> None:
    """Log an error whose traceback ends with `message`."""
    LOG.error("failed", exc_info=ValueError(message))


def log_a() -> None:
    LOG.info("a")


def log_key_as_a_number() -> None:
    """Log a record whose arguments do not fit its format."""
    LOG.info("%d keys", KEY)


def messages(text: str) -> list[str]:
    """Return the part of each line after its time, level and logger."""
    found = []
    for line in text.splitlines():
        _, _, _, message = line.split(" ", 3)
        found.append(message)
    return found


def unescaped(text: str) -> str:
    """Return text without the escapes of a quoted value."""
    text = text.replace("\\n", "\n")
    text = text.replace('\\"', '"')
    return text.replace("\\\\", "\\")


# --- the form of a line ---


def test_a_text_line_has_time_level_logger_message_and_fields() -> None:
    fields = {"symbol": "BTCUSDT", "reason": "no answer", "retry": 2.5}

    def write() -> None:
        LOG.warning("check of %d", 8, extra=fields)

    at, rest = logged(write).split(" ", 1)

    # ISO 8601 in UTC, to the millisecond.
    assert at[10] == "T"
    assert at[-5] == "."
    assert at[-1] == "Z"
    assert rest == (
        "WARNING connector.test check of 8"
        ' symbol=BTCUSDT reason="no answer" retry=2.5\n'
    )


def test_a_json_line_has_every_extra_field() -> None:
    # `level` is a field of every line already. JSON has no NaN.
    fields = {"shards": 2, "lag": None, "level": "x", "at": float("nan")}

    def write() -> None:
        LOG.info("ready", extra=fields)

    line = logged_as_json(write)

    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "INFO",
        "logger": "connector.test",
        "message": "ready",
        "shards": 2,
        "lag": None,
        "level_": "x",
        "at": "nan",
    }


def test_a_terminal_gets_text_and_anything_else_json() -> None:
    to_a_pipe = logged(log_a, json=None)
    to_a_terminal = logged(log_a, json=None, stream=Terminal())

    assert to_a_pipe.startswith("{")
    # Text starts with the year.
    assert to_a_terminal.startswith("2")


# Libraries log every request and every rebalance step at INFO.
def test_lines_of_libraries_appear_from_warning() -> None:
    def write() -> None:
        LOG.debug("a")
        LOG.info("b")

        logging.getLogger("httpx").info("c")
        logging.getLogger("httpx").warning("d")

    assert messages(logged(write)) == ["b", "d"]


def test_configuring_again_does_not_duplicate_lines() -> None:
    stream = io.StringIO()
    configure("INFO", stream=io.StringIO(), secrets=list)

    def write() -> None:
        LOG.info("once")

    text = logged(write, stream=stream)

    assert text.count("once") == 1


# --- text from outside ---


@pytest.mark.parametrize(
    "evil",
    [
        pytest.param("a\nb", id="newline"),
        pytest.param("a\r\nb", id="carriage_return"),
        pytest.param("a\x1b[31mb", id="terminal_colour"),
        pytest.param("a\u2028b", id="line_separator"),
        pytest.param("a\x85b", id="next_line"),
        pytest.param("a\u202eb", id="right_to_left_override"),
        pytest.param("a\ud800b", id="lone_surrogate"),
        pytest.param("a\0b", id="null_character"),
    ],
)
def test_no_outside_text_can_start_a_line_or_control_the_terminal(evil: str) -> None:
    # The name of a field may come from outside as well.
    fields = {"value": evil, evil: 1}

    def write() -> None:
        LOG.info(evil, extra=fields)

    as_text = logged(write)
    as_json = logged(write, json=True)

    assert as_text.count("\n") == 1
    assert as_text.removesuffix("\n").isprintable()
    assert as_json.isascii()
    # JSON loses nothing: a reader gets the value back as it was.
    assert logged_as_json(write)["value"] == evil


def test_a_traceback_in_text_is_indented_so_that_it_cannot_fake_a_line() -> None:
    forged = "2030-01-01T00:00:00.000Z INFO forged"

    def write() -> None:
        fail(f"one\n{forged}")

    first, *traceback = logged(write).splitlines()

    assert first.endswith("ERROR connector.test failed")
    for line in traceback:
        assert line.startswith("    ")
    assert traceback[-1] == f"    {forged}"


def test_a_traceback_in_json_is_a_field() -> None:
    def write() -> None:
        fail("why")

    line = logged_as_json(write)

    assert line["exception"].endswith("ValueError: why")


def test_long_messages_and_values_are_cut() -> None:
    fields = {"value": ["v" * 5_000]}

    def write() -> None:
        LOG.info("m" * 5_000, extra=fields)

    as_json = logged_as_json(write)
    as_text = logged(write)

    assert len(as_json["message"]) == 4_000
    assert len(as_json["value"]) == 2_000
    # The message, the value, and a little for the rest of the line.
    assert len(as_text) < 6_100


def test_long_tracebacks_are_cut() -> None:
    def write() -> None:
        fail("x" * 50_000)

    line = logged_as_json(write)

    assert len(line["exception"]) == 16_000


# --- secrets ---


@pytest.mark.parametrize("structured", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(
    "secret",
    [
        pytest.param(KEY, id="plain"),
        # Both formats escape these characters, so the secret is not in the line as it is.
        pytest.param('quoted"key\\', id="quoted"),
        pytest.param("newline\nkey", id="newline"),
        # A number in a field has no quotes around it.
        pytest.param("12345678", id="digits"),
    ],
)
def test_no_line_shows_a_secret(structured: bool, secret: str) -> None:
    fields = {"value": {"header": secret}, secret: 1, "number": 12345678}
    # Messages are cut after 4,000 characters and values after 2,000: within the secret.
    padded_message = "x" * 3_990 + secret
    padded_value = "x" * 1_990 + secret

    def write() -> None:
        LOG.info("key %s", secret, extra=fields)
        LOG.info("%s", padded_message, extra={"value": padded_value})
        logging.getLogger(f"lib.{secret}").error("loud")
        fail(f"refused: {secret}")

    lines = logged(write, json=structured, secret=secret)

    assert "***" in lines
    assert secret not in lines
    assert secret not in unescaped(lines)
    # Half a secret, left by cutting a message, is a leak too.
    assert secret[:6] not in lines


# The standard library prints the arguments of such a record on standard error.
def test_a_record_that_fails_to_format_does_not_show_its_arguments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = logged(log_key_as_a_number)

    assert text == "cannot write a log record of connector.test\n"
    printed = capsys.readouterr()
    assert KEY not in printed.out
    assert KEY not in printed.err


# Threads of Kafka's clients may log while the process exits.
def test_a_closed_stream_is_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    configure("INFO", stream=stream, json=False, secrets=list)
    stream.close()

    LOG.info("into the void")
    flush()

    assert capsys.readouterr() == ("", "")
    assert dropped_lines() == 1


# --- readers that are slow, or gone ---


class Pipe:
    """A pipe that nobody reads until `read`. It holds 64 KiB on Linux."""

    def __init__(self, *, blocking: bool = True) -> None:
        self._read_end, write_end = os.pipe()
        os.set_blocking(write_end, blocking)
        self.stream = os.fdopen(write_end, "w", encoding="utf-8")
        self._data: list[bytes] = []
        self._reader = threading.Thread(target=self._read_to_end)

    def fill(self) -> None:
        """Write empty lines until the pipe is full."""
        write_end = self.stream.fileno()
        os.set_blocking(write_end, False)
        with suppress(BlockingIOError):
            while True:
                os.write(write_end, b"\n")
        os.set_blocking(write_end, True)

    def read(self) -> None:
        """Begin to read, and wait until every waiting line is written."""
        self._reader.start()
        (handler,) = logging.getLogger().handlers
        assert isinstance(handler, logs._Handler)
        while handler._lines:
            handler.flush()

    def lines(self) -> list[str]:
        """Close the pipe and return all that was read, except empty lines."""
        flush()
        self.stream.close()
        self._reader.join()
        os.close(self._read_end)
        lines = b"".join(self._data).decode().splitlines()
        return [line for line in lines if line]

    def _read_to_end(self) -> None:
        while data := os.read(self._read_end, 65_536):
            self._data.append(data)


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "non_blocking"])
def test_nobody_waits_for_a_reader_and_a_slow_one_gets_every_line(
    blocking: bool,
) -> None:
    pipe = Pipe(blocking=blocking)
    configure("INFO", stream=pipe.stream, json=False, secrets=list)

    # Far more than fits into the pipe.
    for number in range(200):
        LOG.info("%d %s", number, "x" * 1_000)

    pipe.read()
    numbers = [line.split()[3] for line in pipe.lines()]
    assert numbers == [str(number) for number in range(200)]
    assert dropped_lines() == 0


def test_lines_that_nobody_reads_are_dropped_counted_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING_CHARACTERS", 50_000)
    pipe = Pipe()
    # Otherwise it is chance how many lines fit into the pipe meanwhile.
    pipe.fill()
    configure("INFO", stream=pipe.stream, json=True, secrets=list)
    LOG.info("first")
    for _ in range(300):
        LOG.info("x" * 1_000)
    dropped = dropped_lines()
    assert dropped > 0

    pipe.read()
    LOG.info("last")
    lines = [json.loads(line) for line in pipe.lines()]

    first, *_, notice, last = lines
    assert first["message"] == "first"
    assert last["message"] == "last"
    # The notice stands where the lines are missing.
    assert notice["message"] == "lines were dropped here: nobody read the log"
    assert notice["level"] == "WARNING"
    assert notice["lines"] == dropped
    assert len(lines) == 301 - dropped + 2


def test_a_reader_that_is_gone_stops_nobody() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w", encoding="utf-8") as stream:
        configure("INFO", stream=stream, secrets=list)

        LOG.info("into the void")
        flush()

        assert dropped_lines() == 1


def test_the_end_of_the_process_does_not_wait_long_for_a_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "_FLUSH_SECONDS", 0.01)
    pipe = Pipe()
    configure("INFO", stream=pipe.stream, secrets=list)
    for _ in range(100):
        LOG.info("x" * 1_000)

    # Returns although nobody reads.
    flush()

    pipe.read()
    assert len(pipe.lines()) == 100


class TestBounded:
    def test_admits_a_message_once_per_interval_and_counts_the_suppressed(self) -> None:
        now = 100.0

        def clock() -> float:
            return now

        bounded = Bounded(10.0, clock)

        # Each message has an interval of its own.
        assert bounded.admit("a") == 0
        assert bounded.admit("a") is None
        assert bounded.admit("a") is None
        assert bounded.admit("b") == 0

        now = 110.0
        assert bounded.admit("a") == 2
        assert bounded.admit("a") is None

        now = 120.0
        assert bounded.admit("a") == 1

    def test_forgets_the_message_that_is_unused_longest(self) -> None:
        def clock() -> float:
            return 0.0

        bounded = Bounded(10.0, clock, max_keys=2)

        # Two keys fit, so "a" and "b" are forgotten before they come again.
        for key in ("a", "b", "c", "a", "b"):
            assert bounded.admit(key) == 0

        assert bounded.admit("b") is None
