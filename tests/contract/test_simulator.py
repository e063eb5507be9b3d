"""The simulated service over HTTP behaves as the vendor documents."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from connector.devkit.simulator.catalogue import FAULTS
from connector.devkit.simulator.command import (
    add_arguments,
    run,
    run_simulator,
    settings_from,
)
from connector.devkit.simulator.faults import read_script
from connector.devkit.simulator.reply import ERRORS
from connector.devkit.simulator.server import Simulator
from connector.devkit.simulator.settings import (
    DEFAULT_KEY,
    DEFAULT_SYMBOLS,
    EXCHANGES,
    INCLUDES,
    Settings,
)
from connector.devkit.simulator.truth import Truth
from connector.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# A whole minute, since the quota is counted by minutes.
EPOCH = 1_800_000_000
LEVELS = "/multi/gex/levels"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

# Without jitter, refreshes come at times that a test can calculate.
STEADY = Settings(jitter_seconds=0.0, phase="together", limit_per_minute=10)


class Clock:
    """Unix time that passes only when a test says so."""

    def __init__(self) -> None:
        self.seconds = float(EPOCH)

    def __call__(self) -> float:
        return self.seconds


class Client:
    """An HTTP client with a valid key, and access to `/_control`."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.http = httpx.AsyncClient(
            headers={"X-API-Key": DEFAULT_KEY}, trust_env=False, timeout=60
        )

    @property
    def root(self) -> str:
        return self.simulator.url.removesuffix("/v2")

    async def get(
        self, symbols: str = "BTCUSDT,ETHUSDT", **query: str
    ) -> httpx.Response:
        return await self.http.get(
            self.simulator.url + LEVELS, params={"symbols": symbols, **query}
        )

    async def data(
        self, symbols: str = "BTCUSDT,ETHUSDT", **query: str
    ) -> dict[str, Any]:
        response = await self.get(symbols, **query)
        assert response.status_code == 200
        data: dict[str, Any] = response.json()["data"]
        return data

    async def control(self, resource: str, order: Any) -> httpx.Response:
        return await self.http.post(f"{self.root}/_control/{resource}", json=order)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def simulator(clock: Clock) -> AsyncIterator[Simulator]:
    async with Simulator(STEADY, clock) as started:
        yield started


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[Client]:
    client = Client(simulator)
    async with client.http:
        yield client


async def test_a_batch_is_served_in_the_callers_order_without_duplicates(
    client: Client,
) -> None:
    data = await client.data("SOLUSDT,BTCUSDT,SOLUSDT,ETHUSDT,BTCUSDT")
    expected = ["SOLUSDT", "BTCUSDT", "ETHUSDT"]
    assert data["requested"] == expected
    assert data["served"] == expected
    assert list(data["results"]) == expected
    assert data["missing"] == []
    assert data["invalid"] == []


async def test_an_entry_has_the_documented_fields(client: Client) -> None:
    data = await client.data("BTCUSDT", include=",".join(INCLUDES))
    entry = data["results"]["BTCUSDT"]
    walls = [
        "hvl",
        "call_resistance",
        "call_wall_2",
        "call_wall_3",
        "put_support",
        "put_wall_2",
        "put_wall_3",
    ]
    assert sorted(entry["all_expiry"]) == sorted(walls)
    assert entry["odte"].keys() == {"hvl", "call_resistance", "put_support"}
    assert isinstance(entry["spot_price"], float)
    assert STAMP.fullmatch(entry["computed_at"])
    assert entry["max_pain"].keys() == {"strike", "value"}
    assert entry["expected_move"].keys() == {
        "upper_1sd",
        "lower_1sd",
        "upper_2sd",
        "lower_2sd",
    }
    assert entry["ranked"].keys() == {"all_expiry_top_10", "odte_top_10"}
    assert isinstance(entry["gamma_flip_zones"], list)


async def test_zones_can_come_under_their_other_name(client: Client) -> None:
    client.simulator.change(zones_field="zones")
    data = await client.data("BTCUSDT", include="zones")
    entry = data["results"]["BTCUSDT"]
    assert "zones" in entry
    assert "gamma_flip_zones" not in entry


