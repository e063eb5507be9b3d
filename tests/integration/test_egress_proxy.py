"""A network whose only way out is an HTTP proxy: API and registry follow one rule."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from connector.kafka.avro import EVENT
from connector.kafka.registry import Registry
from tests.support.egress_proxy import EgressProxy
from tests.support.log_messages import SHARD_OPEN
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)
from tests.support.tools import run_tool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program, Variables
    from tests.support.registry import LocalRegistry

# No resolver knows these (RFC 6761), so the only way to them is the proxy.
API_HOST = "api.invalid"
REGISTRY_HOST = "registry.invalid"
PASSWORD = "pr0xy-p@ss"
USER_INFO = f"gex:{PASSWORD}"
ESCAPED_USER_INFO = "gex:pr0xy-p%40ss"


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--limit", "0", "--period", "1") as program:
        yield program


@pytest.fixture
def hosts(simulator: Program, registry: LocalRegistry) -> dict[str, str]:
    return {API_HOST: simulator.url, REGISTRY_HOST: registry.url}


@pytest.fixture
def variables(
    kafka: LocalKafka,
    registry: LocalRegistry,
    names: Names,
    simulator: Program,
    tmp_path: Path,
) -> Variables:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert(API_HOST)
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "api.pem"))
    path = registry.url.partition("://")[2].partition("/")[2]
    return {
        **variables_for(kafka, names, simulator, ["BTCUSDT"]),
        "GEX_UPSTREAM__BASE_URL": f"https://{API_HOST}/v2",
        "GEX_SCHEMA_REGISTRY__URL": f"http://{REGISTRY_HOST}/{path}",
        # The proxy ends TLS with a certificate of this authority.
        "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
    }


@pytest.fixture
def context(variables: Variables, tmp_path: Path) -> ssl.SSLContext:
    del variables  # it writes the file
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "api.pem")
    return context


def through(proxy: EgressProxy, user_info: str = "") -> dict[str, str]:
    """Return the usual variables for a proxy."""
    at = f"{user_info}@" if user_info else ""
    url = f"http://{at}{proxy.address}"
    return {"HTTPS_PROXY": url, "HTTP_PROXY": url}


def line_of(printed: str, item: str) -> str:
    (line,) = [line for line in printed.splitlines() if line[6:].startswith(f"{item} ")]
    return line


def test_api_and_registry_are_reached_through_the_proxy_of_the_variables(
    hosts: dict[str, str], variables: Variables, context: ssl.SSLContext
) -> None:
    proxy = EgressProxy(hosts, context=context, user_info=USER_INFO)
    with proxy.running():
        settings = {**variables, **through(proxy, ESCAPED_USER_INFO)}

        code, printed = run_tool("check", variables=settings)

        assert code == 0, printed
        route = f"through the proxy {proxy.address}"
        assert f"API {route}, registry {route}" in line_of(printed, "proxy")
        assert f"CONNECT {API_HOST}:443" in proxy.requests
        assert any(REGISTRY_HOST in request for request in proxy.requests)
        assert PASSWORD not in printed

        with start_worker(settings, arguments=["--log-level", "DEBUG"]) as worker:
            wait_for_log(worker, SHARD_OPEN)

            def has_published() -> bool:
                return worker.metric("gex_events_total") > 0

            wait_until(has_published, "an event", worker)
            assert worker.terminate() == 0
            assert PASSWORD not in worker.log()


def test_the_options_come_before_the_variables(
    hosts: dict[str, str], variables: Variables, context: ssl.SSLContext
) -> None:
    proxy = EgressProxy(hosts, context=context)
    nobody = {"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    with proxy.running():
        options = {
            "GEX_UPSTREAM__PROXY": proxy.address,
            "GEX_SCHEMA_REGISTRY__PROXY": proxy.address,
        }

        code, printed = run_tool("check", variables={**variables, **nobody, **options})

    assert code == 0, printed


@pytest.mark.parametrize(
    "exception",
    [
        {"NO_PROXY": f"{API_HOST},{REGISTRY_HOST}"},
        {"GEX_UPSTREAM__PROXY": "none", "GEX_SCHEMA_REGISTRY__PROXY": "none"},
    ],
)
def test_exceptions_are_reached_directly(
    hosts: dict[str, str], variables: Variables, exception: Variables
) -> None:
    proxy = EgressProxy(hosts)
    with proxy.running():
        settings = {**variables, **through(proxy), **exception}

        code, printed = run_tool("check", variables=settings)

    # Only the proxy knows the hosts.
    assert code == 3, printed
    assert "API directly, registry directly" in line_of(printed, "proxy")
    assert proxy.requests == []


def test_this_machine_is_reached_directly_by_every_client(
    kafka: LocalKafka, registry: LocalRegistry, names: Names, simulator: Program
) -> None:
    nobody = "http://127.0.0.1:1"
    proxies = {
        "HTTPS_PROXY": nobody,
        "HTTP_PROXY": nobody,
        # Libraries cannot use it without another package.
        "ALL_PROXY": "socks5://127.0.0.1:1",
    }
    variables = variables_for(kafka, names, simulator, ["BTCUSDT"])
    variables["GEX_SCHEMA_REGISTRY__URL"] = registry.url

    code, printed = run_tool("check", variables={**variables, **proxies})

    assert code == 0, printed
    assert "API directly, registry directly" in line_of(printed, "proxy")


@pytest.mark.parametrize(
    ("user_info", "reason"), [("", "407"), (f"gex:{'x' * 12}", "407")]
)
def test_check_names_the_proxy_that_refuses_us(
    hosts: dict[str, str],
    variables: Variables,
    context: ssl.SSLContext,
    user_info: str,
    reason: str,
) -> None:
    proxy = EgressProxy(hosts, context=context, user_info=USER_INFO)
    with proxy.running():
        settings = {**variables, **through(proxy, user_info)}

        code, printed = run_tool("check", variables=settings)

    assert code == 3, printed
    assert reason in line_of(printed, "upstream")
    assert "check the proxy" in line_of(printed, "upstream")
    assert reason in line_of(printed, "registry")
    assert "x" * 12 not in printed


def test_check_names_the_proxy_that_is_away(variables: Variables) -> None:
    nobody = {"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}

    code, printed = run_tool("check", variables={**variables, **nobody})

    assert code == 3, printed
    assert "127.0.0.1:1" in line_of(printed, "upstream")
    assert "check the proxy" in line_of(printed, "upstream")
    assert "check schema_registry.url" in line_of(printed, "registry")


def test_a_proxy_of_another_kind_is_2_with_its_variable(variables: Variables) -> None:
    socks = {"HTTPS_PROXY": "socks5://proxy:1080"}

    code, printed = run_tool("check", variables={**variables, **socks})

    assert code == 2, printed
    assert "upstream.proxy" in printed
    assert "expected http://host:port" in printed
    assert "from environment HTTPS_PROXY" in printed


def test_the_registry_gets_user_and_password_of_the_proxy(
    registry: LocalRegistry, names: Names
) -> None:
    path = registry.url.partition("://")[2].partition("/")[2]
    proxy = EgressProxy({REGISTRY_HOST: registry.url}, user_info=USER_INFO)
    with proxy.running():
        url = f"http://{ESCAPED_USER_INFO}@{proxy.address}"
        framing = Registry(f"http://{REGISTRY_HOST}/{path}", {}, url)
        framing.prepare(names.topic_prefix, EVENT)
        framing.close()

    assert proxy.requests
