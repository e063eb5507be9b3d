"""Rules of access to the API.

On loopback anybody may read, provided the request names this machine. Elsewhere, and
for every change, the token of `http.token` is required.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from connector.config.secrets import quote
from connector.config.values import is_loopback
from connector.web.server import problem

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from connector.config.model import Http

_REMEDY: Final = "set http.token_file or http.token (GEX_HTTP__TOKEN_FILE) and restart"


class Access:
    """Checks where a request comes from, and its token."""

    def __init__(self, http: Http) -> None:
        self._is_local = http.is_local
        self._token = http.token

    def guard(self, handler: Handler, *, changes: bool = False) -> Handler:
        """Return the handler behind the rules. `changes`: it changes something."""
        needs_token = changes or not self._is_local

        async def guarded(request: web.Request) -> web.StreamResponse:
            refusal = self.refuse_origin(request)
            if refusal is None and needs_token:
                refusal = self._refuse_token(request)
            if refusal is not None:
                return refusal
            return await handler(request)

        return guarded

    def refuse_origin(
        self, request: web.Request, *, links_allowed: bool = False
    ) -> web.Response | None:
        """Return an error if another site's page sent the request, otherwise None.

        `links_allowed`: other sites may link to it, since it shows no data.
        """
        # Browsers always send this header, and scripts cannot set it. Other clients omit
        # it, and they have no user's session to abuse.
        site = request.headers.get("Sec-Fetch-Site", "none")
        if site not in {"none", "same-origin"} and not links_allowed:
            return problem(403, "cross-site requests are not allowed")
        # DNS rebinding: another site's name may resolve to this machine, and its pages
        # would then count as ours. The Host header still carries that name.
        if self._is_local and not _names_loopback(request.host):
            return problem(
                421,
                f"unexpected Host header {quote(request.host)}; "
                "expected localhost or a loopback address",
            )
        return None

    def _refuse_token(self, request: web.Request) -> web.Response | None:
        """Return an error unless the request carries the token."""
        if not self._token:
            return problem(
                403,
                f"this request needs a token, but none is configured; {_REMEDY}",
            )
        authorization = request.headers.get(hdrs.AUTHORIZATION, "")
        scheme, _, token = authorization.partition(" ")
        # A plain comparison takes longer the more characters are right, which gives the
        # token away. aiohttp keeps bytes that are not UTF-8 as surrogates.
        is_right = hmac.compare_digest(
            token.strip().encode(errors="surrogateescape"),
            self._token.reveal().encode(),
        )
        if scheme.lower() == "bearer" and is_right:
            return None
        return problem(
            401,
            "missing or wrong token; expected the header 'Authorization: Bearer TOKEN'",
            {"WWW-Authenticate": "Bearer"},
        )


def _names_loopback(host: str) -> bool:
    """Return True if a Host header names this machine and nothing else."""
    try:
        hostname = urlsplit(f"//{host}").hostname or ""
        return is_loopback(hostname)
    except ValueError:  # such as "["
        return False
