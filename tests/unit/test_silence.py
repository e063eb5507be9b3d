"""`watch` says when no connector writes any more, and when one does again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from connector.core.model import MICROS, Status
from connector.errors import KafkaUnavailable
from connector.tools.silence import SilenceNotice
from tests.support.written_feed import an_event, state_of

if TYPE_CHECKING:
    import pytest

    from connector.core.model import State

# Without two refreshes in the state: twice the API's period, and ten seconds.
LIMIT_SECONDS = 70


class Clock:
    """A clock that a test sets, which is also the time of day."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds

    def state(self, status: Status = Status.LIVE) -> State:
        """Return a state that is observed now."""
        state = state_of(an_event(1, status=status))
        observed_at = round(self.seconds * MICROS)
        return replace(state, observed_at=observed_at, recent_computed_at=())


def test_silence_is_told_once_when_it_begins_and_once_when_it_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    silence = SilenceNotice(clock, clock)
    silence.note(clock.state())

    clock.seconds += LIMIT_SECONDS
    silence.look()
    assert capsys.readouterr().err == ""

    for _ in range(3):
        clock.seconds += 1
        silence.look()
    assert capsys.readouterr().err == (
        "feed all: no record for 71 s (expected within 70 s). Is a connector running?\n"
    )

    silence.note(clock.state())
    clock.seconds += 1
    silence.look()
    clock.seconds += 1
    silence.look()
    printed = capsys.readouterr()
    assert printed.err == "feed all: records arrive again\n"
    assert printed.out == ""


def test_states_of_long_ago_are_read_before_anything_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    old, new = clock.state(), clock.state()
    old = replace(old, observed_at=0)
    silence = SilenceNotice(clock, clock)
    silence.note(old)
    silence.look()
    silence.note(new)
    clock.seconds += 10
    silence.look()
    assert capsys.readouterr().err == ""


def test_a_past_day_is_silent_for_days(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    silence = SilenceNotice(clock, clock)
    silence.note(replace(clock.state(), observed_at=0))
    clock.seconds += 10
    silence.look()
    assert "no record for 12 days (expected" in capsys.readouterr().err


def test_a_feed_whose_states_cannot_be_read_is_named_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    silence = SilenceNotice(clock, clock)
    silence.note(clock.state())
    silence.give_up("all", KafkaUnavailable("reading current: denied"))
    # It was on its way.
    silence.note(clock.state())
    clock.seconds += 10 * LIMIT_SECONDS
    silence.look()
    assert capsys.readouterr().err == (
        "feed all: cannot tell if a connector is running: reading current: denied\n"
    )


def test_without_live_symbols_nothing_is_expected(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    silence = SilenceNotice(clock, clock)
    silence.note(clock.state(Status.MISSING))
    clock.seconds += 10 * LIMIT_SECONDS
    silence.look()
    assert capsys.readouterr().err == ""
