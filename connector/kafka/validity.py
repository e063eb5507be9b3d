"""The end of a certificate, read without a library: Python's own reads only those of authorities.

RFC 5280, section 4.1, describes the structure, and X.690 its encoding (DER).
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from connector.config.model import Kafka

_PEM: Final = re.compile(
    rb"-----BEGIN (?:X509 )?CERTIFICATE-----(.+?)-----END", re.DOTALL
)

# Tags of DER.
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
# The fields of a certificate before its validity, less the optional version: serial number,
# signature algorithm, issuer.
_FIELDS_BEFORE_VALIDITY: Final = 3

# A length of more than one byte begins with the number of its bytes.
_IS_LONG: Final = 0x80
# RFC 5280: two digits from 50 on mean the 20th century.
_FIRST_YEAR_OF_20TH: Final = "50"


def client_certificate_end(kafka: Kafka) -> datetime | None:
    """Return when the client certificate expires, or the first one of its chain.

    None if there is none, or if it is not in PEM format.
    """
    pem = str(kafka.client.get("ssl.certificate.pem", "")).encode()
    file = str(kafka.client.get("ssl.certificate.location", ""))
    if file:
        try:
            pem = Path(file).read_bytes()
        except OSError:
            return None
    ends = []
    for match in _PEM.finditer(pem):
        try:
            ends.append(_end_of(base64.b64decode(match[1])))
        except (ValueError, IndexError):
            # Not a certificate. librdkafka has an opinion about it, too.
            return None
    return min(ends, default=None)


def _end_of(der: bytes) -> datetime:
    """Return the end of a certificate. Raises ValueError or IndexError if it is none."""
    ((_, certificate),) = _elements(der)
    _, signed = _elements(certificate)[0]
    fields = _elements(signed)
    if fields[0][0] == _VERSION:
        del fields[0]
    _, validity = fields[_FIELDS_BEFORE_VALIDITY]
    _, (tag, end) = _elements(validity)
    text = end.decode("ascii")
    if tag == _UTC_TIME:
        century = "19" if text >= _FIRST_YEAR_OF_20TH else "20"
        text = century + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _elements(content: bytes) -> list[tuple[int, bytes]]:
    """Return the tag and the content of each element of a sequence."""
    elements = []
    start = 0
    while start < len(content):
        tag, length = content[start], content[start + 1]
        start += 2
        if length & _IS_LONG:
            size = length - _IS_LONG
            length = int.from_bytes(content[start : start + size], "big")
            start += size
        elements.append((tag, content[start : start + length]))
        start += length
    return elements
