"""The HTTP proxy on the way to the API and to the schema registry: one rule for both.

The options `upstream.proxy` and `schema_registry.proxy` come first. Otherwise the usual
variables apply: `HTTPS_PROXY` to https addresses, `HTTP_PROXY` to http ones, and
`NO_PROXY` names the exceptions. Libraries read these variables by rules of their own, so
none of ours is allowed to.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from connector.config.values import HOST, PORT, is_loopback, matching_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.config.secrets import Secret

# The value of the option that overrides the variables.
_NO_PROXY_AT_ALL: Final = "none"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# Other characters of user and password must be percent-encoded: `#` would end the address.
_USER_INFO: Final = r"[^@/?#\[\]\\\x00-\x20\x7f]+@"
_check_form = matching_address(
    rf"none|(http://)?({_USER_INFO})?{HOST}(:(?!0){PORT})?/?",
    "http://host:port, optionally with user:password@ ('#' as %23, and so on), or none",
)
_entry_with_port: Final = re.compile(r"(\[.*\]|[^:]*):(\d+)")


def check_proxy(value: str) -> str:
    """Return a proxy's URL with its scheme, or `none`. Raises InvalidValue."""
    _check_form(value)
    has_scheme = value.startswith("http://") or value == _NO_PROXY_AT_ALL
    return value if has_scheme else f"http://{value}"


def proxy_url(proxy: Secret) -> str | None:
    """Return the URL of a configured proxy, with its password. None: connect directly."""
    value = proxy.reveal()
    return None if value in {"", _NO_PROXY_AT_ALL} else value


def proxy_secrets(proxy: Secret) -> tuple[str, ...]:
    """Return the texts that must not be shown: the password, as it is written and meant."""
    password = urlsplit(proxy.reveal()).password
    return () if not password else (password, unquote(password))


def describe_route(proxy: Secret) -> str:
    """Return the way to an address in words, without user and password."""
    url = proxy_url(proxy)
    if url is None:
        return "directly"
    _, _, address = urlsplit(url).netloc.rpartition("@")
    return f"through the proxy {address}"


def proxy_from_environment(
    url: str, environ: Mapping[str, str]
) -> tuple[str, str] | None:
    """Return the variable that names a proxy for a URL, and its value.

    None if there is no proxy, or if the URL is an exception. This machine is always one.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        # Not a URL, which is a fault of its own.
        return None
    if not host or parts.scheme not in _DEFAULT_PORTS or is_loopback(host):
        return None
    port = port or _DEFAULT_PORTS[parts.scheme]

    _, exceptions = _variable("no_proxy", environ)
    for entry in exceptions.split(","):
        if _covers(entry.strip().lower(), host, port):
            return None
    variable, value = _variable(f"{parts.scheme}_proxy", environ)
    return (variable, value) if value else None


def _variable(name: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the name and value of a variable. Lower case comes first, as in curl."""
    for spelling in (name, name.upper()):
        value = environ.get(spelling, "").strip()
        if value:
            return spelling, value
    return name, ""


def _covers(entry: str, host: str, port: int) -> bool:
    """Return True if an entry of `NO_PROXY` names a host.

    An entry is `*`, a name (with the names below it), an address or a network, and may
    have a port.
    """
    if entry in {"", "*"}:
        return entry == "*"
    with_port = _entry_with_port.fullmatch(entry)
    if with_port is not None:
        entry = with_port[1]
        if int(with_port[2]) != port:
            return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = entry.removeprefix("*").removeprefix(".")
        return host == name or host.endswith(f".{name}")
    try:
        return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False
