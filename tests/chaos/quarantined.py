"""Bad entries that the upstream showed, and that nobody has quarantined.

An entry is written to the quarantine once, beside the transactions. So it may be lost
with a worker that dies, but not with one that goes on.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from connector.kafka.names import partition_of
from tests.chaos.evidence import bad_entries_of
from tests.chaos.excuses import (
    CHANGED_HANDS,
    IN_FLIGHT_SECONDS,
    IN_HAND_SECONDS,
    is_during,
    seconds_awake,
    was_frozen_during,
    was_in_trouble,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.evidence import BadEntry, Evidence, Showing, WorkerLogs


# The workers look for the topic every ten seconds.
_BACK_SECONDS = 15.0


def missing_entries(evidence: Evidence, logs: WorkerLogs) -> Iterator[str]:
    """Yield a text for each bad entry that is not in the quarantine and has no excuse."""
    written = set()
    for record in evidence.quarantined:
        written.add(hashlib.sha256(record.value).hexdigest())
    for entry, showings in bad_entries_of(evidence).items():
        if entry.sha256 in written:
            continue
        for showing in showings:
            if not _is_excused(entry, showing, evidence, logs):
                yield (
                    f"{entry.symbol}: a bad entry shown to slot {showing.life.slot} at "
                    f"{showing.answered_at:.3f} is not in the quarantine"
                )
                break


def _is_excused(
    entry: BadEntry, showing: Showing, evidence: Evidence, logs: WorkerLogs
) -> bool:
    if _was_topic_gone(showing, evidence):
        return True
    # The worker took no answers at that moment.
    shard = f"all-{partition_of(entry.symbol, evidence.shards)}"
    for message in logs.of_shard(showing.life, shard):
        if message.text in CHANGED_HANDS and is_during(message, showing):
            return True
    if was_frozen_during(showing):
        return True
    return _ended_with_it(showing, evidence)


def _was_topic_gone(showing: Showing, evidence: Evidence) -> bool:
    """Return whether the record was not accepted, or deleted before anybody read it."""
    shown_at = showing.answered_at
    for began_at, over_at in evidence.quarantine_gone:
        if shown_at > over_at + _BACK_SECONDS:
            continue
        # It was written before the reading, unless Kafka was away.
        is_before = shown_at + IN_HAND_SECONDS < began_at
        if not is_before or was_in_trouble(shown_at, began_at, evidence.troubles):
            return True
    return False


def _ended_with_it(showing: Showing, evidence: Evidence) -> bool:
    """Return whether the worker ended before the record was written."""
    life = showing.life
    if life.ended_at is None:
        return False
    if was_in_trouble(showing.answered_at, life.ended_at, evidence.troubles):
        return True
    if life.stopping_at is not None:
        # A worker that stops waits for its records, but takes no more answers.
        return showing.answered_at > life.stopping_at - IN_FLIGHT_SECONDS
    return seconds_awake(life, showing.answered_at) < IN_HAND_SECONDS
