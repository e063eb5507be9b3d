"""The arguments of `python -m tests.chaos`, and its front of the registry."""

from __future__ import annotations

import http.client
import socket
import struct
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.chaos.__main__ import ZOMBIE_KINDS, parser, plan_of
from tests.chaos.faults import FAULTS
from tests.support.registry_front import STRANGE, RegistryFront

if TYPE_CHECKING:
    from tests.chaos.run import Plan


def plan(*arguments: str) -> Plan:
    return plan_of(parser().parse_args(arguments))


def test_a_run_has_faults_of_all_kinds() -> None:
    assert plan().kinds == tuple(FAULTS)
    assert plan().fenced


def test_the_control_has_the_faults_that_make_zombies() -> None:
    assert plan("--unfenced").kinds == ZOMBIE_KINDS
    assert not plan("--unfenced").fenced
    assert set(ZOMBIE_KINDS) <= set(FAULTS)


def test_kinds_can_be_chosen_for_both() -> None:
    assert plan("--kinds", "kill,hiccup").kinds == ("kill", "hiccup")
    assert plan("--unfenced", "--kinds", "kill").kinds == ("kill",)


def test_an_unknown_kind_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        plan("--kinds", "kill,flood")
    message = capsys.readouterr().err
    assert "no fault 'flood'" in message
    assert "network cut" in message


def test_a_killed_client_of_the_registry_leaves_no_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    registry: Any = SimpleNamespace(url="http://127.0.0.1:1/apis")
    front = RegistryFront(registry)
    # Closing the server then waits for the thread of the connection.
    front._server.daemon_threads = False
    with front.running():
        address = urlsplit(front.url)
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(
                b"POST /apis/subjects HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"
            )
            # Closing resets the connection, as a killed process does with unread data.
            linger = struct.pack("ii", 1, 0)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        # Connections are accepted in order: an answer to the second shows that the first
        # has its thread.
        front.answer = STRANGE["null"]
        second = http.client.HTTPConnection(str(address.hostname), address.port)
        with closing(second):
            second.request("GET", "/apis/config", headers={"Connection": "close"})
            second.getresponse().read()

    assert capsys.readouterr().err == ""
