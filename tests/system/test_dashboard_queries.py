"""Every query of both dashboards, asked as Grafana asks it of a real Prometheus that scraped real workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from connector.core.model import Status
from connector.devkit.simulator.settings import DEFAULT_SYMBOLS
from tests.system.pictures import draw
from tests.system.scene import Pace, watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.system.grafana import Series, Shown

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
PACE = Pace(refresh=5, scrape=1, calm=12, fault=10)


def board(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / f"{name}.json").read_text("utf-8"))
    return found


def named(shown: Iterable[Shown], title: str) -> dict[str, Series]:
    """The lines of a panel by their names."""
    (panel,) = [one for one in shown if one.title == title]
    return {series.name: series for series in panel.series}


def ever(series: Series) -> set[float]:
    return {value for _, value in series.points}


@pytest.mark.timeout(300)
def test_every_query_brings_something_and_the_panels_show_what_went_wrong(
    kafka: LocalKafka,
    names: Names,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    with watched(kafka, names, tmp_path, PACE) as (prometheus, window):
        levels, connector = (
            prometheus.shown(board(name), window)
            for name in ("gex-levels", "connector")
        )
    for name, shown in {"gex-levels": levels, "connector": connector}.items():
        record_property(
            name,
            f"{sum(len(one.series) for one in shown)} lines in {len(shown)} panels",
        )
        assert {
            one.title: one.empty()
            for one in shown
            if one.panel["type"] != "row" and one.empty()
        } == {}
        draw(name, shown, tmp_path / f"{name}.png")

    code = {status: number for number, status in enumerate(Status, 1)}
    statuses = named(levels, "Status")
    assert set(statuses) == set(DEFAULT_SYMBOLS)
    assert ever(statuses["ETHUSDT"]) >= {code[Status.LIVE], code[Status.MISSING]}
    assert ever(statuses["BTCUSDT"]) == {code[Status.LIVE]}
    prices = named(levels, "BTCUSDT")
    assert (
        prices["all_expiry.put_support"].last
        < prices["spot_price"].last
        < prices["all_expiry.call_resistance"].last
    )
    (table,) = [one for one in levels if one.panel["type"] == "table"]
    assert len(table.series) == len(table.panel["targets"]) * len(DEFAULT_SYMBOLS)

    assert max(ever(named(connector, "Requests by outcome")["unavailable"])) > 0
    assert max(ever(named(connector, "Checks by result")["missing, all"])) > 0
    assert (
        max(ever(named(connector, "Quarantine and contradictions")["wrong_type"])) > 0
    )
    assert max(ever(named(connector, "Budget")["other clients"])) > 0
    assert set(named(connector, "Kafka errors")) >= {"_TRANSPORT"}
    assert len(named(connector, "Assignment")) == 2, "first the one, then the other"
    assert ever(named(connector, "Shards owned")["owned"]) >= {0, 1}, (
        "a time without owner"
    )
    assert named(connector, "Shards without owner")["shards"].last == 0
    assert named(connector, "Workers")["workers"].last == 2