async def test_the_base_url_works_without_its_version(client: Client) -> None:
    url = client.root + LEVELS
    response = await client.http.get(url, params={"symbols": "BTCUSDT"})
    assert response.status_code == 200


async def test_cold_symbols_are_null_and_missing_and_unknown_ones_invalid(
    client: Client,
) -> None:
    client.simulator.change(cold=["ETHUSDT"])
    data = await client.data("BTCUSDT,ETHUSDT,NOPEUSDT")
    assert data["served"] == ["BTCUSDT"]
    assert data["missing"] == ["ETHUSDT"]
    assert data["invalid"] == ["NOPEUSDT"]
    assert data["results"]["ETHUSDT"] is None


async def test_meta_and_headers_agree(client: Client) -> None:
    response = await client.get("BTCUSDT", exchanges="okx,deribit")
    meta = response.json()["meta"]
    assert meta["exchanges_filtered"] == meta["source"] == ["okx", "deribit"]
    assert STAMP.fullmatch(meta["timestamp"])
    assert response.headers["X-Request-ID"] == meta["request_id"]
    assert meta["rate_limit"] == {"limit": 10, "remaining": 9, "reset": EPOCH + 60}
    for name, value in meta["rate_limit"].items():
        assert response.headers[f"X-RateLimit-{name}"] == str(value)


async def test_a_venue_filter_changes_the_levels_in_the_same_way_every_time(
    client: Client,
) -> None:
    async def levels(**query: str) -> Any:
        data = await client.data("BTCUSDT", **query)
        return data["results"]["BTCUSDT"]["all_expiry"]

    filtered = await levels(exchanges="okx")
    assert filtered != await levels()
    assert filtered == await levels(exchanges="okx")


@pytest.mark.parametrize("key", [None, "bq_live_wrong", f"{DEFAULT_KEY}x"])
async def test_a_missing_or_wrong_key_is_401(client: Client, key: str | None) -> None:
    async with httpx.AsyncClient(trust_env=False) as stranger:
        headers = {} if key is None else {"X-API-Key": key}
        response = await stranger.get(
            client.simulator.url + LEVELS,
            params={"symbols": "BTCUSDT"},
            headers=headers,
        )
    assert (response.status_code, _code(response)) == (401, "UNAUTHORIZED")
    assert client.simulator.truth().answers[-1].key == "unknown"


# A request may ask for eight.
NINE_SYMBOLS = "S0,S1,S2,S3,S4,S5,S6,S7,S8"


async def test_a_key_without_the_plan_is_403_and_keys_can_be_rotated(
    client: Client,
) -> None:
    client.simulator.change(keys=["bq_live_new"], forbidden_keys=[DEFAULT_KEY])
    response = await client.get()
    assert (response.status_code, _code(response)) == (403, "FORBIDDEN")
    client.http.headers["X-API-Key"] = "bq_live_new"
    assert (await client.get()).status_code == 200


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({"symbols": ""}, 400, "symbols"),
        ({"symbols": NINE_SYMBOLS}, 400, "symbols"),
        ({"symbols": "BTCUSDT", "include": "ranked,greeks"}, 422, "include"),
        ({"symbols": "BTCUSDT", "exchanges": "nyse"}, 422, "exchanges"),
    ],
)
async def test_contract_2_0_names_the_wrong_parameter_of_an_invalid_request(
    client: Client, query: dict[str, str], status: int, field: str
) -> None:
    client.simulator.change(contract="2.0")
    response = await client.get(**query)
    assert (response.status_code, _code(response)) == (status, "VALIDATION_ERROR")
    errors = response.json()["error"]["details"]["errors"]
    assert [error["field"] for error in errors] == [field]


