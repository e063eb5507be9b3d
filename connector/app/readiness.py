"""Why a worker is not ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connector.app.parts import KafkaParts, Parts
    from connector.app.preparation import Prepared
    from connector.kafka.names import Topics
    from connector.kafka.topic_watch import TopicWatch


def why_not_ready(parts: Parts, kafka: KafkaParts, prepared: Prepared) -> list[str]:
    """Return the reasons, none if the worker is ready."""
    # Without Kafka, or with a wrong clock, the group and the shards fail too, which explains
    # nothing.
    reasons = kafka.watch.why_not_ready() + kafka.clock_watch.why_not_ready()
    if not reasons:
        if not prepared.group.joined:
            reasons.append("this worker is not in the consumer group")
        reasons += _topic_faults(prepared.topic_watch, kafka.topics)
        reasons += parts.shards.why_not_ready()
    reasons += parts.poller.why_not_ready()
    return reasons


def _topic_faults(watch: TopicWatch, topics: Topics) -> list[str]:
    """Return the faults that keep events from being published."""
    reasons = []
    for name, fault in watch.faults.items():
        # Events go on without a quarantine.
        if name != topics.quarantine:
            reasons.append(fault)
    return reasons
