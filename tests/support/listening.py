"""Addresses on which a process listens, from Linux' /proc."""

from __future__ import annotations

import ipaddress
from pathlib import Path

# The state of a TCP socket, from Linux' include/net/tcp_states.h.
_LISTEN = "0A"


def listening(pid: int) -> set[tuple[str, int]]:
    """Return (address, port) of every TCP socket on which the process `pid` accepts connections."""
    # The tables below list all sockets of the network namespace, by inode.
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(str(descriptor.readlink()))
        except FileNotFoundError:  # closed since the folder was listed
            continue

    found = set()
    for table in ("tcp", "tcp6"):
        text = Path(f"/proc/{pid}/net/{table}").read_text()
        _, *lines = text.splitlines()
        for line in lines:
            _, local, _, state, *rest = line.split()
            if state == _LISTEN and f"socket:[{rest[5]}]" in sockets:
                address, port = local.split(":")
                found.add((_readable(address), int(port, 16)))
    return found


def _readable(address: str) -> str:
    """Turn the kernel's words of 32 bits in host order (little-endian) into an address."""
    words = []
    for start in range(0, len(address), 8):
        word = bytes.fromhex(address[start : start + 8])
        words.append(word[::-1])
    parsed = ipaddress.ip_address(b"".join(words))
    # An IPv4 client of a dual-stack socket appears as ::ffff:127.0.0.1.
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(parsed)
