"""The upstream part of `check` against the simulated API: each trouble is named."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from connector.config.load import load
from connector.devkit.simulator.server import Simulator
from connector.devkit.simulator.settings import DEFAULT_KEY, Settings
from connector.tools import check_requests
from connector.tools.check_upstream import check_upstream
from connector.tools.report import Report
from connector.upstream.budget import Budget

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEY_VARIABLE = "GEX_UPSTREAM__API_KEY"
URL_VARIABLE = "GEX_UPSTREAM__BASE_URL"

TWO_FEEDS = """
[[feeds]]
name = "all"
symbols = ["BTCUSDT"]

[[feeds]]
name = "options"
symbols = ["BTCUSDT", "ETHUSDT"]
exchanges = ["thalex", "derive"]
"""


RANKED_FEED = """
[[feeds]]
name = "all"
symbols = ["BTCUSDT"]

[[feeds]]
name = "ranked"
symbols = ["ETHUSDT"]
include = ["ranked"]
"""


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(Settings()) as started:
        yield started


class Moment:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = time.time()

    def __call__(self) -> float:
        return self.seconds


class Check:
    """Runs `check` against a simulator, and keeps its report."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._url = url
        self._capsys = capsys
        self.printed = ""
        self.requests = 0

    async def run(self, path: Path | None = None, **variables: str) -> None:
        base = {URL_VARIABLE: self._url, KEY_VARIABLE: DEFAULT_KEY}
        if path is None:
            base["GEX_SYMBOLS"] = "BTCUSDT,ETHUSDT"
        report = Report()
        self.requests = await check_upstream(load(path, {**base, **variables}), report)
        self.printed = self._capsys.readouterr().out

    def findings(self, mark: str, item: str) -> list[str]:
        """Return the findings of an item that have a mark: ok, warn or FAIL."""
        found = []
        for line in self.printed.splitlines():
            if line.startswith(f"{mark:<4}  {item:<13}  "):
                found.append(line[21:])
        return found


@pytest.fixture
def check(simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> Check:
    return Check(simulator.url, capsys)


# --- the minute ---


async def test_a_fallback_limit_is_not_taken_for_the_plans(
    simulator: Simulator, check: Check
) -> None:
    simulator.add_fault("rate_limit_fallback", limit=10)

    await check.run()

    (finding,) = check.findings("warn", "quota")
    assert finding.startswith("10 a minute")
    assert "not the plan's limit" in finding
    assert "larger plan" not in finding


# --- venues ---


async def test_applied_venues_are_reported(check: Check) -> None:
    await check.run(GEX_EXCHANGES="okx,delta_india")

    assert check.findings("ok", "venues") == ["feed all: delta_india, okx"]


async def test_nothing_is_said_about_venues_without_a_filter(check: Check) -> None:
    await check.run()

    assert "venues" not in check.printed


@pytest.mark.parametrize(
    ("variant", "applied"),
    [("null", "all venues (no filter)"), ("other", "deribit")],
)
async def test_a_filter_that_is_not_applied_fails(
    simulator: Simulator, check: Check, variant: str, applied: str
) -> None:
    simulator.add_fault("filter_ignored", variant=variant)

    await check.run(GEX_EXCHANGES="okx")

    (finding,) = check.findings("FAIL", "venues")
    assert f"requested okx, meta.exchanges_filtered is {applied}" in finding
    assert "nothing of it will be published" in finding
    # The answer still shows that the key is good.
    assert check.findings("ok", "key") == ["accepted"]


async def test_a_server_that_does_not_name_its_filter_is_a_warning(
    simulator: Simulator, check: Check
) -> None:
    simulator.add_fault("filter_ignored", variant="absent")

    await check.run(GEX_EXCHANGES="okx")

    (finding,) = check.findings("warn", "venues")
    assert "does not say which venues it used" in finding


async def test_a_misspelt_venue_is_a_warning_and_its_effect_a_failure(
    check: Check,
) -> None:
    await check.run(GEX_EXCHANGES="okx,binanse")

    (warning,) = check.findings("warn", "venues")
    assert "binanse is not among the known venues" in warning
    assert "did you mean binance?" in warning
    # The simulated API ignores unknown names, as the vendor's does.
    (failure,) = check.findings("FAIL", "venues")
    assert "requested binanse, okx, meta.exchanges_filtered is okx" in failure


async def test_the_filters_of_further_feeds_are_tried(
    check: Check, tmp_path: Path
) -> None:
    path = tmp_path / "two.toml"
    path.write_text(TWO_FEEDS)

    await check.run(path)

    assert check.findings("ok", "venues") == ["feed options: derive, thalex"]


@pytest.mark.parametrize(
    ("fault", "item", "remedy"),
    [
        ("403", "plan", "change include, exchanges or positioning of the feed"),
        ("422", "request", "positioning of feed ranked, and its symbols"),
        ("framework_error", "request", "check upstream.base_url"),
    ],
)
async def test_a_further_feed_that_the_api_refuses_fails(
    simulator: Simulator,
    check: Check,
    tmp_path: Path,
    fault: str,
    item: str,
    remedy: str,
) -> None:
    path = tmp_path / "two.toml"
    path.write_text(RANKED_FEED)
    # A worker is not ready while one of its requests is refused because of the plan.
    simulator.add_fault(fault, symbols=["ETHUSDT"])

    await check.run(path)

    (failure,) = check.findings("FAIL", item)
    assert failure.startswith("feed ranked: ")
    assert remedy in failure


async def test_a_slow_answer_is_not_taken_for_a_used_up_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check_requests, "_WAIT_SECONDS", 0.01)

    async with check_requests.request_of_this_minute(Budget(None)):
        await asyncio.sleep(0.1)


