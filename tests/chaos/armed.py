"""A worker that can be told to die or freeze at a given point of a transaction, and whose clock can be set.

`python -m tests.chaos.armed run ...` is `gex-connector run ...` with faults around librdkafka's producer and the
clock: nothing of that is in the product. The folder `CHAOS_ORDERS` holds the orders: a file `point` with a point
and a signal's number, carried out once; a file `clock` with seconds to add to the wall clock. With `CHAOS_UNFENCED`
each process has transactional ids of its own, so that nobody is fenced: the control.
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

POINTS = ("opened", "begin", "produced", "inside", "committed")
_INSIDE_SECONDS = 0.003
_CLOCK_EVERY_SECONDS = 0.05
_time_ns = time.time_ns


class Orders:
    """What the folder says now."""

    def __init__(self, folder: Path) -> None:
        self._point = folder / "point"
        self._clock = folder / "clock"
        self._looked_at = 0.0
        self._ahead = 0

    def reached(self, point: str) -> None:
        """Carry out what was ordered for this point."""
        try:
            wanted, number = self._point.read_text().split()
            if wanted != point:
                return
            self._point.rename(
                self._point.with_name("done")
            )  # only one thread carries it out
        except FileNotFoundError:
            return  # nothing was ordered, or it was withdrawn just now
        if point == "inside":
            threading.Timer(
                _INSIDE_SECONDS, os.kill, (os.getpid(), int(number))
            ).start()
        else:
            os.kill(os.getpid(), int(number))

    def time_ns(self) -> int:
        """The wall clock as it is to be believed."""
        looked_at = time.monotonic()
        if looked_at - self._looked_at > _CLOCK_EVERY_SECONDS:
            self._looked_at = looked_at
            self._ahead = (
                round(float(self._clock.read_text()) * 1e9)
                if self._clock.exists()
                else 0
            )
        return _time_ns() + self._ahead


def _armed(orders: Orders) -> type[ck.Producer]:
    class Armed(ck.Producer):
        def init_transactions(self, *given: Any) -> None:
            super().init_transactions(*given)
            orders.reached("opened")

        def begin_transaction(self) -> None:
            orders.reached("begin")
            super().begin_transaction()

        def commit_transaction(self, *given: Any) -> None:
            orders.reached("produced")
            orders.reached("inside")
            super().commit_transaction(*given)
            orders.reached("committed")

    return Armed


def arm() -> None:
    orders = Orders(Path(os.environ["CHAOS_ORDERS"]))
    armed, made = _armed(orders), shard_log.new_client

    def make(kind: Any, settings: Any) -> Any:
        return made(armed if kind is ck.Producer else kind, settings)

    shard_log.new_client = make
    time.time_ns = orders.time_ns  # all that the connector reads the wall clock by
    if "CHAOS_UNFENCED" in os.environ:
        own = uuid.uuid4().hex
        fenced: Any = vars(shard_log.ShardLog)["transactional_id"]
        own_id = property(lambda log: f"{fenced.fget(log)}-{own}")
        setattr(shard_log.ShardLog, "transactional_id", own_id)  # noqa: B010 -- mypy


if __name__ == "__main__":
    arm()
    main()