@pytest.mark.parametrize(
    ("query", "location"),
    [
        ({"symbols": ""}, "symbols"),
        ({"symbols": "BTCUSDT", "include": "ranked,greeks"}, "include"),
        ({"symbols": "BTCUSDT", "positioning": "both"}, "positioning"),
    ],
)
async def test_an_invalid_request_names_the_wrong_parameter(
    client: Client, query: dict[str, str], location: str
) -> None:
    response = await client.get(**query)
    assert (response.status_code, _code(response)) == (422, "VALIDATION_ERROR")
    (error,) = response.json()["error"]["details"]["errors"]
    assert error["loc"] == ["query", location]
    assert error.keys() == {"type", "loc", "msg"}


async def test_nine_symbols_are_too_many(client: Client) -> None:
    response = await client.get(NINE_SYMBOLS)
    assert (response.status_code, _code(response)) == (400, "VALIDATION_ERROR")
    assert response.json()["error"]["message"] == "At most 8 symbols"


async def test_the_quota_of_a_minute_counts_down_and_is_429_until_the_minute_ends(
    client: Client, clock: Clock
) -> None:
    clock.seconds += 20
    for remaining in range(9, -1, -1):
        response = await client.get()
        assert response.headers["X-RateLimit-Remaining"] == str(remaining)
    refused = await client.get()
    assert (refused.status_code, _code(refused)) == (429, "RATE_LIMIT_EXCEEDED")
    assert refused.headers["Retry-After"] == "40"
    assert refused.json()["error"]["details"]["retry_after_seconds"] == 40
    clock.seconds += 40
    assert (await client.get()).status_code == 200


async def test_another_program_can_spend_the_same_quota(client: Client) -> None:
    assert (await client.control("spend", {"requests": 7})).status_code == 200
    assert (await client.get()).headers["X-RateLimit-Remaining"] == "2"


async def test_a_plan_without_a_limit_reports_none(client: Client) -> None:
    client.simulator.change(limit_per_minute=0)
    response = await client.get()
    assert "rate_limit" not in response.json()["meta"]
    assert "X-RateLimit-Limit" not in response.headers


async def test_gzip_only_when_asked_for(client: Client) -> None:
    for accepted, encoding in (("gzip", "gzip"), ("identity", None)):
        url = client.simulator.url + LEVELS
        headers = {"Accept-Encoding": accepted}
        async with client.http.stream(
            "GET", url, params={"symbols": "BTCUSDT"}, headers=headers
        ) as response:
            raw = b"".join([part async for part in response.aiter_raw()])
        assert response.headers.get("Content-Encoding") == encoding
        assert json.loads(gzip.decompress(raw) if encoding else raw)["success"]


KEYED = ["symbols", "status", "meta", "changelog"]
KEYLESS = ["health", "openapi.json"]


@pytest.mark.parametrize(
    ("name", "contract", "status"),
    [
        *[(name, "2.10", 401) for name in KEYED],
        *[(name, "2.10", 200) for name in KEYLESS],
        *[(name, "2.0", 200) for name in ("symbols", "status", "meta", "health")],
        ("changelog", "2.0", 404),
    ],
)
async def test_endpoints_need_a_key_since_contract_2_10_except_health_and_openapi(
    client: Client, name: str, contract: str, status: int
) -> None:
    client.simulator.change(contract=contract)
    async with httpx.AsyncClient(trust_env=False) as stranger:
        response = await stranger.get(f"{client.simulator.url}/{name}")
    assert response.status_code == status


async def test_status_reports_the_health_of_each_symbol(
    client: Client, clock: Clock
) -> None:
    client.simulator.add_fault("freeze", symbols=["BTCUSDT"])
    client.simulator.change(cold=["SOLUSDT"])
    clock.seconds += 100
    response = await client.http.get(f"{client.simulator.url}/status")
    data = response.json()["data"]
    symbols = data["symbols"]
    assert data["overall_status"] == "degraded"
    assert symbols["BTCUSDT"]["gex"]["status"] == "degraded"
    assert symbols["ETHUSDT"]["gex"]["status"] == "healthy"
    assert symbols["SOLUSDT"]["gex"]["status"] == "unavailable"


