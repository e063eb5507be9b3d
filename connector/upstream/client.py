"""One request to the upstream, and what came of it: a decoded response, or one of the errors of `connector.errors`.

httpx over the transport of aiohttp, which costs less than half of its own (`make bench`), and without `AsyncClient`:
cookies, redirects and authentication are not wanted here, since the key would go with them. HTTP/1.1 with kept
connections.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from connector import __version__
from connector.config.secrets import MASK
from connector.core.decode import RateLimit, Refusal, Response, decode_response
from connector.core.model import MICROS, Value
from connector.errors import (
    BadResponse,
    KeyRefused,
    NothingFound,
    RateLimited,
    RequestRefused,
    UpstreamError,
    UpstreamUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from connector.config.model import Upstream
    from connector.upstream.api_key import ApiKey
    from connector.upstream.budget.limiter import Limiter, Request

_HEADERS: Final = {
    "accept": "application/json",
    "accept-encoding": "gzip",
    "user-agent": f"gex-levels-connector/{__version__}",
}
_LEVELS: Final = "/multi/gex/levels"
_CONNECTIONS: Final = 64
_KEEP_ALIVE_SECONDS: Final = 120
_MAX_RETRY_AFTER_SECONDS: Final = 3600
_LONGEST_SLEEP_SECONDS: Final = 0.2
HELD_SECONDS: Final = 5.0
"""After a 429 that does not say how long."""

_TELLING_CHARACTERS: Final = 8
_GZIP: Final = 16 + zlib.MAX_WBITS
_OK: Final = 200
_MAX_DIGITS: Final = 12
"""Digits of a number in a header: enough for Unix seconds."""

_BY_CODE: Final[dict[str, type[UpstreamError]]] = {
    "UNAUTHORIZED": KeyRefused,
    "FORBIDDEN": KeyRefused,
    "NOT_FOUND": NothingFound,
    "VALIDATION_ERROR": RequestRefused,
    "RATE_LIMIT_EXCEEDED": RateLimited,
    "UPSTREAM_ERROR": UpstreamUnavailable,
    "INTERNAL_ERROR": UpstreamUnavailable,
}
_BY_STATUS: Final[dict[int, type[UpstreamError]]] = {
    401: KeyRefused,
    403: KeyRefused,
    429: RateLimited,
}
_SERVER_ERRORS: Final = range(500, 600)


class Ask(Value, frozen=True):
    """What a request asks for."""

    symbols: tuple[str, ...]
    exchanges: tuple[str, ...] = ()
    include: tuple[str, ...] = ()


class Answer(Value, frozen=True):
    """A response, and when it was asked for and complete by our wall clock (microseconds); `seconds` in between."""

    response: Response
    rate_limit: RateLimit
    sent_at: int
    received_at: int
    seconds: float


class _Reply(Value, frozen=True):
    """What came back, the key taken out of it. `fault`: why the body cannot be read, where it cannot."""

    status: int
    headers: dict[str, str]
    body: bytes
    fault: str | None = None


class Client:
    """Asks the upstream. Nothing reaches it past the limiter."""

    def __init__(self, upstream: Upstream, key: ApiKey, limiter: Limiter) -> None:
        self._upstream = upstream
        self._key = key
        self._limiter = limiter
        self._turn = asyncio.Lock()
        self._transport = AiohttpTransport(client=_session)
        self._extensions = {
            "timeout": httpx.Timeout(upstream.timeout_seconds).as_dict()
        }
        self._url = httpx.URL(f"{upstream.base_url.rstrip('/')}{_LEVELS}")

    async def close(self) -> None:
        """Let go of the connections."""
        await self._transport.aclose()

    async def permit(self) -> Request:
        """Wait until the budget allows a request, which counts from now on; who came first goes first.

        Hand it to `check`, or to the limiter as ended where it is not made.
        """
        async with self._turn:
            # An answer can change it either way.
            while wait := self._limiter.wait_seconds(time.monotonic()):  # noqa: ASYNC110 -- time is waited for
                await asyncio.sleep(min(wait, _LONGEST_SLEEP_SECONDS))
            return self._limiter.started(time.monotonic())

    async def check(self, ask: Ask, request: Request | None = None) -> Answer:
        """Ask once and decode, with the permit or when there is one.

        Raises:
            UpstreamError: in all cases but a response of the API with `success`.
        """
        if request is None:
            request = await self.permit()
        key = self._key.secret.reveal()
        sent_at, started = time.time_ns() // 1000, time.monotonic()
        reply = await self._reply(self._url.copy_with(query=_query(ask)), key)
        received_at, seconds = time.time_ns() // 1000, time.monotonic() - started
        response = _decoded(reply, ask.symbols, key)
        rate_limit = self._learn(request, reply.headers, response)
        if isinstance(response, UpstreamError):
            raise response
        return Answer(response, rate_limit, sent_at, received_at, seconds)

    async def symbols(self) -> frozenset[str]:
        """Every text that the sibling endpoint `/symbols` has, names of fields too; among them are what is live.

        Raises:
            UpstreamError: in all cases but a body that is JSON.
        """
        request, key = await self.permit(), self._key.secret.reveal()
        reply = await self._reply(
            self._url.copy_with(path=self._url.path.replace(_LEVELS, "/symbols")), key
        )
        refused = _decoded(
            reply, (), key
        )  # it has no levels: BadResponse where all is well
        if reply.status != _OK or not isinstance(refused, BadResponse):
            self._learn(request, reply.headers, refused)
            raise (
                refused
                if isinstance(refused, UpstreamError)
                else BadResponse("no list of symbols")
            )
        try:
            return frozenset(_texts(msgspec.json.decode(reply.body)))
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadResponse(f"no list of symbols: {error}") from None

    async def _reply(self, url: httpx.URL, key: str) -> _Reply:
        """One request for which there is a permit. Raises UpstreamUnavailable."""
        try:
            async with asyncio.timeout(self._upstream.timeout_seconds):
                return await self._get(url, key)
        except TimeoutError:
            raise UpstreamUnavailable(
                f"no answer within {self._upstream.timeout_seconds:g} s"
            ) from None
        # ValueError: the transport decodes reason phrase and Location strictly (UnicodeError is one)
        except (
            httpx.HTTPError,
            httpx.InvalidURL,
            httpx.StreamError,
            aiohttp.ClientError,
            OSError,
            ValueError,
        ) as error:
            cause = (
                error.__cause__ or error
            )  # the transport's names for them are not always right
            raise UpstreamUnavailable(
                f"{type(cause).__name__}: {_hidden(str(cause), key)}"
            ) from None
        finally:
            self._limiter.ended(time.monotonic())

    async def _get(self, url: httpx.URL, key: str) -> _Reply:
        limit, body = self._upstream.max_response_bytes, bytearray()
        request = httpx.Request(
            "GET",
            url,
            headers={**_HEADERS, "X-API-Key": key},
            extensions=self._extensions,
        )
        response = await self._transport.handle_async_request(request)
        try:
            status = response.status_code
            # A server may repeat the key, and what it says goes into logs, errors and events.
            headers = {
                name.lower(): value.replace(key, MASK)
                for name, value in response.headers.items()
            }
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > limit:
                    return _Reply(status, headers, b"", f"longer than {limit} bytes")
        finally:
            await response.aclose()
        try:
            unpacked = _unpacked(
                bytes(body), headers.get("content-encoding", ""), limit
            )
        except BadResponse as error:
            return _Reply(status, headers, b"", str(error))
        return _Reply(status, headers, unpacked.replace(key.encode(), MASK.encode()))

    def _learn(
        self,
        request: Request,
        headers: Mapping[str, str],
        response: Response | UpstreamError,
    ) -> RateLimit:
        now, meta = (
            time.monotonic(),
            response.meta if isinstance(response, Response) else None,
        )
        given = meta.rate_limit if meta else RateLimit()
        said = RateLimit(
            limit=_integer(headers.get("x-ratelimit-limit"), given.limit),
            remaining=_integer(headers.get("x-ratelimit-remaining"), given.remaining),
            reset_at_seconds=_integer(
                headers.get("x-ratelimit-reset"), given.reset_at_seconds
            ),
        )
        server_at = (
            meta.server_at / MICROS if meta and meta.server_at else _date(headers)
        )
        self._limiter.learn(
            request, said, time.time() if server_at is None else server_at, now
        )
        # A refused key waits for another key, and a refused request says nothing about others.
        if isinstance(response, UpstreamError) and not isinstance(
            response, KeyRefused | RequestRefused
        ):
            unsaid = HELD_SECONDS if isinstance(response, RateLimited) else 0.0
            self._limiter.hold(now + (response.retry_after_seconds or unsaid))
        return said


def _unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its compression, never longer than allowed however well it was packed. Raises BadResponse."""
    encoding = encoding.lower()
    if encoding in {"identity", ""}:
        return body
    if encoding not in {"gzip", "x-gzip"}:
        raise BadResponse(f"compressed with {encoding[:20]!r}, asked was for gzip")
    unpacker = zlib.decompressobj(_GZIP)
    try:
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadResponse(f"the compressed body is damaged: {error}") from None
    if len(unpacked) > limit:
        raise BadResponse(f"longer than {limit} bytes when unpacked")
    return unpacked


