"""Requests of `gex-connector check`: the wait for one, and the remedy if it is refused."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from connector.errors import NothingFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from connector.errors import RequestRefused
    from connector.upstream.budget import Budget, Permit

# The budget may wait for the next minute, and a person waits for the answer.
_WAIT_SECONDS: Final = 10.0


@asynccontextmanager
async def request_of_this_minute(budget: Budget) -> AsyncIterator[Permit]:
    """Wait until the budget allows a request. Raises TimeoutError if that takes too long.

    The request itself has the limit `upstream.timeout_seconds`.
    """
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(_WAIT_SECONDS):
            permit = await stack.enter_async_context(budget.request())
        yield permit


def remedy_of_refusal(error: RequestRefused, feed: str) -> str:
    """Return the settings to check: the address is right if the API itself has refused."""
    if isinstance(error, NothingFound):
        return f"check the symbols of feed {feed}"
    if error.is_from_api:
        return (
            f"check include, exchanges and positioning of feed {feed}, and its symbols"
        )
    return f"check upstream.base_url, and include and exchanges of feed {feed}"
