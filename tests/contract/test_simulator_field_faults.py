"""Faults of the simulator that real proxies, caches and servers were seen to make."""

from __future__ import annotations

import gzip
import json

import pytest

from connector.devkit.simulator.catalogue import FAULTS
from tests.support.simulated import LEVELS, Simulated, simulated


async def raw(client: Simulated, symbols: str = "BTCUSDT") -> tuple[str | None, bytes]:
    """Return `Content-Encoding` and body as they came over the wire."""
    url = client.simulator.url + LEVELS
    async with client.http.stream("GET", url, params={"symbols": symbols}) as response:
        body = b"".join([part async for part in response.aiter_raw()])
    return response.headers.get("Content-Encoding"), body


async def test_a_cache_serves_the_first_answer_to_each_request_again() -> None:
    async with simulated(plan="starter") as client:
        client.fault("cached", for_seconds=420)
        first = await client.levels()
        other = await client.levels("SOLUSDT")
        client.clock.seconds += 419
        again = await client.levels()
        assert again.content == first.content
        assert again.headers == first.headers
        assert other.content != first.content
        client.clock.seconds += 1
        fresh = await client.levels()
        assert fresh.content != first.content
        # The cached answer cost nothing: the first, the other and the fresh one did.
        assert fresh.headers["X-Quota-Used"] == "3"
        answers = client.simulator.truth().answers
    assert answers[2].faults == ["cached"]
    assert answers[2].shown == answers[0].shown


async def test_a_cache_can_keep_the_body_only() -> None:
    async with simulated(plan="starter") as client:
        client.fault("cached", headers="fresh")
        first = await client.levels()
        client.clock.seconds += 60
        again = await client.levels()
    assert again.content == first.content
    assert again.headers["X-RateLimit-Reset"] != first.headers["X-RateLimit-Reset"]
    assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]


async def test_clearing_the_faults_empties_the_cache() -> None:
    async with simulated() as client:
        client.fault("cached")
        first = await client.levels()
        client.fault("cached")
        assert (await client.levels()).content != first.content


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_only_the_timestamp_of_meta_can_be_shifted(seconds: int) -> None:
    async with simulated() as client:
        right = (await client.levels()).json()
        client.fault("meta_clock", seconds=seconds)
        wrong = (await client.levels()).json()
    assert wrong["data"] == right["data"]
    assert wrong["meta"]["rate_limit"]["reset"] == right["meta"]["rate_limit"]["reset"]
    is_ahead = wrong["meta"]["timestamp"] > right["meta"]["timestamp"]
    assert is_ahead == (seconds > 0)


async def test_meta_can_have_numbers_that_are_not_json() -> None:
    async with simulated() as client:
        client.fault("nan_meta")
        text = (await client.levels()).text
    assert '"spot_price":NaN' in text
    assert '"freshness_seconds":Infinity' in text


@pytest.mark.parametrize("variant", ["absent", "null"])
async def test_meta_can_have_the_required_fields_only(variant: str) -> None:
    async with simulated() as client:
        client.fault("sparse_meta", variant=variant)
        meta = (await client.levels()).json()["meta"]
    filled = {name for name, value in meta.items() if value is not None}
    assert filled == {"version", "timestamp"}
    assert (len(meta) == 2) == (variant == "absent")


@pytest.mark.parametrize(
    ("variant", "name"),
    [("lower", "btcusdt"), ("dash", "BTC-USDT"), ("mixed", "bTCUSDT")],
)
@pytest.mark.parametrize("lists", [True, False])
async def test_results_can_be_keyed_by_another_spelling(
    variant: str, name: str, lists: bool
) -> None:
    async with simulated() as client:
        client.fault("renamed", symbols=["BTCUSDT"], variant=variant, lists=lists)
        data = (await client.levels()).json()["data"]
    assert list(data["results"]) == [name, "ETHUSDT"]
    assert data["served"] == [name if lists else "BTCUSDT", "ETHUSDT"]


