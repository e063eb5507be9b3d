"""The end of the client certificate that Kafka is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from connector.config.model import Kafka


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
    if not pem:
        return None

    # It takes 25 ms and 7 MiB, and most workers have no client certificate.
    from cryptography import x509  # noqa: PLC0415 -- as above

    try:
        chain = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion):
        # Not a certificate. librdkafka has an opinion about it, too.
        return None
    return min(certificate.not_valid_after_utc for certificate in chain)
