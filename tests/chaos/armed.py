"""A worker that dies or freezes at a point of a transaction when ordered to.

Its wall clock can be set, too.

`python -m tests.chaos.armed run ...` is `gex-connector run ...` with a wrapper around
librdkafka's producer and the wall clock; the product knows nothing of it. The folder
`CHAOS_ORDERS` holds the orders:

- a file `point` with the name of a point and the number of a signal, carried out once;
- a file `clock` with the seconds to add to the wall clock.

With `CHAOS_UNFENCED` each process has transactional ids of its own, so that the broker
fences nobody: the control.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import confluent_kafka as ck

from connector.cli import main
from connector.kafka import shard_log

# Points of a transaction; `inside` is while the commit waits for its answer.
POINTS = ("opened", "begin", "produced", "inside", "committed")

# A commit takes a few milliseconds at least.
_INSIDE_SECONDS = 0.003

_READ_CLOCK_EVERY_SECONDS = 0.05
_real_time_ns = time.time_ns


class Orders:
    """The orders in a folder."""

    def __init__(self, folder: Path) -> None:
        self._point = folder / "point"
        self._clock = folder / "clock"
        self._read_at = 0.0
        self._ahead_ns = 0

    def reached(self, point: str) -> None:
        """Carry out the order for this point, if there is one."""
        try:
            ordered, number = self._point.read_text().split()
            if ordered != point:
                return
            # Only one thread succeeds in renaming the file, and carries the order out.
            self._point.rename(self._point.with_name("done"))
        except FileNotFoundError:
            # Nothing is ordered, or another thread was first, or the order was withdrawn.
            return
        order = (os.getpid(), int(number))
        if point == "inside":
            # The commit blocks this thread, so another one sends the signal.
            threading.Timer(_INSIDE_SECONDS, os.kill, order).start()
        else:
            os.kill(*order)

    def time_ns(self) -> int:
        """Return the time of the wall clock as it was set."""
        now = time.monotonic()
        if now - self._read_at > _READ_CLOCK_EVERY_SECONDS:
            self._read_at = now
            self._ahead_ns = 0
            if self._clock.exists():
                self._ahead_ns = round(float(self._clock.read_text()) * 1e9)
        return _real_time_ns() + self._ahead_ns


def _armed_producer(orders: Orders) -> type[ck.Producer]:
    class ArmedProducer(ck.Producer):
        def init_transactions(self, *arguments: Any) -> None:
            super().init_transactions(*arguments)
            orders.reached("opened")

        def begin_transaction(self) -> None:
            orders.reached("begin")
            super().begin_transaction()

        def commit_transaction(self, *arguments: Any) -> None:
            orders.reached("produced")
            orders.reached("inside")
            super().commit_transaction(*arguments)
            orders.reached("committed")

    return ArmedProducer


def arm() -> None:
    """Replace the producer and the wall clock of this process."""
    orders = Orders(Path(os.environ["CHAOS_ORDERS"]))
    armed = _armed_producer(orders)
    new_client = shard_log.new_client

    def new_armed_client(kind: Any, settings: Any) -> Any:
        if kind is ck.Producer:
            kind = armed
        return new_client(kind, settings)

    shard_log.new_client = new_armed_client
    # The connector reads the wall clock of events and levels by this function.
    time.time_ns = orders.time_ns
    if "CHAOS_UNFENCED" in os.environ:
        _use_own_transactional_ids()


def _use_own_transactional_ids() -> None:
    suffix = uuid.uuid4().hex
    shared: Any = vars(shard_log.ShardLog)["transactional_id"]

    def own_id(log: shard_log.ShardLog) -> str:
        return f"{shared.fget(log)}-{suffix}"

    own = property(own_id)
    setattr(shard_log.ShardLog, "transactional_id", own)  # noqa: B010 -- mypy


if __name__ == "__main__":
    arm()
    main()
