"""Every query of both dashboards, sent to a Prometheus that scraped real workers."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connector.core.model import Status
from connector.devkit.simulator.settings import EIGHT_SYMBOLS
from tests.system.pictures import draw
from tests.system.scene import Pace, watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.system.grafana import Mark, Series, Shown

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
# Faster than the pace of the pictures: no symbol needs to become STALE.
PACE = Pace(refresh=5, scrape=2, calm=12, fault=10)
# Points before the end of the scene, in which scrapes may still be under way.
SETTLED_POINTS = 3
# The metric of a status has its number, from 1 on.
CODES = {status: code for code, status in enumerate(Status, 1)}


def board(name: str) -> dict[str, Any]:
    text = (GRAFANA / f"{name}.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def lines(shown: Iterable[Shown], title: str) -> dict[str, Series]:
    """Return the lines of the panel with this title, by name."""
    (panel,) = [panel for panel in shown if panel.title == title]
    return {series.name: series for series in panel.series}


# Queries that may be empty, by dashboard and panel. The vendor's reports are read a minute
# or two after the start, which may be after the scene. The end of the month's requests is
# projected from hours. The others show faults that this scene does not have.
MAY_BE_EMPTY = {
    ("connector", "Versions"): {"B", "C"},
    ("connector", "The month's end"): {"B"},
    ("connector", "Clock correction"): {"B"},
    ("connector", "Workers with a wrong clock"): {"A"},
    ("connector", "Topics with a fault"): {"A"},
    ("connector", "Partitions with hidden records"): {"A"},
    ("connector", "Records of other programs"): {"A"},
    ("connector", "Symbols of feeds that are not configured"): {"A"},
}


def values(series: Series) -> set[float]:
    return {value for _, value in series.points}


def highest(shown: Iterable[Shown], title: str, name: str) -> float:
    """Return the highest value of a line."""
    series = lines(shown, title)[name]
    return max(values(series))


def empty_queries(shown: Iterable[Shown]) -> dict[str, list[str]]:
    """Return the queries without results, by the title of their panel."""
    empty = {}
    for panel in shown:
        if panel.panel["type"] != "row" and panel.empty():
            empty[panel.title] = panel.empty()
    return empty


def test_every_query_has_results_and_the_panels_show_the_faults(
    kafka: LocalKafka,
    names: Names,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    with watched(kafka, names, tmp_path, PACE) as (prometheus, window):
        levels = prometheus.shown(board("gex-levels"), window)
        connector = prometheus.shown(board("connector"), window)
        marks = prometheus.marks(board("gex-levels"), window)

    for name, shown in (("gex-levels", levels), ("connector", connector)):
        line_counts = [len(panel.series) for panel in shown]
        record_property(name, f"{sum(line_counts)} lines in {len(shown)} panels")
        # A query without results has a wrong name or label: the panel stays empty.
        for title, queries in empty_queries(shown).items():
            assert set(queries) <= MAY_BE_EMPTY.get((name, title), set()), title
        # The pictures of the documentation come from the same code.
        draw(name, shown, tmp_path / f"{name}.png", opened=True, marks=marks)
        draw(name, shown, tmp_path / f"{name}-as-it-opens.png", opened=False)

    expect_the_symbols_faults(levels)
    expect_the_place_of_spot(levels)
    expect_marks(marks)
    expect_the_fleets_faults(connector)


def expect_the_symbols_faults(levels: list[Shown]) -> None:
    """Check the dashboard of the levels: ETHUSDT was missing, BTCUSDT never was."""
    live = CODES[Status.LIVE]
    missing = CODES[Status.MISSING]
    statuses = lines(levels, "Status")
    assert set(statuses) == set(EIGHT_SYMBOLS)
    assert values(statuses["ETHUSDT"]) >= {live, missing}
    assert values(statuses["BTCUSDT"]) == {live}

    # The panel of a symbol: the price lies between its levels.
    prices = lines(levels, "BTCUSDT")
    support = prices["all_expiry.put_support"].last
    resistance = prices["all_expiry.call_resistance"].last
    assert support < prices["spot_price"].last < resistance

    # The table has a value in every cell.
    tables = [panel for panel in levels if panel.panel["type"] == "table"]
    (table,) = tables
    columns = len(table.panel["targets"])
    assert len(table.series) == columns * len(EIGHT_SYMBOLS)


def expect_the_place_of_spot(levels: list[Shown]) -> None:
    """Check that the place of each symbol's spot agrees with the prices of its levels."""
    places = lines(levels, "Spot against its levels")
    assert set(places) == set(EIGHT_SYMBOLS)
    for symbol, series in places.items():
        # Not the last ones: a scrape may have ended between two queries.
        at, place = series.points[-SETTLED_POINTS]
        prices = {}
        for path, line in lines(levels, symbol).items():
            # A level may have had a price only under another model.
            found = dict(line.points).get(at)
            if found is not None:
                prices[path] = found
        assert place == place_of_spot(prices), symbol


def place_of_spot(prices: dict[str, float]) -> int:
    spot = prices["spot_price"]
    if spot > prices["all_expiry.call_resistance"]:
        return 4
    if spot < prices["all_expiry.put_support"]:
        return 1
    return 3 if spot >= prices["all_expiry.hvl"] else 2


def expect_marks(marks: list[Mark]) -> None:
    """Check the marks: a symbol was missing, and another one had a model of fallback."""
    texts = {mark.text for mark in marks}
    assert "ETHUSDT: MISSING" in texts
    assert "BNBUSDT: model is now std" in texts
    # Nothing happened to this one, and a fail-over is no change.
    assert not [text for text in texts if text.startswith("BTCUSDT")]


def expect_the_fleets_faults(connector: list[Shown]) -> None:
    """Check the dashboard of the connector: each fault of the scene is visible."""
    # The outage, the missing symbol, the wrong types and the other client.
    assert highest(connector, "Requests by outcome", "unavailable") > 0
    assert highest(connector, "Checks by result", "missing, all") > 0
    assert highest(connector, "Quarantine and contradictions", "wrong_type") > 0
    assert highest(connector, "Budget", "other clients") > 0
    # The address at which nothing listens.
    assert "_TRANSPORT" in lines(connector, "Kafka errors")

    # The failover: first the owner has the shard, then nobody, then the standby.
    assert len(lines(connector, "Assignment")) == 2
    # Workers have their own names, not the addresses that Prometheus scrapes.
    host = socket.gethostname()
    assert all(name.startswith(host) for name in lines(connector, "Memory"))
    owned = lines(connector, "Shards owned")["owned"]
    assert values(owned) >= {0, 1}
    assert lines(connector, "Shards without owner")["shards"].last == 0
    assert lines(connector, "Workers")["workers"].last == 2
