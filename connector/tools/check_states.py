"""State checks of `gex-connector check`: the records that a worker will restore.

They also name the feeds that have states but are not configured any more.
"""

from __future__ import annotations

import time
from collections import defaultdict
from math import inf
from typing import TYPE_CHECKING, Final

from connector.core.model import MICROS
from connector.errors import KafkaError, ShardCorrupt
from connector.kafka.avro import Codec
from connector.kafka.clients import Clients
from connector.kafka.framing import framing_of
from connector.kafka.names import ShardId, Topics, partition_of
from connector.kafka.orphans import IDLE_SECONDS, find_orphans
from connector.kafka.reader import Reader
from connector.kafka.restore import StateReader

if TYPE_CHECKING:
    from collections.abc import Collection

    from connector.config.model import Config, Feed
    from connector.core.model import State
    from connector.kafka.restore import Stray
    from connector.tools.report import Report

# The rest is counted only.
_MAX_NAMED_STRAYS: Final = 5

_SEE: Final = "operations, Stray records"


def check_states(config: Config, feeds: Collection[str], report: Report) -> None:
    """Restore every shard of these feeds as a worker does, but fence nothing."""
    reader = Reader(Clients(config.kafka))
    codec = Codec(framing_of(config.schema_registry))
    try:
        for feed in config.feeds:
            if feed.name in feeds:
                _check_feed(feed, config, reader, codec, report)
        _check_orphans(config, reader, codec, report)
    finally:
        reader.close()


def _check_orphans(
    config: Config, reader: Reader, codec: Codec, report: Report
) -> None:
    topics = Topics(config.kafka.topic_prefix)
    configured = {feed.name for feed in config.feeds}
    try:
        orphans = find_orphans(configured, topics, reader, codec)
    except KafkaError as error:
        report.warn("feeds", f"not tried: {error}")
        return
    for orphan in orphans:
        if orphan.group == config.kafka.group_id:
            remedy = "a worker of this configuration removes them within minutes"
        elif orphan.is_idle:
            remedy = (
                f"group {orphan.group} wrote them; if no worker of it will come back, start "
                "one with this configuration and that kafka.group_id, or delete the topics"
            )
        else:
            # Another fleet below the same prefix, at work.
            continue
        report.warn("feeds", f"{orphan.description}; {remedy}")


def _check_feed(
    feed: Feed, config: Config, reader: Reader, codec: Codec, report: Report
) -> None:
    topics = Topics(config.kafka.topic_prefix)
    topic = topics.current(feed.name)
    shards = config.kafka.shards
    symbols: dict[int, list[str]] = defaultdict(list)
    for symbol in feed.symbols:
        symbols[partition_of(symbol, shards)].append(symbol)

    states: list[State] = []
    strays: list[tuple[int, Stray]] = []
    for partition in range(shards):
        shard = StateReader(
            ShardId(feed.name, partition),
            shards,
            topics=topics,
            reader=reader,
            codec=codec,
        )
        try:
            # With the symbols: those without a state continue from their last event, which
            # can end a worker as well.
            found = shard.read(symbols[partition], is_fenced=False)
        except ShardCorrupt as error:
            report.fail("states", str(error), error.exit_code)
            return
        except KafkaError as error:
            report.warn("states", f"{topic}: not tried: {error}")
            return
        states += found.states.values()
        strays += [(partition, stray) for stray in found.strays]

    for partition, stray in strays[:_MAX_NAMED_STRAYS]:
        outcome = "workers skip it"
        if stray.is_recovered:
            outcome = "workers find the symbol's state behind it"
        report.warn(
            "states",
            f"{topic}-{partition}, offset {stray.offset}, key {stray.key}: {stray.reason}; "
            f"{outcome} ({_SEE})",
        )
    hidden = len(strays) - _MAX_NAMED_STRAYS
    if hidden > 0:
        report.warn("states", f"{topic}: {hidden} more stray records ({_SEE})")
    if not strays:
        report.ok("states", f"{topic}: {len(states)} symbols can be restored")
    _check_writers(topic, config.kafka.group_id, states, report)


def _check_writers(
    topic: str, group: str, states: Collection[State], report: Report
) -> None:
    """Look for workers of another group that may write these states at the moment."""
    # The group of each, and how long ago it has written.
    others: dict[str, tuple[str, float]] = {}
    for state in states:
        idle_seconds = time.time() - state.observed_at / MICROS
        if state.source.group != group and idle_seconds < IDLE_SECONDS:
            _, known_seconds = others.get(state.source.worker, ("", inf))
            latest = min(idle_seconds, known_seconds)
            others[state.source.worker] = state.source.group, latest
    for worker, (other, seconds) in sorted(others.items()):
        # It may have been stopped since then.
        report.warn(
            "states",
            f"{topic}: worker {worker} of group {other} has written it "
            f"{max(seconds, 0):.0f} s ago. If it still runs, both would fence each other "
            "again and again: stop it, or use another kafka.topic_prefix",
        )
