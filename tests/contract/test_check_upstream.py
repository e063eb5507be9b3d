"""The upstream part of `check` against the simulated API: each trouble is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from connector.config.load import load
from connector.devkit.simulator.server import Simulator
from connector.devkit.simulator.settings import DEFAULT_KEY, Settings
from connector.tools.check_upstream import check_upstream
from connector.tools.report import Report

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


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(Settings()) as started:
        yield started


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
