"""The assignment of a shard to this worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from connector.runtime.isolation import Isolation

if TYPE_CHECKING:
    from connector.runtime.ports import TransactionalLog


class Assignment:
    """A period during which the group assigns a shard to this worker.

    It has a log of its own: abandoning the calls of one assignment must not abandon those
    of the next.
    """

    def __init__(self, log: TransactionalLog) -> None:
        self.log = log
        self.ended = asyncio.Event()
        """Set when the shard is revoked or lost."""
        self.is_abandoned = False
        """True if the shard is lost: publish nothing more, even if observations wait."""
        self.used_fraction: float | None = None
        """Part of the request budget that was used when the shard was revoked."""
        self.failures = 0
        """Failed attempts to open or publish, in a row."""
        self.was_fenced = False
        """The last failure was that another worker had opened the shard."""
        self.isolation = Isolation()
        """Removals and the like that the brokers refuse."""
