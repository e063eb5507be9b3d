"""The rule by which requests go through an HTTP proxy or directly."""

from __future__ import annotations

import pytest

from connector.config.proxy import (
    check_proxy,
    describe_route,
    proxy_from_environment,
    proxy_secrets,
    proxy_url,
)
from connector.config.secrets import Secret
from connector.config.values import InvalidValue

API = "https://api.example.com/v2"
PROXIES = {"HTTPS_PROXY": "http://secure:1", "HTTP_PROXY": "http://plain:2"}


def test_each_scheme_has_its_variable() -> None:
    for url, expected in (
        (API, ("HTTPS_PROXY", "http://secure:1")),
        ("http://registry:8081", ("HTTP_PROXY", "http://plain:2")),
    ):
        assert proxy_from_environment(url, PROXIES) == expected


def test_without_its_variable_a_scheme_has_no_proxy() -> None:
    only_http = {"HTTP_PROXY": "http://plain:2", "ALL_PROXY": "http://other:3"}
    assert proxy_from_environment(API, only_http) is None


def test_lower_case_comes_first_and_an_empty_variable_counts_as_unset() -> None:
    both = {"https_proxy": "http://lower:1", "HTTPS_PROXY": "http://upper:1"}
    assert proxy_from_environment(API, both) == ("https_proxy", "http://lower:1")

    empty = {"https_proxy": " ", "HTTPS_PROXY": "http://upper:1"}
    assert proxy_from_environment(API, empty) == ("HTTPS_PROXY", "http://upper:1")


@pytest.mark.parametrize(
    "url", ["https://localhost/v2", "http://127.0.0.1:8080/v2", "https://[::1]/v2"]
)
def test_this_machine_is_reached_directly(url: str) -> None:
    assert proxy_from_environment(url, PROXIES) is None


@pytest.mark.parametrize(
    ("exceptions", "url"),
    [
        ("*", API),
        ("api.example.com", API),
        ("API.Example.COM", API),
        ("other.com, example.com", API),
        (".example.com", API),
        ("*.example.com", API),
        ("example.com:443", API),
        ("10.1.2.3", "https://10.1.2.3/v2"),
        ("10.0.0.0/8", "https://10.1.2.3/v2"),
        ("10.1.2.3:8443", "https://10.1.2.3:8443/v2"),
        ("fd00::/8", "https://[fd00::1]/v2"),
        ("[fd00::1]:443", "https://[fd00::1]/v2"),
    ],
)
def test_no_proxy_names_hosts_that_are_reached_directly(
    exceptions: str, url: str
) -> None:
    assert proxy_from_environment(url, PROXIES | {"NO_PROXY": exceptions}) is None


@pytest.mark.parametrize(
    ("exceptions", "url"),
    [
        ("", API),
        (",", API),
        ("ample.com", API),
        ("www.api.example.com", API),
        ("example.com:8443", API),
        ("10.1.2.3", API),
        ("10.0.0.0/8", "https://11.1.2.3/v2"),
        ("example.com", "https://10.1.2.3/v2"),
    ],
)
def test_other_hosts_are_reached_through_the_proxy(exceptions: str, url: str) -> None:
    assert proxy_from_environment(url, PROXIES | {"NO_PROXY": exceptions}) is not None


@pytest.mark.parametrize("url", ["", "None", "ftp://x", "https://[", "https://a:b"])
def test_what_is_not_a_url_has_no_proxy(url: str) -> None:
    assert proxy_from_environment(url, PROXIES) is None


@pytest.mark.parametrize(
    ("value", "cleaned"),
    [
        ("http://proxy:3128", "http://proxy:3128"),
        ("http://proxy:3128/", "http://proxy:3128/"),
        ("proxy:3128", "http://proxy:3128"),
        ("me:p%40ss@10.0.0.1:3128", "http://me:p%40ss@10.0.0.1:3128"),
        ("none", "none"),
    ],
)
def test_a_proxy_is_an_address_with_or_without_scheme(value: str, cleaned: str) -> None:
    assert check_proxy(value) == cleaned


@pytest.mark.parametrize(
    "value",
    [
        "socks5://proxy:1080",
        "https://proxy",
        "proxy:0",
        "a b",
        "http://",
        "@",
        "http://[:::]:3128",
        # Parsers end the address there, and errors would show the rest.
        "http://me:p#ss@proxy:3128",
        "http://me:p?ss@proxy:3128",
        "http://me:p[ss@proxy:3128",
        "http://me:p\x01ss@proxy:3128",
    ],
)
def test_other_proxies_are_refused(value: str) -> None:
    with pytest.raises(InvalidValue, match="expected http://host:port"):
        check_proxy(value)


def test_a_password_is_a_secret_and_is_not_part_of_the_route() -> None:
    proxy = Secret("http://me:p%40ss@proxy:3128")

    assert proxy_secrets(proxy) == ("p%40ss", "p@ss")
    assert describe_route(proxy) == "through the proxy proxy:3128"
    assert proxy_url(proxy) == "http://me:p%40ss@proxy:3128"


@pytest.mark.parametrize("value", ["", "none"])
def test_without_a_proxy_the_route_is_direct(value: str) -> None:
    proxy = Secret(value)

    assert proxy_url(proxy) is None
    assert proxy_secrets(proxy) == ()
    assert describe_route(proxy) == "directly"
