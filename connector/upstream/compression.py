"""Undo the compression of HTTP bodies, which may be of any size when unpacked."""

from __future__ import annotations

import zlib
from typing import Final

from connector.errors import BadResponse

# zlib's code for "expect a gzip header".
_GZIP: Final = 16 + zlib.MAX_WBITS

# The first bytes of every gzip member (RFC 1952, section 2.3.1).
_GZIP_MAGIC: Final = b"\x1f\x8b"

# More members are an attack: each costs a copy of the rest of the body.
_MAX_GZIP_MEMBERS: Final = 100

# Two proxies may each have compressed the body. More than a few layers are an attack.
_MAX_GZIP_LAYERS: Final = 4

# Values that leave the body as it is. `utf-8` is not an encoding, but servers send it.
_NO_ENCODING: Final = frozenset({"", "identity", "utf-8", "utf8", "none"})
_GZIP_ENCODING: Final = frozenset({"gzip", "x-gzip"})

# Part of a header that an error shows.
_MAX_ENCODING_CHARACTERS: Final = 40


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo the Content-Encoding, without ever holding more than `limit` bytes.

    Caches and proxies send headers that do not fit their bodies, so the body decides: one
    that begins like JSON is not compressed, whatever the header says.

    Raises:
        BadResponse: if the encoding is not supported, or the body is damaged or larger.
    """
    names = [name.strip() for name in encoding.lower().split(",")]
    compressions = [name for name in names if name not in _NO_ENCODING]
    begins_like_json = body.lstrip()[:1] in {b"{", b"["}
    if begins_like_json or not compressions:
        return body
    if not _GZIP_ENCODING.issuperset(compressions):
        shown = encoding[:_MAX_ENCODING_CHARACTERS]
        raise BadResponse(f"unsupported Content-Encoding {shown!r} (requested gzip)")

    for _ in compressions[:_MAX_GZIP_LAYERS]:
        # A proxy may have undone one of them already.
        if body.startswith(_GZIP_MAGIC):
            body = _gunzip(body, limit)
    return body


def _gunzip(body: bytes, limit: int) -> bytes:
    """Decompress all members of a gzip body: a body may be several, one after another."""
    decompressed = bytearray()
    rest = body
    members = 0
    while rest.startswith(_GZIP_MAGIC):
        members += 1
        if members > _MAX_GZIP_MEMBERS:
            raise BadResponse(f"body has more than {_MAX_GZIP_MEMBERS} gzip members")
        decompressor = zlib.decompressobj(_GZIP)
        # One byte more than allowed is enough to know, however well the rest is packed.
        room = limit + 1 - len(decompressed)
        try:
            decompressed += decompressor.decompress(rest, room)
        except zlib.error as error:
            raise BadResponse(f"cannot decompress the body: {error}") from None
        if len(decompressed) > limit:
            raise BadResponse(too_large(limit))
        rest = decompressor.unused_data
    return bytes(decompressed)


def too_large(limit: int) -> str:
    """Return the fault of a body above the limit."""
    return f"body is larger than {limit} bytes (upstream.max_response_bytes)"