async def test_an_unknown_path_is_404_with_a_documented_error(client: Client) -> None:
    response = await client.http.get(f"{client.simulator.url}/nope")
    assert (response.status_code, _code(response)) == (404, "NOT_FOUND")


@pytest.mark.parametrize("status", ERRORS)
async def test_every_documented_error_can_be_injected(
    client: Client, status: str
) -> None:
    client.simulator.add_fault(status, count=1)
    response = await client.get()
    assert response.status_code == int(status)
    assert response.json()["success"] is False
    assert _code(response) == ERRORS[status][0]
    assert response.headers["X-Request-ID"] == response.json()["meta"]["request_id"]
    assert ("Retry-After" in response.headers) == (status == "429")
    assert (await client.get()).status_code == 200


async def test_a_dropped_or_truncated_answer_breaks_the_connection(
    client: Client,
) -> None:
    for fault in ("drop", "truncated"):
        client.simulator.add_fault(fault, count=1)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get()
        answer = client.simulator.truth().answers[-1]
        assert answer.status == 0
        assert answer.faults == [fault]
        assert answer.shown == {}


async def test_a_hanging_answer_never_arrives_and_is_logged(client: Client) -> None:
    client.simulator.add_fault("hang", seconds=0.05)
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get()
    assert client.simulator.truth().answers[-1].status == 0


async def test_a_slow_answer_arrives_complete(client: Client) -> None:
    client.simulator.add_fault("slow", seconds=0.01)
    assert (await client.data())["served"] == ["BTCUSDT", "ETHUSDT"]


async def test_a_proxy_can_answer_instead(client: Client) -> None:
    expected: dict[str, tuple[int, bytes]] = {
        "html": (502, b"<html>"),
        "empty": (200, b""),
        "redirect": (302, b""),
    }
    for fault, (status, begin) in expected.items():
        client.simulator.add_fault(fault, count=1)
        response = await client.get()
        assert response.status_code == status
        assert response.content[:6] == begin


@pytest.mark.parametrize(
    ("fault", "parameters", "size"),
    [
        ("huge", {"megabytes": 2}, 2 << 20),
        ("gzip_bomb", {"megabytes": 4}, 4 << 20),
        ("deep", {"depth": 5_000}, 10_000),
    ],
)
async def test_a_body_can_be_far_too_large(
    client: Client, fault: str, parameters: dict[str, int], size: int
) -> None:
    client.simulator.add_fault(fault, **parameters)
    assert len((await client.get()).content) > size


async def test_nan_and_duplicate_keys_spoil_one_entry_only(client: Client) -> None:
    client.simulator.add_fault("nan", symbols=["ETHUSDT"], count=1)
    text = (await client.get()).text
    assert text.count("NaN") == 1
    assert text.index("NaN") > text.index('"ETHUSDT"')
    client.simulator.add_fault("duplicate_keys", count=1)
    assert (await client.get()).text.count('"spot_price"') == 3
    client.simulator.add_fault("duplicate_keys", variant="results")
    assert (await client.get()).text.count('"BTCUSDT":') == 2


async def test_wrong_types_spoil_the_first_entry_if_none_is_named(
    client: Client,
) -> None:
    for variant in ("level", "section", "entry"):
        client.simulator.add_fault("wrong_types", variant=variant, count=1)
        results = (await client.data())["results"]
        assert isinstance(results["ETHUSDT"]["all_expiry"]["call_resistance"], float)
        with pytest.raises((TypeError, ValueError)):
            float(results["BTCUSDT"]["all_expiry"]["call_resistance"])


async def test_computed_at_can_be_wrong_in_several_ways(client: Client) -> None:
    seen = {}
    for variant in ("absent", "null", "garbage", "future", "older"):
        client.simulator.add_fault(
            "computed_at", variant=variant, seconds=120, symbols=["BTCUSDT"], count=1
        )
        entry = (await client.data("BTCUSDT"))["results"]["BTCUSDT"]
        seen[variant] = entry.get("computed_at", "-")
    right = (await client.data("BTCUSDT"))["results"]["BTCUSDT"]["computed_at"]
    assert (seen["absent"], seen["null"]) == ("-", None)
    assert not STAMP.fullmatch(seen["garbage"])
    assert seen["older"] < right < seen["future"]


