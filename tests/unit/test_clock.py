"""The estimate of the upstream's clock."""

from __future__ import annotations

import time
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.core.model import Moment
from connector.runtime.clock import MAX_CORRECTION_SECONDS, Clock
from tests.support.levels import NOW, SECOND
from tests.support.profiles import cases
from tests.support.wall_clock import set_clock

# A microsecond, so that a server's moment is not a whole second.
ODD: Final = 1

# A clock corrects nothing before it has this many samples.
MIN_SAMPLES: Final = 3

# When a request was sent and answered, and the server's moment; relative to `NOW`.
Sample = tuple[int, int, int]

quick = cases(100)

# Far beyond any correction: the samples of a server whose clock is broken.
any_samples = st.lists(
    st.tuples(
        st.integers(0, 10 * SECOND),
        st.integers(10 * SECOND, 20 * SECOND),
        st.integers(-(10**17), 10**17),
    ),
    max_size=40,
)
# Durations of a request's way to the server, and of the answer's way back.
ways_there_and_back = st.lists(
    st.tuples(
        st.integers(0, SECOND),
        st.integers(0, SECOND),
    ),
    min_size=1,
)


def learn(clock: Clock, sample: Sample) -> None:
    sent, received, server = sample
    clock.learn(NOW + sent, NOW + received, NOW + server)


def correction_after(*samples: Sample) -> int:
    """Return the correction. Fewer samples than a clock needs are repeated."""
    clock = Clock()
    repeated = samples
    if len(samples) < MIN_SAMPLES:
        repeated = samples * MIN_SAMPLES
    for sample in repeated:
        learn(clock, sample)

    assert clock.upstream(NOW) == NOW + clock.correction
    return clock.correction


def clock_ten_seconds_behind() -> Clock:
    """Return a clock that has learnt from responses that came just now."""
    clock = Clock()
    for _ in range(MIN_SAMPLES):
        sent = Clock.now()
        received = sent + 100_000
        server = sent + 10 * SECOND + ODD
        clock.learn(sent, received, server)
    return clock


def test_without_a_response_both_clocks_are_the_same() -> None:
    assert correction_after() == 0


@pytest.mark.parametrize("server", [0, 250_000, 500_000])
def test_a_difference_that_the_round_trip_explains_is_not_corrected(
    server: int,
) -> None:
    sample = (0, 500_000, server)

    assert correction_after(sample) == 0


@pytest.mark.parametrize(
    ("server", "correction"),
    [
        # The server is ahead of the moment when its answer was received.
        (7 * SECOND + ODD, 6_500_000 + ODD),
        # The server is behind the moment when the request was sent.
        (-5 * SECOND + ODD, -5 * SECOND + ODD),
    ],
)
def test_a_difference_is_corrected_by_no_more_than_is_certain(
    server: int, correction: int
) -> None:
    sample = (0, 500_000, server)

    assert correction_after(sample) == correction


# The upstream may truncate its timestamps to seconds.
@pytest.mark.parametrize(
    ("server", "correction"),
    [
        (0, 0),
        (-SECOND, -100_000),
        (SECOND, 700_000),
    ],
)
def test_a_whole_second_may_be_any_moment_of_it(server: int, correction: int) -> None:
    sample = (100_000, 300_000, server)

    assert correction_after(sample) == correction


def test_the_first_timestamps_are_not_trusted_yet() -> None:
    clock = Clock()

    # With two samples, a single bogus one could be the median.
    for _ in range(MIN_SAMPLES - 1):
        learn(clock, (0, 100_000, -600 * SECOND))
        assert clock.correction == 0


@pytest.mark.parametrize("seconds", [-299, -6, 6, 299])
def test_a_large_difference_is_confirmed_by_more_responses(seconds: int) -> None:
    clock = Clock()
    assert not clock.needs_confirmation

    for _ in range(MIN_SAMPLES - 1):
        learn(clock, (0, 100_000, seconds * SECOND + ODD))
        assert clock.needs_confirmation
    learn(clock, (0, 100_000, seconds * SECOND + ODD))
    assert not clock.needs_confirmation


@pytest.mark.parametrize("seconds", [-3600, -302, -4, 0, 4, 302, 3600])
def test_a_difference_that_changes_little_or_is_not_believed_needs_no_confirmation(
    seconds: int,
) -> None:
    clock = Clock()

    learn(clock, (0, 100_000, seconds * SECOND))

    assert not clock.needs_confirmation


