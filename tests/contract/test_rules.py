"""Alerts use metrics that exist, say what to do, and are tested for firing and for not firing."""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path
from typing import Any

import pytest

from connector.telemetry.catalogue import BY_NAME, Metric

yaml: Any = importlib.import_module("yaml")  # PyYAML has no types

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks.md"
OPERATIONS = ROOT / "docs" / "operations.md"


def read_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def read_unit_tests() -> list[dict[str, Any]]:
    tests = []
    for file in sorted(PROMETHEUS.glob("tests/*.yml")):
        tests += yaml.safe_load(file.read_text())["tests"]
    return tests


RULES = read_rules()
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
UNIT_TESTS = read_unit_tests()
CHECKS = [check for test in UNIT_TESTS for check in test["alert_rule_test"]]

# Metrics of Prometheus itself and of its client library.
PROMETHEUS_METRICS = {"up", "process_start_time_seconds"}

TARGET_LABELS = {"job", "instance"}
SUFFIXES = re.compile(r"_(bucket|sum|count)$")
SELECTOR = re.compile(
    r"(?<![\w:\[{\"])([a-z_]\w*(?::\w+)*)\s*(\{[^}]*\})?(?!\s*[\w(:])"
)
MATCHER = re.compile(r'(\w+)\s*(=~|!=|!~|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring) \(([^)]*)\)")
PROMQL_WORDS = {"and", "or", "unless", "on", "by", "bool"}


def selectors(expression: str) -> list[tuple[str, dict[str, str]]]:
    """Return each metric of an expression, recorded or not, with its label matchers."""
    found = []
    for name, braces in SELECTOR.findall(GROUPING.sub("", expression)):
        if name not in PROMQL_WORDS:
            matchers = {label: value for label, _, value in MATCHER.findall(braces)}
            found.append((name, matchers))
    return found


def metric_of(series: str) -> Metric | None:
    return BY_NAME.get(series) or BY_NAME.get(SUFFIXES.sub("", series))


def labels_of(name: str) -> set[str] | None:
    """Return the labels a series of this name can have, or None if there is none."""
    if name in PROMETHEUS_METRICS:
        return TARGET_LABELS
    if name in RECORDED:
        level, *_ = name.split(":")
        return set(level.split("_"))
    metric = metric_of(name)
    if metric is None:
        return None
    # A histogram has series with suffixes only, and other metrics have none.
    has_suffix = metric.name != name
    if has_suffix != bool(metric.buckets):
        return None
    labels = TARGET_LABELS | set(metric.labels)
    return labels | {"le"} if name.endswith("_bucket") else labels


def faults_of(expression: str) -> list[str]:
    """Return the metrics, labels and label values that do not exist."""
    faults = []
    known = set[str]()
    for name, matchers in selectors(expression):
        labels = labels_of(name)
        if labels is None:
            faults.append(f"no metric {name}")
            continue
        known |= labels
        for label in matchers:
            if label not in labels:
                faults.append(f"{name} has no label {label}")
        faults += wrong_values(name, matchers)

    for labels_text in GROUPING.findall(expression):
        for label in labels_text.replace(" ", "").split(","):
            if label and label not in known:
                faults.append(f"no metric here has the label {label}")
    return faults


def wrong_values(name: str, matchers: dict[str, str]) -> list[str]:
    """Return the label values of a selector that its metric does not have."""
    metric = metric_of(name)
    if metric is None:
        return []
    faults = []
    value = matchers.get(metric.labels[-1]) if metric.values else None
    for choice in value.split("|") if value else ():
        if choice not in metric.values:
            faults.append(f"{name} has no {choice}")
    bound = matchers.get("le")
    bounds = {*metric.buckets, math.inf}
    if bound is not None and float(bound) not in bounds:
        faults.append(f"{name} has no bucket {bound}")
    return faults


def name_of(rule: dict[str, Any]) -> str:
    if "record" in rule:
        return str(rule["record"])
    return f"{rule['alert']}-{rule['labels']['severity']}"


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_a_rule_uses_metrics_labels_and_values_that_exist(
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
def test_a_name_that_does_not_exist_is_found(expression: str, fault: str) -> None:
    assert faults_of(expression) == [fault]


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_name_states_its_labels_and_its_window(name: str) -> None:
    expression = RECORDED[name]
    level, *_ = name.split(":")
    grouping = re.search(r"by \(([^)]*)\)", expression)
    if grouping is None:
        # An average of another recorded series keeps that one's labels.
        assert f"({level}:" in expression
    else:
        assert level == grouping[1].replace(", ", "_")
    window = re.search(r"(?:rate|avg)(\d+[mhd])$", name)
    if window:
        assert set(re.findall(r"\[(\w+)\]", expression)) == {window[1]}


@pytest.mark.parametrize("rule", ALERTS, ids=name_of)
def test_an_alert_has_a_severity_a_measured_value_and_a_runbook(
    rule: dict[str, Any],
) -> None:
    annotations = rule["annotations"]
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert "$value" in annotations["description"]
    section = rule["alert"].lower()
    assert annotations["runbook_url"] == f"docs/runbooks.md#{section}"


def test_every_alert_has_one_runbook_section_below_its_highest_severity() -> None:
    text = RUNBOOKS.read_text("utf-8")
    _, pages, tickets = re.split(r"^## (?:Pages|Tickets)$", text, flags=re.MULTILINE)
    alerts = {rule["alert"] for rule in ALERTS}
    paging = set()
    for rule in ALERTS:
        if rule["labels"]["severity"] == "page":
            paging.add(rule["alert"])
    section = re.compile(r"^### (\w+)$", re.MULTILINE)
    assert sorted(section.findall(pages)) == sorted(paging)
    assert sorted(section.findall(tickets)) == sorted(alerts - paging)


def test_the_runbooks_quote_log_messages_that_exist() -> None:
    text = RUNBOOKS.read_text("utf-8")
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    quoted = re.findall(r'"([^"]+)"', " ".join(prose.split()))
    operations = OPERATIONS.read_text("utf-8")
    files = (ROOT / "connector").rglob("*.py")
    code = " ".join(path.read_text("utf-8") for path in files)
    unknown = [
        words for words in quoted if words not in code and words not in operations
    ]
    assert unknown in ([], ["a check failed: ..."])


def test_the_runbooks_link_to_headings_that_exist() -> None:
    text = RUNBOOKS.read_text("utf-8")
    headings = set()
    for line in OPERATIONS.read_text("utf-8").splitlines():
        words = re.sub(r"[^\w -]", "", line).strip()
        headings.add(words.replace(" ", "-").lower())
    assert set(re.findall(r"operations\.md#([\w-]+)", text)) <= headings
    for section in re.findall(r"\(#(\w+)\)", text):
        assert f"### {section}" in text.lower(), section


def test_the_runbooks_queries_name_metrics_that_exist() -> None:
    for query in re.findall(r"`([^`]*gex_[^`]*)`", RUNBOOKS.read_text("utf-8")):
        assert faults_of(" ".join(query.split())) == [], query


@pytest.mark.parametrize("rule", ALERTS, ids=name_of)
def test_an_alert_is_tested_for_firing_and_for_not_firing(
    rule: dict[str, Any],
) -> None:
    severity = rule["labels"]["severity"]
    fired = set()
    for check in CHECKS:
        if check["alertname"] == rule["alert"]:
            severities = {
                alert["exp_labels"]["severity"] for alert in check["exp_alerts"]
            }
            fired.add(severity in severities)
    assert fired == {True, False}


def test_the_unit_tests_use_alerts_that_exist_and_series_of_a_worker() -> None:
    tested = {check["alertname"] for check in CHECKS}
    assert tested == {rule["alert"] for rule in ALERTS}
    for test in UNIT_TESTS:
        for series in test["input_series"]:
            assert faults_of(series["series"]) == []
            ((name, labels),) = selectors(series["series"])
            assert labels.keys() == labels_of(name), series["series"]


def test_the_rules_are_loaded_and_cover_the_scraped_job() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    (scrape,) = config["scrape_configs"]
    patterns = set()
    for rule in ALERTS:
        for _, matchers in selectors(rule["expr"]):
            if "job" in matchers:
                patterns.add(matchers["job"])
    (pattern,) = patterns
    assert re.fullmatch(pattern, scrape["job_name"])
    assert config["rule_files"] == ["rules.yml"]