async def test_a_symbol_can_exist_in_mixed_case_only() -> None:
    async with simulated(symbols=["kPEPEUSDT"]) as client:
        data = (await client.levels("kPEPEUSDT,KPEPEUSDT")).json()["data"]
    assert data["served"] == ["kPEPEUSDT"]
    assert data["invalid"] == ["KPEPEUSDT"]


async def test_a_framework_can_answer_by_itself() -> None:
    async with simulated() as client:
        client.fault("framework_error", symbols=["SOLUSDT"], message="unknown symbol")
        response = await client.levels("BTCUSDT,SOLUSDT")
        assert response.status_code == 422
        (error,) = response.json()["detail"]
        assert error["loc"] == ["query", "symbols"]
        assert error["msg"] == "unknown symbol"
        assert (await client.levels()).status_code == 200

        client.fault("framework_error", status=405)
        response = await client.levels()
    assert response.status_code == 405
    assert response.json() == {"detail": "Method Not Allowed"}


@pytest.mark.parametrize(
    ("variant", "encoding", "is_packed"),
    [
        ("gzip_over_plain", "gzip", False),
        ("two_members", "gzip", True),
        ("gzip_identity", "gzip, identity", True),
        ("utf-8", "utf-8", False),
    ],
)
async def test_the_content_encoding_can_be_wrong_or_unusual(
    variant: str, encoding: str, is_packed: bool
) -> None:
    async with simulated() as client:
        client.fault("content_encoding", variant=variant)
        header, body = await raw(client)
        answer = client.simulator.truth().answers[-1]
    assert header == encoding
    assert json.loads(gzip.decompress(body) if is_packed else body)["success"]
    if variant == "two_members":
        assert body.count(b"\x1f\x8b\x08") == 2
    assert answer.shown["BTCUSDT"] is not None


@pytest.mark.parametrize("variant", ["no_fields", "null_fields", "null_leaves"])
async def test_an_entry_can_be_empty(variant: str) -> None:
    async with simulated() as client:
        client.fault("empty_entry", symbols=["BTCUSDT"], variant=variant)
        results = (await client.levels()).json()["data"]["results"]
    entry = results["BTCUSDT"]
    if variant == "no_fields":
        assert entry == {}
    elif variant == "null_fields":
        assert set(entry.values()) == {None}
    else:
        assert set(entry["all_expiry"].values()) == {None}
        assert entry["computed_at"] is None
    assert results["ETHUSDT"]["all_expiry"]["hvl"] is not None


@pytest.mark.parametrize("seconds", [0, 20])
async def test_two_nodes_can_answer_in_turn(seconds: int) -> None:
    async with simulated() as client:
        client.fault("two_nodes", seconds=seconds)
        flips = []
        stamps = []
        for _ in range(4):
            data = (await client.levels("BTCUSDT")).json()["data"]
            entry = data["results"]["BTCUSDT"]
            flips.append(entry["all_expiry"]["hvl"])
            stamps.append(entry["computed_at"])
    assert flips[0] == flips[2]
    assert flips[1] == flips[3]
    assert abs(flips[0] - flips[1]) == 1
    assert len(set(stamps)) == (2 if seconds else 1)


async def test_a_firewall_answers_once_or_always_without_headers_of_the_api() -> None:
    async with simulated(plan="starter") as client:
        client.fault("firewall", count=1)
        response = await client.levels()
        assert response.status_code == 403
        assert "<title>Access denied</title>" in response.text
        assert "X-Quota-Used" not in response.headers
        assert "X-Request-ID" not in response.headers
        assert (await client.levels()).status_code == 200

        client.fault("firewall", status=451, variant="json", message="region")
        response = await client.levels()
    assert response.status_code == 451
    assert response.json() == {"code": 0, "msg": "region"}


async def test_retry_after_can_contradict_the_body() -> None:
    async with simulated() as client:
        client.fault("429", retry_after_seconds=30, header="30000")
        response = await client.levels()
    assert response.headers["Retry-After"] == "30000"
    assert response.json()["error"]["details"]["retry_after_seconds"] == 30


def test_every_fault_says_what_it_does() -> None:
    for name, function in FAULTS.items():
        assert (function.__doc__ or "").strip(), name
