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
from connector.schedule.scheduler import Plan, Schedule
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from connector.upstream.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = Batch("all", ("BTC", "ETH"))


class Bench:
    """Failures, and the parts they act on."""

    def __init__(self) -> None:
        self.schedule = Schedule(Plan(), lambda: 0.5)
        self.schedule.set_batches([BATCH], time.monotonic())
        self.budget = Budget(60)
        self.metrics = Metrics(["all"])
        observer = MetricsObserver(self.metrics)
        self.failures = Failures(self.schedule, self.budget, observer)

    def fail(self, error: UpstreamError) -> None:
        self.failures.check_failed(BATCH, error)

    def is_held(self) -> bool:
        return self.schedule.is_paused(time.monotonic())

    def key_refused_metric(self) -> float | None:
        return self.metrics.registry.get_sample_value("gex_key_refused")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_refused_key_holds_every_check_until_an_answer(bench: Bench) -> None:
    bench.fail(KeyRefused("HTTP 401"))
    assert bench.is_held()
    assert (bench.failures.key_refused, bench.failures.is_probing) == (True, True)
    assert bench.key_refused_metric() == 1
    bench.failures.check_answered()
    assert (bench.failures.key_refused, bench.failures.is_probing) == (False, False)
    assert bench.key_refused_metric() == 0


def test_a_refused_symbol_shows_that_the_key_is_accepted(bench: Bench) -> None:
    bench.fail(KeyRefused("HTTP 401"))
    bench.fail(RequestRefused("HTTP 422"))
    assert not bench.failures.key_refused
    assert not bench.failures.is_probing


def test_a_standby_forgets_that_the_key_was_refused(bench: Bench) -> None:
    bench.fail(KeyRefused("HTTP 401"))
    bench.failures.forget_key_refusal()
    assert not bench.failures.key_refused
    assert bench.key_refused_metric() == 0


def test_a_pause_of_the_budget_holds_every_check(bench: Bench) -> None:
    bench.budget.pause(time.monotonic() + 60)
    bench.fail(RateLimited("HTTP 429"))
    assert bench.failures.is_probing
    assert bench.is_held()


def test_an_unavailable_upstream_holds_nothing_and_is_no_reason_to_probe(
    bench: Bench,
) -> None:
    bench.fail(UpstreamUnavailable("HTTP 503"))
    assert not bench.is_held()
    assert not bench.failures.is_probing


@pytest.mark.parametrize(
    ("error", "level"),
    [(KeyRefused, "ERROR"), (UpstreamUnavailable, "WARNING")],
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
    assert (record.levelname, "a check failed" in record.message) == (level, True)


def test_the_end_of_an_outage_is_logged_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.fail(UpstreamUnavailable("HTTP 503"))
    bench.failures.check_answered()
    bench.failures.check_answered()
    assert caplog.text.count("the upstream answers again") == 1