NONE: list[str] = []
FAULTY = ["BTCUSDT"]
SOUND = ["ETHUSDT"]
BOTH = ["BTCUSDT", "ETHUSDT"]
SERVED_AND_MISSING = {"variant": "served_and_missing"}
SERVED_AND_INVALID = {"variant": "served_and_invalid"}


@pytest.mark.parametrize(
    ("fault", "parameters", "served", "missing", "invalid"),
    [
        ("missing", {}, SOUND, FAULTY, NONE),
        ("invalid", {}, SOUND, NONE, FAULTY),
        ("null_not_listed", {}, SOUND, NONE, NONE),
        ("absent", {}, SOUND, NONE, NONE),
        ("both_lists", {}, SOUND, FAULTY, FAULTY),
        ("both_lists", SERVED_AND_MISSING, BOTH, FAULTY, NONE),
        ("both_lists", SERVED_AND_INVALID, BOTH, NONE, FAULTY),
    ],
)
async def test_the_lists_can_contradict_the_results(
    client: Client,
    fault: str,
    parameters: dict[str, Any],
    served: list[str],
    missing: list[str],
    invalid: list[str],
) -> None:
    client.simulator.add_fault(fault, symbols=FAULTY, **parameters)
    data = await client.data()
    assert data["served"] == served
    assert data["missing"] == missing
    assert data["invalid"] == invalid

    results = data["results"]
    has_entry = "BTCUSDT" in results
    assert has_entry == (fault != "absent")
    is_empty = results.get("BTCUSDT") is None
    assert is_empty == ("BTCUSDT" not in served)


async def test_the_envelope_can_differ_from_the_documentation(client: Client) -> None:
    client.simulator.add_fault("success_false", count=1)
    assert (await client.get()).json()["success"] is False
    client.simulator.add_fault("flat", count=1)
    flat = (await client.get()).json()
    assert {
        "results",
        "requested",
        "served",
        "missing",
        "invalid",
        "meta",
    } <= flat.keys()
    assert "data" not in flat
    client.simulator.add_fault("docs_example", count=1)
    assert (await client.data())["results"] == {}
    client.simulator.add_fault("extra_symbol", count=1)
    data = await client.data()
    assert "EXTRAUSDT" in data["results"]
    assert "EXTRAUSDT" not in data["requested"]


async def test_fields_can_be_added_and_levels_can_be_null(client: Client) -> None:
    client.simulator.add_fault("unknown_field", symbols=["BTCUSDT"])
    client.simulator.add_fault("null_levels", symbols=["ETHUSDT"])
    results = (await client.data())["results"]
    assert results["BTCUSDT"]["vanna"] == {"flip": 1.5}
    assert set(results["ETHUSDT"]["all_expiry"].values()) == {None}


async def test_a_clock_step_shifts_the_servers_time_and_the_entries(
    client: Client,
) -> None:
    before = (await client.get()).json()
    client.simulator.add_fault("clock_step", seconds=86_400)
    after = (await client.get()).json()
    assert after["meta"]["timestamp"] > before["meta"]["timestamp"]
    reset = before["meta"]["rate_limit"]["reset"]
    assert after["meta"]["rate_limit"]["reset"] == reset + 86_400

    def date(answer: Any) -> str:
        computed_at: str = answer["data"]["results"]["BTCUSDT"]["computed_at"]
        return computed_at[:10]

    assert date(before) < date(after)


async def test_frozen_data_age_until_the_faults_are_cleared(
    client: Client, clock: Clock
) -> None:
    freeze = {"fault": "freeze", "symbols": ["BTCUSDT"]}
    response = await client.control("faults", freeze)
    assert response.status_code == 200
    clock.seconds += 300
    frozen = (await client.data())["results"]
    assert frozen["BTCUSDT"]["computed_at"] < frozen["ETHUSDT"]["computed_at"]

    await client.http.delete(f"{client.root}/_control/faults")
    clock.seconds += 30
    thawed = (await client.data())["results"]
    assert thawed["BTCUSDT"]["computed_at"] == thawed["ETHUSDT"]["computed_at"]


