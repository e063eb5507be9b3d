"""The dashboards are the generator's, readable by Grafana's types, and use metrics that exist."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units

from connector.telemetry.catalogue import METRICS, Metric

with warnings.catch_warnings():
    # The SDK prefers the next schema, which only Grafana 12 reads.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.models import dashboard

DOCS = Path(__file__).parents[2] / "docs"
GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
GRID_WIDTH = 24


def read_boards() -> dict[str, dict[str, Any]]:
    boards = {}
    for path in sorted(GRAFANA.glob("*.json")):
        boards[path.stem] = json.loads(path.read_text("utf-8"))
    return boards


def process_metrics() -> set[str]:
    """Return the metrics of a process that Prometheus' client library exports."""
    names = set()
    for family in prometheus_client.ProcessCollector(registry=None).collect():
        suffix = "_total" if family.type == "counter" else ""
        names.add(family.name + suffix)
    return names


def known_units() -> set[str]:
    """Return the units that Grafana knows."""
    found = set()
    for name, value in vars(units).items():
        if not name.startswith("_"):
            found.add(value)
    return found


BOARDS = read_boards()
TARGET_LABELS = {"job", "instance"}
PROCESS_METRICS = process_metrics()
UNITS = known_units()

# The end of the upstream's minute tells a reader nothing.
NOT_SHOWN = {"gex_rate_limit_reset_timestamp_seconds"}

METRIC_NAME = re.compile(r"\b(?:gex|process)_\w+")
SELECTOR = re.compile(r"\b((?:gex|process)_\w+)\{([^}]*)\}")
MATCHED_LABEL = re.compile(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"")
GROUPING = re.compile(r"\b(?:by|on|ignoring)\s*\(([^)]*)\)")
LEGEND_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries() -> list[tuple[str, str, dict[str, Any]]]:
    """Return each query with the names of its dashboard and its panel."""
    found = []
    for name, board in BOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                found.append((name, panel["title"], target))
    return found


QUERIES = queries()


def series(name: str) -> tuple[Metric, set[str]] | None:
    """Return the metric that a series belongs to and its labels, or None."""
    for metric in METRICS:
        labels = set(metric.labels)
        if not metric.buckets:
            if name == metric.name:
                return metric, labels
        elif name in {f"{metric.name}_sum", f"{metric.name}_count"}:
            return metric, labels
        elif name == f"{metric.name}_bucket":
            return metric, labels | {"le"}
    return None


def faults(expression: str, legend: str = "") -> list[str]:
    """Return the names in a query that do not exist, and metrics without a selector."""
    found = []
    selected = SELECTOR.findall(expression)
    scoped = {name for name, _ in selected}
    unscoped = set(METRIC_NAME.findall(expression)) - scoped
    if unscoped:
        found.append(f"without selector: {unscoped}")

    known = set[str]()
    for name, matchers in selected:
        labels = set[str]()
        ours = series(name)
        if ours is not None:
            metric, labels = ours
            known |= labels
            found += wrong_values(metric, name, matchers)
        elif name not in PROCESS_METRICS:
            found.append(f"no metric: {name}")
        wrong = set(MATCHED_LABEL.findall(matchers)) - labels - TARGET_LABELS
        if wrong:
            found.append(f"{name} has no {wrong}")

    used = set(LEGEND_LABEL.findall(legend))
    for group in GROUPING.findall(expression):
        used |= {label.strip() for label in group.split(",")}
    unknown = used - known - TARGET_LABELS
    if unknown:
        found.append(f"no metric of the query has: {unknown}")
    return found


def wrong_values(metric: Metric, name: str, matchers: str) -> list[str]:
    """Return the values in a selector that the metric's last label does not have."""
    if not metric.labels or not metric.values:
        return []
    value = re.search(rf'\b{metric.labels[-1]}=~?"([^"$]*)"', matchers)
    choices = value[1].split("|") if value else []
    return [f"{name}: {choice}" for choice in choices if choice not in metric.values]


def test_the_files_are_the_generators(tmp_path: Path) -> None:
    script = GRAFANA / "generate.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, timeout=60)
    for name in ("gex-levels.json", "connector.json"):
        generated = (tmp_path / name).read_text("utf-8")
        assert generated == (GRAFANA / name).read_text("utf-8")
    assert len(list(tmp_path.iterdir())) == len(BOARDS) == 2