async def test_further_filters_cost_a_bounded_number_of_requests(
    check: Check, simulator: Simulator, tmp_path: Path
) -> None:
    feeds = ["[[feeds]]\nname = 'plain'\nsymbols = ['BTCUSDT']\n"]
    for name in ("deribit", "bybit", "okx", "binance", "derive"):
        feeds.append(
            f"[[feeds]]\nname = '{name}'\nsymbols = ['BTCUSDT']\nexchanges = ['{name}']\n"
        )
    path = tmp_path / "many.toml"
    path.write_text("".join(feeds))

    await check.run(path)

    assert len(check.findings("ok", "venues")) == 3
    assert check.findings("warn", "venues") == [
        "feed binance and later ones: not tried"
    ]
    assert simulator.stats()["requests_total"] == 4


# --- the vendor's service ---


async def test_a_healthy_service_and_a_known_contract_are_reported(
    simulator: Simulator, check: Check
) -> None:
    await check.run()

    assert check.findings("ok", "service") == [
        "overall status healthy; no venue is off"
    ]
    assert check.findings("ok", "contract") == [
        "version 2.10; no breaking release is unknown here"
    ]
    assert simulator.stats()["requests_by_endpoint"] == {
        "levels": 1,
        "symbols": 1,
        "status": 1,
        "changelog": 1,
    }
    assert check.requests == 4


async def test_venues_that_are_off_are_warnings_for_those_who_use_them(
    simulator: Simulator, check: Check
) -> None:
    simulator.change(venues_off=["derive", "okx"])

    await check.run(GEX_EXCHANGES="okx,bybit")

    (finding,) = check.findings("warn", "service")
    assert finding.startswith("venue okx (chain, tape off)")


async def test_stale_levels_of_the_vendor_are_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    moment = Moment()
    async with Simulator(Settings(), moment) as simulator:
        simulator.add_fault("freeze")
        simulator.stats()
        moment.seconds += 400
        check = Check(simulator.url, capsys)
        await check.run()

    findings = check.findings("warn", "service")
    assert len(findings) == 2
    assert findings[0].startswith("the vendor's levels of BTCUSDT unhealthy, 4")


async def test_a_breaking_release_is_a_warning(
    simulator: Simulator, check: Check
) -> None:
    simulator.change(version="2.11", is_breaking=True)

    await check.run()

    (finding,) = check.findings("warn", "contract")
    assert "breaking release 2.11 after 2.10" in finding
    assert "read the vendor's changelog" in finding


async def test_a_server_without_a_changelog_is_a_warning(
    simulator: Simulator, check: Check
) -> None:
    simulator.change(contract="2.0")

    await check.run()

    (finding,) = check.findings("warn", "contract")
    assert finding.startswith("version unknown: cannot read /changelog: HTTP 404")


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        ("ok", "/health says ok: the vendor sees no trouble; check proxies"),
        ("unhealthy", "/health says unhealthy: the vendor's side"),
    ],
)
async def test_a_gateways_outage_is_explained_by_the_vendors_own_health(
    simulator: Simulator, check: Check, health: str, expected: str
) -> None:
    simulator.change(health=health)
    simulator.add_fault("html", status=503)

    await check.run()

    (failure,) = check.findings("FAIL", "upstream")
    assert failure.startswith("HTTP 503: 502 Bad Gateway; answered by a gateway")
    (finding,) = check.findings("warn", "service")
    assert finding.startswith(expected)
    # For levels and for /health.
    assert check.requests == 2


@pytest.mark.parametrize("health", ["ok", "unhealthy"])
@pytest.mark.parametrize("fault", ["500", "502", "503", "504"])
async def test_an_outage_that_the_api_itself_reports_is_never_blamed_on_our_side(
    simulator: Simulator, check: Check, fault: str, health: str
) -> None:
    simulator.change(health=health)
    simulator.add_fault(fault)

    await check.run()

    (failure,) = check.findings("FAIL", "upstream")
    assert failure.startswith(f"HTTP {fault}: ")
    assert "their side: the API itself answers so" in failure
    # The vendor finds the request by its id.
    assert "with the request id '" in failure
    (finding,) = check.findings("warn", "service")
    assert finding.startswith(f"/health says {health}, and the API answers")
    for our_side in ("base_url", "network", "proxies", "firewall"):
        assert our_side not in check.printed


