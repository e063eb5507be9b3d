"""The dashboards are the generator's, readable by Grafana's types, and use metrics that exist."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units

from connector.telemetry.catalogue import METRICS, Metric
from tests.support.markdown import anchors

with warnings.catch_warnings():
    # The SDK prefers the next schema, which only Grafana 12 reads.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.models import dashboard

DOCS = Path(__file__).parents[2] / "docs"
GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
GRID_WIDTH = 24
# About two screens.
MOST_OPEN_PANELS = 14


def read_boards() -> dict[str, dict[str, Any]]:
    boards = {}
    for path in sorted(GRAFANA.glob("*.json")):
        boards[path.stem] = json.loads(path.read_text("utf-8"))
    return boards


def process_metrics() -> set[str]:
    """Return the metrics of a process that Prometheus' client library exports."""
    names = set()
    for family in prometheus_client.ProcessCollector(registry=None).collect():
        name = family.name
        # The library keeps the suffix of a counter apart from its name.
        if family.type == "counter":
            name += "_total"
        names.add(name)
    return names


def known_units() -> set[str]:
    """Return the units that Grafana knows."""
    found = set()
    for name, value in vars(units).items():
        if not name.startswith("_"):
            found.add(value)
    return found


BOARDS = read_boards()
# Prometheus adds these to every series that it scrapes.
TARGET_LABELS = {"job", "instance"}
PROCESS_METRICS = process_metrics()
UNITS = known_units()

# The end of the upstream's minute tells a reader nothing, and the end of a certificate has an
# alert.
NOT_SHOWN = {
    "gex_rate_limit_reset_timestamp_seconds",
    "gex_kafka_certificate_expiry_timestamp_seconds",
}

# Just enough of PromQL for our own queries.
METRIC_NAME = re.compile(r"\b(?:gex|process)_\w+")
SELECTOR = re.compile(r"\b((?:gex|process)_\w+)\{([^}]*)\}")
MATCHED_LABEL = re.compile(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"")
GROUPING = re.compile(r"\b(?:by|on|ignoring|group_left)\s*\(([^)]*)\)")
LEGEND_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")


Panel = dict[str, Any]


def rows_and_panels(board: dict[str, Any]) -> list[Panel]:
    """Return all rows and panels. A collapsed row has its panels inside."""
    found = []
    for panel in board["panels"]:
        found.append(panel)
        found += panel.get("panels", [])
    return found


def panels(board: dict[str, Any]) -> list[Panel]:
    """Return the panels that show data: a row is only a heading."""
    return [panel for panel in rows_and_panels(board) if panel["type"] != "row"]


@dataclass(frozen=True)
class Query:
    """A query, and the names of the dashboard and of the panel or mark that it is for."""

    board: str
    panel: str
    expression: str
    legend: str


def queries() -> list[Query]:
    found = []
    for name, board in BOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                query = Query(
                    name, panel["title"], target["expr"], target["legendFormat"]
                )
                found.append(query)
        for mark in marks(board):
            found.append(Query(name, mark["name"], mark["expr"], mark["titleFormat"]))
    return found


