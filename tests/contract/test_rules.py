"""Alerts use metrics that exist, say what to do, and are tested for firing and for not firing."""

from __future__ import annotations

import importlib
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from connector.telemetry.catalogue import BY_NAME, Metric

yaml: Any = importlib.import_module("yaml")  # PyYAML has no types

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RUNBOOKS = ROOT / "docs" / "how-to" / "runbooks.md"
# A site sets its own: `make runbooks`.
RUNBOOKS_URL = "https://example.com/gex-levels-connector/docs/how-to/runbooks.md"
FILES_WITH_RUNBOOKS = [
    PROMETHEUS / "rules.yml",
    *sorted(PROMETHEUS.glob("tests/*.yml")),
    ROOT / "deploy/kubernetes/components/monitoring/prometheusrule.yaml",
]
OPERATIONS = ROOT / "docs" / "how-to" / "operations.md"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def read_rules() -> list[dict[str, Any]]:
    rules = []
    for group in read(PROMETHEUS / "rules.yml")["groups"]:
        rules += group["rules"]
    return rules


def read_unit_tests() -> list[dict[str, Any]]:
    tests = []
    for file in sorted(PROMETHEUS.glob("tests/*.yml")):
        tests += read(file)["tests"]
    return tests


def recorded(rules: list[dict[str, Any]]) -> dict[str, str]:
    """Return the expression of each recorded series, by its name."""
    found = {}
    for rule in rules:
        if "record" in rule:
            found[rule["record"]] = rule["expr"]
    return found


