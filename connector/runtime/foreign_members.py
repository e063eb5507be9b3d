"""Notices when other programs have shards of the workers' consumer group."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from connector.errors import KafkaUnavailable
from connector.kafka.foreign_members import REMEDY, foreign_members, summary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor

    from connector.config.secrets import Setting
    from connector.kafka.members import Member

_log = logging.getLogger(__name__)

# A look starts a process (0.1 s of CPU), and the fault is named within a minute.
_LOOK_INTERVAL_SECONDS: Final = 45


class ForeignMembersWatch:
    """Names the members of the group that have shards, but are no workers.

    Every worker is well meanwhile: only their symbols stay as they are, for ever LIVE.
    """

    def __init__(
        self,
        list_members: Callable[[], tuple[Member, ...]],
        has_all_shards: Callable[[], bool],
        group_id: str,
        configured_name: Setting | None,
        executor: Executor,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`list_members` blocks, and runs in `executor`.

        While this worker `has_all_shards`, no other member has one, and it need not look.
        """
        self._list_members = list_members
        self._has_all_shards = has_all_shards
        self._group_id = group_id
        self._configured_name = configured_name
        self._executor = executor
        self._sleep = sleep
        self.found: tuple[Member, ...] = ()
        """The members that the last look found."""

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            await self._sleep(_LOOK_INTERVAL_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look at the group once, and log what has changed."""
        found: tuple[Member, ...] = ()
        if not self._has_all_shards():
            loop = asyncio.get_running_loop()
            try:
                members = await loop.run_in_executor(self._executor, self._list_members)
            except KafkaUnavailable as error:
                _log.debug("cannot list the group", extra={"error": str(error)})
                return
            foreign = foreign_members(members, self._configured_name)
            found = tuple(member for member in foreign if member.shards)

        for member in found:
            if member not in self.found:
                fields = {"error": self.summary(member), "remedy": self.remedy}
                _log.error("another program has shards of the group", extra=fields)
        if self.found and not found:
            _log.info("no other program has shards of the group any more")
        self.found = found

    def summary(self, member: Member) -> str:
        """Return what is wrong with a member."""
        return summary(member, self._group_id)

    @property
    def remedy(self) -> str:
        """Return how to end that."""
        return REMEDY
