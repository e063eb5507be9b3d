"""Every query of both dashboards, sent to a Prometheus that scraped real workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from connector.core.model import Status
from connector.devkit.simulator.settings import EIGHT_SYMBOLS
from tests.system.pictures import draw
from tests.system.scene import Pace, watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.system.grafana import Series, Shown

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
PACE = Pace(refresh=5, scrape=1, calm=12, fault=10)
CODES = {status: code for code, status in enumerate(Status, 1)}


def board(name: str) -> dict[str, Any]:
    text = (GRAFANA / f"{name}.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def lines(shown: Iterable[Shown], title: str) -> dict[str, Series]:
    """Return the lines of the panel with this title, by name."""
    (panel,) = [panel for panel in shown if panel.title == title]
    return {series.name: series for series in panel.series}


def values(series: Series) -> set[float]:
    return {value for _, value in series.points}


def empty_queries(shown: Iterable[Shown]) -> dict[str, list[str]]:
    """Return the queries without results, by the title of their panel."""
    empty = {}
    for panel in shown:
        if panel.panel["type"] != "row" and panel.empty():
            empty[panel.title] = panel.empty()
    return empty


@pytest.mark.timeout(300)
def test_every_query_has_results_and_the_panels_show_the_faults(
    kafka: LocalKafka,
    names: Names,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    with watched(kafka, names, tmp_path, PACE) as (prometheus, window):
        levels = prometheus.shown(board("gex-levels"), window)
        connector = prometheus.shown(board("connector"), window)
    for name, shown in (("gex-levels", levels), ("connector", connector)):
        count = sum(len(panel.series) for panel in shown)
        record_property(name, f"{count} lines in {len(shown)} panels")
        assert empty_queries(shown) == {}
        draw(name, shown, tmp_path / f"{name}.png")

    expect_the_symbols_faults(levels)
    expect_the_fleets_faults(connector)


def expect_the_symbols_faults(levels: list[Shown]) -> None:
    live, missing = CODES[Status.LIVE], CODES[Status.MISSING]
    statuses = lines(levels, "Status")
    assert set(statuses) == set(EIGHT_SYMBOLS)
    assert values(statuses["ETHUSDT"]) >= {live, missing}
    assert values(statuses["BTCUSDT"]) == {live}

    prices = lines(levels, "BTCUSDT")
    support = prices["all_expiry.put_support"].last
    resistance = prices["all_expiry.call_resistance"].last
    assert support < prices["spot_price"].last < resistance

    (table,) = [panel for panel in levels if panel.panel["type"] == "table"]
    columns = len(table.panel["targets"])
    assert len(table.series) == columns * len(EIGHT_SYMBOLS)


def expect_the_fleets_faults(connector: list[Shown]) -> None:
    quarantine = lines(connector, "Quarantine and contradictions")
    assert max(values(lines(connector, "Requests by outcome")["unavailable"])) > 0
    assert max(values(lines(connector, "Checks by result")["missing, all"])) > 0
    assert max(values(quarantine["wrong_type"])) > 0
    assert max(values(lines(connector, "Budget")["other clients"])) > 0
    assert set(lines(connector, "Kafka errors")) >= {"_TRANSPORT"}

    # The failover: first the owner has the shard, then nobody, then the standby.
    assert len(lines(connector, "Assignment")) == 2
    assert values(lines(connector, "Shards owned")["owned"]) >= {0, 1}
    assert lines(connector, "Shards without owner")["shards"].last == 0
    assert lines(connector, "Workers")["workers"].last == 2