def alert_checks(tests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each moment of a unit test, with the alerts that must fire then."""
    found = []
    for test in tests:
        found += test["alert_rule_test"]
    return found


RULES = read_rules()
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = recorded(RULES)
UNIT_TESTS = read_unit_tests()
CHECKS = alert_checks(UNIT_TESTS)

# Metrics of Prometheus itself and of its client library.
PROMETHEUS_METRICS = {"up", "process_start_time_seconds"}

# Prometheus adds these to every series that it scrapes.
TARGET_LABELS = {"job", "instance"}
SUFFIXES = re.compile(r"_(bucket|sum|count)$")

# Just enough of PromQL for our own rules. A name before a parenthesis is a function.
SELECTOR = re.compile(
    r"(?<![\w:\[{\"])([a-z_]\w*(?::\w+)*)\s*(\{[^}]*\})?(?!\s*[\w(:])"
)
MATCHER = re.compile(r'(\w+)\s*(=~|!=|!~|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring) \(([^)]*)\)")
PROMQL_WORDS = {"and", "or", "unless", "on", "by", "bool"}


def selectors(expression: str) -> list[tuple[str, dict[str, str]]]:
    """Return each metric of an expression, recorded or not, with its label matchers."""
    found = []
    # The labels of a grouping look like metrics.
    ungrouped = GROUPING.sub("", expression)
    for name, braces in SELECTOR.findall(ungrouped):
        if name in PROMQL_WORDS:
            continue
        matchers = {}
        for label, _, value in MATCHER.findall(braces):
            matchers[label] = value
        found.append((name, matchers))
    return found


def metric_of(series: str) -> Metric | None:
    """Return the metric that a series belongs to, or None if it is not ours."""
    if series in BY_NAME:
        return BY_NAME[series]
    # A series of a histogram.
    name = SUFFIXES.sub("", series)
    return BY_NAME.get(name)


def labels_of(name: str) -> set[str] | None:
    """Return the labels a series of this name can have, or None if there is none."""
    if name in PROMETHEUS_METRICS:
        return TARGET_LABELS
    if name in RECORDED:
        # By Prometheus' convention the name begins with the labels: level:metric:operation.
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
    if name.endswith("_bucket"):
        labels.add("le")
    return labels


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

    # A label in a grouping needs a metric in the expression that has it.
    for labels_text in GROUPING.findall(expression):
        for label in labels_text.replace(" ", "").split(","):
            # `on ()` has no label.
            if label and label not in known:
                faults.append(f"no metric here has the label {label}")
    return faults


def wrong_values(name: str, matchers: dict[str, str]) -> list[str]:
    """Return the label values of a selector that its metric does not have."""
    metric = metric_of(name)
    if metric is None:
        return []

    faults = []
    # The catalogue lists the values of a metric's last label.
    value = None
    if metric.values:
        value = matchers.get(metric.labels[-1])
    if value:
        for choice in value.split("|"):
            if choice not in metric.values:
                faults.append(f"{name} has no {choice}")

    # A bound that is no bucket of the histogram selects nothing, without an error.
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
    # An expression in which the test finds no metric would pass unchecked.
    assert selectors(rule["expr"])
    assert faults_of(rule["expr"]) == []


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("rate(no_such_metric[5m])", "no metric no_such_metric"),
        ("no:such:record > 1", "no metric no:such:record"),
        # A label and a value that this metric does not have, though others do.
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
        # A histogram has no series with its own name.
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

    # The name of a rate ends with its window, such as `rate5m`.
    window = re.search(r"(?:rate|avg)(\d+[mhd])$", name)
    if window:
        windows = set(re.findall(r"\[(\w+)\]", expression))
        assert windows == {window[1]}


@pytest.mark.parametrize("rule", ALERTS, ids=name_of)
def test_an_alert_has_a_severity_a_measured_value_and_a_runbook(
    rule: dict[str, Any],
) -> None:
    annotations = rule["annotations"]
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert "$value" in annotations["description"]

    # GitHub makes the anchor from the heading, in lower case. A relative address is dead on
    # a pager.
    section = rule["alert"].lower()
    assert annotations["runbook_url"] == f"{RUNBOOKS_URL}#{section}"


def test_the_address_of_the_runbooks_is_set_for_all_alerts_at_once(
    tmp_path: Path,
) -> None:
    copy = tmp_path / "deploy"
    for path in FILES_WITH_RUNBOOKS:
        target = copy / path.relative_to(ROOT / "deploy")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    address = "https://git.example.org/gex/docs/how-to/runbooks.md"

    # Twice, since an address may change again.
    for url in ("https://elsewhere.example.org/x.md", address):
        done = subprocess.run(
            ["make", "-f", ROOT / "Makefile", "runbooks", f"URL={url}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    for path in FILES_WITH_RUNBOOKS:
        original = path.read_text("utf-8")
        changed = (copy / path.relative_to(ROOT / "deploy")).read_text("utf-8")
        assert changed == original.replace(RUNBOOKS_URL, address)
        assert address in changed or RUNBOOKS_URL not in original


def test_every_alert_has_one_runbook_section_below_its_highest_severity() -> None:
    text = RUNBOOKS.read_text("utf-8")
    headings = re.compile(r"^## (?:Pages|Tickets)$", re.MULTILINE)
    _, pages, tickets = headings.split(text)

    # An alert that comes with both severities belongs to the pages.
    alerts = set()
    paging = set()
    for rule in ALERTS:
        alerts.add(rule["alert"])
        if rule["labels"]["severity"] == "page":
            paging.add(rule["alert"])

    section = re.compile(r"^### (\w+)$", re.MULTILINE)
    assert sorted(section.findall(pages)) == sorted(paging)
    assert sorted(section.findall(tickets)) == sorted(alerts - paging)


def test_the_runbooks_quote_log_messages_that_exist() -> None:
    # Quotes in the prose: those in code belong to commands. A quote may span two lines.
    text = RUNBOOKS.read_text("utf-8")
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    on_one_line = " ".join(prose.split())
    quoted = re.findall(r'"([^"]+)"', on_one_line)

    operations = OPERATIONS.read_text("utf-8")
    code = ""
    for path in (ROOT / "connector").rglob("*.py"):
        code += path.read_text("utf-8")
    unknown = []
    for quote in quoted:
        # The end of some messages is the fault that was found.
        words = quote.removesuffix("...")
        if words not in code and words not in operations:
            unknown.append(quote)

    assert unknown == []


def test_the_runbooks_link_to_headings_that_exist() -> None:
    text = RUNBOOKS.read_text("utf-8")
    headings = set()
    for line in OPERATIONS.read_text("utf-8").splitlines():
        words = re.sub(r"[^\w -]", "", line).strip()
        headings.add(words.replace(" ", "-").lower())
    links = set(re.findall(r"operations\.md#([\w-]+)", text))
    assert links <= headings

    # Links from one runbook to another.
    for section in re.findall(r"\(#(\w+)\)", text):
        assert f"### {section}" in text.lower(), section


def test_the_runbooks_queries_name_metrics_that_exist() -> None:
    text = RUNBOOKS.read_text("utf-8")
    for query in re.findall(r"`([^`]*gex_[^`]*)`", text):
        # A query may span two lines.
        expression = " ".join(query.split())
        assert faults_of(expression) == [], query


@pytest.mark.parametrize("rule", ALERTS, ids=name_of)
def test_an_alert_is_tested_for_firing_and_for_not_firing(
    rule: dict[str, Any],
) -> None:
    severity = rule["labels"]["severity"]
    fired = set()
    for check in CHECKS:
        if check["alertname"] == rule["alert"]:
            expected = set()
            for alert in check["exp_alerts"]:
                expected.add(alert["exp_labels"]["severity"])
            fired.add(severity in expected)

    assert fired == {True, False}


def test_the_unit_tests_use_alerts_that_exist_and_series_of_a_worker() -> None:
    # promtool accepts a misspelt alert that must not fire: it never does.
    tested = {check["alertname"] for check in CHECKS}
    alerts = {rule["alert"] for rule in ALERTS}
    assert tested == alerts

    # It accepts any series as well, such as those without the labels of a real one.
    for test in UNIT_TESTS:
        for values in test["input_series"]:
            series = values["series"]
            assert faults_of(series) == []
            ((name, labels),) = selectors(series)
            assert labels.keys() == labels_of(name), series


def test_the_rules_are_loaded_and_cover_the_scraped_job() -> None:
    config = read(PROMETHEUS / "prometheus.yml")
    (scrape,) = config["scrape_configs"]
    patterns = set()
    for rule in ALERTS:
        for _, matchers in selectors(rule["expr"]):
            if "job" in matchers:
                patterns.add(matchers["job"])

    # All alerts select the job by one pattern.
    (pattern,) = patterns
    assert re.fullmatch(pattern, scrape["job_name"])
    assert config["rule_files"] == ["rules.yml"]


def test_the_example_for_alertmanager_routes_each_severity_and_names_real_alerts() -> (
    None
):
    config = read(PROMETHEUS / "alertmanager.yml")

    receivers = {receiver["name"] for receiver in config["receivers"]}
    routes = [config["route"], *config["route"]["routes"]]
    assert {route["receiver"] for route in routes} == receivers
    assert config["route"]["routes"][0]["matchers"] == ['severity="page"']

    alerts = {rule["alert"] for rule in ALERTS}
    for rule in config["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            name, _, pattern = matcher.replace("=~", "=").partition("=")
            if name == "alertname":
                regex = re.compile(pattern.strip('"'))
                matched = {alert for alert in alerts if regex.fullmatch(alert)}
                # A name that no alert has would inhibit nothing, without an error.
                assert len(matched) == pattern.count("|") + 1
