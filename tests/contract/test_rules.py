"""Alerts rest on metrics that exist, say what to do, and are tested for firing and for not firing."""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path
from typing import Any

import pytest

from connector.telemetry.catalogue import BY_NAME

yaml: Any = importlib.import_module("yaml")  # PyYAML has no types

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks.md"

RULES = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
UNIT_TESTS = [
    test
    for file in sorted(PROMETHEUS.glob("tests/*.yml"))
    for test in yaml.safe_load(file.read_text())["tests"]
]

PROMETHEUS_OWN = {"up", "process_start_time_seconds"}
"""Of Prometheus itself and of its client: every program has them."""

TARGET = {"job", "instance"}
SUFFIXES = re.compile(r"_(bucket|sum|count)$")
SELECTOR = re.compile(
    r"(?<![\w:\[{\"])([a-z_]\w*(?::\w+)*)\s*(\{[^}]*\})?(?!\s*[\w(:])"
)
MATCHER = re.compile(r'(\w+)\s*(=~|!=|!~|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring) \(([^)]*)\)")
WORDS = {"and", "or", "unless", "on", "by", "bool"}


def selectors(expression: str) -> list[tuple[str, dict[str, str]]]:
    """Each metric that is named, recorded or not, with what its labels must be."""
    bare = GROUPING.sub("", expression)
    found = [
        (name, braces) for name, braces in SELECTOR.findall(bare) if name not in WORDS
    ]
    return [
        (name, {label: value for label, _, value in MATCHER.findall(braces)})
        for name, braces in found
    ]


def labels_of(name: str) -> set[str] | None:
    """Those that a series of the metric may have; None where there is no such metric."""
    if name in PROMETHEUS_OWN:
        return TARGET
    if name in RECORDED:
        return set(name.split(":", maxsplit=1)[0].split("_"))
    metric = BY_NAME.get(name) or BY_NAME.get(SUFFIXES.sub("", name))
    if metric is None or (metric.name != name) != bool(metric.buckets):
        return None
    return TARGET | set(metric.labels) | ({"le"} if name.endswith("_bucket") else set())


def faults_of(expression: str) -> list[str]:
    """What no series can satisfy: a metric, a label or a value that does not exist, a label to group by."""
    found, known = [], set[str]()
    for name, matchers in selectors(expression):
        labels = labels_of(name)
        if labels is None:
            found.append(f"no metric {name}")
            continue
        known |= labels
        found += [
            f"{name} has no label {label}" for label in matchers if label not in labels
        ]
        metric = BY_NAME.get(name) or BY_NAME.get(SUFFIXES.sub("", name))
        if (
            metric is not None
            and metric.values
            and (value := matchers.get(metric.labels[-1]))
        ):
            found += [
                f"{name} has no {one}"
                for one in value.split("|")
                if one not in metric.values
            ]
        if (
            metric is not None
            and "le" in matchers
            and float(matchers["le"]) not in {*metric.buckets, math.inf}
        ):
            found.append(f"{name} has no bucket {matchers['le']}")
    grouped = {
        label.strip()
        for labels in GROUPING.findall(expression)
        for label in labels.split(",")
        if label.strip()
    }
    return [
        *found,
        *(f"no metric here has the label {label}" for label in grouped - known),
    ]


@pytest.mark.parametrize(
    "rule", RULES, ids=lambda rule: str(rule.get("record") or rule["alert"])
)
def test_a_rule_names_metrics_labels_and_values_that_exist(
    rule: dict[str, Any],
) -> None:
    assert selectors(rule["expr"])
    assert faults_of(rule["expr"]) == []


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("rate(no_such_metric[5m])", "no metric no_such_metric"),
        ("no:such:record > 1", "no metric no:such:record"),
        ('gex_key_refused{feed="all"}', "gex_key_refused has no label feed"),
        (
            'gex_transactions_total{result="failed"}',
            "gex_transactions_total has no failed",
        ),
        ("sum by (feed) (gex_key_refused)", "no metric here has the label feed"),
        (
            'gex_detection_delay_seconds_bucket{le="4.0"}',
            "gex_detection_delay_seconds_bucket has no bucket 4.0",
        ),
        ("gex_detection_delay_seconds", "no metric gex_detection_delay_seconds"),
    ],
)
def test_what_does_not_exist_is_found(expression: str, fault: str) -> None:
    assert faults_of(expression) == [fault]


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_name_says_by_which_labels_and_over_how_long(name: str) -> None:
    by = re.search(r"by \(([^)]*)\)", RECORDED[name])
    level = name.split(":", maxsplit=1)[0]
    source = RECORDED[name] if by is None else by[1].replace(", ", "_")
    assert f"({level}:" in source if by is None else level == source
    if window := re.search(r"(?:rate|avg)(\d+[mhd])$", name):
        assert set(re.findall(r"\[(\w+)\]", RECORDED[name])) == {window[1]}