def _decoded(
    reply: _Reply, symbols: Sequence[str], key: str
) -> Response | UpstreamError:
    status, headers = reply.status, reply.headers
    kind = _BY_STATUS.get(
        status, UpstreamUnavailable if status in _SERVER_ERRORS else BadResponse
    )
    request_id = headers.get("x-request-id", "")[:200] or None
    try:
        response = _response(reply, symbols)
    except BadResponse as error:
        # An error of a proxy in between says nothing about our symbols.
        return kind(
            f"HTTP {status}: {_hidden(str(error), key)}",
            status=status,
            request_id=request_id,
            retry_after_seconds=_retry_after(headers, {}),
        )
    refusal = response.refusal
    if status == _OK and refusal is None:
        return response
    refusal = refusal or Refusal("UNKNOWN", "", {})
    return _BY_CODE.get(refusal.code, kind)(
        _hidden(
            f"HTTP {status}: {refusal.code}: {refusal.message} {_faults(refusal.details)}".rstrip(),
            key,
        ),
        status=status,
        request_id=request_id or response.meta.request_id,
        retry_after_seconds=_retry_after(headers, refusal.details),
    )


def _response(reply: _Reply, symbols: Sequence[str]) -> Response:
    if reply.fault is not None:
        raise BadResponse(reply.fault)
    return decode_response(reply.body, symbols)


