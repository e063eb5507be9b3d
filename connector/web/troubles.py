"""Names everything that keeps levels from being fetched or published, cause by cause."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from connector.core.model import MICROS
from connector.errors import KeyRefused, PlanRefused, QuotaExhausted, RateLimited
from connector.web import answers

if TYPE_CHECKING:
    from connector.kafka.reachability import KafkaOutage
    from connector.runtime.failing_checks import FailedChecks
    from connector.runtime.foreign_members import ForeignMembersWatch
    from connector.runtime.health import Health
    from connector.runtime.held_back import HeldBackWatch
    from connector.runtime.kafka_watch import KafkaWatch
    from connector.runtime.poller import Poller
    from connector.runtime.topic_look import WatchedTopics

# A month that was used up before this worker's start has no failed check.
_MONTH_USED_UP = "the requests of the month are used up"


class Troubles:
    """Finds the causes. Each watch is None until the worker has it."""

    def __init__(self, health: Health, feeds: list[str]) -> None:
        self.kafka: KafkaWatch | None = None
        self.topics: WatchedTopics | None = None
        self.held_back: HeldBackWatch | None = None
        self.foreign_members: ForeignMembersWatch | None = None
        self._health = health
        self._feeds = feeds

    def now(self, poller: Poller | None, at: int) -> list[answers.Trouble]:
        """Return each cause once: Kafka, the topics and the API say more than a reason.

        `poller` is None while the worker starts. `at` is our clock, in microseconds since
        the epoch.
        """
        troubles = self._kafka_troubles()
        explained = [trouble.summary for trouble in troubles]
        if self.kafka is not None:
            explained += self.kafka.why_not_ready()
        api = None
        if poller is not None:
            explained += poller.why_not_ready()
            api = _api_trouble(poller, at)
        for reason in self._health.why_not_ready():
            if reason not in explained:
                troubles.append(_lasting("worker", reason))
        if api is not None:
            troubles.append(api)
        return troubles

    def _kafka_troubles(self) -> list[answers.Trouble]:
        """Return the outage of Kafka, or else the troubles with topics and group.

        In an outage nobody knows if those go on.
        """
        outage = None if self.kafka is None else self.kafka.outage
        if outage is not None:
            return [_outage(outage, self._feeds)]
        troubles = []
        if self.topics is not None:
            for topic, fault in self.topics.faults.items():
                troubles.append(self._topic_trouble(topic, fault))
        if self.held_back is not None:
            for held in self.held_back.found:
                summary = (
                    f"consumers cannot read new records of {held.topic}-"
                    f"{held.partition}: a transaction stays open"
                )
                remedy = self.held_back.remedy(held)
                troubles.append(_lasting("topic", summary, remedy))
        if self.foreign_members is not None:
            for member in self.foreign_members.found:
                summary = self.foreign_members.summary(member)
                remedy = self.foreign_members.remedy
                troubles.append(_lasting("worker", summary, remedy))
        return troubles

    def _topic_trouble(self, topic: str, fault: str) -> answers.Trouble:
        """Return a topic's fault, with the way back of a topic that is gone."""
        if not fault.endswith(" is gone"):
            # The fault itself has the command.
            return _lasting("topic", fault)
        stopped = []
        for feed in self._feeds:
            if topic.endswith((f".{feed}.changes", f".{feed}.current")):
                stopped.append(feed)
        loss = "entries that cannot be used are only logged; events go on"
        if stopped:
            loss = "nothing is published"
        remedy = "Restart one worker, which creates it: operations.md, A topic is gone"
        return _lasting("topic", fault, f"{loss}. {remedy}", stopped)


def _outage(outage: KafkaOutage, feeds: list[str]) -> answers.Trouble:
    detail = outage.error
    if outage.refusal is not None:
        detail = f"{outage.refusal.remedy}: {outage.error}"
    return answers.Trouble(
        service="kafka",
        summary=outage.summary,
        detail=detail,
        since=outage.since,
        failures=None,
        next_try_at=None,
        is_waiting=False,
        stops_feeds=feeds,
    )


def _lasting(
    service: Literal["topic", "worker"],
    summary: str,
    detail: str | None = None,
    stops_feeds: list[str] | None = None,
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
        stops_feeds=stops_feeds or [],
    )


def _api_trouble(poller: Poller, now: int) -> answers.Trouble | None:
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
            stops_feeds=[],
        )
    if failed is None:
        return None

    summary, detail = _describe(failed, poller)
    is_waiting = _is_error(failed, RateLimited)
    return answers.Trouble(
        service="api",
        summary=summary,
        detail=detail,
        since=failed.since,
        failures=failed.count,
        next_try_at=_wall(_next_try_at(poller), now),
        is_waiting=is_waiting,
        stops_feeds=[],
    )


def _is_error(failed: FailedChecks | None, kind: type[Exception]) -> bool:
    return failed is not None and isinstance(failed.error, kind)


def _describe(failed: FailedChecks, poller: Poller) -> tuple[str, str | None]:
    """Return what is wrong as the beginning of a line, and the details, if there are any."""
    text = str(failed.error).rstrip(".")
    if _is_error(failed, KeyRefused) or poller.key_refused:
        return "API key refused", text
    if _is_error(failed, PlanRefused) or poller.plan_refused:
        return "plan of the API key's user refused", text
    details = []
    status, *code_and_words = text.split(": ", 2)
    if failed.error.is_from_api and len(code_and_words) > 1:
        # The API's words can be whole sentences, so they cannot go on with the moment.
        code, words = code_and_words
        text = f"{status}: {code}"
        details.append(words)
    if poller.outage.explanation:
        # Whose fault it is comes a moment after the error.
        details.append(poller.outage.explanation)
    return text, "; ".join(details) or None


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
