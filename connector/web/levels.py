"""The levels of all configured symbols, as `GET /api/levels` shows them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from connector.core.model import MICROS
from connector.web import answers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from connector.core.model import State
    from connector.kafka.current_states import CurrentStates
    from connector.kafka.names import ShardId
    from connector.runtime.clock import Clock
    from connector.runtime.kafka_watch import KafkaWatch
    from connector.runtime.shard import Shard

# Feed and symbol.
Key = tuple[str, str]

# Time to read the other workers' states, within that of a request. A topic of 800 symbols
# takes less than a second.
READ_SECONDS: Final = 5.0


class LevelsView:
    """The last published levels: of this worker's shards, and of those of others.

    This worker knows the states of its own shards. Those of the others come from `others`,
    which reads the compacted topics.
    """

    def __init__(
        self,
        shard_ids: Mapping[Key, ShardId],
        *,
        shards: Mapping[ShardId, Shard],
        clock: Clock,
    ) -> None:
        """`shards` are the worker's own; it keeps changing the mapping."""
        self.others: CurrentStates | None = None
        """None until Kafka has been reached."""

        self.kafka: KafkaWatch | None = None
        self._shard_ids = shard_ids
        self._shards = shards
        self._clock = clock

    async def answer(self, wanted: Collection[Key]) -> answers.LevelsAnswer:
        """Return the levels of some configured symbols."""
        has_all = all(self._shard_ids[key] in self._shards for key in wanted)
        if self.others is not None and not has_all:
            await self.others.request(READ_SECONDS)

        at = self._clock.now()
        upstream_at = self._clock.upstream(at)
        symbols = [self._symbol(key, upstream_at) for key in wanted]
        return answers.LevelsAnswer(
            at=at,
            complete=all(self._is_known(self._shard_ids[key]) for key in wanted),
            error=self._error(needs_others=not has_all),
            symbols=symbols,
        )

    def close(self) -> None:
        """Stop reading the other workers' states."""
        if self.others is not None:
            self.others.close()

    def _is_known(self, shard_id: ShardId) -> bool:
        """Return True if the shard's states have been read."""
        shard = self._shards.get(shard_id)
        if shard is not None and shard.restored is not None:
            return True
        return self.others is not None and self.others.is_complete

    def _error(self, *, needs_others: bool) -> str | None:
        outage = None if self.kafka is None else self.kafka.outage
        if outage is not None:
            return f"{outage.summary}: {outage.error}"
        if not needs_others:
            return None
        if self.others is None:
            return "the worker starts: Kafka has not been reached yet"
        return self.others.error

    def _state_of(self, key: Key) -> State | None:
        shard = self._shards.get(self._shard_ids[key])
        if shard is not None and shard.restored is not None:
            return shard.state_of(key[1])
        return None if self.others is None else self.others.state_of(*key)

    def _symbol(self, key: Key, upstream_at: int) -> answers.SymbolLevels:
        feed, symbol = key
        shard_id = self._shard_ids[key]
        owned = shard_id in self._shards
        state = self._state_of(key)
        if state is None:
            return answers.SymbolLevels(
                feed=feed,
                symbol=symbol,
                shard=str(shard_id),
                owned=owned,
                status=None,
                sequence=None,
                computed_at=None,
                age_seconds=None,
                period_seconds=None,
                observed_at=None,
                spot_price=None,
                levels=None,
                former_levels=None,
            )

        has_levels = state.status.has_levels
        spot_price = age_seconds = None
        if has_levels and state.levels is not None:
            spot_price = state.levels.spot_price
        if state.computed_at is not None:
            age_seconds = round((upstream_at - state.computed_at) / MICROS, 3)
        return answers.SymbolLevels(
            feed=feed,
            symbol=symbol,
            shard=str(shard_id),
            owned=owned,
            status=state.status,
            sequence=state.sequence,
            computed_at=state.computed_at,
            age_seconds=age_seconds,
            period_seconds=state.usual_period_seconds,
            observed_at=state.observed_at,
            spot_price=spot_price,
            levels=state.last_published if has_levels else None,
            former_levels=None if has_levels else state.last_published,
        )


def etag_of(answer: answers.LevelsAnswer) -> str:
    """Return a weak validator of an answer: it changes with anything but the ages."""
    parts: list[object] = [answer.complete, answer.error]
    for row in answer.symbols:
        # A state that is written again has another one of these.
        parts.append(
            (
                row.feed,
                row.symbol,
                row.owned,
                row.status,
                row.sequence,
                row.computed_at,
                row.observed_at,
            )
        )
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]