@pytest.mark.parametrize(
    "rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}"
)
def test_an_alert_says_how_bad_it_is_what_was_measured_and_where_to_read_on(
    rule: dict[str, Any],
) -> None:
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert "$value" in rule["annotations"]["description"]
    assert (
        rule["annotations"]["runbook_url"]
        == f"docs/runbooks.md#{rule['alert'].lower()}"
    )


def test_every_alert_has_its_section_below_its_severity_and_every_section_its_alert() -> (
    None
):
    parts = re.split(
        r"^## (Pages|Tickets)$",
        RUNBOOKS.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    below = dict(zip(parts[1::2], parts[2::2], strict=True))
    pages, tickets = (
        re.findall(r"^### (\w+)$", below[part], re.MULTILINE)
        for part in ("Pages", "Tickets")
    )
    paging = list(
        dict.fromkeys(
            rule["alert"] for rule in ALERTS if rule["labels"]["severity"] == "page"
        )
    )
    assert sorted(pages) == sorted(paging)
    assert sorted(tickets) == sorted({rule["alert"] for rule in ALERTS} - set(paging))


def test_the_runbooks_name_log_messages_headings_and_metrics_that_exist() -> None:
    text = RUNBOOKS.read_text(encoding="utf-8")
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    prose = " ".join(re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL).split())
    quoted = re.findall(r'"([^"]+)"', prose)
    code = " ".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "connector").rglob("*.py")
    )
    assert [
        words for words in quoted if words not in code and words not in operations
    ] in ([], ["a check failed: ..."])
    headings = {
        re.sub(r"[^\w -]", "", line).strip().replace(" ", "-").lower()
        for line in operations.splitlines()
    }
    assert [
        anchor
        for anchor in re.findall(r"operations\.md#([\w-]+)", text)
        if anchor not in headings
    ] == []
    assert [
        anchor
        for anchor in re.findall(r"\(#(\w+)\)", text)
        if f"### {anchor}" not in text.lower()
    ] == []
    for query in re.findall(r"`([^`]*gex_[^`]*)`", text):
        assert faults_of(" ".join(query.split())) == [], query


@pytest.mark.parametrize(
    "rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}"
)
def test_an_alert_has_a_unit_test_in_which_it_fires_and_one_in_which_it_does_not(
    rule: dict[str, Any],
) -> None:
    checks = [
        check
        for test in UNIT_TESTS
        for check in test["alert_rule_test"]
        if check["alertname"] == rule["alert"]
    ]
    fired = {
        any(
            one["exp_labels"]["severity"] == rule["labels"]["severity"]
            for one in check["exp_alerts"]
        )
        for check in checks
    }
    assert fired == {True, False}


def test_every_alert_of_the_unit_tests_exists_and_rests_on_series_that_a_worker_has() -> (
    None
):
    named = {
        check["alertname"] for test in UNIT_TESTS for check in test["alert_rule_test"]
    }
    assert named == {rule["alert"] for rule in ALERTS}
    for test in UNIT_TESTS:
        for series in test["input_series"]:
            assert faults_of(series["series"]) == []
            ((name, labels),) = selectors(series["series"])
            assert labels.keys() == labels_of(name), series["series"]


def test_the_rules_are_loaded_and_cover_the_job_that_is_scraped() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    (scrape,) = config["scrape_configs"]
    patterns = {
        value
        for rule in ALERTS
        for _, matchers in selectors(rule["expr"])
        for value in [matchers.get("job")]
    }
    (pattern,) = patterns - {None}
    assert re.fullmatch(str(pattern), scrape["job_name"])
    assert config["rule_files"] == ["rules.yml"]
