"""`gex-connector check`: what a worker will need, tried one after the other, and how to mend what is not so.

A handful of requests to the upstream is all it spends; it writes, creates, joins and fences nothing.
"""

from __future__ import annotations

import asyncio
import difflib
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from connector.config.load import load
from connector.config.secrets import printable, redact
from connector.core.model import MICROS, Status
from connector.errors import (
    EXIT_CONFIG,
    EXIT_KAFKA,
    ConfigError,
    ConnectorError,
    KafkaError,
    KeyRefused,
    RateLimited,
    RequestRefused,
    UpstreamError,
)
from connector.kafka.clients import Clients
from connector.kafka.framing import examined
from connector.kafka.names import Topics
from connector.kafka.preflight import Preflight
from connector.kafka.topics import specs
from connector.schedule.batches import MAX_SYMBOLS
from connector.upstream.api_key import ApiKey
from connector.upstream.budget.limiter import PLANNED, Limiter
from connector.upstream.budget.share import batches_for
from connector.upstream.client import Ask, Client

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from connector.config.model import Config
    from connector.kafka.preflight import PreflightReport
    from connector.upstream.client import Answer

OK, WARN, FAIL = "ok", "warn", "FAIL"
_TIMEOUT_SECONDS: Final = 10.0
_CLOCK_SECONDS: Final = (2, 300)
"""So far off is worth a word; a worker does not believe more than the latter."""

_CHECKS: Final = {1: 16.0, 10: 8.4, 100: 2.4}
"""Requests a minute of each batch, from so many batches on, for a mean delay of 0.4 s (docs/capacity.md)."""

_MEASURED_DELAY_SECONDS: Final = 0.4
_LEAST_CHECKS: Final = 2
"""Of each batch a minute: once a refresh."""

_DAY_MS: Final = 86_400_000


@dataclass(slots=True)
class Report:
    """Says each finding as it comes. `exit_code` is 0 as long as nothing failed."""

    secrets: tuple[str, ...] = ()
    failed: set[int] = field(default_factory=set)

    @property
    def exit_code(self) -> int:
        """Of what failed the first thing that a worker would end by."""
        return next(
            (code for code in (EXIT_CONFIG, EXIT_KAFKA, 1) if code in self.failed), 0
        )

    def __call__(self, mark: str, item: str, said: str, code: int = 1) -> None:
        """`ok`; `warn`: a worker runs, but worse than it could, or it was not tried; `FAIL`: it would end by `code`."""
        if mark == FAIL:
            self.failed.add(code)
        for line in said.splitlines():
            sys.stdout.write(
                f"{mark:<4}  {item:<13}  {printable(redact(line, self.secrets))}\n"
            )
        sys.stdout.flush()


def check(path: Path | None, environ: Mapping[str, str]) -> int:
    """Try everything, say each, and return the exit status."""
    report = Report()
    try:
        settings = load(path, environ)
    except ConfigError as error:
        for fault in error.faults:
            report(FAIL, "configuration", fault, EXIT_CONFIG)
        report(WARN, "all else", "not tried: no configuration")
        return report.exit_code
    report.secrets = settings.secrets()
    symbols = sum(len(feed.symbols) for feed in settings.feeds)
    report(
        OK,
        "configuration",
        f"{len(settings.feeds)} feed(s), {symbols} symbol(s), {_batches(settings)} request(s) to see all",
    )
    asked = asyncio.run(_upstream(settings, report))
    _kafka(settings, report)
    _registry(settings, report)
    sys.stdout.write(
        f"{asked} request(s) to the upstream; nothing was changed anywhere\n"
    )
    return report.exit_code


def _batches(settings: Config) -> int:
    return sum(batches_for(len(feed.symbols)) for feed in settings.feeds)


async def _upstream(settings: Config, report: Report) -> int:
    """The key, quota, clock and symbols; how many requests that took."""
    upstream = settings.upstream
    timeout = min(upstream.timeout_seconds, _TIMEOUT_SECONDS)
    limiter = Limiter(upstream.max_requests_per_minute)
    client = Client(
        msgspec.structs.replace(upstream, timeout_seconds=timeout),
        ApiKey(upstream),
        limiter,
    )
    try:
        await _asked(settings, client, report)
    finally:
        await client.close()
    return limiter.requests_last_minute(time.monotonic())