async def test_a_fault_is_limited_to_its_time_symbols_and_probability(
    client: Client, clock: Clock
) -> None:
    client.simulator.add_fault("503", for_seconds=10, symbols=["BTCUSDT"])
    client.simulator.add_fault("500", probability=0.0)
    assert (await client.get("ETHUSDT")).status_code == 200
    assert (await client.get("ETHUSDT,BTCUSDT")).status_code == 503
    clock.seconds += 10
    assert (await client.get("BTCUSDT")).status_code == 200


async def test_a_script_arms_its_faults_by_the_clock(
    client: Client, clock: Clock, tmp_path: Path
) -> None:
    script = tmp_path / "script.toml"
    script.write_text(
        '[[faults]]\nat_seconds = 5\nfor_seconds = 5\nfault = "502"\n', "utf-8"
    )
    client.simulator.add_script(read_script(script))
    statuses = []
    for _ in range(3):
        statuses.append((await client.get()).status_code)
        clock.seconds += 5
    assert statuses == [200, 502, 200]


@pytest.mark.parametrize(
    ("order", "named"),
    [
        ({"fault": "gremlins"}, "truncated"),
        ({"fault": "slow", "minutes": 1}, "seconds"),
        ({"fault": "slow", "seconds": "long"}, "seconds"),
        ({"fault": "computed_at", "variant": "odd"}, "garbage"),
        ({"fault": "503", "probability": 2}, "probability"),
        ({"fault": "freeze", "count": 1}, "freeze"),
        ([{"fault": "503"}, {"fault": "gremlins"}], "truncated"),
        ("503", "object"),
    ],
)
async def test_an_unknown_fault_or_parameter_is_refused_and_nothing_is_armed(
    client: Client, order: Any, named: str
) -> None:
    response = await client.control("faults", order)
    assert response.status_code == 400
    assert named in response.json()["error"]
    assert (await client.get()).status_code == 200


async def test_settings_can_change_while_the_service_runs(client: Client) -> None:
    changes = {"symbols": [*DEFAULT_SYMBOLS[1:], "NEWUSDT"], "limit_per_minute": 120}
    assert (await client.control("set", changes)).status_code == 200
    response = await client.get("NEWUSDT,BTCUSDT")
    assert response.json()["data"]["served"] == ["NEWUSDT"]
    assert response.json()["data"]["invalid"] == ["BTCUSDT"]
    assert response.headers["X-RateLimit-Limit"] == "120"


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": 1},
        {"period_seconds": 0},
        # The world is drawn from the seed when the service starts.
        {"seed": 2},
        {"symbols": "X"},
        [],
        "x",
    ],
)
async def test_a_wrong_setting_is_refused(client: Client, changes: Any) -> None:
    assert (await client.control("set", changes)).status_code == 400
    assert client.simulator.settings == STEADY


async def test_the_truth_log_has_the_entries_that_were_shown(
    client: Client, clock: Clock
) -> None:
    clock.seconds += 40
    client.simulator.add_fault("unknown_field", symbols=["ETHUSDT"])
    response = await client.get("BTCUSDT,ETHUSDT,NOPEUSDT", include="ranked")
    page = await client.http.get(
        f"{client.root}/_control/truth", params={"contents": "1"}
    )
    truth = msgspec.json.decode(page.content, type=Truth)
    answer = truth.answers[-1]
    assert answer.status == 200
    assert answer.key == DEFAULT_KEY
    assert answer.request_id == response.headers["X-Request-ID"]
    assert answer.received_at == (EPOCH + 40) * 1_000_000
    assert answer.answered_at == answer.received_at
    results = response.json()["data"]["results"]
    assert answer.shown["NOPEUSDT"] is None
    for symbol in ("BTCUSDT", "ETHUSDT"):
        shown = answer.shown[symbol]
        assert shown is not None
        canonical = json.dumps(
            results[symbol], sort_keys=True, separators=(",", ":")
        ).encode()
        assert shown.sha256 == hashlib.sha256(canonical).hexdigest()
        assert shown.computed_at == results[symbol]["computed_at"]
        assert json.loads(truth.contents[shown.sha256]) == results[symbol]


