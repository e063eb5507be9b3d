"""The topics of a replay: never those of a connector, and empty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from connector.config.model import check_topic_prefix
from connector.config.secrets import quote
from connector.config.values import InvalidValue
from connector.core.model import Value
from connector.errors import UsageError
from connector.kafka.admin import TopicSpec, prepare_topics, topic_specs
from connector.kafka.events import BEGINNING, END, Log
from connector.kafka.names import Topics

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from connector.config.model import Kafka
    from connector.kafka.clients import Clients

_KEPT_FOR_EVER: Final = "-1"


class Sizes(Value, frozen=True):
    """The partitions of a feed's topics."""

    partitions: int
    shards: int


def topics_of_replay(prefix: str, live_prefix: str) -> Topics:
    """Return the topics of a replay.

    Raises UsageError if the prefix is not valid, or if it is that of the connector. So is
    every longer or shorter one: a reader of one would take the other's topics for feeds.
    """
    try:
        check_topic_prefix(prefix)
    except InvalidValue as error:
        raise UsageError(f"replay: --to {quote(prefix)}, {error}") from None

    is_live = (
        prefix == live_prefix
        or prefix.startswith(f"{live_prefix}.")
        or live_prefix.startswith(f"{prefix}.")
    )
    if is_live:
        raise UsageError(
            f"replay: --to {quote(prefix)} has topics in common with kafka.topic_prefix "
            f"{quote(live_prefix)}, expected another prefix: past events must never get "
            "into the topics of a connector"
        )
    return Topics(prefix)


def prepare_target(
    clients: Clients, topics: Topics, kafka: Kafka, sizes: Mapping[str, Sizes]
) -> None:
    """Create the topics of a replay, unless they exist.

    Raises UsageError if a topic below the prefix has records, SetupError if one does not
    fit, and KafkaUnavailable.
    """
    require_empty(clients, topics)
    specs: list[TopicSpec] = []
    for feed, size in sizes.items():
        specs += _specs(topics, feed, kafka, size)
    prepare_topics(clients, specs, kafka.replication_factor)


def require_empty(clients: Clients, topics: Topics) -> None:
    """Raise UsageError if a topic below the prefix has records. Raises KafkaUnavailable."""
    log = Log(clients, topics, needs_feed=False)
    names = [topics.changes(feed) for feed in log.feeds]
    for name in log.partitions:
        if topics.feed_of_current(name) is not None:
            names.append(name)
    if names:
        partitions = log.partitions_of(*names)
        starts = log.offsets(partitions, BEGINNING)
        ends = log.offsets(partitions, END)
        for partition in partitions:
            if starts[partition] < ends[partition]:
                raise UsageError(
                    f"replay: topic {partition[0]} has records, expected empty topics; "
                    "choose another prefix with --to, or delete the topics of this one"
                )
    log.close()


def _specs(topics: Topics, feed: str, kafka: Kafka, size: Sizes) -> Iterable[TopicSpec]:
    sized = replace(kafka, partitions=size.partitions, shards=size.shards)
    # The first is the quarantine, which holds no events.
    _, changes, current = topic_specs(topics, [feed], sized)
    # Records have the times of the past, for which retention would delete them at once.
    config = {**changes.config, "retention.ms": _KEPT_FOR_EVER}
    optional = changes.optional | {"retention.ms"}
    return replace(changes, config=config, optional=optional), current
