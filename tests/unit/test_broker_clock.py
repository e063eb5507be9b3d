"""The end of a transaction is told from other records by its offset."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from connector.config.model import Kafka
from connector.errors import KafkaUnavailable
from connector.kafka.broker_clock import BrokerClock, _are_we_last, _Newest
from connector.kafka.clients import Clients
from connector.kafka.names import Topics

if TYPE_CHECKING:
    from collections.abc import Sequence

HOUR_SECONDS = 3600
# Far more than the test takes.
NEAR_SECONDS = 1800


@pytest.mark.parametrize(
    ("end_before", "ours", "end", "are_last"),
    [
        (5, 5, 7, True),
        # Another program's record before ours, where it does no harm.
        (5, 6, 8, True),
        # Between ours and the end, or after it. Nobody can tell.
        (5, 5, 8, False),
        # Ours was refused.
        (5, None, 6, True),
        (5, None, 7, False),
    ],
)
def test_only_a_record_that_cannot_be_of_others_is_the_end(
    end_before: int, ours: int | None, end: int, *, are_last: bool
) -> None:
    assert _are_we_last(end_before, ours, end) is are_last


class Partition:
    """What a clock finds at each attempt: the end before and after, and two records."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clients = Clients(Kafka(bootstrap_servers="127.0.0.1:1"))
        self.clock = BrokerClock(clients, Topics("test"), "all")
        self._monkeypatch = monkeypatch
        self._set("_exists", [True])
        self._set("_wait_until_ended", [None] * 3)

    def has(
        self, ends: Sequence[int], ours: Sequence[int], newest: Sequence[_Newest]
    ) -> None:
        self._set("_end", ends)
        self._set("_abort_transaction", ours)
        self._set("_newest", newest)

    def _set(self, call: str, answers: Sequence[object]) -> None:
        left = iter(answers)
        self._monkeypatch.setattr(self.clock, call, lambda *_: next(left))


@pytest.fixture
def partition(monkeypatch: pytest.MonkeyPatch) -> Partition:
    return Partition(monkeypatch)


def newest(offset: int, ahead_seconds: int) -> _Newest:
    return _Newest(offset, int((time.time() + ahead_seconds) * 1000))


def test_a_record_of_others_during_the_look_is_not_taken_for_the_end(
    partition: Partition,
) -> None:
    # The first attempt finds an event right after our record, with the time of the clock
    # in doubt: ours. The brokers' is an hour later.
    partition.has(
        ends=[5, 8, 8, 10],
        ours=[5, 8],
        newest=[newest(6, 0), newest(9, HOUR_SECONDS)],
    )

    difference = partition.clock.difference_seconds()

    assert difference == pytest.approx(HOUR_SECONDS, abs=NEAR_SECONDS)


def test_a_record_between_the_two_looks_is_not_taken_for_the_end(
    partition: Partition,
) -> None:
    partition.has(
        ends=[5, 7, 8, 10],
        ours=[5, 8],
        newest=[newest(7, 0), newest(9, HOUR_SECONDS)],
    )

    difference = partition.clock.difference_seconds()

    assert difference == pytest.approx(HOUR_SECONDS, abs=NEAR_SECONDS)


def test_a_topic_with_later_times_is_named(partition: Partition) -> None:
    partition.has(ends=[5, 7], ours=[5], newest=[newest(3, HOUR_SECONDS)])

    with pytest.raises(KafkaUnavailable, match="has records with later times"):
        partition.clock.difference_seconds()


def test_a_topic_to_which_others_write_all_the_time_is_named(
    partition: Partition,
) -> None:
    partition.has(
        ends=[5, 8, 8, 11, 11, 14],
        ours=[5, 8, 11],
        newest=[newest(7, 0), newest(10, 0), newest(13, 0)],
    )

    with pytest.raises(KafkaUnavailable, match="others write to topic"):
        partition.clock.difference_seconds()
