"""Answers as bytes: the proper one, and everything that can come in its place."""

from __future__ import annotations

import asyncio
import functools
import gzip
import zlib
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from connector.simulator.service import Reply

MEGABYTE: Final = 1024 * 1024
HTML: Final = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
JSON: Final = {"Content-Type": "application/json"}


def respond(request: web.Request, status: int, body: bytes, headers: dict[str, str]) -> web.Response:
    """JSON, compressed where the client takes gzip."""
    headers = headers | JSON
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        body = gzip.compress(body, compresslevel=1, mtime=0)
    return web.Response(status=status, body=body, headers=headers)


async def respond_instead(
    request: web.Request, reply: Reply, pause: Callable[[float], Awaitable[None]]
) -> web.StreamResponse:
    """What the reply's `instead` puts in its place; `pause` waits up to some seconds."""
    if reply.instead is None:
        return respond(request, reply.status, reply.body, reply.headers)
    name, parameters = reply.instead.name, reply.instead.parameters
    headers = reply.headers | JSON
    if name == "hang":
        await pause(parameters["seconds"])
    if name in {"hang", "drop"}:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    if name == "truncated":
        return await _half(request, reply.body, headers)
    if name == "gzip_bomb":
        bomb = await asyncio.to_thread(_bomb, int(parameters["megabytes"]))
        return web.Response(body=bomb, headers=headers | {"Content-Encoding": "gzip"})
    return _odd(name, parameters, reply.body, headers)


async def _half(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers | {"Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def _odd(name: str, parameters: dict[str, Any], body: bytes, headers: dict[str, str]) -> web.Response:
    status = int(parameters.get("status", 200))
    if name == "html":
        return web.Response(status=status, body=HTML, content_type="text/html")
    if name == "redirect":
        return web.Response(status=302, headers={"Location": parameters["location"]})
    if name == "huge":
        body += b" " * int(parameters["megabytes"] * MEGABYTE)
    elif name == "deep":
        depth = int(parameters["depth"])
        body = b'{"success":true,"data":%b%b}' % (b"[" * depth, b"]" * depth)
    else:
        body = b""
    return web.Response(status=status, body=body, headers=headers)


@functools.lru_cache(maxsize=2)
def _bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    blank = b" " * MEGABYTE
    return b"".join([packer.compress(blank) for _ in range(megabytes)]) + packer.compress(b"{}") + packer.flush()
