"""A refused request gives its symbols a status only if the API refused it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from connector.config.load import load
from connector.core.model import Source, Status
from connector.kafka.names import ShardId
from connector.runtime.clock import Clock
from connector.runtime.health import Health
from connector.runtime.poller import Poller
from connector.runtime.ports import PollerContext
from connector.schedule.checks import Purpose
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from connector.upstream.api_key import ApiKey
from connector.upstream.budget import Budget
from connector.upstream.client import Client
from tests.support.upstream_server import Server, refusal, replying, running_server

if TYPE_CHECKING:
    from aiohttp import web

    from connector.runtime.shard import Shard


class Recorder:
    """As much of a shard as a check needs. It keeps the answers."""

    id = ShardId("all", 0)
    symbols = frozenset({"BTCUSDT"})
    restored = None
    is_stuck = False

    def __init__(self) -> None:
        self.answers: list[Any] = []

    @staticmethod
    def state_of(_: str) -> None:
        """Return no state: nothing is known of the symbol."""

    def observe(self, _symbol: str, answer: Any, *_: Any) -> None:
        self.answers.append(answer)


async def check_once(
    server: Server, shard: Recorder, *, is_handed_over: bool = False
) -> Poller:
    """Let a poller make one check of the shard's only symbol.

    If the shard `is_handed_over`, another worker has it when the answer comes.
    """
    config = load(
        None,
        {
            "GEX_UPSTREAM__API_KEY": "demo-key",
            "GEX_UPSTREAM__BASE_URL": server.url,
            "GEX_SYMBOLS": "BTCUSDT",
        },
    )
    budget = Budget(None)
    client = Client(config.upstream, ApiKey(config.upstream), budget)
    context = PollerContext(
        MetricsObserver(Metrics(["all"])),
        Clock(),
        Health(time.monotonic, Clock.now),
        Source("1", "group", "worker"),
    )
    poller = Poller(config, client, budget, context)
    poller.cover([cast("Shard", shard)])
    (batch,) = poller._coverage.batches()

    answer = server.handler

    async def answer_after_hand_over(request: web.Request) -> web.StreamResponse:
        poller.cover([])
        return await answer(request)

    if is_handed_over:
        server.handler = answer_after_hand_over
    poller.schedule.start_check(batch, time.monotonic())
    async with budget.request() as permit:
        await poller._checker.send(batch, Purpose.FIRST, permit)
    await client.close()
    return poller


@pytest.mark.parametrize(
    ("status", "body", "answers"),
    [
        (422, refusal("VALIDATION_ERROR"), [Status.INVALID]),
        (422, b'{"detail": [{"msg": "bad symbol"}]}', [Status.INVALID]),
        (404, refusal("NOT_FOUND"), [Status.MISSING]),
        # The path is wrong, or the server is being replaced.
        (404, b'{"detail": "Not Found"}', []),
        (405, b'{"detail": "Method Not Allowed"}', []),
    ],
)
async def test_a_symbol_that_is_refused_alone_gets_the_status_that_the_refusal_proves(
    status: int, body: bytes, answers: list[Status]
) -> None:
    shard = Recorder()
    async with running_server() as server:
        server.handler = replying(body, status)
        poller = await check_once(server, shard)

    assert shard.answers == answers
    # Either way the symbol is tried rarely from now on.
    (batch,) = poller._coverage.batches()
    assert batch.refused == (status != 404 or not answers)


@pytest.mark.parametrize(
    ("status", "code", "failures"),
    [
        # These concern every batch, so they say nothing about this one.
        (401, "UNAUTHORIZED", 0),
        (403, "FORBIDDEN", 0),
        (429, "RATE_LIMIT_EXCEEDED", 0),
        (503, "UPSTREAM_ERROR", 1),
    ],
)
async def test_a_batch_backs_off_for_its_own_failures_only(
    status: int, code: str, failures: int
) -> None:
    async with running_server() as server:
        server.handler = replying(refusal(code), status)
        poller = await check_once(server, Recorder())

    (planned,) = poller.schedule.planned_checks()
    assert planned.failures == failures


@pytest.mark.parametrize(("status", "code"), [(401, "UNAUTHORIZED"), (503, "DOWN")])
async def test_a_check_that_fails_after_the_hand_over_leaves_no_trace(
    status: int, code: str
) -> None:
    async with running_server() as server:
        server.handler = replying(refusal(code), status)
        poller = await check_once(server, Recorder(), is_handed_over=True)

    # A standby sends no request that could take it back.
    assert not poller.key_refused
    assert poller.failing_checks.symbols == frozenset()
