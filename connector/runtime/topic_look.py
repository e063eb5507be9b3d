"""Looks at the topics at run time, and shows their faults."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from concurrent.futures import Executor

# A look takes a request per topic. A fault is named within a minute, even if one look fails.
_INTERVAL_SECONDS: Final = 20


class WatchedTopics(Protocol):
    """The topics in Kafka. Implemented by `connector.kafka.topic_watch`."""

    @property
    def faults(self) -> Mapping[str, str]:
        """The present fault of each topic that has one."""

    def look(self) -> None:
        """Look at the topics. Blocks, and never raises."""


class TopicLook:
    """Looks at the topics every few seconds.

    After each look, `show_fault` is called for each of `names`, with True if the topic has a
    fault.
    """

    def __init__(
        self,
        topics: WatchedTopics,
        names: list[str],
        executor: Executor,
        show_fault: Callable[[str, bool], object],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._topics = topics
        self._names = names
        self._executor = executor
        self._show_fault = show_fault
        self._sleep = sleep

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            # Topics that were created a moment ago may not be known to every broker.
            await self._sleep(_INTERVAL_SECONDS)
            await loop.run_in_executor(self._executor, self._topics.look)
            faults = self._topics.faults
            for name in self._names:
                self._show_fault(name, name in faults)
