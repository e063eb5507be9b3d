"""`GET /api/levels` over real HTTP: levels by status, filters, and answers that did not change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from connector.core.model import Status
from tests.contract.test_api import BEARER, LEVELS, TOKEN, Caller, Stack, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import aiohttp

FIRST = b'{"spot_price": 100, "positioning": "std", "all_expiry": {"hvl": 90}}'
# Spot alone has moved, which makes no event.
SPOT_MOVED = FIRST.replace(b"100", b"101")
CHANGED = FIRST.replace(b"90", b"91")


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with started(Stack(tmp_path, GEX_HTTP__TOKEN=TOKEN)) as running:
        yield running


@pytest.fixture
def caller(stack: Stack, client: aiohttp.ClientSession) -> Caller:
    return Caller(stack.url, client)


async def levels_of(caller: Caller, query: str) -> Any:
    """Return the answer's one row."""
    answer = await caller.get(f"{LEVELS}?{query}")
    assert answer.status == 200
    [row] = answer.body["symbols"]
    return row


def names(body: Any) -> list[tuple[str, str]]:
    return [(row["feed"], row["symbol"]) for row in body["symbols"]]


async def test_levels_are_those_of_the_last_event_and_spot_is_newer(
    stack: Stack, caller: Caller
) -> None:
    await stack.see("BTC", FIRST)
    await stack.see("BTC", CHANGED)
    await stack.see_state("BTC", SPOT_MOVED.replace(b"90", b"91"))

    row = await levels_of(caller, "feed=a&symbol=btc")

    assert row["status"] == "LIVE"
    assert row["owned"] is True
    assert row["sequence"] == 2
    assert row["levels"]["positioning"] == "std"
    assert row["levels"]["all_expiry"]["hvl"] == 91
    assert row["spot_price"] == 101
    assert row["former_levels"] is None


async def test_a_symbol_without_levels_keeps_them_apart(
    stack: Stack, caller: Caller
) -> None:
    await stack.see("BTC", FIRST)
    await stack.see("BTC", Status.MISSING)

    row = await levels_of(caller, "feed=a&symbol=BTC")

    # A program that does not look at the status must not take them for valid.
    assert row["status"] == "MISSING"
    assert row["levels"] is None
    assert row["spot_price"] is None
    assert row["former_levels"]["all_expiry"]["hvl"] == 90


async def test_a_symbol_that_was_not_answered_yet_has_nothing(caller: Caller) -> None:
    row = await levels_of(caller, "feed=a&symbol=ETH")

    assert row["owned"] is True
    assert row["status"] is None
    assert row["age_seconds"] is None
    assert row["levels"] is None
    assert row["former_levels"] is None


async def test_the_age_is_the_time_since_the_levels_were_computed(
    stack: Stack, caller: Caller
) -> None:
    for seconds, entry in ((b"00", FIRST), (b"30", CHANGED)):
        moment = b'{"computed_at": "2026-01-01T00:00:%sZ", ' % seconds
        await stack.see("BTC", entry.replace(b"{", moment, 1))

    answer = await caller.get(f"{LEVELS}?feed=a&symbol=BTC")

    [row] = answer.body["symbols"]
    age_micros = answer.body["at"] - row["computed_at"]
    assert row["age_seconds"] == pytest.approx(age_micros / 1e6, abs=0.001)
    # By which a reader can tell that nobody refreshes them any more.
    assert row["period_seconds"] == 30


async def test_the_answer_says_if_it_does_not_know_everything(
    stack: Stack, caller: Caller
) -> None:
    # This worker has not reached Kafka, from which it would read feeds `b` and `c`.
    every = await caller.get(LEVELS)
    own = await caller.get(f"{LEVELS}?feed=a")

    assert len(every.body["symbols"]) == len(stack.status.shard_ids)
    assert every.body["complete"] is False
    assert "Kafka has not been reached" in every.body["error"]
    assert own.body["complete"] is True
    assert own.body["error"] is None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("feed=a", [("a", "BTC"), ("a", "ETH")]),
        ("symbol=BTC", [("a", "BTC"), ("b", "BTC")]),
        ("symbol=sol&symbol=ETH", [("a", "ETH"), ("b", "SOL")]),
        ("feed=a&feed=c&symbol=eth", [("c", "eth")]),
    ],
)
async def test_feeds_and_symbols_are_filtered(
    query: str, expected: list[tuple[str, str]], caller: Caller
) -> None:
    answer = await caller.get(f"{LEVELS}?{query}")

    assert answer.status == 200
    assert names(answer.body) == expected


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        ("feed=z", 404, "feed 'z' is not configured"),
        ("symbol=NONE", 404, "symbol 'NONE' is not configured"),
        ("feed=a&symbol=SOL", 404, "symbol 'SOL' is not configured in the feed"),
        (
            "symbols=BTC",
            400,
            "unknown query parameter 'symbols'; expected feed or symbol",
        ),
    ],
)
async def test_a_wrong_filter_is_an_error(
    query: str, status: int, detail: str, caller: Caller
) -> None:
    # An empty list would look as if there were no levels.
    answer = await caller.get(f"{LEVELS}?{query}")

    assert answer.status == status
    assert answer.detail == detail


async def test_an_answer_of_which_only_the_ages_changed_is_not_sent_again(
    stack: Stack, caller: Caller
) -> None:
    await stack.see("BTC", FIRST)
    first = await caller.get(f"{LEVELS}?feed=a")
    etag = first.headers["ETag"]
    assert first.headers["Cache-Control"] == "private, no-cache"

    same = await caller.get(f"{LEVELS}?feed=a", {"If-None-Match": etag})
    assert same.status == 304
    assert same.headers["ETag"] == etag

    await stack.see("BTC", CHANGED)
    changed = await caller.get(f"{LEVELS}?feed=a", {"If-None-Match": etag})
    assert changed.status == 200
    assert changed.headers["ETag"] != etag

    # Another selection is another answer.
    other = await caller.get(f"{LEVELS}?symbol=BTC", {"If-None-Match": etag})
    assert other.status == 200


async def test_levels_need_no_token_on_loopback(caller: Caller) -> None:
    assert (await caller.get(LEVELS)).status == 200
    assert (await caller.get(LEVELS, BEARER)).status == 200
