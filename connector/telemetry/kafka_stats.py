"""The statistics that librdkafka reports about a client's connections. Pure.

The fields are described in librdkafka's STATISTICS.md. Durations there are microseconds.
"""

from __future__ import annotations

import msgspec

from connector.core.model import MICROS


class _Window(msgspec.Struct):
    """A rolling window of durations: the 99th percentile, and the number of values."""

    p99: int = 0
    cnt: int = 0


class _Broker(msgspec.Struct):
    """A connection of a client: to a broker, a bootstrap address, or a coordinator."""

    nodeid: int = -1
    source: str = ""
    state: str = ""
    rtt: _Window = msgspec.field(default_factory=_Window)

    @property
    def is_real(self) -> bool:
        """True for a broker. Bootstrap addresses and logical connections have no node id."""
        return self.nodeid >= 0

    @property
    def is_coordinator(self) -> bool:
        """True for the connection that librdkafka keeps to the group's coordinator."""
        return self.source == "logical"


class Statistics(msgspec.Struct):
    """Statistics of one client: its brokers by name."""

    brokers: dict[str, _Broker] = {}

    @property
    def brokers_up(self) -> int:
        """Number of brokers the client is connected to."""
        count = 0
        for broker in self.brokers.values():
            if broker.is_real and broker.state == "UP":
                count += 1
        return count

    @property
    def rtt_seconds(self) -> dict[str, float]:
        """Round-trip times of the brokers with traffic, by node id or `coordinator`."""
        found = {}
        for broker in self.brokers.values():
            # An idle connection reports 0, which would look like a perfect network.
            if broker.rtt.cnt == 0:
                continue
            if broker.is_coordinator:
                found["coordinator"] = broker.rtt.p99 / MICROS
            elif broker.is_real:
                found[str(broker.nodeid)] = broker.rtt.p99 / MICROS
        return found


# Fields that are not named above are ignored: librdkafka adds some from release to release.
decode = msgspec.json.Decoder(Statistics).decode
