"""Reads the headers of records, also of those that another program wrote."""

from __future__ import annotations

from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import confluent_kafka as ck

# `message.headers()` (confluent-kafka 2.16) returns a list although it has set an exception.
# The interpreter may overlook that for a direct call, and then raise it somewhere else. It
# checks the result of a call that C code makes, as this one does.
_headers: Final = methodcaller("headers")


def headers_of(message: ck.Message) -> dict[str, Any]:
    """Return the headers of a record, none if the names are no UTF-8.

    The connector never writes such names, but clients in C and Go can.
    """
    try:
        return dict(_headers(message) or {})
    except (SystemError, UnicodeDecodeError):
        # Another call would return a list with a hole in it, which crashes the process.
        message.set_headers([])
        return {}
