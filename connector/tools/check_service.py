"""Service checks of `gex-connector check`: the vendor's reports about its own side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connector.errors import UpstreamError
from connector.tools.check_requests import request_of_this_minute
from connector.upstream.service import (
    CHANGELOG_PATH,
    KNOWN_CONTRACT,
    STATUS_PATH,
    Interest,
    is_good,
    read_changelog,
    read_health,
    read_status,
)

if TYPE_CHECKING:
    from connector.config.model import Config
    from connector.tools.report import Report
    from connector.upstream.budget import Budget
    from connector.upstream.client import Client

_THEIR_SIDE: Final = "the vendor's side: wait, or ask the vendor"
_OUR_SIDE: Final = (
    "probably our side: check upstream.base_url, DNS, proxy and firewall, then ask the "
    "vendor"
)


async def check_service(
    config: Config, client: Client, budget: Budget, report: Report
) -> None:
    """Report on the vendor's service after it has answered: two requests of the budget."""
    try:
        await _check_status(config, client, budget, report)
        await _check_contract(client, budget, report)
    except TimeoutError:
        report.warn("service", "no request is left this minute for /status, /changelog")


async def explain_outage(
    client: Client, failure: UpstreamError, report: Report
) -> None:
    """Tell an outage of the vendor from one of the way to it.

    `failure` is the error of the request for levels. `/health` needs no key and counts
    against no budget.
    """
    try:
        health = read_health(await client.fetch_health())
    except UpstreamError as error:
        side = _OUR_SIDE
        if failure.is_from_api or error.is_from_api:
            side = _THEIR_SIDE
        report.warn("service", f"no answer from /health either: {error}; {side}")
        return
    if failure.is_from_api:
        report.warn(
            "service",
            f"/health says {health or 'nothing known'}, and the API answers: nothing on "
            "the way to it is at fault",
        )
    elif is_good(health):
        report.warn(
            "service",
            f"/health says {health}: the vendor sees no trouble; check proxies and firewalls "
            "in between, then ask the vendor",
        )
    else:
        report.warn(
            "service",
            f"/health says {health or 'nothing known'}: {_THEIR_SIDE}",
        )


async def _check_status(
    config: Config, client: Client, budget: Budget, report: Report
) -> None:
    try:
        async with request_of_this_minute(budget) as permit:
            document = await client.fetch_report(STATUS_PATH, permit)
    except UpstreamError as error:
        report.warn("service", f"cannot read /status: {error}")
        return
    status = read_status(document, Interest.of(config.feeds))
    overall = status.overall or "unknown"
    for stale in status.stale:
        report.warn("service", f"the vendor's levels of {stale}; ask the vendor")
    for venue in status.venues_off:
        report.warn("service", f"venue {venue}; levels are computed without it")
    if not status.stale and not status.venues_off:
        report.ok("service", f"overall status {overall}; no venue is off")


async def _check_contract(client: Client, budget: Budget, report: Report) -> None:
    major, minor = KNOWN_CONTRACT
    try:
        async with request_of_this_minute(budget) as permit:
            document = await client.fetch_report(CHANGELOG_PATH, permit)
    except UpstreamError as error:
        report.warn("contract", f"version unknown: cannot read /changelog: {error}")
        return
    changelog = read_changelog(document)
    breaking = changelog.breaking_releases()
    for release in breaking:
        report.warn(
            "contract",
            f"breaking release {release.version} after {major}.{minor}, which this "
            f"connector knows: {release.summary or 'no summary'}; read the vendor's "
            "changelog, and look for a newer connector",
        )
    if not breaking:
        version = changelog.current_version or "unknown"
        report.ok("contract", f"version {version}; no breaking release is unknown here")
