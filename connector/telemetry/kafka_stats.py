"""What librdkafka says of its connections: its STATISTICS.md, where durations are microseconds. Pure."""

from __future__ import annotations

import msgspec

from connector.core.model import MICROS


class _Window(msgspec.Struct):
    p99: int = 0
    cnt: int = 0


class _Broker(msgspec.Struct):
    nodeid: int = -1
    source: str = ""
    state: str = ""
    rtt: _Window = msgspec.field(default_factory=_Window)


class Statistics(msgspec.Struct):
    """One client's: its brokers by name."""

    brokers: dict[str, _Broker] = {}

    @property
    def brokers_up(self) -> int:
        """How many it is connected to."""
        return sum(
            broker.nodeid >= 0 and broker.state == "UP"
            for broker in self.brokers.values()
        )

    @property
    def rtt_seconds(self) -> dict[str, float]:
        """Of those with traffic, by id; the connection that librdkafka keeps for the group is `coordinator`."""
        return {
            "coordinator"
            if broker.source == "logical"
            else str(broker.nodeid): broker.rtt.p99 / MICROS
            for broker in self.brokers.values()
            if broker.rtt.cnt and (broker.nodeid >= 0 or broker.source == "logical")
        }


decode = msgspec.json.Decoder(Statistics).decode
