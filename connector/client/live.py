"""The live levels of a feed, as a mapping of symbols."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self

from connector.client.errors import ClientStopped, NotFresh, SettingsError
from connector.client.events import EventStream
from connector.client.follower import Follower, OnHole
from connector.client.kafka import Feed
from connector.client.listeners import Listeners, OnChange, OnTrouble
from connector.client.registry import Registry
from connector.client.store import Clocks, Store
from connector.client.values import ValueDecoder
from connector.client.views import SymbolView

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType

    from connector.core.model import Event

# A cancelled task waits at most this long for its thread.
_ASYNC_WAIT_SECONDS: Final = 0.2


class LiveLevels(Mapping[str, SymbolView]):
    """The levels of a feed: restored from `current`, then followed without a gap.

    ::

        with LiveLevels("127.0.0.1:9092", feed="all") as levels:
            print(levels["BTCUSDT"].levels.all_expiry.hvl, levels["BTCUSDT"].status)

    A thread of its own keeps the views up to date, so a program may look at them whenever
    it likes. All methods are safe to call from any thread.

    After an error that waiting does not end, every use raises it: the levels are never
    silently old. An outage of Kafka is no such error. `is_fresh` and `trouble` show it.
    """

    def __init__(  # noqa: PLR0913 -- keyword arguments, as users expect of a client
        self,
        bootstrap: str,
        *,
        feed: str = "all",
        prefix: str = "gex.levels",
        kafka: Mapping[str, Any] | None = None,
        registry: Registry | str | None = None,
        on_hole: OnHole = "raise",
        patience_seconds: float = 90,
        start_seconds: float = 30,
    ) -> None:
        """Check the settings. Nothing is read before `start` or `with`.

        Args:
            bootstrap: addresses of brokers, `host:port`, separated by commas.
            feed: the feed of the connector's configuration.
            prefix: the connector's `kafka.topic_prefix`.
            kafka: more settings of librdkafka, for TLS and SASL for example.
            registry: the schema registry, if the connector uses one.
            on_hole: "restore" goes on with the present states if events were deleted
                before they were read, or a topic was created again. "raise" raises.
            patience_seconds: an event that is missing for so long after a later one is
                an error, as are states that cannot be read for so long. An open transaction
                of a dead worker can hold them back for 70 s.
            start_seconds: how long `start` waits for a broker.

        Raises:
            SettingsError: a setting is not valid.
        """
        if on_hole not in {"raise", "restore"}:
            raise SettingsError(
                f'on_hole is {on_hole!r}; expected "raise" or "restore"'
            )
        if isinstance(registry, str):
            registry = Registry(registry)
        self._feed = Feed(bootstrap, prefix, feed, kafka or {})
        self._decoder = ValueDecoder(registry)
        self._store = Store(Clocks())
        self._listeners = Listeners()
        self._patience_seconds = patience_seconds
        self._start_seconds = start_seconds
        self._on_hole = on_hole
        self._follower: Follower | None = None

    def start(self) -> None:
        """Restore the states, and begin to follow. Blocks until that is done.

        Raises:
            KafkaUnreachable: no broker answers, or it refuses the credentials.
            AccessDenied: a right is missing.
            TopicMissing: the feed or the prefix is wrong.
            SchemaError, RegistryError: a state cannot be decoded.
        """
        if self._follower is not None:
            raise SettingsError("start() was called twice; make another LiveLevels")
        follower = Follower(
            self._feed,
            self._decoder,
            self._store,
            on_hole=self._on_hole,
            patience_seconds=self._patience_seconds,
        )
        follower.notify = self._listeners.notify
        follower.tick = self._listeners.tick
        follower.start(self._start_seconds)
        self._follower = follower

    def close(self) -> None:
        """Stop following, and end the streams of events."""
        self._store.close()
        if self._follower is not None:
            self._follower.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __getitem__(self, symbol: str) -> SymbolView:
        """Return the present view of a symbol. Raises UnknownSymbol, ClientError."""
        return self._store.view(symbol)

    def __iter__(self) -> Iterator[str]:
        """Iterate the symbols that the feed has now."""
        return iter(self._store.views())

    def __len__(self) -> int:
        """Return the number of symbols."""
        return len(self._store.views())

    def __contains__(self, symbol: object) -> bool:
        """Return True if the feed has a symbol."""
        return symbol in self._store.views()

    def snapshot(self) -> dict[str, SymbolView]:
        """Return the views of all symbols at one moment. Raises ClientError."""
        return self._store.views()

    def sequences(self) -> dict[str, int]:
        """Return the sequence of each symbol, to store and pass to `events` later."""
        views = self._store.views()
        return {symbol: view.sequence for symbol, view in views.items()}

    def events(self, after: Mapping[str, int] | None = None) -> EventStream:
        """Return a stream of the events from now on, or after stored sequences.

        `after` has the sequence of the last event that was acted on, by symbol. A symbol
        that is not in it starts at its present view, and `{symbol: 0}` at its first event.
        To act exactly once, store the sequence together with the result of the action.

        Raises:
            EventsMissing: `changes` does not have the next event of a symbol any more.
            TopicReplaced: a stored sequence is above the last one.
            ClientError: as other uses do.
        """
        return EventStream(
            self._feed,
            self._decoder,
            self._store,
            after=after or {},
            patience_seconds=self._patience_seconds,
        )

    async def events_async(
        self, after: Mapping[str, int] | None = None
    ) -> AsyncIterator[Event]:
        """Iterate the events with asyncio, as `events` does with a thread.

        The iteration ends when the client is closed.
        """
        stream = await asyncio.to_thread(self.events, after)
        try:
            while True:
                event = await asyncio.to_thread(stream.next_event, _ASYNC_WAIT_SECONDS)
                if event is not None:
                    yield event
        except ClientStopped:
            if not self._store.is_closed:
                raise
        finally:
            await asyncio.to_thread(stream.close)

    def on_change(self, symbol: str | None, path: str, call: OnChange) -> None:
        """Call a function with each change of a value. None stands for every symbol.

        Paths: `status`, `model`, or one of the levels, such as `all_expiry.hvl` and
        `spot_price`. The function runs in the client's thread, in order, and must be
        quick. If it raises, the client stops, and every use raises ClientStopped.

        Raises SettingsError if there is no such path.
        """
        self._listeners.add(symbol, path, call)

    def on_trouble(self, call: OnTrouble) -> None:
        """Call a function with the reason when nothing arrives any more.

        It is called with None when all is well again. It runs as for `on_change`.
        """
        self._listeners.add_trouble(call)

    @property
    def silent_for(self) -> float | None:
        """Return the seconds since the last record of any symbol, None if there is none.

        Each refresh of a symbol is a record in `current`, also if no level has changed.
        """
        return self._store.silent_for

    @property
    def trouble(self) -> str | None:
        """Return why nothing arrives any more, in one line; None if all is well."""
        self._store.check()
        return self._store.trouble

    def is_fresh(self, symbol: str) -> bool:
        """Return True if a symbol is LIVE, and its refreshes arrive as they should.

        Raises UnknownSymbol, ClientError.
        """
        return self._store.why_not_fresh(symbol) is None

    def why_not_fresh(self, symbol: str) -> str | None:
        """Return why a symbol is not fresh, in one line; None if it is.

        Raises UnknownSymbol, ClientError.
        """
        return self._store.why_not_fresh(symbol)

    def wait_until_fresh(self, symbol: str, timeout: float) -> SymbolView:
        """Wait until a symbol is fresh, and return its view.

        Raises NotFresh after `timeout` seconds, with the reason, and ClientError.
        """
        reason = self._store.wait_until_fresh(symbol, timeout)
        if reason is not None:
            raise NotFresh(f"{symbol} is not fresh after {timeout:g} s: {reason}")
        return self._store.view(symbol)
