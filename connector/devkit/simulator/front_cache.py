"""The cache that the fault `cached` puts in front of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from connector.devkit.simulator.levels import Content
    from connector.devkit.simulator.reply import Reply


class _Stored(NamedTuple):
    body: bytes
    status: int
    headers: dict[str, str]
    results: dict[str, Content | None]


class FrontCache:
    """The first answer to each request, by the text of the request."""

    def __init__(self) -> None:
        self._stored: dict[str, _Stored] = {}

    def clear(self) -> None:
        """Forget all answers."""
        self._stored.clear()

    def store(self, request: str, reply: Reply) -> None:
        """Keep a successful answer."""
        is_whole = reply.sent_fraction == 1 and reply.replacement is None
        if reply.success and is_whole:
            self._stored[request] = _Stored(
                reply.body, reply.status, dict(reply.headers), dict(reply.results)
            )

    def replay(self, request: str, reply: Reply, *, with_headers: bool) -> bool:
        """Turn a reply into the stored answer. Return False if there is none."""
        stored = self._stored.get(request)
        if stored is None:
            return False
        reply.replacement = stored.body
        reply.is_raw = False
        reply.status = stored.status
        reply.results = dict(stored.results)
        if with_headers:
            reply.headers = dict(stored.headers)
        return True