async def test_a_plain_answer_shows_a_refresh_of_the_log_and_the_cursor_advances(
    client: Client, clock: Clock
) -> None:
    first = client.simulator.truth()
    assert {refresh.symbol for refresh in first.refreshes} == set(DEFAULT_SYMBOLS)
    clock.seconds += 60
    await client.get("BTCUSDT")
    second = client.simulator.truth(first.cursor)
    refreshes = [one for one in second.refreshes if one.symbol == "BTCUSDT"]
    assert [refresh.visible_at for refresh in refreshes] == [
        (EPOCH + 30) * 1_000_000,
        (EPOCH + 60) * 1_000_000,
    ]
    shown = second.answers[0].shown["BTCUSDT"]
    assert shown is not None
    assert shown.sha256 == refreshes[-1].sha256
    last = client.simulator.truth(second.cursor)
    assert last.cursor == second.cursor
    assert last.refreshes == []
    assert last.answers == []


async def test_stats_count_requests_by_status(client: Client) -> None:
    client.simulator.add_fault("503", count=1)
    for _ in range(3):
        await client.get()
    stats = (await client.http.get(f"{client.root}/_control/stats")).json()
    assert stats["requests_by_status"] == {"200": 2, "503": 1}
    assert stats["requests_total"] == 3


async def test_with_every_request_each_answer_is_new(client: Client) -> None:
    client.simulator.change(every_request=True)
    moments = set()
    for _ in range(5):
        data = await client.data()
        moments.add(data["results"]["BTCUSDT"]["computed_at"])
    assert len(moments) == 5


async def test_a_restarted_service_keeps_its_state(client: Client) -> None:
    before = await client.data()
    port = httpx.URL(client.simulator.url).port
    assert port is not None
    await client.simulator.stop()
    with pytest.raises(httpx.TransportError):
        await client.get()
    await client.simulator.start(port=port)
    assert await client.data() == before


