"""Notices when consumers cannot read the records that this worker publishes."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from connector.errors import KafkaUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping
    from concurrent.futures import Executor

    from connector.kafka.held_back import HeldBack, HeldBackFinder
    from connector.kafka.names import Partition

_log = logging.getLogger(__name__)

# Longer than a commit of ours is retried: what is open for longer is not ours.
PATIENCE_SECONDS: Final = 35

_LOOK_INTERVAL_SECONDS: Final = 15


class HeldBackWatch:
    """Reports partitions in which an open transaction hides records from consumers.

    Our own commits succeed meanwhile, so nothing else would show it.
    """

    def __init__(
        self,
        finder: HeldBackFinder,
        partitions: Callable[[], Collection[Partition]],
        report: Callable[[Mapping[str, int]], None],
        servers: str,
        executor: Executor,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`partitions` returns those that this worker writes to.

        `report` is called after each look, with the number of partitions that are held
        back by topic. `servers` are the bootstrap servers, for the remedy.
        """
        self._finder = finder
        self._partitions = partitions
        self._report = report
        self._servers = servers
        self._executor = executor
        self._sleep = sleep
        self.found: list[HeldBack] = []
        """The partitions that the last look found."""

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            await self._sleep(_LOOK_INTERVAL_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look at every partition once, and report what has changed."""
        watched = sorted(self._partitions())
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._executor, self._finder.look, watched
            )
        except KafkaUnavailable as error:
            # The shards report an outage of Kafka.
            _log.debug("cannot ask for stable offsets", extra={"error": str(error)})
            return
        self._log_changes(found, watched)
        self.found = found

        counts = Counter(dict.fromkeys((topic for topic, _ in watched), 0))
        counts.update(held.topic for held in found)
        self._report(counts)

    def remedy(self, held: HeldBack) -> str:
        """Return how to end the transaction."""
        return held.remedy(self._servers)

    def _log_changes(
        self, found: Collection[HeldBack], watched: Collection[Partition]
    ) -> None:
        known = {(held.topic, held.partition) for held in self.found}
        present = {(held.topic, held.partition) for held in found}
        for held in found:
            if (held.topic, held.partition) in known:
                continue
            fields = {
                "topic": held.topic,
                "partition": held.partition,
                "from_offset": held.offset,
                "records": held.records,
                "remedy": self.remedy(held),
            }
            _log.error(
                "consumers cannot read new records: a transaction stays open",
                extra=fields,
            )
        for topic, partition in sorted(known - present):
            # A partition that moved to another worker is reported there.
            if (topic, partition) in watched:
                fields = {"topic": topic, "partition": partition}
                _log.info("consumers can read new records again", extra=fields)