async def _asked(settings: Config, client: Client, report: Report) -> None:
    feed, answer, untried = settings.feeds[0], None, "quota, clock"
    try:
        answer = await client.check(
            Ask(feed.symbols[:MAX_SYMBOLS], feed.exchanges, feed.include)
        )
    except KeyRefused as error:
        report(
            FAIL,
            "key",
            f"{error}; check upstream.api_key or its file, and the plan that it belongs to",
        )
    except RateLimited as error:
        untried = "key, clock"
        again = (
            ""
            if error.retry_after_seconds is None
            else f" for another {error.retry_after_seconds:.0f} s"
        )
        report(
            WARN,
            "quota",
            f"used up{again}: by a worker that runs, or another program with this key?",
        )
    except RequestRefused as error:
        report(
            FAIL,
            "request",
            f"{error}; check upstream.base_url, and include and exchanges of feed {feed.name}",
        )
    except UpstreamError as error:
        report(FAIL, "upstream", f"{error}; check upstream.base_url and the way there")
        report(
            WARN,
            "key",
            "not tried: no answer of the upstream; nor were quota, clock and symbols",
        )
        return
    if answer is None:
        report(WARN, untried, "not tried: the upstream gave no levels")
    else:
        report(OK, "key", "accepted")
        _quota(settings, answer, report)
        _clock(answer, report)
    await _symbols(settings, client, answer, report)


def _quota(settings: Config, answer: Answer, report: Report) -> None:
    """Whether the plan suffices, by the figures of docs/capacity.md."""
    said, batches = answer.rate_limit, _batches(settings)
    cap, target = (
        settings.upstream.max_requests_per_minute,
        settings.schedule.target_delay_seconds,
    )
    if said.limit is None and cap is None:
        return report(
            WARN,
            "quota",
            "the upstream says no limit: 60 a minute are planned with; set max_requests_per_minute",
        )
    limit = min(one for one in (said.limit, cap) if one)
    left = "" if said.remaining is None else f", {said.remaining} left of {said.limit}"
    each = next(each for least, each in reversed(_CHECKS.items()) if batches >= least)
    least = batches * _LEAST_CHECKS / PLANNED
    wanted = (
        max(batches * each * _MEASURED_DELAY_SECONDS / PLANNED / target, least)
        if target
        else 0
    )
    has = f"{limit} a minute{left}; "
    if limit < least:
        return report(
            WARN,
            "quota",
            f"{has}{least:.0f} are needed to see each refresh: fewer symbols, or a larger plan",
        )
    if limit < wanted:
        return report(
            WARN,
            "quota",
            f"{has}about {wanted:.0f} are needed for a mean delay of {target:g} s, it will be longer",
        )
    return report(
        OK,
        "quota",
        f"{has}about {wanted:.0f} are needed for a mean delay of {target:g} s",
    )


def _clock(answer: Answer, report: Report) -> None:
    """What of the difference the way there and back does not explain."""
    server_at = answer.response.meta.server_at
    if server_at is None:
        return report(
            WARN, "clock", "not tried: the upstream does not say what time it is"
        )
    resolution = MICROS if server_at % MICROS == 0 else 0
    least, most = (
        server_at - answer.received_at,
        server_at + resolution - answer.sent_at,
    )
    seconds = (0 if least <= 0 <= most else min(least, most, key=abs)) / MICROS
    said = (
        f"the upstream's is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} ours"
        if seconds
        else "as the upstream's"
    )
    if abs(seconds) > _CLOCK_SECONDS[1]:
        return report(
            FAIL, "clock", f"{said}; no worker believes that: set the clock (NTP)"
        )
    if abs(seconds) > _CLOCK_SECONDS[0]:
        return report(
            WARN, "clock", f"{said}; ages are corrected by it; does NTP run here?"
        )
    return report(OK, "clock", said)


