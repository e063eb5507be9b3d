"""The form of a log line, and the things that must never be in it."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from connector.logs import Bounded, configure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "bq_live_0123456789abcdef"
LOG = logging.getLogger("connector.test")


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Undo everything that `configure` changes."""
    root, ours = logging.getLogger(), logging.getLogger("connector")
    before = (root.level, root.handlers[:], ours.level)
    root.handlers[:] = []
    yield
    logging.captureWarnings(False)
    root.level, root.handlers[:], ours.level = before
    LOG.setLevel(logging.NOTSET)


class Terminal(io.StringIO):
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
    stream = stream or io.StringIO()
    configure("INFO", stream=stream, json=json, secrets=lambda: [secret, ""])
    write()
    return stream.getvalue()


def logged_as_json(write: Callable[[], object]) -> dict[str, Any]:
    line = logged(write, json=True)
    assert line.count("\n") == 1
    fields: dict[str, Any] = json.loads(line)
    return fields


def fail(message: str) -> None:
    LOG.error("failed", exc_info=ValueError(message))


def test_a_text_line_has_time_level_logger_message_and_fields() -> None:
    line = logged(
        lambda: LOG.warning(
            "check of %d",
            8,
            extra={"symbol": "BTCUSDT", "reason": "no answer", "retry": 2.5},
        )
    )
    at, rest = line.split(" ", 1)

    assert at[10] == "T"
    assert (at[-5], at[-1]) == (".", "Z")
    assert rest == (
        "WARNING connector.test check of 8"
        ' symbol=BTCUSDT reason="no answer" retry=2.5\n'
    )


def test_a_json_line_has_every_extra_field() -> None:
    line = logged_as_json(
        lambda: LOG.info(
            "ready", extra={"shards": 2, "lag": None, "level": "x", "at": float("nan")}
        )
    )

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
    assert logged(lambda: LOG.info("a"), json=None).startswith("{")
    assert logged(lambda: LOG.info("a"), json=None, stream=Terminal()).startswith("2")


def test_libraries_log_from_warning() -> None:
    def write() -> None:
        LOG.debug("a")
        LOG.info("b")
        logging.getLogger("httpx").info("c")
        logging.getLogger("httpx").warning("d")

    assert [line.split(" ", 3)[3] for line in logged(write).splitlines()] == ["b", "d"]


def test_configuring_again_does_not_duplicate_lines() -> None:
    stream = io.StringIO()
    configure("INFO", stream=io.StringIO(), secrets=list)

    assert logged(lambda: LOG.info("once"), stream=stream).count("once") == 1


@pytest.mark.parametrize(
    "evil",
    [
        "a\nb",
        "a\r\nb",
        "a\x1b[31mb",
        "a\u2028b",
        "a\x85b",
        "a\u202eb",
        "a\ud800b",
        "a\0b",
    ],
)
def test_no_outside_text_can_start_a_line_or_control_the_terminal(evil: str) -> None:
    def write() -> None:
        LOG.info(evil, extra={"value": evil, evil: 1})

    text = logged(write)

    assert text.count("\n") == 1
    assert text[:-1].isprintable()
    assert logged(write, json=True).isascii()
    assert logged_as_json(write)["value"] == evil


def test_a_traceback_in_text_is_indented_so_that_it_cannot_fake_a_line() -> None:
    lines = logged(
        lambda: fail("one\n2030-01-01T00:00:00.000Z INFO forged")
    ).splitlines()

    assert lines[0].endswith("ERROR connector.test failed")
    assert all(line.startswith("    ") for line in lines[1:])
    assert lines[-1] == "    2030-01-01T00:00:00.000Z INFO forged"


def test_a_traceback_in_json_is_a_field() -> None:
    assert logged_as_json(lambda: fail("why"))["exception"].endswith("ValueError: why")


def test_long_values_messages_and_tracebacks_are_cut() -> None:
    def write() -> None:
        LOG.info("m" * 5_000, extra={"value": ["v" * 5_000]})

    line = logged_as_json(write)

    assert len(line["message"]) == 4_000
    assert len(line["value"]) == 2_000
    assert len(logged(write)) < 6_100
    assert len(logged_as_json(lambda: fail("x" * 50_000))["exception"]) == 16_000


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("secret", [KEY, 'quoted"key\\', "newline\nkey", "12345678"])
def test_no_line_shows_a_secret(structured: bool, secret: str) -> None:
    def write() -> None:
        LOG.info(
            "key %s",
            secret,
            extra={"value": {"header": secret}, secret: 1, "number": 12345678},
        )
        LOG.info("%s%s", "x" * 3_990, secret, extra={"value": "x" * 1_990 + secret})
        logging.getLogger(f"lib.{secret}").error("loud")
        fail(f"refused: {secret}")

    line = logged(write, json=structured, secret=secret)

    assert "***" in line
    assert secret not in line
    unescaped = line.replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")
    assert secret not in unescaped
    # Half a secret, left by cutting a message, is a leak too.
    assert secret[:6] not in line


def test_a_record_that_fails_to_format_does_not_show_its_arguments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = logged(lambda: LOG.info("%d keys", KEY))

    assert text == "cannot write a log record of connector.test\n"
    assert KEY not in "".join(capsys.readouterr())


def test_a_closed_stream_is_ignored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = io.StringIO()
    configure("INFO", stream=stream, json=False, secrets=list)
    stream.close()
    LOG.info("into the void")

    assert "".join(capsys.readouterr()) == ""


class TestBounded:
    def test_admits_a_message_once_per_interval_and_counts_the_suppressed(self) -> None:
        now = 100.0
        bounded = Bounded(10.0, lambda: now)

        assert [bounded.admit("a") for _ in range(3)] == [0, None, None]
        assert bounded.admit("b") == 0
        now = 110.0
        assert [bounded.admit("a"), bounded.admit("a")] == [2, None]
        now = 120.0
        assert bounded.admit("a") == 1

    def test_forgets_the_message_that_is_unused_longest(self) -> None:
        now = 0.0
        bounded = Bounded(10.0, lambda: now, max_keys=2)

        assert [bounded.admit(key) for key in "abcab"] == [0, 0, 0, 0, 0]
        assert bounded.admit("b") is None
