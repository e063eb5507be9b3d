"""The effect of failed checks on the schedule, the key's state and the log."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest

from connector.errors import (
    Intercepted,
    KeyRefused,
    PlanRefused,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    UpstreamError,
    UpstreamUnavailable,
    WrongVenues,
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
        self.observer = MetricsObserver(self.metrics)
        self.failures = self.new_failures()

    def new_failures(self, quota_message: str | None = None) -> Failures:
        """Return failures that have logged nothing yet."""
        failures = Failures(self.schedule, self.budget, self.observer)
        failures.quota_message = quota_message
        return failures

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

    bench.failures.check_answered(BATCH)

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
    bench.failures.forget_refusals()

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

    bench.failures.check_answered(BATCH)
    bench.failures.check_answered(BATCH)

    assert caplog.text.count("the upstream answers again") == 1


def test_a_refused_plan_holds_every_check_and_leaves_the_key_alone(
    bench: Bench,
) -> None:
    bench.fail(KeyRefused("HTTP 401"))
    bench.fail(PlanRefused("HTTP 403"))

    # The server looks at the plan only after it has accepted the key.
    assert bench.is_held()
    assert (bench.failures.key_refused, bench.failures.plan_refused) == (False, True)
    assert bench.metrics.registry.get_sample_value("gex_plan_refused") == 1

    bench.failures.check_answered(BATCH)
    assert not bench.failures.plan_refused
    assert bench.metrics.registry.get_sample_value("gex_plan_refused") == 0


def test_a_used_up_month_is_logged_once_with_the_vendors_message(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = QuotaExhausted("HTTP 429: The monthly cap of 10000 is used up")
    bench.fail(refusal)
    # Probes are refused alike, hours later, when the log no longer suppresses it.
    bench.failures = bench.new_failures(quota_message=bench.failures.quota_message)
    bench.fail(refusal)

    assert bench.failures.quota_message == str(refusal)
    assert bench.is_probing()
    assert caplog.text.count("a check failed: quota_exhausted") == 1

    bench.failures.check_answered(BATCH)
    bench.fail(refusal)
    assert caplog.text.count("a check failed: quota_exhausted") == 2


def test_a_used_up_month_shows_that_key_and_plan_are_accepted(bench: Bench) -> None:
    bench.fail(KeyRefused("HTTP 401"))
    bench.fail(PlanRefused("HTTP 403"))
    bench.fail(QuotaExhausted("HTTP 429"))

    assert (bench.failures.key_refused, bench.failures.plan_refused) == (False, False)


# Levels become STALE with this reason if no answer comes for long.
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UpstreamUnavailable("HTTP 503"), "no_answer"),
        (Intercepted("HTTP 403: Access denied"), "no_answer"),
        (RequestRefused("HTTP 422"), "no_answer"),
        (RateLimited("HTTP 429"), "budget"),
        (WrongVenues("levels of other venues"), "venues"),
        # States of the worker, which name their reasons themselves.
        (QuotaExhausted("HTTP 429"), None),
        (KeyRefused("HTTP 401"), None),
        (PlanRefused("HTTP 403"), None),
    ],
)
def test_a_failed_check_explains_the_silence_of_its_symbols(
    bench: Bench, error: UpstreamError, reason: str | None
) -> None:
    bench.fail(error)

    assert bench.failures.silence_reason("all", "BTC") == reason
    assert bench.failures.silence_reason("all", "SOL") is None

    bench.failures.check_answered(BATCH)
    assert bench.failures.silence_reason("all", "BTC") is None


def test_symbols_that_others_poll_have_no_silence_to_explain(bench: Bench) -> None:
    bench.fail(UpstreamUnavailable("HTTP 503"))

    bench.failures.keep_only({("all", "ETH")})

    assert bench.failures.silence_reason("all", "BTC") is None
    assert bench.failures.silence_reason("all", "ETH") == "no_answer"


def test_a_firewall_in_between_holds_nothing(bench: Bench) -> None:
    bench.fail(Intercepted("HTTP 403: Access denied"))
    assert not bench.is_held()
    assert not bench.failures.is_probing


def test_the_first_failure_of_each_feed_and_text_is_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    other = Batch("other", ("SOL",))
    for request in range(3):
        text = f"HTTP 503: request {request} failed"
        # Numbers differ in each occurrence of the same error.
        bench.failures.check_failed(BATCH, UpstreamUnavailable(text))
        bench.failures.check_failed(other, UpstreamUnavailable(text))
        bench.failures.check_failed(other, UpstreamUnavailable("HTTP 503: full"))

    logged = [(r.feed, r.error) for r in caplog.records]  # type: ignore[attr-defined]
    assert logged == [
        ("all", "HTTP 503: request 0 failed"),
        ("other", "HTTP 503: request 0 failed"),
        ("other", "HTTP 503: full"),
    ]


def test_a_feed_answers_again_when_none_of_its_symbols_fails(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    second = Batch("all", ("SOL",))
    bench.fail(UpstreamUnavailable("HTTP 503"))
    bench.failures.check_failed(second, UpstreamUnavailable("HTTP 503"))

    bench.failures.check_answered(BATCH)
    assert "answers again" not in caplog.text

    bench.failures.check_answered(second)
    assert "the upstream answers again" in caplog.text


def test_failing_symbols_of_another_worker_do_not_hide_the_recovery(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.fail(UpstreamUnavailable("HTTP 503"))
    # ETH belongs to another worker from now on.
    bench.failures.keep_only({("all", "BTC")})
    bench.failures.check_answered(Batch("all", ("BTC",)))
    assert "the upstream answers again" in caplog.text


def test_ids_of_any_form_do_not_make_an_error_a_new_one(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for ray in ("8f1e2a", "77ab01", "0c0ffee"):
        bench.fail(Intercepted(f"HTTP 403: Access denied, Ray ID {ray}"))
    assert len(caplog.records) == 1


def test_a_symbol_that_is_refused_after_an_outage_has_answered(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.fail(UpstreamUnavailable("HTTP 503"))
    bench.fail(RequestRefused("HTTP 422"))
    assert "the upstream answers again" in caplog.text


def test_a_refused_key_says_nothing_about_the_plan(bench: Bench) -> None:
    bench.fail(PlanRefused("HTTP 403"))
    bench.fail(KeyRefused("HTTP 401"))
    assert bench.failures.key_refused
    assert not bench.failures.plan_refused
