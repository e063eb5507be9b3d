"""The upstream's clock, as far as its responses tell."""

from __future__ import annotations

import time
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.runtime.clock import Clock
from tests.support.levels import NOW, SECOND

ODD: Final = 1
"""A microsecond, so that a moment is not a whole second."""


def learnt(*samples: tuple[int, int, int]) -> int:
    """The correction after (sent, received, said by the server), relative to `NOW`; one or two are said three times."""
    clock = Clock()
    for sent, received, server in samples if len(samples) >= 3 else samples * 3:
        clock.learn(NOW + sent, NOW + received, NOW + server)
    assert clock.upstream(NOW) == NOW + clock.correction
    return clock.correction


def test_without_a_response_the_upstreams_clock_is_ours() -> None:
    assert learnt() == 0


@pytest.mark.parametrize("server", [0, 250_000, 500_000])
def test_what_the_way_there_and_back_explains_is_not_corrected(server: int) -> None:
    assert learnt((0, 500_000, server)) == 0


@pytest.mark.parametrize(
    ("server", "correction"),
    [(7 * SECOND + ODD, 6_500_000 + ODD), (-5 * SECOND + ODD, -5 * SECOND + ODD)],
)
def test_a_clock_that_differs_is_corrected_by_no_more_than_is_certain(
    server: int, correction: int
) -> None:
    assert learnt((0, 500_000, server)) == correction


def test_a_whole_second_may_be_any_moment_of_it() -> None:
    assert learnt((100_000, 300_000, 0)) == 0
    assert learnt((100_000, 300_000, -SECOND)) == -100_000
    assert learnt((100_000, 300_000, SECOND)) == 700_000


def test_the_first_timestamps_are_not_believed_yet() -> None:
    clock = Clock()
    for _ in range(2):
        clock.learn(NOW, NOW + 100_000, NOW - 600 * SECOND)
        assert clock.correction == 0


def test_one_bogus_timestamp_does_nothing() -> None:
    good = (0, 100_000, 10 * SECOND + ODD)
    bogus = (0, 100_000, -(10**15))
    assert learnt(good, good, bogus) == learnt(bogus, good, good) == learnt(good)


def test_a_clock_that_was_set_is_followed_after_some_responses() -> None:
    before, after = (0, 100_000, 10 * SECOND + ODD), (0, 100_000, 20 * SECOND + ODD)
    assert learnt(*[before] * 50, *[after] * 10) == learnt(after)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**7),
            st.integers(10**7, 2 * 10**7),
            st.integers(-(10**17), 10**17),
        ),
        max_size=40,
    )
)
def test_the_correction_is_bounded(samples: list[tuple[int, int, int]]) -> None:
    assert abs(learnt(*samples)) <= 300 * SECOND


@settings(deadline=None, derandomize=True)
@given(
    st.integers(-299 * SECOND, 299 * SECOND),
    st.lists(st.tuples(st.integers(0, SECOND), st.integers(0, SECOND)), min_size=1),
)
def test_the_correction_is_never_further_off_than_the_way_takes(
    offset: int, ways: list[tuple[int, int]]
) -> None:
    samples = [(0, there + back, offset + there) for there, back in ways]
    assert abs(learnt(*samples) - offset) <= 2 * SECOND


@pytest.mark.parametrize("step", [-200 * SECOND, -SECOND, 2 * SECOND, 250 * SECOND])
def test_when_our_clock_is_set_the_upstreams_stays_where_it_was(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    for _ in range(3):
        now = Clock.now()
        clock.learn(now, now + 100_000, now + 10 * SECOND + ODD)
    before = clock.upstream(Clock.now())
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + step * 1000)
    assert clock.upstream(Clock.now()) == pytest.approx(before, abs=SECOND)
    assert clock.correction == pytest.approx(10 * SECOND - step, abs=SECOND)


def test_a_machine_that_was_suspended_has_not_set_its_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    for _ in range(3):
        now = Clock.now()
        clock.learn(now, now + 100_000, now + 10 * SECOND + ODD)
    before, wall, since_boot = clock.correction, time.time_ns, time.clock_gettime_ns
    monkeypatch.setattr(time, "time_ns", lambda: wall() + 3600 * 10**9)
    monkeypatch.setattr(
        time, "clock_gettime_ns", lambda which: since_boot(which) + 3600 * 10**9
    )
    assert clock.upstream(Clock.now()) - Clock.now() == pytest.approx(
        before, abs=SECOND // 100
    )