async def _symbols(
    settings: Config, client: Client, answer: Answer | None, report: Report
) -> None:
    """By the answer those that it has, since the list's shape is documented nowhere; by the list all others."""
    wanted = sorted({symbol for feed in settings.feeds for symbol in feed.symbols})
    answers = {} if answer is None else dict(answer.response.answers)
    known, asked = frozenset(answers), sorted(answers)
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            known |= await client.symbols()
        asked = wanted
    except TimeoutError:
        report(
            WARN,
            "symbols",
            f"{len(answers)} of {len(wanted)} tried: no request for the list is left in this minute",
        )
    except UpstreamError as error:
        report(
            WARN,
            "symbols",
            f"{len(answers)} of {len(wanted)} tried: no list of what is live: {error}",
        )
    unknown = [
        one for one in asked if one not in known or answers.get(one) is Status.INVALID
    ]
    for symbol in unknown:
        close = " or ".join(
            difflib.get_close_matches(symbol, sorted(known - {*unknown}), n=3)
        )
        report(
            FAIL,
            "symbols",
            f"{symbol}: unknown to the upstream"
            + (f"; did you mean {close}?" if close else ""),
        )
    if missing := [
        symbol for symbol, said in answers.items() if said is Status.MISSING
    ]:
        report(WARN, "symbols", f"without levels at the moment: {', '.join(missing)}")
    if asked and not unknown:
        report(OK, "symbols", f"the upstream knows {len(asked)} of {len(wanted)}")


def _kafka(settings: Config, report: Report) -> None:
    kafka = settings.kafka
    try:
        preflight = Preflight(Clients(kafka))
        report(OK, "broker", preflight.cluster())
    except ConnectorError as error:
        report(FAIL, "broker", str(error), error.exit_code)
        report(WARN, "rights", "not tried: no broker; nor were the topics")
        return
    denied = preflight.denied(f"{kafka.topic_prefix}.check", kafka.group_id)
    wanted = specs(
        Topics(kafka.topic_prefix), [feed.name for feed in settings.feeds], kafka
    )
    try:
        found = preflight.topics(wanted, kafka.replication_factor)
    except KafkaError as error:
        report(FAIL, "topics", str(error), error.exit_code)
    else:
        denied += found.denied
        _topics(found, report)
    for one in denied:
        report(FAIL, "rights", one, EXIT_KAFKA)
    if not denied:
        report(
            OK,
            "rights",
            "topics, transactional ids and group: as far as they could be tried, all that a worker needs",
        )


def _topics(found: PreflightReport, report: Report) -> None:
    for name in found.absent:
        report(OK, "topics", f"{name}: absent, the first worker creates it")
    for name, fit in found.fits.items():
        for fault in fit.faults:
            report(FAIL, "topics", fault, EXIT_KAFKA)
        for what, remedy in fit.warnings:
            report(WARN, "topics", f"{name}: {what}; {remedy}")
        if not fit.faults and not fit.warnings:
            report(OK, "topics", f"{name}: {_described(fit.config)}")


def _described(found: Mapping[str, str]) -> str:
    retention = int(found.get("retention.ms", -1))
    kept = (
        "compacted"
        if found.get("cleanup.policy") == "compact"
        else f"kept for {retention / _DAY_MS:g} days"
    )
    settings = ", ".join(
        f"{name} {found.get(name)}"
        for name in ("min.insync.replicas", "max.message.bytes")
    )
    return f"{'kept for ever' if retention < 0 else kept}, {settings}"


def _registry(settings: Config, report: Report) -> None:
    registry, feeds = settings.schema_registry, [feed.name for feed in settings.feeds]
    if registry.url is None:
        report(OK, "registry", "none is configured: values are single-object encoded")
        return
    try:
        level, new = examined(
            registry, registry.url, Topics(settings.kafka.topic_prefix), feeds
        )
    except KafkaError as error:
        report(
            FAIL,
            "registry",
            f"{error}; check schema_registry.url and its client",
            EXIT_KAFKA,
        )
        return
    said = "; ".join(
        (f"compatibility {level}", *(new or ["every schema is registered"]))
    )
    report(
        WARN if level == "NONE" else OK,
        "registry",
        f"{said}{'; FULL_TRANSITIVE is safer' * (level == 'NONE')}",
    )
