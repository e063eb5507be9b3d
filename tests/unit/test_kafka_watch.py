"""The watch for outages of Kafka, with answers that the test chooses."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from connector.kafka.reachability import Reachability
from connector.runtime.kafka_watch import KafkaWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# 2027-01-15 08:00:00 UTC
NOW = 1_800_000_000.0
REFUSED = "Connect to 127.0.0.1:9092 failed: Connection refused"


class Bench:
    """A watch whose waits end when the test says so."""

    def __init__(self) -> None:
        self.answers = True
        self.is_waiting = asyncio.Event()
        self.may_ask = asyncio.Event()
        self.reachability = Reachability(lambda: NOW)
        self.watch = KafkaWatch(
            self.probe, self.reachability, ThreadPoolExecutor(1), self.sleep
        )

    def probe(self) -> None:
        if self.answers:
            self.reachability.reached()
        else:
            self.reachability.silent(REFUSED, 0)

    async def sleep(self, _: float) -> None:
        self.is_waiting.set()
        await self.may_ask.wait()
        self.may_ask.clear()

    async def ask(self, *, answers: bool) -> None:
        """Let the watch ask once, and wait until it has done so."""
        await self.is_waiting.wait()
        self.is_waiting.clear()
        self.answers = answers
        self.may_ask.set()
        await self.is_waiting.wait()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    running = asyncio.create_task(bench.watch.run())
    yield bench
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_worker_without_kafka_is_not_ready_for_one_reason(bench: Bench) -> None:
    await bench.ask(answers=True)
    assert bench.watch.why_not_ready() == []

    await bench.ask(answers=False)
    await bench.ask(answers=False)

    expected = f"Kafka unreachable since 2027-01-15 08:00:00 UTC: {REFUSED}"
    assert bench.watch.why_not_ready() == [expected]


async def test_an_answer_ends_an_outage(bench: Bench) -> None:
    await bench.ask(answers=False)
    await bench.ask(answers=False)

    await bench.ask(answers=True)

    assert bench.watch.outage is None
    assert bench.watch.why_not_ready() == []