def test_the_command_line_sets_the_settings() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert settings_from(parser.parse_args([])) == Settings()
    options = (
        "--symbols a,b --period 5 --jitter 0 --phase together --limit 0 --seed 7 "
        "--skip 0.1 --key k --contract 2.0 --plan pro --month 1200 "
        '--set version=3.0 --set users={"x":"other"} --set no_tape=["a"]'
    )
    settings = settings_from(parser.parse_args(options.split()))
    assert settings == Settings(
        symbols=("a", "b"),
        contract="2.0",
        version="3.0",
        plan="pro",
        month_seconds=1200.0,
        users={"x": "other"},
        no_tape=("a",),
        period_seconds=5.0,
        jitter_seconds=0.0,
        phase="together",
        limit_per_minute=0,
        seed=7,
        skip_probability=0.1,
        keys=("k",),
    )
    for wrong in ("--period nan", "--skip 2", "--limit -1"):
        with pytest.raises(ValueError, match="Expected"):
            settings_from(parser.parse_args(wrong.split()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--plan gold", r"plan: .*'gold'; expected demo, starter, standard, pro, ent"),
        ("--set periods=1", "unknown setting 'periods'; known are symbols, cold, "),
    ],
)
def test_a_wrong_setting_is_named_with_the_values_it_can_have(
    wrong: str, message: str
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    with pytest.raises(ValueError, match=message):
        settings_from(parser.parse_args(wrong.split()))


def test_an_unusable_script_ends_the_command_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script.toml"
    script.write_text('[[faults]]\nfault = "gremlins"\n', "utf-8")
    assert run_simulator(Simulator(Settings()), "127.0.0.1", 0, script) == 2
    assert "gremlins" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_its_address_and_ends_with_0_on_a_signal(
    number: signal.Signals,
) -> None:
    command = [sys.executable, "-m", "connector", "simulate", "--listen=127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=180) == 0
    assert re.fullmatch(
        rf"upstream simulator on http://127\.0\.0\.1:\d+/v2 \(key {DEFAULT_KEY}\)\n",
        line,
    )


def test_the_command_listens_on_an_ipv6_address() -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    command = [sys.executable, "-m", "connector", "simulate", "--listen=[::1]:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[3]
        assert re.fullmatch(r"http://\[::1\]:\d+/v2", url)
        assert httpx.get(f"{url}/health", trust_env=False, timeout=60).is_success
        process.terminate()
        assert process.wait(timeout=180) == 0


@pytest.mark.parametrize(
    "listen",
    ["localhost", ":8080", "::1:8080", "[::1]", "[localhost]:8080", "[::1]:65536"],
)
def test_a_wrong_address_is_a_wrong_option(listen: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parser.parse_args([f"--listen={listen}"])

    with pytest.raises(UsageError, match=re.escape(f"--listen {listen!r}, expected")):
        run(options)


def test_the_default_key_has_the_form_of_a_real_key() -> None:
    assert re.fullmatch(r"bq_live_\w{32}", DEFAULT_KEY)


def test_the_venues_are_those_that_the_vendor_documents() -> None:
    assert EXCHANGES == (
        "deribit",
        "bybit",
        "okx",
        "binance",
        "derive",
        "thalex",
        "delta_india",
        "delta",
    )


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def _code(response: httpx.Response) -> Any:
    return response.json()["error"]["code"]


# --- the command's lists and log ---


def test_the_command_lists_every_fault_and_how_to_arm_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parser.parse_args(["--list-faults", "--listen", "127.0.0.1:8181"])

    assert run(options) == 0

    printed = capsys.readouterr().out
    for name in FAULTS:
        assert re.search(rf"^{name} +\S", printed, re.MULTILINE), name
    assert "retry_after_seconds (float; 30.0)" in printed
    assert "curl -X DELETE http://127.0.0.1:8181/_control/faults" in printed


async def test_each_request_is_logged_with_its_faults_and_without_its_key() -> None:
    lines: list[str] = []
    async with Simulator(STEADY, log=lines.append) as simulator:
        client = Client(simulator)
        async with client.http:
            simulator.add_fault("503", count=1)
            await client.get("BTCUSDT")
            await client.get("BTCUSDT")

    first, second = lines
    assert re.fullmatch(
        r"GET /v2/multi/gex/levels\?symbols=BTCUSDT  503  \d+ ms  faults: 503", first
    )
    assert re.fullmatch(
        r"GET /v2/multi/gex/levels\?symbols=BTCUSDT  200  \d+ ms", second
    )
    assert not any(DEFAULT_KEY in line for line in lines)


async def test_orders_are_logged_with_their_content_and_looks_are_not() -> None:
    lines: list[str] = []
    async with Simulator(STEADY, log=lines.append) as simulator:
        client = Client(simulator)
        control = f"{client.root}/_control"
        async with client.http as http:
            await http.post(f"{control}/faults", content='{"fault":\n"503"}')
            await http.post(f"{control}/faults", content='{"fault": "gremlins"}')
            await http.get(f"{control}/stats")

    # Without the time that each of them took.
    orders = [re.sub(r"\d+ ms", "", line) for line in lines]
    assert orders == [
        'POST /_control/faults  200    {"fault": "503"}',
        'POST /_control/faults  400    {"fault": "gremlins"}',
    ]


async def test_a_request_that_gets_no_answer_is_logged_as_broken_off() -> None:
    lines: list[str] = []
    async with Simulator(STEADY, log=lines.append) as simulator:
        client = Client(simulator)
        simulator.add_fault("drop")
        async with client.http:
            with pytest.raises(httpx.HTTPError):
                await client.get("BTCUSDT")

    (line,) = lines
    assert "  broken off  " in line
    assert line.endswith("faults: drop")
