"""The status page: a document without data, which asks the API for it."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from aiohttp import web

_POLICY: Final = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


class StatusPage:
    """The page and the headers that confine it to its own script and style."""

    def __init__(self, html: str) -> None:
        self._html = html
        script, style = _source_hash(html, "script"), _source_hash(html, "style")
        self._headers = {
            "Content-Security-Policy": (
                f"{_POLICY}; script-src {script}; style-src {style}"
            ),
            "Referrer-Policy": "no-referrer",
        }

    def response(self) -> web.Response:
        """Return the page."""
        return web.Response(
            text=self._html, content_type="text/html", headers=self._headers
        )


def _source_hash(html: str, element: str) -> str:
    """Return the hash source (W3C CSP 3) of the page's one element of this kind."""
    found = re.search(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
    content = found[1] if found else ""
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
