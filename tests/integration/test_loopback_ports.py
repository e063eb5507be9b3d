"""Ports of local servers: two processes never get the same port."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from connector.devkit.loopback_ports import PortClaims, usual_port
from connector.errors import KafkaUnavailable

if TYPE_CHECKING:
    from pathlib import Path

# A process that claims one port of three, says so, and lives until its input ends.
CLAIM = """
import sys
from pathlib import Path
from connector.devkit.loopback_ports import PortClaims, usual_port
print(PortClaims(Path(sys.argv[1])).claim(range(19000, 19003)), flush=True)
sys.stdin.read()
"""
PORTS = range(19000, 19003)


def test_a_claimed_port_belongs_to_its_process_until_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "claims"
    command = [sys.executable, "-c", CLAIM, str(path)]
    claims = PortClaims(path)

    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        # No server listens on any of the three ports: only the claim tells them apart.
        ours = {claims.claim(PORTS), claims.claim(PORTS)}
        assert ours == set(PORTS) - {theirs}
        other.communicate()

    # The kernel has released the claim of the process that ended.
    assert claims.claim(PORTS) == theirs


def test_a_claim_fails_clearly_if_every_port_is_taken(tmp_path: Path) -> None:
    claims = PortClaims(tmp_path / "claims")
    for _ in PORTS:
        claims.claim(PORTS)

    with pytest.raises(KafkaUnavailable, match="no free port from 19000 to 19002"):
        claims.claim(PORTS)


def test_a_usual_port_is_taken_once() -> None:
    first, second = usual_port(19003), usual_port(19003)

    # Another process may have the first one, too.
    assert first != second
    assert second != 19003
