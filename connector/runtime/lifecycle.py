"""The phase of a shard, and the state that belongs to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from connector.runtime.ports import Phase

if TYPE_CHECKING:
    from connector.runtime.open_shard import OpenShard
    from connector.runtime.ports import ShardContext, ShardSpec

_NEXT_PHASES: Final = {
    Phase.CLOSED: {Phase.OPENING},
    # A failed attempt to open starts the next attempt.
    Phase.OPENING: {Phase.OPENING, Phase.OPEN, Phase.CLOSING},
    Phase.OPEN: {Phase.OPENING, Phase.CLOSING},
    Phase.CLOSING: {Phase.CLOSED},
}


class Lifecycle:
    """The phase of a shard, and its restored state. Both change together, in `enter`."""

    def __init__(self, spec: ShardSpec, context: ShardContext) -> None:
        self.phase = Phase.CLOSED
        self.opened: OpenShard | None = None
        """The last committed states. A shard that reopens after an error keeps them."""
        self._spec = spec
        self._context = context
        self._closed = asyncio.Event()
        self._closed.set()

    @property
    def is_open(self) -> bool:
        """True if the shard is restored and publishes."""
        return self.phase is Phase.OPEN

    @property
    def is_polled(self) -> bool:
        """True if answers for its symbols are wanted.

        A failed shard stays polled while it is restored. A fenced shard does not: its new
        owner polls the symbols.
        """
        is_assigned = self.phase in {Phase.OPENING, Phase.OPEN}
        return is_assigned and self.opened is not None

    def enter(self, phase: Phase, opened: OpenShard | None) -> None:
        """Change the phase and the state, and notify everyone concerned."""
        if phase not in _NEXT_PHASES[self.phase]:
            raise AssertionError(f"shard {self._spec.id}: {self.phase} to {phase}")

        before = (self.is_open, self.is_polled)
        self.phase = phase
        self.opened = opened
        if phase is Phase.CLOSED:
            self._closed.set()
        else:
            self._closed.clear()

        polled = self._spec.symbols if self.is_polled else frozenset[str]()
        self._context.observer.shard_changed(self._spec.id, phase, polled)
        # The poller plans all its requests again, so call it only if something changed.
        if (self.is_open, self.is_polled) != before:
            self._context.polling_changed()

    async def wait_closed(self) -> None:
        """Wait until no call for the shard is in progress."""
        await self._closed.wait()
