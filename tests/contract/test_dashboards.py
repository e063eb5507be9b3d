"""The dashboards: what the generator writes, readable by Grafana's types, and naming only what the catalogue has."""

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

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
DOCS = Path(__file__).parents[2] / "docs"
BOARDS = {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in sorted(GRAFANA.glob("*.json"))
}
OF_PROMETHEUS = {"job", "instance"}
NOT_SHOWN = {"gex_rate_limit_reset_timestamp_seconds"}
"""The end of the upstream's minute: of no use to the eye."""

OF_CLIENT = {
    family.name + ("_total" if family.type == "counter" else "")
    for family in prometheus_client.ProcessCollector(registry=None).collect()
}
SELECTED = re.compile(r"\b((?:gex|process)_\w+)\{([^}]*)\}")
UNITS = {
    value
    for name, value in vars(units).items()
    if isinstance(value, str) and not name.startswith("_")
}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def targets(board: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Title of the panel, and query."""
    return [
        (panel["title"], target)
        for panel in panels(board)
        for target in panel["targets"]
    ]


QUERIES = [(name, *found) for name, board in BOARDS.items() for found in targets(board)]


def series(name: str) -> tuple[Metric, set[str]] | None:
    """The metric that a series belongs to, and its labels; None where there is none."""
    for metric in METRICS:
        if name == metric.name and not metric.buckets:
            return metric, set(metric.labels)
        if metric.buckets and name in {
            f"{metric.name}_{suffix}" for suffix in ("bucket", "sum", "count")
        }:
            return metric, {
                *metric.labels,
                *(("le",) if name.endswith("_bucket") else ()),
            }
    return None


def faults(expression: str, legend: str = "") -> list[str]:
    """What of a query is in no catalogue."""
    found, known = [], set[str]()
    if unscoped := set(re.findall(r"\b(?:gex|process)_\w+", expression)) - {
        n for n, _ in SELECTED.findall(expression)
    }:
        found.append(f"without selector: {unscoped}")
    for name, matchers in SELECTED.findall(expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", matchers))
        if ours := series(name):
            metric, of_metric = ours
            known |= of_metric
            if metric.labels and metric.values:
                value = re.search(rf'\b{metric.labels[-1]}=~?"([^"$]*)"', matchers)
                found += [
                    f"{name}: {one}"
                    for one in (value[1].split("|") if value else ())
                    if one not in metric.values
                ]
        else:
            of_metric = set()
            if name not in OF_CLIENT:
                found.append(f"no metric: {name}")
        if wrong := labels - of_metric - OF_PROMETHEUS:
            found.append(f"{name} has no {wrong}")
    grouped = {
        one.strip()
        for group in re.findall(r"\b(?:by|on|ignoring)\s*\(([^)]*)\)", expression)
        for one in group.split(",")
    }
    if (
        wrong := {*grouped, *re.findall(r"\{\{\s*(\w+)\s*\}\}", legend)}
        - known
        - OF_PROMETHEUS
    ):
        found.append(f"no label of what is asked for: {wrong}")
    return found


def test_the_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, GRAFANA / "generate.py", tmp_path], check=True, timeout=60
    )
    written = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    assert written == {
        path.name: path.read_text("utf-8") for path in GRAFANA.glob("*.json")
    }
    assert set(BOARDS) == {"gex-levels", "connector"}


@pytest.mark.parametrize("name", BOARDS)
def test_grafanas_types_read_it_and_lose_nothing(name: str) -> None:
    register_default_plugins()
    read = dashboard.Dashboard.from_json(BOARDS[name])
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == BOARDS[name]


@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_has_an_id_and_a_title_and_a_unit_of_its_own_and_says_what_to_do(
    name: str,
) -> None:
    board = BOARDS[name]
    ids, titles = ([panel[key] for panel in board["panels"]] for key in ("id", "title"))
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)
    for panel in panels(board):
        assert all(
            re.search(rf"{said}\S", panel["description"])
            for said in ("^", r"\*\*Bad:\*\* ", r"\*\*Do:\*\* ")
        )
        if panel["type"] != "state-timeline":
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        if panel["type"] == "stat":
            assert {"thresholds", "mappings"} & set(panel["fieldConfig"]["defaults"]), (
                f"no colours: {panel['title']}"
            )
        for steps in [
            panel["fieldConfig"]["defaults"].get("thresholds", {"steps": []})["steps"]
        ]:
            assert [step["value"] for step in steps[1:]] == sorted(
                step["value"] for step in steps[1:]
            )


@pytest.mark.parametrize("name", BOARDS)
def test_no_panel_lies_on_another_or_beyond_the_edge(name: str) -> None:
    taken = set[tuple[int, int]]()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        columns, rows = (
            range(place[at], place[at] + place[size])
            for at, size in (("x", "w"), ("y", "h"))
        )
        cells = set(itertools.product(columns, rows))
        assert columns.stop <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize(("name", "title", "target"), QUERIES)
def test_a_query_names_only_what_the_catalogue_has(
    name: str, title: str, target: dict[str, Any]
) -> None:
    assert faults(target["expr"], target["legendFormat"]) == []
    used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval", "__range"}
    assert used <= {variable["name"] for variable in BOARDS[name]["templating"]["list"]}


@pytest.mark.parametrize("name", BOARDS)
def test_a_variable_asks_for_what_there_is(name: str) -> None:
    for variable in BOARDS[name]["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(
                r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["query"]
            )
            assert asked
            metric, label = asked.groups()
            found = series(metric)
            assert found
            assert label in found[1] | OF_PROMETHEUS


def test_every_metric_is_on_a_dashboard() -> None:
    asked = {
        name for *_, target in QUERIES for name, _ in SELECTED.findall(target["expr"])
    }
    shown = {found[0].name for name in asked if (found := series(name))}
    assert {metric.name for metric in METRICS} - shown == NOT_SHOWN


def test_every_section_that_a_panel_points_to_is_there() -> None:
    pointed = {
        found for board in BOARDS.values() for panel in panels(board)
        for found in re.findall(r"docs/(\S+\.md)#(\S+)", panel["description"])
    }  # fmt: skip
    assert len(pointed) > 5
    for page, anchor in pointed:
        headings = re.findall(
            r"^#+ (.*)$", (DOCS / page).read_text("utf-8"), re.MULTILINE
        )
        assert anchor in {
            re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
            for heading in headings
        }


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
def test_what_is_in_no_catalogue_is_found(expression: str, legend: str) -> None:
    assert faults(expression.replace("XX", "gex"), legend)
