"""The states in `current`, whichever worker writes them, read while somebody asks."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from math import inf
from typing import TYPE_CHECKING, Final

from connector.errors import ConnectorError
from connector.kafka.events import BEGINNING, Strays
from connector.logs import Bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from connector.core.model import State
    from connector.kafka.avro import Codec
    from connector.kafka.events import Log, Record
    from connector.kafka.names import Partition, Topics
    from connector.kafka.reader import Reader

_log = logging.getLogger(__name__)

# Reading ends when nobody has asked for this long: it costs a consumer.
IDLE_SECONDS: Final = 60.0

_RETRY_SECONDS: Final = 5.0
_REPORT_SECONDS: Final = 60.0


class CurrentStates:
    """The last committed state of every symbol of some feeds.

    The first request reads the compacted topics from their beginning, and they are followed
    as long as requests come. That happens in a thread. Everything else is called on the
    event loop.
    """

    def __init__(
        self,
        open_log: Callable[[], Log],
        reader: Reader,
        topics: Topics,
        feeds: Collection[str],
        *,
        codec: Codec,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """`codec` is for the thread alone."""
        self.is_complete = False
        """True once the topics have been read to their end."""

        self.error: str | None = None
        """Why they cannot be read at the moment, None if they can."""
        self._open_log = open_log
        self._reader = reader
        self._topics = [topics.current(feed) for feed in feeds]
        self._feeds = frozenset(feeds)
        self._codec = codec
        self._idle_seconds = idle_seconds
        self._strays = Strays()
        self._states: dict[tuple[str, str], State] = {}
        self._loop = asyncio.get_running_loop()
        self._settled = asyncio.Event()
        self._bounded = Bounded(_REPORT_SECONDS, time.monotonic)
        # The idle time counts from here.
        self._used_at = -inf
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    async def request(self, timeout_seconds: float) -> None:
        """Read the topics if nobody does, and wait until they are read or have failed.

        Gives up after the time-out: `is_complete` and `error` tell the outcome.
        """
        self._used_at = time.monotonic()
        if self._thread is None or not self._thread.is_alive():
            self._forget()
            self._thread = threading.Thread(
                target=self._run, name="current-states", daemon=True
            )
            self._thread.start()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._settled.wait()
        except TimeoutError:
            return

    def state_of(self, feed: str, symbol: str) -> State | None:
        """Return the last state that was read of a symbol."""
        return self._states.get((feed, symbol))

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()

    # --- on the event loop, for the thread ---

    def _handle(
        self,
        thread: threading.Thread,
        call: Callable[..., None],
        arguments: tuple[object, ...],
    ) -> None:
        # A request may have replaced a thread that was about to end.
        if thread is self._thread:
            call(*arguments)

    def _end(self) -> None:
        self._thread = None
        self._forget()

    def _forget(self) -> None:
        self._states = {}
        self.is_complete = False
        self.error = None
        self._settled.clear()

    def _complete(self, states: dict[tuple[str, str], State]) -> None:
        self._states = states
        self._used_at = time.monotonic()
        self.is_complete = True
        self.error = None
        self._settled.set()

    def _fail(self, error: str) -> None:
        # What was read before stays: it is the best that is known.
        self.error = error
        self._settled.set()

    # --- in the thread ---

    def _run(self) -> None:
        # Read once at least: on a busy machine the thread may start after the idle time.
        is_over = self._closed.is_set()
        while not is_over:
            try:
                self._read()
            except ConnectorError as error:
                self._call(self._fail, str(error))
                self._closed.wait(_RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001 -- the thread's outermost loop
                reason = f"{type(error).__name__}: {error}"
                if self._bounded.admit(reason) is not None:
                    _log.warning(
                        "cannot read the states of other workers", exc_info=True
                    )
                self._call(self._fail, reason)
                self._closed.wait(_RETRY_SECONDS)
            is_over = self._is_over()
        self._call(self._end)

    def _read(self) -> None:
        """Read the topics to their end, and follow them. Raises ConnectorError."""
        log = self._open_log()
        try:
            starts = dict.fromkeys(log.partitions_of(*self._topics), BEGINNING)
            ends: dict[Partition, int] = {}
            for topic in self._topics:
                ends |= self._reader.ends(topic, range(log.partitions[topic]))
            latest: dict[tuple[str, int, bytes], Record] = {}
            for record in log.read(dict.fromkeys(ends, BEGINNING), ends):
                # Decode only the last record of each key: compaction leaves many more.
                if record.is_ours:
                    latest[record.topic, record.partition, record.key] = record
            states: dict[tuple[str, str], State] = {}
            for record in latest.values():
                self._keep(record, states)
            # The idle time begins again once they are there: reading may take longer.
            self._used_at = inf
            self._call(self._complete, states)

            for followed in log.follow(starts | ends, self._is_over):
                if followed is not None and followed.is_ours:
                    self._keep(followed, states)
        finally:
            log.close()

    def _keep(self, record: Record, states: dict[tuple[str, str], State]) -> None:
        state = self._strays.decoded(record, self._codec.decode_state)
        if state is None or state.feed not in self._feeds:
            return
        key = (state.feed, state.symbol)
        known = states.get(key)
        # Another program may have copied an old state to another partition.
        if known is None or state.sequence >= known.sequence:
            states[key] = state

    def _is_over(self) -> bool:
        idle_seconds = time.monotonic() - self._used_at
        return self._closed.is_set() or idle_seconds > self._idle_seconds

    def _call(self, call: Callable[..., None], *arguments: object) -> None:
        # The loop is closed a moment after `close`.
        if not self._closed.is_set():
            thread = threading.current_thread()
            self._loop.call_soon_threadsafe(self._handle, thread, call, arguments)