def _hidden(text: str, key: str) -> str:
    """A text from outside, bounded, without the key; all of it is hidden where a part of the key is left."""
    text = text.replace(key, MASK)
    parts = (
        key[start : start + _TELLING_CHARACTERS]
        for start in range(len(key) - _TELLING_CHARACTERS + 1)
    )
    return MASK if any(part in text for part in parts) else text[:500]


def _query(ask: Ask) -> bytes:
    """As the vendor writes it, with commas; every part was checked by the configuration."""
    given = (
        ("symbols", ask.symbols),
        ("exchanges", ask.exchanges),
        ("include", ask.include),
    )
    return "&".join(
        f"{name}={','.join(values)}" for name, values in given if values
    ).encode()


def _texts(document: object) -> Iterator[str]:
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict | list):
        for inner in (
            [*document, *document.values()] if isinstance(document, dict) else document
        ):
            yield from _texts(inner)


def _session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=_CONNECTIONS, keepalive_timeout=_KEEP_ALIVE_SECONDS
    )
    session = aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar()
    )
    # Else aiohttp sends a GET again by itself when the server drops the connection, past the limiter; it has no
    # public switch for that.
    session._retry_connection = False  # noqa: SLF001 -- as the comment says; a test counts the requests
    return session


def _faults(details: dict[str, Any]) -> str:
    errors = details.get("errors")
    return str(errors)[:200] if errors else ""


def _retry_after(headers: Mapping[str, str], details: dict[str, Any]) -> float | None:
    """Seconds, from the header (RFC 9110, 10.2.3: seconds or a date) or else the body."""
    text = headers.get("retry-after")
    seconds = _integer(text, None)
    if seconds is None and text:
        until = _parsed_date(text)
        seconds = None if until is None else until - (_date(headers) or time.time())
    if seconds is None and isinstance(
        given := details.get("retry_after_seconds"), int | float
    ):
        seconds = given
    return (
        None
        if seconds is None
        else float(min(max(seconds, 0), _MAX_RETRY_AFTER_SECONDS))
    )


def _integer(text: str | None, otherwise: float | None) -> Any:
    if text and text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        return int(text)
    return otherwise


def _date(headers: Mapping[str, str]) -> float | None:
    return _parsed_date(headers.get("date", ""))


def _parsed_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
