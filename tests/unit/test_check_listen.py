"""`check` tries the address of the HTTP server as a worker does."""

from __future__ import annotations

import socket

import pytest

from connector.config.model import Http
from connector.devkit.loopback_ports import free_port
from connector.errors import EXIT_CONFIG
from connector.tools.check_listen import check_listen
from connector.tools.report import Report


async def checked(listen: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit status and the line that is printed."""
    report = Report()
    await check_listen(Http(listen=listen), report)
    return report.exit_code, capsys.readouterr().out


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:0", "localhost:0", "0.0.0.0:0", "[::]:0"]
)
async def test_a_free_address_is_named(
    listen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = await checked(listen, capsys)

    assert code == 0
    assert line == f"ok    listen         {listen} is free\n"


async def test_each_of_several_addresses_is_tried(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, lines = await checked("127.0.0.1:0,192.0.2.1:9464", capsys)

    assert code == EXIT_CONFIG
    good, bad = lines.splitlines()
    assert good == "ok    listen         127.0.0.1:0 is free"
    assert bad.startswith("FAIL  listen         cannot listen on 192.0.2.1:9464: ")


async def test_an_address_in_use_is_a_warning_since_a_worker_may_have_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        code, line = await checked(listen, capsys)

    assert code == 0
    assert line.startswith(f"warn  listen         {listen} is in use")


async def test_an_address_in_use_does_not_overlap_with_another_of_the_same_port(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        code, lines = await checked(f"127.0.0.1:{port},127.0.0.2:{port}", capsys)

    assert code == 0
    assert f"warn  listen         127.0.0.2:{port} is in use" in lines


# The first belongs to nobody (RFC 5737).
@pytest.mark.parametrize("listen", ["192.0.2.1:9464", "a..b:9464"])
async def test_an_address_of_another_machine_would_end_a_worker(
    listen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = await checked(listen, capsys)

    assert code == EXIT_CONFIG
    assert line.startswith(f"FAIL  listen         cannot listen on {listen}: ")
    assert "set http.listen to an address of this machine" in line


# A worker would find it out only when it starts.
@pytest.mark.parametrize(
    "listen",
    [
        "0.0.0.0:{0},127.0.0.1:{0}",
        "127.0.0.1:{0},0.0.0.0:{0}",
        "localhost:{0},127.0.0.1:{0}",
    ],
)
async def test_addresses_that_overlap_would_end_a_worker(
    listen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = listen.format(free_port()).split(",")

    code, lines = await checked(f"{first},{second}", capsys)

    assert code == EXIT_CONFIG
    good, bad = lines.splitlines()
    assert good == f"ok    listen         {first} is free"
    assert bad.startswith(
        f"FAIL  listen         cannot listen on {second} as well as on"
    )
    assert "leave one of them out" in bad
