"""librdkafka's own figures, added up over the clients of this process. Pure.

Source: librdkafka's STATISTICS.md; durations there are microseconds, `ts` is its monotonic clock.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

FORGET_MICROS: Final = 60_000_000
"""A client that has said nothing for this long has been closed; `statistics.interval.ms` must be shorter."""

_MICROS: Final = 1_000_000


class _Window(msgspec.Struct):
    p99: int = 0
    cnt: int = 0


class _Broker(msgspec.Struct):
    nodeid: int = -1
    state: str = ""
    rtt: _Window = msgspec.field(default_factory=_Window)


class _Client(msgspec.Struct):
    name: str
    type: str
    ts: int
    msg_cnt: int = 0
    msg_size: int = 0
    brokers: dict[str, _Broker] = {}


class Totals(msgspec.Struct, frozen=True):
    """All clients together; `rtt_seconds` by broker id, of the producers: a consumer's fetch waits on purpose."""

    queue_messages: int
    queue_bytes: int
    brokers_up: int
    rtt_seconds: dict[str, float]


class KafkaStats:
    """The last figures of every client. `update` may be called from any thread."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}
        self._decode = msgspec.json.Decoder(_Client).decode
        self._lock = Lock()

    def update(self, text: str | bytes) -> Totals | None:
        """Take one client's statistics; None where they cannot be read."""
        try:
            client = self._decode(text)
        except (msgspec.DecodeError, UnicodeError):
            return None
        with self._lock:
            self._clients[client.name] = client
            self._clients = {n: c for n, c in self._clients.items() if client.ts - c.ts <= FORGET_MICROS}
            return _totals(self._clients.values())


def _totals(clients: Iterable[_Client]) -> Totals:
    rtt: dict[str, float] = {}
    up: set[int] = set()
    messages = size = 0
    for client in clients:
        messages += client.msg_cnt
        size += client.msg_size
        for broker in client.brokers.values():
            if broker.nodeid < 0:
                continue
            if broker.state == "UP":
                up.add(broker.nodeid)
            if client.type == "producer" and broker.rtt.cnt > 0:
                node = str(broker.nodeid)
                rtt[node] = max(rtt.get(node, 0.0), broker.rtt.p99 / _MICROS)
    return Totals(messages, size, len(up), rtt)