def marks(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the queries of the marks on a dashboard's graphs."""
    found: list[dict[str, Any]] = board["annotations"].get("list", [])
    return found


QUERIES = queries()


@dataclass(frozen=True)
class Series:
    """A series of a metric of ours, and the labels that it has."""

    metric: Metric
    labels: frozenset[str]


def all_series() -> dict[str, Series]:
    """Return every series that the connector exports, by its name."""
    found = {}
    for metric in METRICS:
        labels = frozenset(metric.labels)
        if not metric.buckets:
            found[metric.name] = Series(metric, labels)
            continue
        # A histogram has no series with its own name.
        for suffix in ("_sum", "_count"):
            found[metric.name + suffix] = Series(metric, labels)
        found[f"{metric.name}_bucket"] = Series(metric, labels | {"le"})
    return found


SERIES = all_series()


def faults(expression: str, legend: str = "") -> list[str]:
    """Return the names in a query that do not exist, and metrics without a selector."""
    selected = SELECTOR.findall(expression)
    found = unscoped_metrics(expression)
    known = set[str]()
    for name, matchers in selected:
        labels: frozenset[str] = frozenset()
        series = SERIES.get(name)
        if series is not None:
            labels = series.labels
            known |= labels
            found += wrong_values(series.metric, name, matchers)
        elif name not in PROCESS_METRICS:
            found.append(f"no metric: {name}")

        matched = set(MATCHED_LABEL.findall(matchers))
        wrong = matched - labels - TARGET_LABELS
        if wrong:
            found.append(f"{name} has no {wrong}")

    # A label in a grouping or in a legend needs a metric in the query that has it.
    used = set(LEGEND_LABEL.findall(legend))
    for group in GROUPING.findall(expression):
        for label in group.split(","):
            used.add(label.strip())
    unknown = used - known - TARGET_LABELS
    if unknown:
        found.append(f"no metric of the query has: {unknown}")
    return found


def unscoped_metrics(expression: str) -> list[str]:
    """Return a fault if a metric has no selector: it would add up all installations."""
    scoped = set()
    for name, _ in SELECTOR.findall(expression):
        scoped.add(name)
    unscoped = set(METRIC_NAME.findall(expression)) - scoped
    if not unscoped:
        return []
    return [f"without selector: {unscoped}"]


def wrong_values(metric: Metric, name: str, matchers: str) -> list[str]:
    """Return the values in a selector that the metric's last label does not have."""
    if not metric.labels or not metric.values:
        return []
    # A value with `$` is a variable of the dashboard, whose choices are not known here.
    value = re.search(rf'\b{metric.labels[-1]}=~?"([^"$]*)"', matchers)
    if value is None:
        return []
    found = []
    for choice in value[1].split("|"):
        if choice not in metric.values:
            found.append(f"{name}: {choice}")
    return found


def test_the_files_are_the_generators(tmp_path: Path) -> None:
    script = GRAFANA / "generate.py"
    command = [sys.executable, str(script), str(tmp_path)]
    subprocess.run(command, check=True, timeout=180)

    for name in ("gex-levels.json", "connector.json"):
        generated = (tmp_path / name).read_text("utf-8")
        assert generated == (GRAFANA / name).read_text("utf-8")
    # No further file, neither generated nor in the folder.
    generated_files = list(tmp_path.iterdir())
    assert len(generated_files) == 2
    assert len(BOARDS) == 2


@pytest.mark.parametrize("name", BOARDS)
def test_grafanas_types_read_a_dashboard_without_loss(name: str) -> None:
    # Grafana ignores a misspelt field silently. The SDK's types drop it, so it shows here.
    register_default_plugins()
    read = dashboard.Dashboard.from_json(BOARDS[name])

    written = json.dumps(read, cls=JSONEncoder)
    assert json.loads(written) == BOARDS[name]


@pytest.mark.parametrize("name", BOARDS)
@pytest.mark.parametrize("key", ["id", "title"])
def test_a_panels_id_and_title_are_unique(key: str, name: str) -> None:
    # Links to a panel hold its id; runbooks name it by its title.
    values = [panel[key] for panel in rows_and_panels(BOARDS[name])]

    assert len(set(values)) == len(values)


@pytest.mark.parametrize("name", BOARDS)
def test_a_panel_says_its_meaning_the_signs_of_trouble_and_the_remedy(
    name: str,
) -> None:
    heads = ("^", r"\*\*Bad:\*\* ", r"\*\*Do:\*\* ")
    for panel in panels(BOARDS[name]):
        for head in heads:
            assert re.search(rf"{head}\S", panel["description"]), panel["title"]


@pytest.mark.parametrize("name", BOARDS)
def test_a_panel_has_a_unit_colours_and_rising_thresholds(name: str) -> None:
    for panel in panels(BOARDS[name]):
        look = panel["fieldConfig"]["defaults"]
        # A timeline of states shows words.
        if panel["type"] != "state-timeline":
            assert look["unit"] in UNITS, panel["title"]
        # A single number needs a colour that tells good from bad.
        if panel["type"] == "stat":
            assert {"thresholds", "mappings"} & set(look), panel["title"]

        steps = look.get("thresholds", {"steps": []})["steps"]
        # The first step has no value: it covers everything below the second.
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values)


