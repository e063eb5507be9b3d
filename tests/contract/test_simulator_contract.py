"""The simulator gives contract 2.10: its bodies fit a JSON Schema of the vendor's page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no stubs
import pytest

from connector.devkit.simulator.settings import DEFAULT_SYMBOLS, EXCHANGES, INCLUDES
from tests.support.simulated import EPOCH, Simulated, simulated

SCHEMA = json.loads(Path(__file__).with_name("upstream.schema.json").read_text("utf-8"))
EXAMPLES = Path(__file__).parents[1] / "support" / "upstream_examples"
EVERYTHING = {"include": ",".join(INCLUDES)}
OUTER_WALLS = ("call_wall_2", "call_wall_3", "put_wall_2", "put_wall_3")


def check(kind: str, document: Any) -> None:
    """Raise ValidationError unless a document fits a definition of the schema."""
    schema = {**SCHEMA, "$ref": f"#/$defs/{kind}"}
    jsonschema.validate(document, schema, jsonschema.Draft202012Validator)


async def entries(client: Simulated, **query: str) -> dict[str, Any]:
    """Return the entries of Bitcoin and Ether, after a check of the whole body."""
    response = await client.levels(**query)
    assert response.status_code == 200
    body = response.json()
    check("levels", body)
    found: dict[str, Any] = body["data"]["results"]
    return found


async def extra(client: Simulated, **query: str) -> dict[str, Any]:
    """Return `meta.extra` of a request."""
    response = await client.levels(**query)
    found: dict[str, Any] = response.json()["meta"]["extra"]
    return found


def test_the_schema_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda p: p.stem)
def test_the_vendors_examples_fit_the_schema(path: Path) -> None:
    kind = "levels" if path.stem == "bundle" else "error"
    check(kind, json.loads(path.read_text("utf-8")))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"whole_numbers": True},
        {"data_at_top": True},
        {"null_for_invalid": False},
        {"full_meta": True},
        {"zones_field": "zones"},
        {"no_tape": ["ETHUSDT"]},
        {"flow_walls": "filled"},
        {"positioning_placement": "extra_by_symbol"},
        {"positioning_placement": "nowhere"},
        {"computed_at_format": "seconds"},
        {"computed_at_format": "zero_millis"},
        {"computed_at_format": "offset"},
        {"plan": "enterprise"},
        {"plan": "pro"},
    ],
)
async def test_a_bundle_fits_the_schema_whatever_the_settings(
    settings: dict[str, Any],
) -> None:
    async with simulated(cold=["HYPEUSDT"], **settings) as client:
        symbols = ",".join([*DEFAULT_SYMBOLS, "DOGEUSDT"])
        response = await client.levels(symbols, **EVERYTHING)
        check("levels", response.json())
        assert response.json()["meta"]["version"] == "2.10"


@pytest.mark.parametrize(
    ("query", "settings", "status"),
    [
        ({"symbols": ""}, {}, 422),
        ({"symbols": "A,B,C,D,E,F,G,H,I"}, {}, 400),
        ({"include": "greeks"}, {}, 422),
        ({"key": "bq_live_other"}, {}, 401),
        ({"key": "trial"}, {"forbidden_keys": ["trial"]}, 403),
        ({"symbols": "DOGEUSDT"}, {"errors": ["only_invalid"]}, 404),
    ],
)
async def test_an_error_fits_the_schema_and_repeats_its_request_id(
    query: dict[str, str], settings: dict[str, Any], status: int
) -> None:
    async with simulated(**settings) as client:
        response = await client.levels(**query)
        body = response.json()
        check("error", body)
        assert response.status_code == status
        assert response.headers["X-Request-ID"] == body["meta"]["request_id"]


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [
        ("symbols", "symbols"),
        ("status", "status"),
        ("meta", "metaEndpoint"),
        ("changelog", "changelog"),
        ("health", "health"),
    ],
)
async def test_the_other_endpoints_fit_the_schema(endpoint: str, kind: str) -> None:
    async with simulated(cold=["HYPEUSDT"], venues_off=["thalex"]) as client:
        check(kind, (await client.get(endpoint)).json())


@pytest.mark.parametrize(
    ("doubtful", "query"),
    [
        ("include", {"include": "greeks"}),
        ("positioning", {"positioning": "both"}),
        ("nine_symbols", {"symbols": "BTCUSDT,S1,S2,S3,S4,S5,S6,S7,S8"}),
        ("no_symbol", {"symbols": ""}),
        ("only_invalid", {"symbols": "DOGEUSDT"}),
    ],
)
async def test_a_setting_decides_if_a_doubtful_request_is_an_error(
    doubtful: str, query: dict[str, str]
) -> None:
    async with simulated(errors=[doubtful]) as client:
        assert (await client.levels(**query)).status_code >= 400
        client.simulator.change(errors=[])
        assert (await client.levels(**query)).status_code == 200


async def test_four_symbols_exist() -> None:
    async with simulated() as client:
        symbols = (await client.get("meta")).json()["data"]["supported_symbols"]
    assert symbols == ["BTCUSDT", "ETHUSDT", "SOLUSDT", "HYPEUSDT"]


async def test_ranked_rows_have_rank_and_absolute_exposure() -> None:
    async with simulated() as client:
        ranked = (await entries(client, **EVERYTHING))["BTCUSDT"]["ranked"]
    rows = ranked["all_expiry_top_10"]
    assert [row["rank"] for row in rows] == list(range(1, 11))
    for row in rows:
        assert row["abs_gex"] == abs(row["gex"])


async def test_contract_2_0_has_no_model_no_month_and_no_rank() -> None:
    async with simulated(contract="2.0") as client:
        response = await client.levels(positioning="std", **EVERYTHING)
    body = response.json()
    entry = body["data"]["results"]["BTCUSDT"]
    assert body["meta"]["version"] == "2.0"
    assert "extra" not in body["meta"]
    assert "positioning" not in entry
    assert entry["all_expiry"]["call_wall_2"] is not None
    assert entry["ranked"]["all_expiry_top_10"][0].keys() == {"strike", "gex"}
    assert "zones" in entry
    assert "X-Quota-Limit" not in response.headers


# Models.


async def test_flow_is_the_default_and_has_no_second_and_third_walls() -> None:
    async with simulated() as client:
        default = await entries(client)
        flow = await entries(client, positioning="flow")
        std = await entries(client, positioning="std")
    assert default == flow
    assert flow["BTCUSDT"]["positioning"] == "flow"
    assert std["BTCUSDT"]["positioning"] == "std"
    for wall in OUTER_WALLS:
        assert flow["BTCUSDT"]["all_expiry"][wall] is None
        assert std["BTCUSDT"]["all_expiry"][wall] is not None


async def test_the_models_have_other_walls_but_equal_max_pain_and_expected_move() -> (
    None
):
    async with simulated() as client:
        flow = (await entries(client, **EVERYTHING))["BTCUSDT"]
        std = (await entries(client, positioning="std", **EVERYTHING))["BTCUSDT"]
    assert flow["all_expiry"]["hvl"] != std["all_expiry"]["hvl"]
    assert flow["all_expiry"]["call_resistance"] != std["all_expiry"]["call_resistance"]
    assert flow["max_pain"] == std["max_pain"]
    assert flow["expected_move"] == std["expected_move"]


@pytest.mark.parametrize("equal_numbers", [False, True])
async def test_one_symbol_falls_back_to_std_with_or_without_equal_numbers(
    equal_numbers: bool,
) -> None:
    async with simulated() as client:
        before = await entries(client)
        client.fault(
            "flow_fallback",
            symbols=["BTCUSDT"],
            reason="flow_qty_all_zero",
            equal_numbers=equal_numbers,
        )
        during = await entries(client)
        client.simulator.clear_faults()
        assert await entries(client) == before

    assert during["ETHUSDT"] == before["ETHUSDT"]
    fallen = during["BTCUSDT"]
    assert fallen["positioning"] == "std"
    assert fallen["positioning_fallback_reason"] == "flow_qty_all_zero"
    levels = before["BTCUSDT"]["all_expiry"]
    assert (fallen["all_expiry"] == levels) == equal_numbers


async def test_all_symbols_fall_back_but_a_request_for_std_does_not() -> None:
    async with simulated() as client:
        client.fault("flow_fallback")
        for entry in (await entries(client)).values():
            assert entry["positioning_fallback_reason"] == "flow_tape_empty"
        for entry in (await entries(client, positioning="std")).values():
            assert "positioning_fallback_reason" not in entry


async def test_a_fallback_in_turn_strikes_every_second_answer() -> None:
    models = []
    async with simulated() as client:
        client.fault("flow_fallback", in_turn=True, symbols=["BTCUSDT"])
        for _ in range(6):
            shown = await entries(client)
            assert shown["ETHUSDT"]["positioning"] == "flow"
            models.append(shown["BTCUSDT"]["positioning"])
    assert sorted(models[:2]) == ["flow", "std"]
    assert models == models[:2] * 3


async def test_a_symbol_without_a_tape_is_always_std() -> None:
    async with simulated(no_tape=["ETHUSDT"]) as client:
        shown = await entries(client)
    assert shown["BTCUSDT"]["positioning"] == "flow"
    assert shown["ETHUSDT"]["positioning"] == "std"
    reason = shown["ETHUSDT"]["positioning_fallback_reason"]
    assert reason == "no_aggressor_tape_for_symbol"


@pytest.mark.parametrize(
    ("placement", "is_in_entry", "in_extra"),
    [
        ("both", True, "std"),
        ("entry", True, None),
        ("extra_text", False, "std"),
        ("extra_by_symbol", False, {"BTCUSDT": "std", "ETHUSDT": "std"}),
        ("nowhere", False, None),
    ],
)
async def test_a_setting_decides_where_the_model_is_named(
    placement: str, is_in_entry: bool, in_extra: object
) -> None:
    async with simulated(positioning_placement=placement) as client:
        client.fault("flow_fallback", reason="flow_tape_empty")
        shown = await entries(client)
        described = await extra(client)
    assert ("positioning" in shown["BTCUSDT"]) == is_in_entry
    assert described.get("positioning") == in_extra
    reason: object = None
    if in_extra == "std":
        reason = "flow_tape_empty"
    elif in_extra is not None:
        reason = dict.fromkeys(["BTCUSDT", "ETHUSDT"], "flow_tape_empty")
    assert described.get("positioning_fallback_reason") == reason


async def test_a_text_names_the_requested_model_if_models_are_mixed() -> None:
    async with simulated(no_tape=["ETHUSDT"]) as client:
        described = await extra(client)
    assert described["positioning"] == "flow"
    assert described["positioning_requested"] == "flow"


async def test_flow_computed_at_the_request_moves_under_an_equal_computed_at() -> None:
    async with simulated(flow_computed="request") as client:
        first = (await entries(client))["BTCUSDT"]
        second = (await entries(client))["BTCUSDT"]
    assert first["computed_at"] == second["computed_at"]
    assert first["all_expiry"]["hvl"] != second["all_expiry"]["hvl"]


async def test_todays_levels_jump_at_eight() -> None:
    async with simulated(change_probability=0.0, period_seconds=60) as client:

        async def distance() -> float:
            entry = (await entries(client))["BTCUSDT"]
            found: float = entry["odte"]["hvl"] - entry["all_expiry"]["hvl"]
            return found

        client.clock.seconds = EPOCH + 86_400 - 60
        before = await distance()
        client.clock.seconds = EPOCH + 86_400
        assert await distance() != pytest.approx(before)
        at_eight = await distance()
        client.clock.seconds = EPOCH + 86_400 + 3_600
        assert await distance() == pytest.approx(at_eight)


# Venues.


async def test_unknown_venues_are_ignored_and_alone_they_are_no_filter() -> None:
    async with simulated() as client:
        response = await client.levels(exchanges="okx,nyse,thalex")
        assert response.json()["meta"]["exchanges_filtered"] == ["okx", "thalex"]
        unfiltered = await client.levels()
        response = await client.levels(exchanges="nyse")
    assert response.json()["meta"]["exchanges_filtered"] is None
    assert response.json()["meta"]["source"] == list(EXCHANGES)
    assert response.json()["data"] == unfiltered.json()["data"]


async def test_a_filter_can_be_ignored() -> None:
    async with simulated() as client:
        unfiltered = (await client.levels()).json()["data"]
        filtered = (await client.levels(exchanges="okx")).json()["data"]
        assert filtered != unfiltered

        client.fault("filter_ignored")
        body = (await client.levels(exchanges="okx")).json()
        assert body["data"] == unfiltered
        assert body["meta"]["exchanges_filtered"] is None

        client.fault("filter_ignored", variant="absent")
        body = (await client.levels(exchanges="okx")).json()
        assert "exchanges_filtered" not in body["meta"]

        client.fault("filter_ignored", variant="other")
        body = (await client.levels(exchanges="okx")).json()
        assert body["meta"]["exchanges_filtered"] == ["deribit"]


# Form.


@pytest.mark.parametrize(
    ("stamp_format", "ending"),
    [
        ("seconds", ":00Z"),
        ("zero_millis", ":00.000Z"),
        ("millis", ":00.000Z"),
        ("micros", ":00.000000Z"),
        ("offset", ":00.000+00:00"),
    ],
)
async def test_computed_at_comes_in_every_form_that_was_seen(
    stamp_format: str, ending: str
) -> None:
    async with simulated(computed_at_format=stamp_format) as client:
        response = await client.levels()
    entry = response.json()["data"]["results"]["BTCUSDT"]
    assert entry["computed_at"].endswith(ending)


async def test_whole_prices_can_be_integers() -> None:
    async with simulated(whole_numbers=True) as client:
        levels = (await entries(client))["BTCUSDT"]["all_expiry"]
    assert isinstance(levels["call_resistance"], int)


async def test_an_invalid_symbol_has_a_null_or_no_result() -> None:
    async with simulated() as client:
        body = (await client.levels("BTCUSDT,DOGEUSDT")).json()
        assert body["data"]["results"]["DOGEUSDT"] is None
        client.simulator.change(null_for_invalid=False)
        body = (await client.levels("BTCUSDT,DOGEUSDT")).json()
    assert body["data"]["results"].keys() == {"BTCUSDT"}
    assert body["data"]["invalid"] == ["DOGEUSDT"]


async def test_optional_fields_of_meta_describe_the_first_entry() -> None:
    async with simulated(full_meta=True) as client:
        client.clock.seconds += 10
        body = (await client.levels()).json()
    assert body["meta"]["symbol"] == "BTCUSDT"
    assert body["meta"]["freshness_seconds"] == 10
    spot = body["data"]["results"]["BTCUSDT"]["spot_price"]
    assert body["meta"]["spot_price"] == spot


# The other endpoints.


async def test_health_follows_the_oldest_symbol_unless_it_is_set() -> None:
    async with simulated() as client:
        client.fault("freeze")
        found = []
        for seconds in (0, 100, 400):
            client.clock.seconds = EPOCH + seconds
            found.append((await client.get("health")).json()["data"]["status"])
        assert found == ["ok", "degraded", "unhealthy"]
        client.simulator.change(health="ok")
        assert (await client.get("health")).json()["data"]["status"] == "ok"


async def test_health_answers_sixty_times_a_minute() -> None:
    async with simulated() as client:
        for _ in range(60):
            assert (await client.get("health")).status_code == 200
        assert (await client.get("health")).status_code == 429


async def test_status_names_the_venues_that_are_off() -> None:
    async with simulated(venues_off=["thalex"]) as client:
        venues = (await client.get("status")).json()["data"]["venues"]
    assert venues["thalex"] == {"chain": "off", "tape": "off"}
    assert venues["okx"] == {"chain": "on", "tape": "on"}


async def test_the_changelog_can_have_a_breaking_release() -> None:
    async with simulated() as client:
        changelog = (await client.get("changelog")).json()["data"]
        assert changelog["current_version"] == "2.10"
        assert not any(release["breaking"] for release in changelog["releases"])

        client.simulator.change(version="3.0", is_breaking=True)
        changelog = (await client.get("changelog")).json()["data"]
        assert changelog["releases"][0]["version"] == "3.0"
        assert changelog["releases"][0]["breaking"] is True
        openapi = (await client.get("openapi.json")).json()
    assert openapi["info"]["version"] == "3.0"


async def test_faults_can_strike_another_endpoint() -> None:
    async with simulated() as client:
        client.fault("firewall", endpoint="health")
        assert (await client.get("health")).status_code == 403
        assert (await client.levels()).status_code == 200
