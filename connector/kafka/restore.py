"""Restores the states of a shard from its topics, past records of other programs.

Any program with the right to write can add records to our topics, and an operator may
delete a state by a tombstone. Such strays must neither stop a fleet nor let a sequence
start again at 1, so this module looks for the last state behind them:

1. The last record of each key in `current`, which is nearly always a state of ours.
2. If it is not: the last readable state of that key among the records before it.
3. If compaction has removed that as well: the symbol's last event in `changes`.

A record that a connector wrote but this version cannot read is no stray. Skipping it
would publish over the work of a newer version, so it ends the worker.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final

import msgspec

from connector.config.secrets import printable
from connector.core.model import Value
from connector.core.transition import state_after
from connector.errors import KafkaUnavailable, ShardCorrupt
from connector.kafka.names import partition_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from connector.core.model import Event, State
    from connector.kafka.avro import Codec
    from connector.kafka.names import ShardId, Topics
    from connector.kafka.reader import Contents, KeptRecord, Reader

# Bytes of a key shown in a message.
_MAX_SHOWN_KEY_BYTES: Final = 40

# Absences have no `computed_at`. The last events of a symbol nearly always have one.
_LAST_EVENTS_KEPT: Final = 16


class Stray(Value, frozen=True):
    """A record in a shard's partition that is no state of this shard.

    `is_recovered` is True if it hid the state of a symbol, which was found all the same.
    """

    key: str
    offset: int
    reason: str
    is_recovered: bool


class ShardStates(Value, frozen=True):
    """The states of a shard, the records they come from, and those that were skipped.

    `recovered` has the symbols whose state is not the last record of their key.
    """

    states: dict[str, State]
    contents: Contents
    strays: tuple[Stray, ...]
    recovered: tuple[str, ...]


class _NotOurs(Exception):
    """A record is no state of this shard. The message is the reason."""


class StateReader:
    """Reads the states of one shard. Every call blocks."""

    def __init__(
        self,
        shard_id: ShardId,
        shard_count: int,
        *,
        topics: Topics,
        reader: Reader,
        codec: Codec,
    ) -> None:
        self._shard_id = shard_id
        self._shard_count = shard_count
        self._current = topics.current(shard_id.feed)
        self._changes = topics.changes(shard_id.feed)
        self._name = f"{self._current}-{shard_id.partition}"
        self._reader = reader
        self._codec = codec

    def read(self, symbols: Collection[str], *, is_fenced: bool = True) -> ShardStates:
        """Return the last committed state of each symbol in the shard.

        The configured `symbols` continue from their last event if they have no state.
        If the shard is not fenced, its owner may be writing meanwhile.

        Raises:
            KafkaUnavailable: a topic cannot be read at the moment.
            ShardCorrupt: a connector wrote a record that this version cannot use.
        """
        partition = self._shard_id.partition
        high_watermark = self._reader.high_watermark(self._current, partition)
        contents = self._reader.contents(self._current, partition, high_watermark)
        # No transaction of ours is open now, so the last stable offset must equal the high
        # watermark.
        if is_fenced and contents.end < high_watermark:
            raise KafkaUnavailable(
                f"{self._name} has uncommitted records from offset "
                f"{contents.end} to {high_watermark}: another program writes to it in "
                "a transaction with another id; stop that program"
            )

        states: dict[str, State] = {}
        reasons: dict[bytes, str] = {}
        # Read at most once each, however many states were copied from them.
        others: dict[int, Contents] = {}
        for key, record in contents.latest.items():
            try:
                state = self._state_of(record)
                self._check_partition(state, others)
            except _NotOurs as stray:
                reasons[key] = str(stray)
            else:
                states[state.symbol] = state

        # A stray may hide a state of the same key.
        hidden = self._last_readable(reasons.keys() & contents.repeated, contents)
        states |= hidden

        continued = self._from_events(set(symbols) - states.keys())
        states |= continued

        recovered = hidden | continued
        recovered_keys = {symbol.encode() for symbol in recovered}
        strays = []
        for key, reason in reasons.items():
            offset = contents.latest[key].offset
            is_recovered = key in recovered_keys
            strays.append(Stray(_shown(key), offset, reason, is_recovered))
        return ShardStates(states, contents, tuple(strays), tuple(sorted(recovered)))

    def _state_of(self, record: KeptRecord) -> State:
        """Return the state that a record holds.

        Raises _NotOurs if it holds none of this feed, ShardCorrupt and KafkaUnavailable.
        """
        if record.value is None:
            raise _NotOurs("a tombstone, which the connector never writes")
        try:
            state = self._codec.decode_state(record.value)
        except (ShardCorrupt, msgspec.ValidationError) as error:
            if record.is_ours:
                place = f"{self._name}, offset {record.offset}"
                raise ShardCorrupt(
                    f"{place}, key {_shown(record.key)}: a connector wrote a state that "
                    f"this version cannot read: {error}; start the newer version, or, "
                    "if the record is damaged, write a tombstone with this key "
                    "(operations, Stray records)"
                ) from None
            raise _NotOurs(f"no state: {error}") from None

        is_of_this_feed = state.feed == self._shard_id.feed
        if state.symbol.encode() != record.key or not is_of_this_feed:
            raise _NotOurs(f"the state of {state.feed}/{state.symbol}")
        return state

    def _check_partition(self, state: State, others: dict[int, Contents]) -> None:
        """Accept a state of this partition. `others` keeps what is read of the others.

        Raises _NotOurs for a copy of a state that the right partition has as well, and
        ShardCorrupt if it does not have it.
        """
        partition = partition_of(state.symbol, self._shard_count)
        if partition == self._shard_id.partition:
            return
        if self._has_state(partition, state, others):
            raise _NotOurs(f"a copy of a state that partition {partition} has")
        # Skipping it would let the sequence start again at 1 in the right partition.
        raise ShardCorrupt(
            f"{self._name} holds {state.symbol}, which belongs to "
            f"partition {partition} of {self._shard_count}: were partitions added to "
            "the topic? Use another kafka.topic_prefix"
        )

    def _has_state(
        self, partition: int, state: State, others: dict[int, Contents]
    ) -> bool:
        """Return True if a partition has the same state or a later one."""
        if partition not in others:
            if partition >= self._reader.partition_count(self._current):
                return False
            end = self._reader.high_watermark(self._current, partition)
            others[partition] = self._reader.contents(self._current, partition, end)
        record = others[partition].latest.get(state.symbol.encode())
        if record is None or record.value is None:
            return False
        try:
            other = self._codec.decode_state(record.value)
        except (ShardCorrupt, msgspec.ValidationError):
            return False
        is_same_symbol = (other.feed, other.symbol) == (state.feed, state.symbol)
        return is_same_symbol and other.sequence >= state.sequence

    def _last_readable(
        self, keys: Collection[bytes], contents: Contents
    ) -> dict[str, State]:
        """Return the last state that each key had before it was hidden."""
        if not keys:
            return {}
        found: dict[str, State] = {}
        partition = self._shard_id.partition

        # Runs while the consumer is locked: it must not read.
        def take(record: KeptRecord) -> None:
            try:
                state = self._state_of(record)
            except _NotOurs:
                return
            except ShardCorrupt:
                # Later than what was found, and hidden on purpose: ask the events.
                found.pop(record.key.decode(errors="replace"), None)
                return
            # Hidden on purpose, too: see `_check_partition`.
            if partition_of(state.symbol, self._shard_count) == partition:
                found[state.symbol] = state

        end = {(self._current, partition): contents.end}
        self._reader.records_of(keys, end, take)
        return found

    def _from_events(self, symbols: Collection[str]) -> dict[str, State]:
        """Return the state of each symbol after its last event, if it has one."""
        if not symbols:
            return {}
        # In all partitions: if some were added, a symbol that has moved to one of them may
        # have had no event since.
        count = self._reader.partition_count(self._changes)
        # Events of other shards may come later. Ours cannot: this shard is fenced.
        ends = self._reader.ends(self._changes, range(count))
        if not ends:
            return {}

        last: dict[tuple[bytes, int], deque[KeptRecord]] = defaultdict(
            lambda: deque(maxlen=_LAST_EVENTS_KEPT)
        )

        def take(record: KeptRecord) -> None:
            if record.is_ours:
                last[record.key, record.partition].append(record)

        keys = {symbol.encode() for symbol in symbols}
        self._reader.records_of(keys, ends, take)

        last_of_key: dict[bytes, list[KeptRecord]] = defaultdict(list)
        for (key, _), kept in last.items():
            last_of_key[key] += kept
        found = {}
        for key, records in last_of_key.items():
            events = [self._event_of(record) for record in records]
            computed = [event.computed_at or 0 for event in events]
            newest = max(events, key=lambda event: event.sequence)
            state = state_after(newest, max(computed) or None)
            # Somebody else's event under our key would move the sequence.
            if state.symbol.encode() == key and state.feed == self._shard_id.feed:
                found[state.symbol] = state
        return found

    def _event_of(self, record: KeptRecord) -> Event:
        try:
            return self._codec.decode_event(record.value or b"")
        except (ShardCorrupt, msgspec.ValidationError) as error:
            raise ShardCorrupt(
                f"{self._changes}-{record.partition}, offset {record.offset}, key "
                f"{_shown(record.key)}: a connector wrote an event that this version "
                f"cannot read: {error}; start the newer version (operations, Stray "
                "records)"
            ) from None


def _shown(key: bytes) -> str:
    """Return a key as text, cut and safe to print."""
    return printable(key[:_MAX_SHOWN_KEY_BYTES].decode(errors="backslashreplace"))
