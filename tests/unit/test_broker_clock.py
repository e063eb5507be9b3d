"""The end of a transaction is told from other records by its offset and time."""

from __future__ import annotations

import time

import pytest

from connector.config.model import Kafka
from connector.kafka.broker_clock import BrokerClock, _is_end, _Newest
from connector.kafka.clients import Clients
from connector.kafka.names import Topics

NOON_MS = 1_795_780_800_000
BEFORE = 5
OURS = 6


@pytest.mark.parametrize(
    ("newest", "ours", "is_end"),
    [
        (_Newest(7, NOON_MS), OURS, True),
        # Another program's record, before the end or after it.
        (_Newest(8, NOON_MS), OURS, False),
        (_Newest(OURS, NOON_MS), OURS, False),
        (_Newest(BEFORE, NOON_MS), OURS, False),
        # The records were deleted meanwhile.
        (_Newest(-1, -1), OURS, False),
        # The offset of our record is not known: it was refused, or not confirmed.
        (_Newest(OURS, NOON_MS), None, True),
        (_Newest(7, 1), None, False),
        (_Newest(BEFORE, NOON_MS), None, False),
        (_Newest(-1, -1), None, False),
    ],
)
def test_only_the_record_after_ours_is_the_end(
    newest: _Newest, ours: int | None, is_end: bool
) -> None:
    assert _is_end(newest, BEFORE, ours) is is_end


def test_an_event_during_the_look_is_not_taken_for_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_ms = int(time.time() * 1000)
    # Its time is that of the clock in doubt: ours. The brokers' is an hour later.
    event, end = _Newest(8, now_ms), _Newest(11, now_ms + 3_600_000)
    found = iter([_Newest(BEFORE, 1), event, event, end])
    ours = iter([OURS, 10])
    clients = Clients(Kafka(bootstrap_servers="127.0.0.1:1"))
    clock = BrokerClock(clients, Topics("test"), "all")
    monkeypatch.setattr(clock, "_exists", lambda *_: False)
    monkeypatch.setattr(clock, "_newest", lambda *_: next(found))
    monkeypatch.setattr(clock, "_abort_transaction", lambda _: next(ours))

    assert clock.difference_seconds() == pytest.approx(3600, abs=1800)
    assert list(found) == []
