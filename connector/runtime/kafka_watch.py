"""Knows if Kafka can be reached, whatever else the worker does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor

    from connector.kafka.reachability import KafkaOutage, Reachability

_INTERVAL_SECONDS: Final = 2.0


class KafkaWatch:
    """Asks Kafka every few seconds. Without it a standby would not notice an outage.

    `ask` tells `reachability` the outcome. It blocks, and runs in `executor`.
    """

    def __init__(
        self,
        ask: Callable[[], None],
        reachability: Reachability,
        executor: Executor,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ask = ask
        self._reachability = reachability
        self._executor = executor
        self._sleep = sleep

    @property
    def outage(self) -> KafkaOutage | None:
        """The present outage of Kafka, None if it can be reached."""
        return self._reachability.outage

    async def run(self) -> None:
        """Ask until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._sleep(_INTERVAL_SECONDS)
            await loop.run_in_executor(self._executor, self._ask)

    def why_not_ready(self) -> list[str]:
        """Return the reason against being ready: a worker without Kafka does nothing."""
        outage = self.outage
        if outage is None:
            return []
        moment = f"{outage.begin:%Y-%m-%d %H:%M:%S} UTC"
        return [f"{outage.summary} since {moment}: {outage.error}"]
