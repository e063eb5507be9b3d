"""A worker that dies or freezes at a point of a transaction when ordered to.

Its wall clock can be set, its event loop can get stuck, and its log can have no reader.

`python -m tests.chaos.armed run ...` is `gex-connector run ...` with a wrapper around
librdkafka's producer and the wall clock; the product knows nothing of it. The folder
`CHAOS_ORDERS` holds the orders:

- a file `point` with the name of a point and the number of a signal, carried out once;
- a file `clock` with the seconds to add to the wall clock;
- a file `stuck`: the event loop is stuck while it exists;
- a file `unread`: standard error is a full pipe while it exists.

With `CHAOS_UNFENCED` each process has transactional ids of its own, so that the broker
fences nobody: the control.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import confluent_kafka as ck

from connector import logs
from connector.cli import main
from connector.kafka import shard_log

# Points of a transaction; `inside` is while the commit waits for its answer.
POINTS = ("opened", "begin", "produced", "inside", "committed")

# A commit takes a few milliseconds at least.
_INSIDE_SECONDS = 0.003

_READ_CLOCK_EVERY_SECONDS = 0.05
_LOOK_EVERY_SECONDS = 0.1

_STANDARD_ERROR = 2
_CHUNK_BYTES = 64 * 1024
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

    def time(self) -> float:
        """Return the same in seconds."""
        return self.time_ns() / 1e9


class StuckLoop:
    """Makes the event loop stuck while a file exists. Create it in the main thread."""

    def __init__(self, order: Path) -> None:
        self._order = order
        self._is_carried_out = False
        self._main_thread = threading.get_ident()
        signal.signal(signal.SIGUSR1, self._wait)

    def look(self) -> None:
        """Carry out the order, if there is one. Call it in another thread."""
        is_ordered = self._order.exists()
        if is_ordered and not self._is_carried_out:
            signal.pthread_kill(self._main_thread, signal.SIGUSR1)
        self._is_carried_out = is_ordered

    def _wait(self, _number: int, _frame: object) -> None:
        # Python runs this in the main thread, which is the event loop's.
        while self._order.exists():
            time.sleep(_LOOK_EVERY_SECONDS)


class LogWithoutReader:
    """Makes standard error a full pipe while a file exists.

    The judge needs every line all the same, also if the worker is killed meanwhile. So the
    lines that come meanwhile are copied to the former standard error.
    """

    def __init__(self, order: Path) -> None:
        self._order = order
        self._log = os.dup(_STANDARD_ERROR)
        self._read_end: int | None = None
        self._copy_lines()

    def look(self) -> None:
        """Carry out the order, or end it once it is withdrawn."""
        if self._order.exists() and self._read_end is None:
            self._read_end = _full_pipe_as_standard_error()
        elif not self._order.exists() and self._read_end is not None:
            os.dup2(self._log, _STANDARD_ERROR)
            _copy(self._read_end, self._log)
            os.close(self._read_end)
            self._read_end = None

    def _copy_lines(self) -> None:
        handler: Any = logs._Handler
        queue = handler._queue

        def queue_and_copy(its_handler: Any, line: str) -> None:
            if self._read_end is not None:
                os.write(self._log, f"{line}\n".encode())
            queue(its_handler, line)

        handler._queue = queue_and_copy


def _full_pipe_as_standard_error() -> int:
    """Return the other end of the pipe."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write_end, b"\n")
    os.set_blocking(write_end, True)
    os.dup2(write_end, _STANDARD_ERROR)
    os.close(write_end)
    return read_end


def _copy(from_end: int, to: int) -> None:
    """Copy what is in a pipe, until nobody is about to write to it."""
    while chunk := os.read(from_end, _CHUNK_BYTES):
        os.write(to, chunk)


def _look_for_orders(stuck: StuckLoop, log: LogWithoutReader) -> None:
    while True:
        stuck.look()
        log.look()
        time.sleep(_LOOK_EVERY_SECONDS)


def _record_with_true_time(*arguments: Any, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord(*arguments, **fields)
    record.created = _real_time_ns() / 1e9
    return record


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
    """Replace the producer and the wall clock of this process, and look for orders."""
    folder = Path(os.environ["CHAOS_ORDERS"])
    orders = Orders(folder)
    armed = _armed_producer(orders)

    def armed_producer(settings: Any, topic: str) -> ck.Producer:
        producer = armed(settings)
        with suppress(ck.KafkaException):
            producer.list_topics(topic, timeout=1)
        return producer

    # That of the shards only, not of those who ask for the brokers' time.
    patched: Any = shard_log
    patched.transactional_producer = armed_producer
    # By the one the connector reads the time of events and levels, and by the other it
    # compares itself with the brokers. The judge needs true times in the logs.
    time.time_ns = orders.time_ns
    time.time = orders.time
    logging.setLogRecordFactory(_record_with_true_time)
    stuck = StuckLoop(folder / "stuck")
    log = LogWithoutReader(folder / "unread")
    threading.Thread(target=_look_for_orders, args=(stuck, log), daemon=True).start()
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
