"""Remove the API key from everything that a server sends.

A server may repeat the key, and its words end up in logs, errors and events.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from connector.config.secrets import MASK

if TYPE_CHECKING:
    from collections.abc import Mapping

# Texts from outside are cut before they reach logs, errors and events.
_MAX_MESSAGE_CHARACTERS: Final = 500

# A cut text may end within the key. A part this long is worth hiding.
_REVEALING_CHARACTERS: Final = 8


def clean_headers(headers: Mapping[str, str], key: str) -> dict[str, str]:
    """Return the headers by lower-case name, without the API key."""
    cleaned = {}
    for name, value in headers.items():
        cleaned[name.lower()] = value.replace(key, MASK)
    return cleaned


def clean_body(body: bytes, key: str) -> bytes:
    """Return the decompressed body without the API key, also if JSON escapes hide it.

    Texts of the body end up in events, labels and logs, where the escapes are gone.
    """
    cleaned = body.replace(key.encode(), MASK.encode())
    # Nearly all bodies have no escape at all.
    if b"\\" not in cleaned:
        return cleaned
    return _escaped_in_json(key).sub(MASK.encode(), cleaned)


def _escaped_in_json(key: str) -> re.Pattern[bytes]:
    """Return a pattern for the key with any of its characters escaped."""
    characters = []
    for char in key:
        spellings = [re.escape(char), rf"\\u(?i:{ord(char):04x})"]
        # RFC 8259, section 7: these three can also follow a backslash.
        if char in '"\\/':
            spellings.append(re.escape(f"\\{char}"))
        characters.append(f"(?:{'|'.join(spellings)})")
    return re.compile("".join(characters).encode())


def clean_text(text: str, key: str) -> str:
    """Return a text from outside, bounded and without the API key.

    If a part of the key remains, the text was cut within the key: hide all of it.
    """
    text = text.replace(key, MASK)
    for start in range(len(key) - _REVEALING_CHARACTERS + 1):
        if key[start : start + _REVEALING_CHARACTERS] in text:
            return MASK
    return text[:_MAX_MESSAGE_CHARACTERS]
