"""Fetch levels and reports from the upstream, within the request budget."""

from __future__ import annotations

import functools
import time
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import httpx

from connector.core.decode import RateLimit, Response
from connector.core.model import MICROS, Value
from connector.core.timestamps import Timestamps
from connector.errors import (
    BadResponse,
    Intercepted,
    UpstreamError,
    UpstreamUnavailable,
)
from connector.upstream.headers import (
    has_fallback_limit,
    quota,
    rate_limit,
    server_time,
)
from connector.upstream.reply import (
    decode_levels,
    decode_report,
    decode_symbols,
    pause_seconds,
)
from connector.upstream.sender import Sender
from connector.upstream.service import HEALTH_PATH

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connector.config.model import Upstream
    from connector.upstream.api_key import ApiKey
    from connector.upstream.budget import Budget, Permit
    from connector.upstream.reply import Reply

_T = TypeVar("_T")

_LEVELS_PATH: Final = "/multi/gex/levels"
_SYMBOLS_PATH: Final = "/symbols"

# Errors that another connection, to another address of the name, may not have.
_NOT_FROM_THE_API: Final = (UpstreamUnavailable, BadResponse, Intercepted)


class LevelsRequest(Value, frozen=True):
    """Parameters of a request for levels."""

    symbols: tuple[str, ...]
    exchanges: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    positioning: str | None = None


class LevelsAnswer(Value, frozen=True):
    """A decoded response, with the wall clock (microseconds) around the request.

    `is_fallback_limit` says that the server's usual counter is down, and that `rate_limit` is
    that of a stricter one. `is_copy` says that a cache answered with an earlier response.
    """

    response: Response
    rate_limit: RateLimit
    sent_at: int
    received_at: int
    is_fallback_limit: bool = False
    is_copy: bool = False


