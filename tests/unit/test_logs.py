"""What a line of the log looks like, and what is never in it."""

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
def _restored() -> Iterator[None]:
    """Leave logging as it was found."""
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


def said(
    say: Callable[[], object],
    *,
    json: bool | None = False,
    stream: io.StringIO | None = None,
    secret: str = KEY,
) -> str:
    """What is written when `say` logs."""
    stream = stream or io.StringIO()
    configure("INFO", stream=stream, json=json, secrets=lambda: [secret, ""])
    say()
    return stream.getvalue()


def as_json(say: Callable[[], object], **options: Any) -> dict[str, Any]:
    line = said(say, json=True, **options)
    assert line.count("\n") == 1
    found: dict[str, Any] = json.loads(line)
    return found


def fail(message: str) -> None:
    LOG.error("failed", exc_info=ValueError(message))


def test_a_line_of_text_is_time_level_logger_message_and_values() -> None:
    line = said(
        lambda: LOG.warning(
            "check of %d",
            8,
            extra={"symbol": "BTCUSDT", "reason": "no answer", "retry": 2.5},
        )
    )
    at, rest = line.split(" ", 1)

    assert at[10] == "T"
    assert (at[-5], at[-1]) == (".", "Z")
    assert (
        rest
        == 'WARNING connector.test check of 8 symbol=BTCUSDT reason="no answer" retry=2.5\n'
    )


def test_a_line_of_json_has_every_extra_field() -> None:
    line = as_json(
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


def test_people_get_text_and_machines_json() -> None:
    assert said(lambda: LOG.info("a"), json=None).startswith("{")
    assert said(lambda: LOG.info("a"), json=None, stream=Terminal()).startswith("2")


def test_libraries_speak_from_warning_on() -> None:
    def say() -> None:
        LOG.debug("a")
        LOG.info("b")
        logging.getLogger("httpx").info("c")
        logging.getLogger("httpx").warning("d")

    assert [line.split(" ", 3)[3] for line in said(say).splitlines()] == ["b", "d"]


def test_configuring_again_does_not_say_everything_twice() -> None:
    stream = io.StringIO()
    configure("INFO", stream=io.StringIO(), secrets=list)

    assert said(lambda: LOG.info("once"), stream=stream).count("once") == 1


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
def test_no_text_from_outside_can_make_a_line_or_move_the_cursor(evil: str) -> None:
    def say() -> None:
        LOG.info(evil, extra={"value": evil, evil: 1})

    text = said(say)

    assert text.count("\n") == 1
    assert text[:-1].isprintable()
    assert said(say, json=True).isascii()
    assert as_json(say)["value"] == evil


def test_a_traceback_of_text_is_indented_and_cannot_pass_for_a_line() -> None:
    lines = said(lambda: fail("one\n2030-01-01T00:00:00.000Z INFO forged")).splitlines()

    assert lines[0].endswith("ERROR connector.test failed")
    assert all(line.startswith("    ") for line in lines[1:])
    assert lines[-1] == "    2030-01-01T00:00:00.000Z INFO forged"


def test_a_traceback_of_json_is_a_field() -> None:
    assert as_json(lambda: fail("why"))["exception"].endswith("ValueError: why")


def test_values_and_messages_are_bounded() -> None:
    def say() -> None:
        LOG.info("m" * 5_000, extra={"value": ["v" * 5_000]})

    line = as_json(say)

    assert len(line["message"]) == 4_000
    assert len(line["value"]) == 2_000
    assert len(said(say)) < 6_100
    assert len(as_json(lambda: fail("x" * 50_000))["exception"]) == 16_000


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("secret", [KEY, 'quoted"key\\', "newline\nkey", "12345678"])
def test_no_secret_is_in_a_line(structured: bool, secret: str) -> None:
    def say() -> None:
        LOG.info(
            "key %s",
            secret,
            extra={"value": {"header": secret}, secret: 1, "number": 12345678},
        )
        LOG.info("%s%s", "x" * 3_990, secret, extra={"value": "x" * 1_990 + secret})
        logging.getLogger(f"lib.{secret}").error("loud")
        fail(f"refused: {secret}")

    line = said(say, json=structured, secret=secret)

    assert "***" in line
    assert secret not in line
    assert secret not in line.replace("\\n", "\n").replace('\\"', '"').replace(
        "\\\\", "\\"
    )
    assert secret[:6] not in line


def test_a_record_that_cannot_be_written_does_not_show_its_arguments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = said(lambda: LOG.info("%d keys", KEY))

    assert text == "a log record of connector.test could not be written\n"
    assert KEY not in "".join(capsys.readouterr())


def test_a_stream_that_is_gone_is_not_our_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = io.StringIO()
    configure("INFO", stream=stream, json=False, secrets=list)
    stream.close()
    LOG.info("into the void")

    assert "".join(capsys.readouterr()) == ""


class TestBounded:
    def test_the_same_is_said_once_per_interval_with_how_often_it_was_not(self) -> None:
        now = 100.0
        bounded = Bounded(10.0, lambda: now)

        assert [bounded.admit("a") for _ in range(3)] == [0, None, None]
        assert bounded.admit("b") == 0
        now = 110.0
        assert [bounded.admit("a"), bounded.admit("a")] == [2, None]
        now = 120.0
        assert bounded.admit("a") == 1

    def test_the_longest_unsaid_is_forgotten_first(self) -> None:
        now = 0.0
        bounded = Bounded(10.0, lambda: now, max_keys=2)

        assert [bounded.admit(key) for key in "abcab"] == [0, 0, 0, 0, 0]
        assert bounded.admit("b") is None
