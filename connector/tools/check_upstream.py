"""Upstream checks of `gex-connector check`: API key, quota, clock and symbols."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from connector.config.secrets import quote
from connector.core.entry import is_empty_entry
from connector.core.model import MICROS, Status
from connector.errors import (
    Intercepted,
    KeyRefused,
    PlanRefused,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    UpstreamError,
    UpstreamUnavailable,
)
from connector.schedule.batches import MAX_SYMBOLS
from connector.tools.check_feeds import check_feeds
from connector.tools.check_month import check_month, stale_between_checks
from connector.tools.check_requests import remedy_of_refusal, request_of_this_minute
from connector.tools.check_service import check_service, explain_outage
from connector.tools.suggestion import did_you_mean
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget, Month
from connector.upstream.budget.other_clients import PLANNED_FRACTION
from connector.upstream.budget.share import batches_for
from connector.upstream.budget.units import MINUTE_SECONDS
from connector.upstream.client import Client, LevelsRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.config.model import Config
    from connector.tools.report import Report
    from connector.upstream.client import LevelsAnswer

# A person waits for the answer, so do not use up a long `upstream.timeout_seconds`.
_TIMEOUT_SECONDS: Final = 10.0

_NOT_TRIED: Final = "not tried, nor were clock and symbols"
_NO_LEVELS: Final = "not tried: the upstream returned no levels"
_NOTHING_TRIED: Final = (
    "not tried, nor were quota, clock and symbols: no answer from the upstream"
)

# NTP keeps clocks much closer than the first. Workers ignore an offset over the second.
_CLOCK_WARN_SECONDS: Final = 2
_CLOCK_FAIL_SECONDS: Final = 300

# Requests per minute and batch for a mean delay of 0.4 s, by the number of batches from
# which they apply, largest first. Measured: docs/explanation/capacity.md.
_MEASURED_DELAY_SECONDS: Final = 0.4
_MEASURED_REQUESTS: Final = {100: 2.4, 10: 8.4, 1: 16.0}

# The upstream refreshes a symbol twice a minute.
_REFRESHES_PER_MINUTE: Final = 2


def requests_per_pass(config: Config) -> int:
    """Return the number of requests that cover every symbol of every feed once."""
    return sum(batches_for(len(feed.symbols)) for feed in config.feeds)


async def check_upstream(config: Config, report: Report) -> int:
    """Report on key, quota, clock and symbols. Return the number of requests sent."""
    timeout = min(config.upstream.timeout_seconds, _TIMEOUT_SECONDS)
    upstream = msgspec.structs.replace(config.upstream, timeout_seconds=timeout)
    month = Month(upstream.max_requests_per_month)
    budget = Budget(upstream.max_requests_per_minute, month=month)
    client = Client(upstream, ApiKey(config.upstream), budget)
    try:
        await _check(config, client, budget, report)
    finally:
        await client.close()
    return client.requests_sent


async def _check(
    config: Config, client: Client, budget: Budget, report: Report
) -> None:
    # One batch of the first feed shows key, quota and clock; more would cost quota.
    feed = config.feeds[0]
    request = LevelsRequest(
        feed.symbols[:MAX_SYMBOLS], feed.exchanges, feed.include, feed.positioning
    )
    answer: LevelsAnswer | None = None
    try:
        async with budget.request() as permit:
            answer = await client.fetch_levels(request, permit)
    except (KeyRefused, PlanRefused, QuotaExhausted) as error:
        _report_refused_user(error, report)
        return
    except RateLimited as error:
        report.warn("quota", _used_up(error.retry_after_seconds))
        # A 429 does not prove that the key is good.
        report.warn("key, clock", _NO_LEVELS)
    except RequestRefused as error:
        report.fail("request", f"{error}; {remedy_of_refusal(error, feed.name)}")
        report.warn("quota, clock", _NO_LEVELS)
    except UpstreamError as error:
        report.fail("upstream", f"{error}; {_remedy_of_outage(error)}")
        await explain_outage(client, error, report)
        report.warn("key", _NOTHING_TRIED)
        return

    if answer is not None:
        await _check_answer(config, client, budget, answer, report)
    await _check_symbols(config, client, budget, answer, report)
    if answer is not None:
        await check_service(config, client, budget, report)


async def _check_answer(
    config: Config, client: Client, budget: Budget, answer: LevelsAnswer, report: Report
) -> None:
    """Report on key, quotas, clock and venues, by the answer to the first request."""
    report.ok("key", "accepted")
    _check_quota(config, answer, report)
    batches = requests_per_pass(config)
    target = config.schedule.target_delay_seconds
    needed = _requests_needed(batches, target) if target else 0.0
    spending = budget.spending(time.monotonic())
    check_month(config, spending, batches, needed * PLANNED_FRACTION, report)
    _check_clock(answer, report)
    await check_feeds(config, client, budget, answer, report)


def _report_refused_user(
    error: KeyRefused | PlanRefused | QuotaExhausted, report: Report
) -> None:
    """Report that the upstream answers no request of this key or its user."""
    if isinstance(error, KeyRefused):
        report.fail("key", f"{error}; check upstream.api_key or its file")
        report.warn("quota", f"{_NOT_TRIED}: the upstream refuses the key")
    elif isinstance(error, PlanRefused):
        report.ok("key", "accepted")
        report.fail(
            "plan",
            f"{error}; the key is good, but its user's plan does not permit this: look at "
            "the plan in the vendor's account (another key does not help)",
        )
        report.warn("quota", f"{_NOT_TRIED}: the upstream refuses the plan")
    else:
        report.fail("month", f"{error}; wait for the next month, or get a larger plan")
        report.warn("key", f"{_NOT_TRIED}: no request is left")


def _remedy_of_outage(error: UpstreamError) -> str:
    """Return what to do about an error, by whoever has answered."""
    if isinstance(error, Intercepted):
        return (
            "ask who runs the firewall or proxy between this machine and "
            "upstream.base_url"
        )
    if error.is_from_api:
        reference = ""
        if error.request_id:
            reference = f" with the request id {quote(error.request_id)}"
        return (
            "their side: the API itself answers so. Workers retry; wait, or ask the "
            f"vendor{reference}"
        )
    if error.status is None:
        return "check upstream.base_url and the network"
    if isinstance(error, UpstreamUnavailable):
        return "answered by a gateway, not by the API; the next line says whose"
    return "not an answer of the API: check that upstream.base_url is its address"


def _used_up(retry_after_seconds: float | None) -> str:
    duration = ""
    if retry_after_seconds is not None:
        duration = f" for another {retry_after_seconds:.0f} s"
    return f"used up{duration}: does a worker or another program of the user send requests?"


def _check_quota(config: Config, answer: LevelsAnswer, report: Report) -> None:
    """Compare the quota with the requests needed according to docs/explanation/capacity.md."""
    server = answer.rate_limit
    cap = config.upstream.max_requests_per_minute
    # The stricter one applies.
    limits = [limit for limit in (server.limit, cap) if limit]
    if not limits:
        report.warn(
            "quota",
            "the upstream reports no limit, so workers assume 60 requests a minute; "
            "set upstream.max_requests_per_minute",
        )
        return

    limit = min(limits)
    quota = f"{limit} a minute"
    if server.remaining is not None:
        quota += f", {server.remaining} left of {server.limit}"
    if answer.is_fallback_limit:
        report.warn(
            "quota",
            f"{quota}; not the plan's limit: a stricter fallback stands in for the "
            "upstream's counter; check again later",
        )
        return

    batches = requests_per_pass(config)
    minimum = batches * _REFRESHES_PER_MINUTE / PLANNED_FRACTION
    if limit < minimum:
        interval = batches * MINUTE_SECONDS / (limit * PLANNED_FRACTION)
        stale = stale_between_checks(config, interval)
        remedy = stale or "configure fewer symbols, or get a larger plan"
        report.warn(
            "quota",
            f"{quota}, and every symbol about every {interval:.0f} s; seeing every refresh "
            f"takes {minimum:.0f} a minute: {remedy}",
        )
        return

    target = config.schedule.target_delay_seconds
    if target == 0:
        report.ok("quota", f"{quota}; checks are made as often as it allows")
        return

    needed = max(_requests_needed(batches, target), minimum)
    finding = f"{quota}; a mean delay of {target:g} s needs about {needed:.0f}"
    if limit < needed:
        report.warn("quota", f"{finding}, so expect a longer delay")
    else:
        report.ok("quota", finding)


def _requests_needed(batches: int, target_delay_seconds: float) -> float:
    """Scale the measured requests per minute: half the delay takes twice as many."""
    per_batch = 0.0
    for from_batches, requests in _MEASURED_REQUESTS.items():
        if batches >= from_batches:
            per_batch = requests
            break
    measured = batches * per_batch / PLANNED_FRACTION
    return measured * _MEASURED_DELAY_SECONDS / target_delay_seconds


def _check_clock(answer: LevelsAnswer, report: Report) -> None:
    server_at = answer.response.meta.server_at
    if server_at is None:
        report.warn("clock", "not tried: the upstream sends no time")
        return

    seconds = _clock_offset(server_at, answer.sent_at, answer.received_at) / MICROS
    if seconds == 0:
        report.ok("clock", "agrees with the upstream clock")
        return

    direction = "ahead of" if seconds > 0 else "behind"
    offset = f"the upstream clock is {abs(seconds):.1f} s {direction} ours"
    if abs(seconds) > _CLOCK_FAIL_SECONDS:
        report.fail(
            "clock",
            f"{offset}; set our clock (NTP): if the brokers' clock differs from it as "
            "well, a worker leaves the group, and otherwise it ignores the offset",
        )
    elif abs(seconds) > _CLOCK_WARN_SECONDS:
        report.warn(
            "clock", f"{offset}; workers correct ages by it, but is NTP running here?"
        )
    else:
        report.ok("clock", offset)


def _clock_offset(server_at: int, sent_at: int, received_at: int) -> int:
    """Return the part of the offset that the round trip cannot explain.

    All moments are in microseconds; a positive offset means that the server is ahead.
    """
    # The server may report whole seconds, cut off.
    resolution = MICROS if server_at % MICROS == 0 else 0
    earliest = server_at - received_at
    latest = server_at + resolution - sent_at
    if earliest <= 0 <= latest:
        return 0
    return min(earliest, latest, key=abs)


async def _check_symbols(
    config: Config,
    client: Client,
    budget: Budget,
    answer: LevelsAnswer | None,
    report: Report,
) -> None:
    """Report unknown symbols and those without levels.

    The answer decides for the symbols it contains, since the shape of the symbol list is
    not documented. The list decides for all others.
    """
    configured = sorted({symbol for feed in config.feeds for symbol in feed.symbols})
    answers: Mapping[str, object] = {}
    if answer is not None:
        answers = dict(answer.response.answers)

    known = frozenset(answers)
    checked = sorted(answers)
    partial = f"checked {len(answers)} of {len(configured)}"
    try:
        async with request_of_this_minute(budget) as permit:
            known |= await client.fetch_symbols(permit)
        checked = configured
    except TimeoutError:
        # The budget waits for a request of the next minute.
        report.warn(
            "symbols", f"{partial}: no request is left this minute for the symbol list"
        )
    except UpstreamError as error:
        report.warn("symbols", f"{partial}: cannot get the symbol list: {error}")

    def is_unknown(symbol: str) -> bool:
        return symbol not in known or answers.get(symbol) is Status.INVALID

    unknown = [symbol for symbol in checked if is_unknown(symbol)]
    for symbol in unknown:
        hint = did_you_mean(symbol, known.difference(unknown))
        report.fail("symbols", f"{symbol}: unknown to the upstream{hint}")

    if answer is not None:
        _report_missing(answer, report)
    if checked and not unknown:
        report.ok("symbols", f"the upstream knows {len(checked)} of {len(configured)}")


def _report_missing(answer: LevelsAnswer, report: Report) -> None:
    """Report the symbols that the answer has no levels of, or under another name only."""
    missing = []
    for symbol, found in answer.response.answers.items():
        is_empty = isinstance(found, bytes) and is_empty_entry(found)
        if found is Status.MISSING or is_empty:
            missing.append(symbol)
    if missing:
        report.warn("symbols", f"no levels at the moment: {', '.join(missing)}")
    for symbol, name in answer.response.other_spellings.items():
        report.warn(
            "symbols",
            f"{symbol}: the upstream has levels of {quote(name)} instead; "
            "nothing is published from them, configure that name if it is meant",
        )