class Client:
    """Fetches levels. Every request needs a permit of the budget, which learns from it.

    Errors are those of `connector.errors`, and none contains the API key.
    """

    def __init__(
        self,
        upstream: Upstream,
        key: ApiKey,
        budget: Budget,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._key = key
        self._budget = budget
        self._clock = clock
        self._sender = Sender(upstream, clock)
        self._timestamps = Timestamps()
        base_url = upstream.base_url.rstrip("/")
        self._levels_url = f"{base_url}{_LEVELS_PATH}"
        self._symbols_url = httpx.URL(f"{base_url}{_SYMBOLS_PATH}")

    @property
    def requests_sent(self) -> int:
        """Requests of every kind, also those that count against no budget."""
        return self._sender.requests

    async def close(self) -> None:
        """Close the connections."""
        await self._sender.close()

    async def fetch_levels(
        self, request: LevelsRequest, permit: Permit
    ) -> LevelsAnswer:
        """Send one request for levels and decode the reply.

        Raises:
            UpstreamError: for everything but a response with `success`.
        """
        key = self._key.secret.reveal()
        url = _url(self._levels_url, request)
        requested_at = self._clock()
        sent_at = time.time_ns() // 1000
        reply, pool = await self._sender.send(url, key)
        received_at = time.time_ns() // 1000

        response = decode_levels(reply, request.symbols, key)
        is_copy = self._is_copy(response, requested_at)
        is_from_the_api = not isinstance(response, _NOT_FROM_THE_API)
        # An old server that the name has moved away from sends copies, too.
        is_of_use = is_from_the_api and not is_copy
        pool.failures = 0 if is_of_use else pool.failures + 1

        if isinstance(response, UpstreamError):
            # A refusal of the previous key says nothing about the new one, which may belong
            # to another user.
            is_outdated = key != self._key.secret.reveal()
            if is_outdated:
                raise UpstreamUnavailable("the API key was replaced during the request")
            self._learn(permit, reply.headers, response, key)
            raise response

        if is_copy:
            # The figures of a cache's copy are those of long ago.
            figures = rate_limit(reply.headers, response.meta)
        else:
            figures = self._learn(permit, reply.headers, response, key)
        is_fallback_limit = has_fallback_limit(reply.headers)
        return LevelsAnswer(
            response, figures, sent_at, received_at, is_fallback_limit, is_copy
        )

    async def fetch_symbols(self, permit: Permit) -> frozenset[str]:
        """Return every text that the endpoint `/symbols` returns.

        All live symbols are among them, and so are the names of fields.

        Raises:
            UpstreamError: for everything but a list.
        """
        return await self._fetch(self._symbols_url, permit, decode_symbols)

    async def fetch_report(self, path: str, permit: Permit) -> object:
        """Return the JSON of an endpoint about the service, such as `/status`.

        Raises:
            UpstreamError: for everything but JSON.
        """
        decode = partial(decode_report, path)
        return await self._fetch(self._url_of(path), permit, decode)

    async def fetch_health(self) -> object:
        """Return the JSON of `/health`, which takes no key and counts against no budget.

        Raises:
            UpstreamError: for everything but JSON.
        """
        key = self._key.secret.reveal()
        url = self._url_of(HEALTH_PATH)
        reply, _ = await self._sender.send(url, key, with_key=False)
        report = decode_report(HEALTH_PATH, reply, key)
        if isinstance(report, UpstreamError):
            raise report
        return report

    async def _fetch(
        self,
        url: httpx.URL,
        permit: Permit,
        decode: Callable[[Reply, str], _T | UpstreamError],
    ) -> _T:
        """Send one request, let the budget learn from the reply, and return its contents.

        `decode` takes the reply and the API key, which it hides.
        """
        key = self._key.secret.reveal()
        reply, _ = await self._sender.send(url, key)
        contents = decode(reply, key)
        if isinstance(contents, UpstreamError):
            self._learn(permit, reply.headers, contents, key)
            raise contents
        self._learn(permit, reply.headers, None, key)
        return contents

    def _url_of(self, path: str) -> httpx.URL:
        return httpx.URL(self._upstream.base_url.rstrip("/") + path)

    def _is_copy(self, response: Response | UpstreamError, requested_at: float) -> bool:
        """Return True if a response was there before its request."""
        if isinstance(response, UpstreamError):
            return False
        meta = response.meta
        if meta.server_at is None:
            return False
        # A server whose clock stands still gives each response an id of its own. Its figures
        # are the only ones there are.
        return self._timestamps.is_repeated(
            (meta.server_at, meta.request_id),
            requested_at=round(requested_at * MICROS),
            received_at=round(self._clock() * MICROS),
        )

    def _learn(
        self,
        permit: Permit,
        headers: Mapping[str, str],
        response: Response | UpstreamError | None,
        key: str,
    ) -> RateLimit:
        """Pass the figures and pauses in a reply to the budget.

        Those of a key that was replaced meanwhile may be another user's.
        """
        now = self._clock()
        meta = response.meta if isinstance(response, Response) else None
        figures = rate_limit(headers, meta)
        if key != self._key.secret.reveal():
            return figures
        server_at = server_time(headers, meta)
        if server_at is None:
            server_at = time.time()
        self._budget.learn(permit, figures, server_at, now)
        self._budget.learn_month(permit, quota(headers), server_at, now)
        if isinstance(response, UpstreamError):
            self._budget.pause(now + pause_seconds(response))
        return figures


# A worker asks for the same batches again and again, and httpx takes 0.1 ms for a URL.
@functools.lru_cache(maxsize=256)
def _url(endpoint: str, request: LevelsRequest) -> httpx.URL:
    """Return the URL of a request, its values joined with plain commas.

    The API's documentation joins them so. The configuration has checked every value: none
    needs escaping.
    """
    parts = [f"symbols={','.join(request.symbols)}"]
    if request.exchanges:
        parts.append(f"exchanges={','.join(request.exchanges)}")
    if request.include:
        parts.append(f"include={','.join(request.include)}")
    if request.positioning is not None:
        parts.append(f"positioning={request.positioning}")
    return httpx.URL(f"{endpoint}?{'&'.join(parts)}")