@pytest.mark.parametrize("name", BOARDS)
def test_panels_do_not_overlap_and_stay_within_the_grid(name: str) -> None:
    # Grafana moves panels that overlap, and so changes the dashboard on its first save.
    taken = set[tuple[int, int]]()
    for panel in rows_and_panels(BOARDS[name]):
        place = panel["gridPos"]
        left, top = place["x"], place["y"]
        right = left + place["w"]
        bottom = top + place["h"]
        cells = set(itertools.product(range(left, right), range(top, bottom)))
        assert right <= GRID_WIDTH, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("name", BOARDS)
def test_only_the_overview_is_open(name: str) -> None:
    # Grafana queries open panels every 30 s, and a page with all of them says nothing.
    rows = [panel for panel in BOARDS[name]["panels"] if panel["type"] == "row"]
    collapsed = [row for row in rows if row["collapsed"]]

    assert len(collapsed) >= len(rows) - 1
    for row in collapsed:
        assert row["panels"], row["title"]
    open_panels = [panel for panel in BOARDS[name]["panels"] if panel["type"] != "row"]
    assert len(open_panels) <= MOST_OPEN_PANELS


def test_a_legend_has_the_names_of_workers_not_their_addresses() -> None:
    for query in QUERIES:
        assert "instance" not in query.legend, query.panel


def id_of(query: Query) -> str:
    return f"{query.board}-{query.panel}"


@pytest.mark.parametrize("query", QUERIES, ids=id_of)
def test_a_query_uses_metrics_labels_and_variables_that_exist(query: Query) -> None:
    assert faults(query.expression, query.legend) == []

    # The dashboard's own variables, and two that Grafana fills in.
    known = {"__rate_interval", "__range"}
    for variable in BOARDS[query.board]["templating"]["list"]:
        known.add(variable["name"])
    used = re.findall(r"\$(\w+)", query.expression)
    assert set(used) <= known


@pytest.mark.parametrize("name", BOARDS)
def test_a_variable_queries_a_label_that_exists(name: str) -> None:
    for variable in BOARDS[name]["templating"]["list"]:
        if variable["type"] != "query":
            continue
        query = re.fullmatch(
            r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["query"]
        )
        assert query
        name_of_series, label = query.groups()
        labels = SERIES[name_of_series].labels
        assert label in labels | TARGET_LABELS


def test_changes_of_status_and_model_are_marked_in_every_version_of_grafana() -> None:
    found = marks(BOARDS["gex-levels"])

    assert [mark["name"] for mark in found] == ["Not LIVE", "Other model"]
    for mark in found:
        assert mark["enable"]
        # Old versions read the first pair, new ones the second.
        assert mark["expr"] == mark["target"]["expr"]
        assert mark["step"] == mark["target"]["interval"]


def test_every_metric_is_on_a_dashboard() -> None:
    shown = set()
    for query in QUERIES:
        for name, _ in SELECTOR.findall(query.expression):
            if name in SERIES:
                shown.add(SERIES[name].metric.name)

    ours = {metric.name for metric in METRICS}
    assert ours - shown == NOT_SHOWN


def test_every_section_that_a_panel_links_to_exists() -> None:
    links = set()
    for board in BOARDS.values():
        for panel in panels(board):
            links |= set(re.findall(r"docs/(\S+\.md)#(\S+)", panel["description"]))

    # So that a changed form of the links is noticed.
    assert len(links) > 5
    for page, anchor in links:
        assert anchor in anchors(DOCS / page), f"{page}#{anchor}"


# XX stands for gex: test_metric_names.py searches this file too.
@pytest.mark.parametrize(
    ("expression", "legend"),
    [
        # A misspelt metric.
        ('XX_event_total{job="$job"}', ""),
        # A label that the metric does not have: in a selector, a grouping and a legend.
        ('XX_events_total{job="$job", symbol=~"$symbol"}', ""),
        ('sum by (symbol) (rate(XX_events_total{job="$job"}[5m]))', ""),
        ('sum by (kind) (rate(XX_events_total{job="$job"}[5m]))', "{{reason}}"),
        # A value that the label does not have.
        ('XX_events_total{kind="CHANGE"}', ""),
        # No selector.
        ("sum(rate(XX_events_total[5m]))", ""),
        # A histogram without a suffix.
        ('XX_publish_duration_seconds{job="$job"}', ""),
        # A misspelt metric of the process.
        ('process_resident_bytes{job="$job"}', ""),
    ],
)
def test_a_name_that_does_not_exist_is_found(expression: str, legend: str) -> None:
    assert faults(expression.replace("XX", "gex"), legend)