@pytest.mark.parametrize(
    ("fault", "parameters", "remedy", "wrong_remedy"),
    [
        ("422", {}, "check include, exchanges and positioning of feed all", "base_url"),
        ("404", {}, "check the symbols of feed all", "base_url"),
        (
            "framework_error",
            {"status": 404},
            "check upstream.base_url, and include",
            "their side",
        ),
    ],
)
async def test_the_remedy_of_a_refusal_fits_whoever_has_refused(
    simulator: Simulator,
    check: Check,
    fault: str,
    parameters: dict[str, int],
    remedy: str,
    wrong_remedy: str,
) -> None:
    simulator.add_fault(fault, **parameters)

    await check.run()

    (failure,) = check.findings("FAIL", "request")
    assert remedy in failure
    assert wrong_remedy not in failure


@pytest.mark.parametrize("fault", ["redirect", "empty"])
async def test_an_answer_of_another_site_points_to_the_address(
    simulator: Simulator, check: Check, fault: str
) -> None:
    simulator.add_fault(fault)

    await check.run()

    (failure,) = check.findings("FAIL", "upstream")
    assert "check that upstream.base_url is its address" in failure


async def test_an_outage_of_the_api_is_its_own_although_its_health_does_not_answer(
    simulator: Simulator, check: Check
) -> None:
    simulator.add_fault("503")
    simulator.add_fault("drop", endpoint="health")

    await check.run()

    (finding,) = check.findings("warn", "service")
    assert finding.startswith("no answer from /health either")
    assert finding.endswith("the vendor's side: wait, or ask the vendor")


async def test_no_answer_at_all_points_to_our_side(
    simulator: Simulator, check: Check
) -> None:
    await simulator.stop()

    await check.run()

    (finding,) = check.findings("warn", "service")
    assert finding.startswith("no answer from /health either")
    assert "probably our side" in finding


@pytest.mark.parametrize(
    ("fault", "item", "text"),
    [
        ("401", "key", "HTTP 401: UNAUTHORIZED"),
        ("403", "plan", "HTTP 403: FORBIDDEN"),
        ("429_month", "month", "HTTP 429: RATE_LIMIT_EXCEEDED"),
    ],
)
async def test_nothing_more_is_asked_after_a_refusal(
    simulator: Simulator, check: Check, fault: str, item: str, text: str
) -> None:
    simulator.add_fault(fault)

    await check.run()

    (failure,) = check.findings("FAIL", item)
    assert failure.startswith(text)
    assert simulator.stats()["requests_by_endpoint"] == {"levels": 1}
    assert check.requests == 1


async def test_a_month_that_is_used_up_ends_the_checks_of_the_api(
    simulator: Simulator, check: Check
) -> None:
    simulator.add_fault("429_month")

    await check.run()

    assert check.findings("warn", "key") == [
        "not tried, nor were clock and symbols: no request is left"
    ]
    # Waiting for another request would last until the month is over.
    assert check.requests == 1


# --- quota ---


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (
            4,
            (
                "every symbol about every 167 s; seeing every refresh takes 22 a minute: "
                "levels become STALE (budget) and stay so: get a larger plan, configure "
                "fewer symbols, or set stale_after_seconds above 197"
            ),
        ),
        (
            15,
            (
                "every symbol about every 44 s; seeing every refresh takes 22 a minute: "
                "configure fewer symbols, or get a larger plan"
            ),
        ),
    ],
)
async def test_a_minute_that_cannot_keep_levels_fresh_is_a_warning(
    simulator: Simulator, check: Check, limit: int, expected: str
) -> None:
    symbols = [f"S{number:02}USDT" for number in range(80)]
    simulator.change(limit_per_minute=limit, symbols=symbols)

    await check.run(GEX_SYMBOLS=",".join(symbols))

    (finding,) = check.findings("warn", "quota")
    assert finding.endswith(expected)


# --- symbols ---


async def test_levels_under_another_name_are_reported_with_it(
    simulator: Simulator, check: Check
) -> None:
    simulator.add_fault("renamed", variant="dash", symbols=["BTCUSDT"])

    await check.run()

    (finding,) = check.findings("warn", "symbols")
    assert finding.startswith("BTCUSDT: the upstream has levels of 'BTC-USDT' instead")


async def test_a_symbol_without_any_level_is_reported_as_missing(
    simulator: Simulator, check: Check
) -> None:
    simulator.add_fault("empty_entry", symbols=["BTCUSDT"])

    await check.run()

    assert check.findings("warn", "symbols") == ["no levels at the moment: BTCUSDT"]
