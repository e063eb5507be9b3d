"""Names everything that keeps levels from being fetched or published, cause by cause."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from connector.core.model import MICROS
from connector.errors import KeyRefused, PlanRefused, QuotaExhausted, RateLimited
from connector.web import answers

if TYPE_CHECKING:
    from connector.kafka.held_back import HeldBack
    from connector.runtime.failing_checks import FailedChecks
    from connector.runtime.held_back import HeldBackWatch
    from connector.runtime.kafka_watch import KafkaWatch
    from connector.runtime.poller import Poller

# A month that was used up before this worker's start has no failed check.
_MONTH_USED_UP = "the requests of the month are used up"


def kafka_trouble(watch: KafkaWatch) -> answers.Trouble | None:
    """Return the trouble with Kafka, or None if it answers."""
    outage = watch.outage
    if outage is None:
        return None
    return answers.Trouble(
        service="kafka",
        summary="Kafka unreachable",
        detail=outage.error,
        since=outage.since,
        failures=None,
        next_try_at=None,
        is_waiting=False,
    )


def topic_trouble(fault: str) -> answers.Trouble:
    """Return the trouble of a topic that is gone or does not fit."""
    return _lasting("topic", fault)


def held_back_trouble(watch: HeldBackWatch, held: HeldBack) -> answers.Trouble:
    """Return the trouble of consumers that cannot read a partition to its end."""
    summary = (
        f"consumers cannot read new records of {held.topic}-{held.partition}: "
        "a transaction stays open"
    )
    return _lasting("topic", summary, watch.remedy(held))


def worker_trouble(reason: str) -> answers.Trouble:
    """Return a reason against being ready that nothing else explains."""
    return _lasting("worker", reason)


def _lasting(
    service: Literal["topic", "worker"], summary: str, detail: str | None = None
) -> answers.Trouble:
    """Return a trouble of which only its presence is known."""
    return answers.Trouble(
        service=service,
        summary=summary,
        detail=detail,
        since=None,
        failures=None,
        next_try_at=None,
        is_waiting=False,
    )


def api_trouble(poller: Poller, now: int) -> answers.Trouble | None:
    """Return the trouble with the API, or None if it answers every check.

    `now` is our clock, in microseconds since the epoch.
    """
    failed = poller.failing_checks.longest
    if poller.quota_exhausted or _is_error(failed, QuotaExhausted):
        return answers.Trouble(
            service="api",
            summary=_MONTH_USED_UP,
            detail=poller.quota_message,
            since=None if failed is None else failed.since,
            failures=None,
            next_try_at=_wall(poller.schedule.month_paused_until, now),
            is_waiting=True,
        )
    if failed is None:
        return None

    summary = _summary(failed, poller)
    is_waiting = _is_error(failed, RateLimited)
    detail: str | None = _text(failed)
    if detail == summary:
        # The error is the summary. Whose fault it is comes a moment later.
        detail = poller.outage.explanation
    return answers.Trouble(
        service="api",
        summary=summary,
        detail=detail,
        since=failed.since,
        failures=failed.count,
        next_try_at=_wall(_next_try_at(poller), now),
        is_waiting=is_waiting,
    )


def _is_error(failed: FailedChecks | None, kind: type[Exception]) -> bool:
    return failed is not None and isinstance(failed.error, kind)


def _summary(failed: FailedChecks, poller: Poller) -> str:
    """Return what is wrong: the remedy if there is one, otherwise the error itself."""
    if _is_error(failed, KeyRefused) or poller.key_refused:
        return "API key refused"
    if _is_error(failed, PlanRefused) or poller.plan_refused:
        return "plan of the API key's user refused"
    return _text(failed)


def _text(failed: FailedChecks) -> str:
    """Return the error as the beginning of a line, which goes on with its moment."""
    return str(failed.error).rstrip(".")


def _next_try_at(poller: Poller) -> float | None:
    """Return when the first of the failing batches is checked, None if it is now."""
    failing = poller.failing_checks.symbols
    moments = []
    for planned in poller.schedule.planned_checks():
        batch = planned.batch
        if any((batch.feed, symbol) in failing for symbol in batch.symbols):
            at = poller.schedule.next_check_at(batch)
            if at is None:
                return None
            moments.append(at)
    return min(moments, default=None)


def _wall(monotonic: float | None, now: int) -> int | None:
    """Convert a moment of the monotonic clock, None if it is over."""
    if monotonic is None or monotonic <= time.monotonic():
        return None
    return now + round((monotonic - time.monotonic()) * MICROS)
