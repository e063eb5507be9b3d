"""The first minute of a worker: Kafka and the registry may not be there yet."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from connector.errors import KafkaUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_FIRST_PAUSE_SECONDS: Final = 0.2
_MAX_PAUSE_SECONDS: Final = 1.0


@dataclass(slots=True)
class StartupDeadline:
    """The end of the start-up.

    Until then a missing right ends the process. Later on it is waited for: the worker has
    worked before, so somebody is probably changing its rights.
    """

    until: float
    """Monotonic seconds."""
    passed: bool = False
    """True once a transaction has been committed."""

    def failed(self) -> bool:
        """Return True if the time is over and no transaction has been committed."""
        return not self.passed and time.monotonic() > self.until


async def retry_until_usable(
    service: str, call: Callable[[], _T], executor: Executor, limit_seconds: float
) -> _T:
    """Retry a blocking call while the service is unavailable, and return its result.

    Raises:
        KafkaUnavailable: The service was not usable within `limit_seconds`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await loop.run_in_executor(executor, call)
        except KafkaUnavailable as error:
            # A new topic or group needs a moment, so the first failure is no news.
            is_first = pause == _FIRST_PAUSE_SECONDS
            level = logging.DEBUG if is_first else logging.WARNING
            _log.log(
                level, "%s is not usable yet", service, extra={"error": str(error)}
            )
            if loop.time() + pause > deadline:
                raise KafkaUnavailable(
                    f"{service} was not usable within {limit_seconds:g} s: {error}"
                ) from None
        await asyncio.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE_SECONDS)
