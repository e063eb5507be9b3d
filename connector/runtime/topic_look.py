"""Looks at the topics at run time, and shows their faults."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from concurrent.futures import Executor

# A worker with a faulty topic is not ready. It must not stay so for long after the repair.
_TROUBLE_INTERVAL_SECONDS: Final = 2.0
# A look takes a request per topic, so they are rare if all is well: every 20 s.
_CALM_INTERVALS: Final = 10


class WatchedTopics(Protocol):
    """The topics in Kafka. Implemented by `connector.kafka.topic_watch`."""

    @property
    def faults(self) -> Mapping[str, str]:
        """The present fault of each topic that has one."""

    def look(self) -> None:
        """Look at the topics. Blocks, and never raises."""


class TopicLook:
    """Looks at the topics now and then, and more often while something is wrong.

    That is while a topic has a fault, and while `has_trouble` returns True: transactions fail
    or hang if a topic is gone.

    After each look, `show_fault` is called for each of `names`, with True if the topic has a
    fault.
    """

    def __init__(
        self,
        topics: WatchedTopics,
        names: list[str],
        executor: Executor,
        show_fault: Callable[[str, bool], object],
        has_trouble: Callable[[], bool],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._topics = topics
        self._names = names
        self._executor = executor
        self._show_fault = show_fault
        self._has_trouble = has_trouble
        self._sleep = sleep

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        # Topics that were created a moment ago may not be known to every broker.
        await self._sleep(_CALM_INTERVALS * _TROUBLE_INTERVAL_SECONDS)
        while True:
            await loop.run_in_executor(self._executor, self._topics.look)
            faults = self._topics.faults
            for name in self._names:
                self._show_fault(name, name in faults)
            await self._wait()

    async def _wait(self) -> None:
        """Wait until the next look."""
        for _ in range(_CALM_INTERVALS):
            await self._sleep(_TROUBLE_INTERVAL_SECONDS)
            if self._topics.faults or self._has_trouble():
                return
