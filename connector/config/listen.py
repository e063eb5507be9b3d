"""The addresses on which a worker listens."""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

from connector.config.values import (
    HOST,
    PORT,
    InvalidValue,
    is_loopback,
    matching_address,
)

_EXPECTED: Final = (
    "host:port or [address]:port, several separated by commas, port 0 to 65535"
)
_IPV6: Final = 6

_check_address = matching_address(f"{HOST}:{PORT}", _EXPECTED)


class Address(NamedTuple):
    """A host and a port. An IPv6 address has no brackets."""

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """True if no other machine can connect."""
        return is_loopback(self.host)

    @property
    def is_every(self) -> bool:
        """True if it stands for every address of this machine."""
        return self.host == "0.0.0.0" or self.is_every_of_ipv6

    @property
    def is_every_of_ipv6(self) -> bool:
        """True for `::`, which can take connections over IPv4 too."""
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:  # a name
            return False
        return address.version == _IPV6 and address.is_unspecified

    @property
    def url(self) -> str:
        """The address as a URL without a path."""
        return f"http://{self}"

    def __str__(self) -> str:
        """Return the address as it is configured."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def check_addresses(value: str) -> str:
    """Accept different addresses, separated by commas. Raises InvalidValue."""
    texts = [text.strip() for text in value.split(",")]
    for text in texts:
        _check_address(text)
    if len(set(texts)) < len(texts):
        raise InvalidValue(f"expected {_EXPECTED}, each once")
    return ",".join(texts)


def addresses_of(listen: str) -> tuple[Address, ...]:
    """Return the addresses in a text that `check_addresses` accepts."""
    addresses = []
    for text in listen.split(","):
        host, _, port = text.rpartition(":")
        addresses.append(Address(host.strip("[]"), int(port)))
    return tuple(addresses)
