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

# Short, since a worker that starts with its broker should not wait longer than needed.
_FIRST_PAUSE_SECONDS: Final = 0.2
_MAX_PAUSE_SECONDS: Final = 1.0


@dataclass(slots=True)
class StartupDeadline:
    """The moment until which a new worker retries if a right is missing.

    A new topic or group needs a moment, so a missing right is retried until the deadline.
    After it, a missing right ends the worker, unless a transaction has ever been committed:
    then somebody is probably changing the rights, and the worker goes on retrying.
    """

    until: float
    """Monotonic seconds."""
    has_committed: bool = False
    """True once a transaction has been committed."""

    def is_missed(self) -> bool:
        """Return True if the deadline is over and no transaction was ever committed."""
        return not self.has_committed and time.monotonic() > self.until


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
            fields = {"error": str(error)}
            _log.log(level, "%s is not usable yet", service, extra=fields)
            if loop.time() + pause > deadline:
                raise KafkaUnavailable(
                    f"{service} was not usable within {limit_seconds:g} s: {error}"
                ) from None
        await asyncio.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE_SECONDS)
