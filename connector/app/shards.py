"""Create the shards that are configured."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from connector.app.parts import used_fraction
from connector.kafka.names import ShardId, partition_of
from connector.runtime.ports import ShardContext, ShardSpec
from connector.runtime.shard import Shard
from connector.runtime.startup import StartupDeadline

if TYPE_CHECKING:
    from connector.app.parts import KafkaParts, Parts
    from connector.app.preparation import Prepared
    from connector.config.model import Feed
    from connector.kafka.quarantine import Quarantined


def add_shards(parts: Parts, kafka: KafkaParts, prepared: Prepared) -> None:
    """Create every configured shard. Each is served once it is assigned."""
    config = parts.config

    def quarantine(feed: str, entry: Quarantined) -> None:
        prepared.quarantine.add(feed, entry)
        parts.view.quarantined(feed, entry)

    startup_ends_at = time.monotonic() + config.kafka.start_timeout_seconds
    context = ShardContext(
        observer=parts.observer,
        clock=parts.clock,
        executor=kafka.executor,
        source=parts.source,
        grace_seconds=2 * config.upstream.timeout_seconds,
        polling_changed=parts.shards.update_polling,
        startup=StartupDeadline(startup_ends_at),
        used_fraction=partial(used_fraction, parts.budget),
        silence_reason=parts.poller.silence_reason,
        plan_keeps_fresh=parts.poller.plan_keeps_fresh,
        published=parts.view.published,
        quarantine=quarantine,
        clock_explains_refusal=kafka.clock_watch.explains_refusal,
    )
    for feed in config.feeds:
        for partition in range(config.kafka.shards):
            shard_id = ShardId(feed.name, partition)
            symbols = _symbols_of(feed, partition, config.kafka.shards)
            spec = ShardSpec(shard_id, parts.rules[feed.name], symbols)
            new_log = partial(prepared.new_log, shard_id)
            parts.shards.add(Shard(spec, new_log, context))


def _symbols_of(feed: Feed, partition: int, shards: int) -> frozenset[str]:
    """Return the symbols of a feed whose keys hash to a partition."""
    symbols = []
    for symbol in feed.symbols:
        if partition_of(symbol, shards) == partition:
            symbols.append(symbol)
    return frozenset(symbols)
