"""Ends the worker when Kafka's credentials were replaced, so that it starts with the new ones."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor

_INTERVAL_SECONDS: Final = 10.0
# One rotation often replaces the files of a whole fleet.
_SPREAD_SECONDS: Final = 10.0

_REASON: Final = (
    "the credentials of Kafka were replaced, and Kafka accepts the new ones"
)


class CredentialWatch:
    """Looks at the credentials every few seconds.

    `are_replaced` returns True if there are new ones that Kafka accepts. It blocks, and runs
    in `executor`. `restart` is called once, with the reason. `is_kafka_away` returns True if
    the present clients cannot reach Kafka.
    """

    def __init__(
        self,
        are_replaced: Callable[[], bool],
        restart: Callable[[str], object],
        is_kafka_away: Callable[[], bool],
        executor: Executor,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._are_replaced = are_replaced
        self._restart = restart
        self._is_kafka_away = is_kafka_away
        self._executor = executor
        self._sleep = sleep

    async def run(self) -> None:
        """Look until the credentials are replaced, or until cancelled."""
        loop = asyncio.get_running_loop()
        is_replaced = False
        while not is_replaced:
            await self._sleep(_INTERVAL_SECONDS)
            is_replaced = await loop.run_in_executor(self._executor, self._are_replaced)
        # While this worker publishes, the others of the fleet may restart before it.
        if not self._is_kafka_away():
            await self._sleep(random.uniform(0, _SPREAD_SECONDS))  # noqa: S311 -- no secret
        self._restart(_REASON)
