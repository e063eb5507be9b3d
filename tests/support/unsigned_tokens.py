"""Tokens for a broker that accepts unsigned ones: `unsigned_tokens:token`.

Tests copy this file into a folder of the worker's PYTHONPATH.
"""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path

USER = "gex"
# Clients replace a token after 8 s.
LIFE_SECONDS = 10


def token(calls: str) -> tuple[str, float]:
    """Return a token that expires soon, and note the call in the file `calls`."""
    with Path(calls).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return new_token()


def failing(_: str) -> tuple[str, float]:
    """Fail as a function without credentials does."""
    raise RuntimeError("no credentials were found")


def new_token() -> tuple[str, float]:
    """Return an unsigned JSON web token, and when it expires."""
    now = time.time()
    expiry = now + LIFE_SECONDS
    claims = {"sub": USER, "iat": now, "exp": expiry}
    return f"{_encoded({'alg': 'none'})}.{_encoded(claims)}.", expiry


def _encoded(part: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
