"""The effect of failed checks on the schedule, the key's state and the log."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest

from connector.errors import (
    KeyRefused,
    RateLimited,
    RequestRefused,
    UpstreamError,
    UpstreamUnavailable,
)
from connector.runtime.failures import Failures
from connector.schedule.batches import Batch
from connector.schedule.checks import CheckSettings
from connector.schedule.scheduler import Schedule
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from connector.upstream.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = Batch("all", ("BTC", "ETH"))


def no_jitter() -> float:
    """Return the middle of the random range, so that retries are not spread."""
    return 0.5


class Bench:
    """Failures, and the parts they act on."""

    def __init__(self) -> None:
        self.schedule = Schedule(CheckSettings(), no_jitter)
        self.schedule.set_batches([BATCH], time.monotonic())
        self.budget = Budget(60)
        self.metrics = Metrics(["all"])
        observer = MetricsObserver(self.metrics)
        self.failures = Failures(self.schedule, self.budget, observer)

    def fail(self, error: UpstreamError) -> None:
        self.failures.check_failed(BATCH, error)

    def is_held(self) -> bool:
        """Return True if no check may start now."""
        return self.schedule.is_paused(time.monotonic())

    # Methods, because mypy takes an attribute that was asserted as fixed.
    def is_key_refused(self) -> bool:
        return self.failures.key_refused

    def is_probing(self) -> bool:
        return self.failures.is_probing

    def key_refused_metric(self) -> float | None:
        return self.metrics.registry.get_sample_value("gex_key_refused")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_refused_key_holds_every_check_until_an_answer(bench: Bench) -> None:
    bench.fail(KeyRefused("HTTP 401"))

    assert bench.is_held()
    assert bench.is_key_refused()
    assert bench.is_probing()
    assert bench.key_refused_metric() == 1

    bench.failures.check_answered()

    assert not bench.is_key_refused()
    assert not bench.is_probing()
    assert bench.key_refused_metric() == 0


def test_a_refused_symbol_shows_that_the_key_is_accepted(bench: Bench) -> None:
    bench.fail(KeyRefused("HTTP 401"))

    # The upstream looks at the symbols only after it has accepted the key.
    bench.fail(RequestRefused("HTTP 422"))

    assert not bench.is_key_refused()
    assert not bench.is_probing()


def test_a_standby_forgets_that_the_key_was_refused(bench: Bench) -> None:
    bench.fail(KeyRefused("HTTP 401"))

    # A standby sends no requests: without this it would never be ready again.
    bench.failures.forget_key_refusal()

    assert not bench.is_key_refused()
    assert bench.key_refused_metric() == 0


def test_a_pause_of_the_budget_holds_every_check(bench: Bench) -> None:
    # The client tells the budget about `Retry-After` before the failure is reported.
    bench.budget.pause(time.monotonic() + 60)

    bench.fail(RateLimited("HTTP 429"))

    assert bench.is_probing()
    assert bench.is_held()


def test_an_unavailable_upstream_holds_nothing_and_is_no_reason_to_probe(
    bench: Bench,
) -> None:
    # Other batches may succeed, and each backs off by itself.
    bench.fail(UpstreamUnavailable("HTTP 503"))

    assert not bench.is_held()
    assert not bench.is_probing()


# Only a refused key needs somebody to act; an outage ends by itself.
@pytest.mark.parametrize(
    ("error", "level"),
    [
        (KeyRefused, "ERROR"),
        (UpstreamUnavailable, "WARNING"),
    ],
)
def test_errors_of_a_kind_are_logged_once_a_minute(
    bench: Bench,
    caplog: pytest.LogCaptureFixture,
    error: Callable[[str], UpstreamError],
    level: str,
) -> None:
    for _ in range(3):
        bench.fail(error("x"))

    [record] = caplog.records
    assert record.levelname == level
    assert "a check failed" in record.message


def test_the_end_of_an_outage_is_logged_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.fail(UpstreamUnavailable("HTTP 503"))

    bench.failures.check_answered()
    bench.failures.check_answered()

    assert caplog.text.count("the upstream answers again") == 1