@pytest.mark.parametrize("seconds", [-3600, 302, 3600])
def test_a_difference_that_is_not_believed_waits_for_the_witness(seconds: int) -> None:
    clock = Clock(has_witness=True)
    waiting = []
    for _ in range(MIN_SAMPLES):
        learn(clock, (0, 100_000, seconds * SECOND))
        waiting.append((clock.needs_confirmation, clock.needs_witness))
    clock.confirm()

    assert waiting == [(True, False), (True, False), (True, True)]
    assert not clock.needs_confirmation
    assert not clock.needs_witness


def test_a_bogus_timestamp_needs_no_witness() -> None:
    clock = Clock(has_witness=True)
    for _ in range(MIN_SAMPLES):
        learn(clock, (0, 100_000, 0))
    learn(clock, (0, 100_000, -(10**15)))
    assert not clock.needs_witness
    assert not clock.needs_confirmation


def test_a_step_of_our_clock_needs_the_witness_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(has_witness=True)
    for _ in range(MIN_SAMPLES):
        learn(clock, (0, 100_000, 3600 * SECOND))
    clock.confirm()
    ahead = clock.ahead
    assert clock.step_since(ahead) == 0

    set_clock(monkeypatch, 60)

    clock.moment()
    assert clock.needs_witness
    assert clock.step_since(ahead) == pytest.approx(60 * SECOND, abs=SECOND)


def test_a_cached_response_is_not_asked_for_again_and_again() -> None:
    clock = Clock()
    learn(clock, (0, 100_000, -20 * SECOND))
    assert clock.needs_confirmation

    # The same timestamp again, in a response to a later request: a cache's copy.
    learn(clock, (2 * SECOND, 2 * SECOND + 100_000, -20 * SECOND))

    assert not clock.needs_confirmation


def test_a_bogus_timestamp_changes_nothing() -> None:
    good = (0, 100_000, 10 * SECOND + ODD)
    bogus = (0, 100_000, -(10**15))
    expected = correction_after(good)

    assert correction_after(good, good, bogus) == expected
    assert correction_after(bogus, good, good) == expected


def test_a_step_of_the_servers_clock_is_followed_after_some_responses() -> None:
    before = (0, 100_000, 10 * SECOND + ODD)
    after = (0, 100_000, 20 * SECOND + ODD)

    samples = [before] * 50 + [after] * 10

    # However many samples came before the step, only the latest count.
    assert correction_after(*samples) == correction_after(after)


def test_the_present_is_told_by_both_clocks() -> None:
    clock = clock_ten_seconds_behind()

    moment = clock.moment()

    assert isinstance(moment, Moment)
    ahead = moment.upstream_at - moment.local_at
    assert ahead == pytest.approx(10 * SECOND, abs=SECOND)


# A wrong clock of the server must not make all levels stale, or none.
@quick
@given(any_samples)
def test_the_correction_is_bounded(samples: list[Sample]) -> None:
    correction = correction_after(*samples)

    assert abs(correction) <= MAX_CORRECTION_SECONDS * SECOND


@quick
@given(st.integers(-299 * SECOND, 299 * SECOND), ways_there_and_back)
def test_the_correction_is_off_by_no_more_than_the_round_trip(
    offset: int, ways: list[tuple[int, int]]
) -> None:
    samples = []
    for there, back in ways:
        received = there + back
        samples.append((0, received, offset + there))

    error = correction_after(*samples) - offset

    assert abs(error) <= 2 * SECOND


@pytest.mark.parametrize(
    "step",
    [-200 * SECOND, -SECOND, 2 * SECOND, 250 * SECOND],
)
def test_a_step_of_our_clock_does_not_move_the_upstreams(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = clock_ten_seconds_behind()
    before = clock.upstream(Clock.now())
    real_time_ns = time.time_ns

    def stepped_time_ns() -> int:
        return real_time_ns() + step * 1000

    monkeypatch.setattr(time, "time_ns", stepped_time_ns)

    after = clock.upstream(Clock.now())
    assert after == pytest.approx(before, abs=SECOND)
    assert clock.correction == pytest.approx(10 * SECOND - step, abs=SECOND)


def test_a_suspension_of_the_machine_is_no_step_of_its_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = clock_ten_seconds_behind()
    before = clock.correction
    hour_ns = 3600 * 10**9
    real_time_ns = time.time_ns
    real_clock_gettime_ns = time.clock_gettime_ns

    def time_ns() -> int:
        return real_time_ns() + hour_ns

    def clock_gettime_ns(clock_id: int) -> int:
        return real_clock_gettime_ns(clock_id) + hour_ns

    # After a suspension both clocks have moved on. CLOCK_MONOTONIC would not have.
    monkeypatch.setattr(time, "time_ns", time_ns)
    monkeypatch.setattr(time, "clock_gettime_ns", clock_gettime_ns)
    now = Clock.now()
    ahead = clock.upstream(now) - now

    assert ahead == pytest.approx(before, abs=SECOND // 100)