@pytest.mark.parametrize("name", BOARDS)
def test_grafanas_types_read_a_dashboard_without_loss(name: str) -> None:
    register_default_plugins()
    read = dashboard.Dashboard.from_json(BOARDS[name])
    written = json.dumps(read, cls=JSONEncoder)
    assert json.loads(written) == BOARDS[name]


@pytest.mark.parametrize("name", BOARDS)
@pytest.mark.parametrize("key", ["id", "title"])
def test_a_panels_id_and_title_are_unique(key: str, name: str) -> None:
    values = [panel[key] for panel in BOARDS[name]["panels"]]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("name", BOARDS)
def test_a_panel_says_its_meaning_the_signs_of_trouble_and_the_remedy(
    name: str,
) -> None:
    for panel in panels(BOARDS[name]):
        for head in ("^", r"\*\*Bad:\*\* ", r"\*\*Do:\*\* "):
            assert re.search(rf"{head}\S", panel["description"]), panel["title"]


@pytest.mark.parametrize("name", BOARDS)
def test_a_panel_has_a_unit_colours_and_rising_thresholds(name: str) -> None:
    for panel in panels(BOARDS[name]):
        look = panel["fieldConfig"]["defaults"]
        if panel["type"] != "state-timeline":
            assert look["unit"] in UNITS, panel["title"]
        if panel["type"] == "stat":
            assert {"thresholds", "mappings"} & set(look), panel["title"]
        steps = look.get("thresholds", {"steps": []})["steps"]
        # The first step has no value: it covers everything below the second.
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values)


@pytest.mark.parametrize("name", BOARDS)
def test_panels_do_not_overlap_and_stay_within_the_grid(name: str) -> None:
    taken = set[tuple[int, int]]()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        rows = range(place["y"], place["y"] + place["h"])
        cells = set(itertools.product(columns, rows))
        assert columns.stop <= GRID_WIDTH, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize(("name", "title", "target"), QUERIES)
def test_a_query_uses_metrics_labels_and_variables_that_exist(
    name: str, title: str, target: dict[str, Any]
) -> None:
    assert faults(target["expr"], target["legendFormat"]) == []
    variables = BOARDS[name]["templating"]["list"]
    own = {variable["name"] for variable in variables}
    used = set(re.findall(r"\$(\w+)", target["expr"]))
    assert used <= own | {"__rate_interval", "__range"}


@pytest.mark.parametrize("name", BOARDS)
def test_a_variable_queries_a_label_that_exists(name: str) -> None:
    for variable in BOARDS[name]["templating"]["list"]:
        if variable["type"] != "query":
            continue
        query = re.fullmatch(
            r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["query"]
        )
        assert query
        metric, label = query.groups()
        found = series(metric)
        assert found
        assert label in found[1] | TARGET_LABELS


def test_every_metric_is_on_a_dashboard() -> None:
    shown = set()
    for _, _, target in QUERIES:
        for name, _ in SELECTOR.findall(target["expr"]):
            found = series(name)
            if found is not None:
                shown.add(found[0].name)
    assert {metric.name for metric in METRICS} - shown == NOT_SHOWN


def test_every_section_that_a_panel_links_to_exists() -> None:
    links = set()
    for board in BOARDS.values():
        for panel in panels(board):
            links |= set(re.findall(r"docs/(\S+\.md)#(\S+)", panel["description"]))
    assert len(links) > 5
    for page, anchor in links:
        assert anchor in anchors(DOCS / page), f"{page}#{anchor}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    words = [re.sub(r"[^\w -]", "", heading) for heading in headings]
    return {heading.lower().replace(" ", "-") for heading in words}


# XX stands for gex: test_metric_names.py searches this file too.
@pytest.mark.parametrize(
    ("expression", "legend"),
    [
        ('XX_event_total{job="$job"}', ""),
        ('XX_events_total{job="$job", symbol=~"$symbol"}', ""),
        ('sum by (symbol) (rate(XX_events_total{job="$job"}[5m]))', ""),
        ('sum by (kind) (rate(XX_events_total{job="$job"}[5m]))', "{{reason}}"),
        ('XX_events_total{kind="CHANGE"}', ""),
        ("sum(rate(XX_events_total[5m]))", ""),
        ('XX_publish_duration_seconds{job="$job"}', ""),
        ('process_resident_bytes{job="$job"}', ""),
    ],
)
def test_a_name_that_does_not_exist_is_found(expression: str, legend: str) -> None:
    assert faults(expression.replace("XX", "gex"), legend)
