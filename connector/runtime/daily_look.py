"""Looks once a day at the vendor's reports about its service."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Final

from connector.errors import RequestRefused, UpstreamError
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
    from collections.abc import Awaitable, Callable, Iterable

    from connector.config.model import Feed
    from connector.runtime.ports import RequestObserver
    from connector.upstream.budget import Budget
    from connector.upstream.client import Client

_log = logging.getLogger(__name__)

_DAY_SECONDS: Final = 24 * 3600
# The wait after a failed look, doubled after each further one. A plan may never permit these
# reports: two requests an hour would be a seventh of the smallest plan's month.
_FIRST_RETRY_SECONDS: Final = 3600

# A worker that keeps failing at its start should not spend requests on looks.
_FIRST_LOOK_SECONDS: Final = 60
# Workers that start together should not look together.
_SPREAD_SECONDS: Final = 60
_RANDOM: Final = secrets.SystemRandom()

# A look can wait. If the budget allows no request for this long, try again later.
_PERMIT_SECONDS: Final = 60


async def sleep_about(seconds: float) -> None:
    """Sleep for some seconds, and up to a minute longer."""
    await asyncio.sleep(seconds + _RANDOM.uniform(0, _SPREAD_SECONDS))


class DailyLook:
    """Reports breaking releases, stale symbols and venues that are off.

    A look takes two requests of the budget, and one to `/health`, which needs no key. A
    standby does not look: others do.
    """

    def __init__(
        self,
        client: Client,
        budget: Budget,
        feeds: Iterable[Feed],
        observer: RequestObserver,
        is_polling: Callable[[], bool],
        sleep: Callable[[float], Awaitable[None]] = sleep_about,
    ) -> None:
        """`sleep` waits for some seconds, or a little longer."""
        self._client = client
        self._budget = budget
        self._observer = observer
        self._is_polling = is_polling
        self._sleep = sleep
        self._interest = Interest.of(feeds)
        self._reported: set[str] = set()
        """Breaking releases that have been logged."""

    async def run(self) -> None:
        """Look once a day until cancelled, and sooner after a failed look."""
        wait_seconds: float = _FIRST_LOOK_SECONDS
        retry_seconds = _FIRST_RETRY_SECONDS
        while True:
            await self._sleep(wait_seconds)
            if not self._is_polling():
                wait_seconds = _FIRST_LOOK_SECONDS
            elif await self.look():
                wait_seconds = _DAY_SECONDS
                retry_seconds = _FIRST_RETRY_SECONDS
            else:
                wait_seconds = retry_seconds
                retry_seconds = min(2 * retry_seconds, _DAY_SECONDS)

    async def look(self) -> bool:
        """Read all reports. Return True if there were any."""
        health = await self._read_health()
        try:
            async with asyncio.timeout(_PERMIT_SECONDS):
                status_report = await self._fetch(STATUS_PATH)
                changelog_report = await self._fetch(CHANGELOG_PATH)
        except (TimeoutError, UpstreamError) as error:
            reason = str(error) or "the budget allows no request"
            fields = {"error": reason, "health": health}
            _log.warning("cannot look at the vendor's service", extra=fields)
            return False
        self._handle_status(status_report, health)
        self._handle_changelog(changelog_report)
        return True

    async def _read_health(self) -> str:
        """Return the status in `/health`, or the error: their side is down, or ours."""
        try:
            return read_health(await self._client.fetch_health()) or "unknown"
        except UpstreamError as error:
            return str(error)

    async def _fetch(self, path: str) -> object:
        async with self._budget.request() as permit:
            try:
                return await self._client.fetch_report(path, permit)
            except RequestRefused:
                # Contract 2.0 has no changelog: tomorrow is soon enough to try again.
                return {}

    def _handle_status(self, report: object, health: str) -> None:
        status = read_status(report, self._interest)
        fields = {
            "health": health,
            "overall_status": status.overall or "unknown",
            "stale": "; ".join(status.stale),
            "venues_off": "; ".join(status.venues_off),
        }
        if status.stale or status.venues_off or not is_good(health):
            _log.warning("the vendor reports trouble with its service", extra=fields)
        else:
            _log.info("the vendor reports no trouble with its service", extra=fields)

    def _handle_changelog(self, report: object) -> None:
        changelog = read_changelog(report)
        breaking = changelog.breaking_releases()
        self._observer.contract_reported(
            changelog.current_version, is_breaking=bool(breaking)
        )
        for release in breaking:
            if release.version in self._reported:
                continue
            self._reported.add(release.version)
            major, minor = KNOWN_CONTRACT
            fields = {
                "version": release.version,
                "summary": release.summary,
                "known_contract": f"{major}.{minor}",
            }
            _log.warning("the vendor's API has a breaking release", extra=fields)
