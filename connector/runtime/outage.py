"""Asks the vendor if it is healthy, when checks bring no answers."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from connector.errors import (
    BadResponse,
    Intercepted,
    UpstreamError,
    UpstreamUnavailable,
)
from connector.upstream.service import is_good, read_health

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from connector.upstream.client import Client

_log = logging.getLogger(__name__)

# A lost connection or two are no outage.
_FAILURES_IN_A_ROW: Final = 3

# Also between two outages, so that those which come and go ask no more often.
_LOOK_INTERVAL_SECONDS: Final = 600

# Something else than the API may have answered, or nothing at all.
_NOT_FROM_THE_API: Final = (UpstreamUnavailable, BadResponse, Intercepted)

_ANSWERED_BY_THE_API: Final = (
    "the API itself answers with the error: wait, or ask the vendor"
)


class Outage:
    """Counts checks without an answer of the API, and keeps the vendor's word about it."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        """Set while too many checks in a row have failed."""
        self.explanation: str | None = None
        """Whose trouble it is, according to `/health`. None: no outage, or not known yet."""
        self.is_from_api = False
        """The API itself has answered the last check, with an error."""
        self._failures = 0

    def check_failed(self, error: UpstreamError) -> None:
        """Count a failure. The API's own refusals are answers, too."""
        if not isinstance(error, _NOT_FROM_THE_API):
            self.end()
            return
        self._failures += 1
        self.is_from_api = error.is_from_api
        if self._failures >= _FAILURES_IN_A_ROW:
            self.began.set()

    def end(self) -> None:
        """Forget the failures: the API has answered, or others ask it now."""
        self._failures = 0
        self.explanation = None
        self.began.clear()


class OutageLook:
    """Reads `/health` in an outage. That takes no key, and no request of the budget."""

    def __init__(
        self,
        client: Client,
        outage: Outage,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._outage = outage
        self._sleep = sleep

    async def run(self) -> None:
        """Look when an outage begins, and rarely while it lasts, until cancelled."""
        while True:
            await self._outage.began.wait()
            await self.look()
            await self._sleep(_LOOK_INTERVAL_SECONDS)

    async def look(self) -> None:
        """Log whose trouble it is, and keep it for the status page."""
        try:
            health = read_health(await self._client.fetch_health()) or "unknown"
        except UpstreamError as error:
            health = str(error)
            explanation = "/health does not answer either: look at the network first"
        else:
            explanation = _explain(health)
        # Then the way to it is in order, whatever /health says.
        if self._outage.is_from_api:
            explanation = _ANSWERED_BY_THE_API
        # An answer may have come while we asked.
        if self._outage.began.is_set():
            self._outage.explanation = explanation
            _log.warning("checks fail; %s", explanation, extra={"health": health})


def _explain(health: str) -> str:
    if is_good(health):
        return "the vendor says it is healthy: look at the network in between"
    return "the vendor says it is not healthy: wait, or ask the vendor"
