"""Watches the connector's topics at run time: somebody may delete or change them.

The clients stay silent about that. Transactions with a missing topic time out, and a topic
that brokers create by themselves has other partitions and policies than ours.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from confluent_kafka.admin import AdminClient

from connector.errors import AccessDenied, KafkaError
from connector.kafka.admin import check_topics
from connector.kafka.errors import new_client, serve_callbacks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.kafka.admin import TopicSize, TopicSpec
    from connector.kafka.clients import Clients
    from connector.kafka.reader import Reader

_log = logging.getLogger(__name__)

_GONE: Final = " is gone"
_CREATE_AGAIN: Final = (
    "restart one worker, which creates them again, or create them by hand (operations, "
    "A topic is gone)"
)


class TopicWatch:
    """Compares the topics with their specs. `faults` has the present fault of each topic.

    Call `look` from one thread at a time. Anything else can be called from any thread.
    """

    def __init__(
        self, clients: Clients, reader: Reader, specs: list[TopicSpec]
    ) -> None:
        """Raises ConfigError if librdkafka refuses the settings."""
        self.faults: Mapping[str, str] = {}
        self._reader = reader
        self._specs = specs
        self._admin = new_client(AdminClient, clients.admin())
        self._partitions = {spec.name: spec.partitions for spec in specs}
        self._has_looked = False
        self._drawbacks: set[tuple[str, str]] | None = None

    def partitions(self, topic: str) -> int:
        """Return the number of partitions that a topic has, or had before it was deleted."""
        return self._partitions[topic]

    def look(self) -> None:
        """Look at the topics once, and log the differences from the last look.

        Blocks. Never raises: if Kafka is away, the shards report it, and the last faults
        remain.
        """
        sizes: dict[str, TopicSize] = {}
        faults: dict[str, str] = {}
        try:
            # One by one: the metadata of all topics is large on a large cluster.
            for spec in self._specs:
                self._look_at(spec.name, sizes, faults)
            faults |= self._misfits(sizes)
        except KafkaError as error:
            _log.debug("cannot watch the topics", extra={"error": str(error)})
            return
        before = self.faults
        self.faults = faults
        self._log_new_partitions(sizes)
        _log_new_faults(before, faults)
        self._has_looked = True

    def serve_callbacks(self) -> None:
        """Run the callbacks that wait in the client. Call every second.

        An error that is told late would look like another outage.
        """
        serve_callbacks(self._admin)

    def _look_at(
        self, topic: str, sizes: dict[str, TopicSize], faults: dict[str, str]
    ) -> None:
        """Add the size of a topic, or its fault if it is gone."""
        try:
            size = self._reader.size(topic)
        except AccessDenied:
            # The right was taken away after the start. The last verdict remains.
            if topic in self.faults:
                faults[topic] = self.faults[topic]
            return
        if size is None:
            faults[topic] = f"topic {topic}{_GONE}"
        else:
            sizes[topic] = size

    def _misfits(self, sizes: Mapping[str, TopicSize]) -> dict[str, str]:
        """Return the faults of existing topics, and log new drawbacks."""
        faults: dict[str, str] = {}
        try:
            checks = check_topics(self._admin, self._specs, sizes)
        except AccessDenied:
            # As above. But a topic that is back is not gone any more.
            for name, fault in self.faults.items():
                if name in sizes and not fault.endswith(_GONE):
                    faults[name] = fault
            return faults
        drawbacks = set()
        for name, check in checks.items():
            if check.faults:
                faults[name] = "; ".join(check.faults)
            for drawback, remedy in check.warnings:
                drawbacks.add((name, f"{drawback}; {remedy}"))
        self._log_new_drawbacks(drawbacks)
        return faults

    def _log_new_partitions(self, sizes: Mapping[str, TopicSize]) -> None:
        for name, size in sizes.items():
            before = self._partitions[name]
            self._partitions[name] = size.partitions
            # The start has warned of a count that is not the configured one.
            if before != size.partitions and self._has_looked:
                fields = {
                    "topic": name,
                    "partitions": size.partitions,
                    "partitions_before": before,
                }
                _log.warning(
                    "a topic has another number of partitions; symbols move between them",
                    extra=fields,
                )

    def _log_new_drawbacks(self, drawbacks: set[tuple[str, str]]) -> None:
        known = self._drawbacks
        self._drawbacks = drawbacks
        if known is None:
            # The start has logged those that were there before.
            return
        for name, drawback in sorted(drawbacks - known):
            fields = {"topic": name, "drawback": drawback}
            _log.warning("a topic has been changed", extra=fields)


def _log_new_faults(known: Mapping[str, str], faults: Mapping[str, str]) -> None:
    gone = []
    for name, fault in faults.items():
        if known.get(name) == fault:
            continue
        if fault.endswith(_GONE):
            gone.append(name)
        else:
            _log.error("a topic does not fit", extra={"topic": name, "fault": fault})
    if gone:
        fields = {"topics": ", ".join(gone), "remedy": _CREATE_AGAIN}
        _log.error("topics are gone", extra=fields)

    for name in known:
        if name not in faults:
            _log.info("a topic is usable again", extra={"topic": name})
