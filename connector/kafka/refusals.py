"""Tells a failed authentication from an outage: waiting does not help, but new credentials do."""

from __future__ import annotations

import re
from typing import Final

from confluent_kafka import KafkaError

from connector.core.model import Value

_AUTHENTICATION: Final = {
    KafkaError._AUTHENTICATION,  # noqa: SLF001 -- librdkafka's name
    KafkaError.SASL_AUTHENTICATION_FAILED,
}
# Errors of tokens and of their mechanism have this word, in one case or the other.
_OAUTH: Final = "OAUTH"

# The broker's refusals of a client certificate, from `bad_certificate` to `access_denied`, and
# `certificate_required`: RFC 8446, section 6. Java says `certificate_unknown` if it has expired.
_CERTIFICATE_ALERT: Final = re.compile(r"SSL alert number (4[2-9]|116)\b")
# OpenSSL's words if we refuse the broker's certificate.
_UNTRUSTED_BROKER: Final = "certificate verify failed"

CHECK_PASSWORD: Final = "check sasl.mechanism, sasl.username and sasl.password"  # noqa: S105 -- names of settings
CHECK_TOKEN: Final = "check kafka.oauth_cb, or sasl.oauthbearer.* in kafka.client"  # noqa: S105 -- as above


class Refusal(Value, frozen=True):
    """A failed authentication: the side that refuses the other, and the remedy."""

    summary: str
    remedy: str


_UNTRUSTED: Final = Refusal(
    "the certificate of Kafka is not trusted",
    "check ssl.ca.location in kafka.client, and the names and the end of the brokers' "
    "certificate",
)


def _refused(remedy: str) -> Refusal:
    return Refusal("Kafka refuses the credentials", remedy)


_CERTIFICATE: Final = _refused(
    "check ssl.certificate.location and ssl.key.location in kafka.client, and when the "
    "certificate expires"
)
_PASSWORD: Final = _refused(CHECK_PASSWORD)
_TOKEN: Final = _refused(CHECK_TOKEN)


def refusal_of(error: KafkaError) -> Refusal | None:
    """Return the refusal that an error means, None if it is no failed authentication."""
    text = error.str()
    if error.code() in _AUTHENTICATION:
        return _TOKEN if _OAUTH in text.upper() else _PASSWORD
    if _CERTIFICATE_ALERT.search(text):
        return _CERTIFICATE
    if _UNTRUSTED_BROKER in text:
        return _UNTRUSTED
    return None
