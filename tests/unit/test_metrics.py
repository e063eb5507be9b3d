"""The metrics of one worker, as they are scraped."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import parser as text_format
from prometheus_client.openmetrics import parser as openmetrics

import connector
from connector.core.decode import RateLimit
from connector.core.diff import NUMBER_PATHS
from connector.core.model import (
    AllExpiry,
    Event,
    Kind,
    Levels,
    Odte,
    Source,
    State,
    Status,
)
from connector.errors import UpstreamError
from connector.kafka.names import ShardId
from connector.kafka.shard_log import Restored
from connector.runtime.ports import (
    BudgetReport,
    Commit,
    NextCheck,
    Phase,
    ResponseReport,
    Sighting,
)
from connector.schedule.batches import Batch
from connector.schedule.checks import Purpose
from connector.telemetry.catalogue import BY_NAME, METRICS, Metric
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import (
    MAX_ERROR_CODES,
    KafkaClientObserver,
    MetricsObserver,
)
from connector.upstream.budget import MonthFigures

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5"
# Moments are in microseconds, but metrics show seconds.
SECOND = 1_000_000
NOW_SECONDS = 1_700_000_000
NOW = NOW_SECONDS * SECOND
ME = Source("1", "group", "worker")
SHARD = ShardId("all", 0)
BTC = Batch("all", ("BTCUSDT",))
BTC_LABELS = {"feed": "all", "symbol": "BTCUSDT"}

# Prometheus writes the first four itself. It wants base units, and moments instead of ages.
FORBIDDEN_ENDINGS = (
    "_count",
    "_sum",
    "_bucket",
    "_created",
    "_milliseconds",
    "_micros",
    "_age",
)

Labels = tuple[tuple[str, str], ...]


class Telemetry:
    """Everything that writes to the metrics of a worker."""

    def __init__(self, max_level_symbols: int = 50) -> None:
        self.progressed_at: dict[str, int] = {}
        self.metrics = Metrics(["all"], self._read_progress)
        self.observer = MetricsObserver(self.metrics, max_level_symbols)
        self.clients = KafkaClientObserver(self.metrics)

    def _read_progress(self) -> dict[str, int]:
        return self.progressed_at


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def metrics(telemetry: Telemetry) -> Metrics:
    return telemetry.metrics


@pytest.fixture
def observer(telemetry: Telemetry) -> MetricsObserver:
    return telemetry.observer


@pytest.fixture
def clients(telemetry: Telemetry) -> KafkaClientObserver:
    return telemetry.clients


# --- builders ---


def state(
    symbol: str = "BTCUSDT",
    status: Status = Status.LIVE,
    levels: Levels | None = None,
    computed_at: int | None = NOW,
) -> State:
    return State(
        feed="all",
        symbol=symbol,
        sequence=1,
        status=status,
        computed_at=computed_at,
        observed_at=NOW,
        request_fingerprint="",
        source=ME,
        levels=levels,
    )


def event(
    kind: Kind = Kind.CHANGED, feed: str = "all", reason: str | None = None
) -> Event:
    return Event(
        event_id="1",
        feed=feed,
        symbol="BTCUSDT",
        sequence=1,
        kind=kind,
        status=Status.LIVE,
        reason=reason,
        computed_at=NOW,
        previous_computed_at=None,
        observed_at=NOW + SECOND,
        changed_levels=(),
        changed_sections=(),
        collapsed_observations=0,
        source=ME,
        before=None,
        after=Levels(),
    )


def commit(
    *events: Event,
    at: int = NOW,
    upstream_at: int = NOW,
) -> Commit:
    return Commit(events, at, upstream_at)


def sighting(
    observed_at: int = NOW,
    computed_at: int = NOW,
    detection_seconds: float | None = None,
) -> Sighting:
    """Return a refresh of BTCUSDT that a check found."""
    return Sighting("all", "BTCUSDT", observed_at, computed_at, detection_seconds)


@dataclass(frozen=True)
class LearnedRhythm:
    """A rhythm as a forecast shows it."""

    period: float | None = None
    jitter: float | None = None


def next_check(
    at: int = NOW, period: float | None = None, jitter: float | None = None
) -> NextCheck:
    return NextCheck("all", "BTCUSDT", at, LearnedRhythm(period, jitter))


def response(
    quota: RateLimit | None = None,
    inconsistencies: tuple[str, ...] = (),
    clock_correction_seconds: float = 0.0,
) -> ResponseReport:
    return ResponseReport(
        quota or RateLimit(), inconsistencies, clock_correction_seconds
    )


def statistics(p99_micros: int = 7, requests: int = 1) -> str:
    """Return a client's statistics: one broker, with this round trip time."""
    round_trip = {"p99": p99_micros, "cnt": requests}
    broker = {"nodeid": 1, "state": "UP", "rtt": round_trip}
    return json.dumps({"brokers": {"b": broker}})


def poll(observer: MetricsObserver, *symbols: str) -> None:
    """Tell the observer that a shard is open and polls these symbols."""
    observer.shard_changed(SHARD, Phase.OPEN, frozenset(symbols))


# --- reading the metrics ---


def families(metrics: Metrics, accept: str = OPENMETRICS) -> list[Any]:
    """Return the metric families as one of Prometheus' own parsers reads them."""
    # The parsers have no types.
    parser: Any = text_format
    if accept == OPENMETRICS:
        parser = openmetrics
    body, _ = metrics.render(accept)
    return list(parser.text_string_to_metric_families(body.decode()))


def sorted_labels(labels: dict[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def scraped(metrics: Metrics) -> dict[tuple[str, Labels], float]:
    """Return the value of every series. No series may occur twice."""
    found = {}
    for family in families(metrics):
        for sample in family.samples:
            key = (sample.name, sorted_labels(sample.labels))
            assert key not in found
            found[key] = sample.value
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return the value of one series, or None if there is no such series."""
    return scraped(metrics).get((name, sorted_labels(labels)))


def assert_shown(metrics: Metrics, expected: Mapping[str, float]) -> None:
    """Assert the values of series, which are written as in Prometheus' text format.

    The labels of a series are sorted.
    """
    found = {}
    for (name, labels), number in scraped(metrics).items():
        matchers = [f'{label}="{text}"' for label, text in labels]
        series_name = name
        if matchers:
            series_name = f"{name}{{{','.join(matchers)}}}"
        found[series_name] = number

    shown = {series_name: found.get(series_name) for series_name in expected}
    assert shown == expected


def btc_value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return value(metrics, name, **BTC_LABELS, **labels)


def series(metrics: Metrics, name: str) -> list[dict[str, str]]:
    """Return the labels of each series of a metric."""
    found = []
    for series_name, labels in scraped(metrics):
        if series_name == name:
            found.append(dict(labels))
    return found


def label_values(metrics: Metrics, name: str, label: str) -> set[str]:
    return {labels[label] for labels in series(metrics, name)}


def family_name(metric: Metric) -> str:
    """Return the name of the metric's family, which for a counter has no suffix."""
    return metric.name.removesuffix("_total")


def metric_name(metric: Metric) -> str:
    return metric.name


def subclasses(kind: type[UpstreamError]) -> Iterator[type[UpstreamError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from subclasses(below)


# --- the catalogue ---


def test_no_two_metrics_share_a_name() -> None:
    assert len(BY_NAME) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=metric_name)
def test_names_follow_prometheus_conventions(metric: Metric) -> None:
    is_counter = metric.type == "counter"
    is_histogram = metric.type == "histogram"

    assert re.fullmatch(r"gex_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == is_counter
    assert not metric.name.endswith(FORBIDDEN_ENDINGS)
    assert bool(metric.buckets) == is_histogram
    if is_histogram:
        assert metric.name.endswith("_seconds")
    # Prometheus adds this label to each bucket.
    assert "le" not in metric.labels


@pytest.mark.parametrize("metric", METRICS, ids=metric_name)
def test_help_is_one_sentence(metric: Metric) -> None:
    assert re.fullmatch(r"[A-Z0-9][^.|\n]+\.", metric.help)
    assert "`" not in metric.help


HISTOGRAMS = [metric for metric in METRICS if metric.buckets]


@pytest.mark.parametrize("metric", HISTOGRAMS, ids=metric_name)
def test_buckets_rise(metric: Metric) -> None:
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.buckets[0] > 0
    # The client library adds the infinite bucket.
    assert math.isfinite(metric.buckets[-1])


def test_the_outcomes_are_those_of_the_error_tree() -> None:
    expected = {"ok"}
    for kind in subclasses(UpstreamError):
        expected.add(kind.outcome)

    duration = BY_NAME["gex_upstream_request_duration_seconds"]

    assert set(duration.values) == expected


def test_the_quarantine_reasons_are_those_in_the_code() -> None:
    in_code: set[str] = set()
    for path in Path(connector.__file__).parent.rglob("*.py"):
        in_code.update(re.findall(r'EntryError\(\s*"(\w+)"', path.read_text()))

    assert set(BY_NAME["gex_quarantined_total"].values) == in_code


# --- series that exist from the start ---


def test_every_metric_is_declared_with_its_type_and_help_from_the_start(
    metrics: Metrics,
) -> None:
    found = {family.name: family for family in families(metrics)}

    for metric in METRICS:
        family = found[family_name(metric)]
        assert family.type == metric.type
        assert family.documentation == metric.help

    # The others describe the process.
    ours = {name for name in found if name.startswith("gex_")}
    assert ours == set(map(family_name, METRICS))


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_every_metric_has_the_labels_of_the_catalogue_once_something_happened(
    accept: str,
) -> None:
    found: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for family in families(eventful(), accept):
        for sample in family.samples:
            name = sample.name
            if family.type == "histogram":
                name = re.sub("_(bucket|sum|count)$", "", name)
            labels = set(sample.labels) - {"le"}
            found[name].add(tuple(sorted(labels)))

    for metric in METRICS:
        expected = tuple(sorted(metric.labels))
        assert found[metric.name] == {expected}, metric.name


MONTH = MonthFigures(
    limit=10_000,
    used=4_000,
    remaining=6_000,
    resets_at=2e9,
    projected_end_at=1.9e9,
)


def eventful() -> Metrics:
    """Return the metrics of a worker to which everything happened once."""
    telemetry = Telemetry()
    observer = telemetry.observer
    quota = RateLimit(60, 59, NOW_SECONDS)

    # The upstream
    observer.request_sent(BTC, Purpose.FIRST)
    observer.request_finished("ok", 0.2)
    observer.response_decoded(response(quota, ("both_lists",), 0.1))
    observer.budget_changed(BudgetReport(60, 0, 0.5, MONTH))

    # The symbol
    observer.symbol_answered("all", "BTCUSDT", Status.LIVE)
    observer.other_spelling("all", "BTCUSDT", "BTC-USDT")
    observer.contract_reported("2.10", is_breaking=False)
    observer.sighted(sighting(detection_seconds=0.1))
    observer.check_planned(next_check(NOW, 30.0, 0.5))
    observer.visibility_lag_learnt(0.1)
    poll(observer, "BTCUSDT")
    fallback = Levels(
        spot_price=1.0, positioning="std", positioning_fallback_reason="flow_tape_empty"
    )
    observer.state_replaced(state(levels=fallback))

    # Kafka and the process
    observer.restored(ShardId("all", 0), Restored({}, records=1, seconds=0.1))
    observer.orphans_found({"old": 1})
    observer.held_back({"gex.levels.all.changes": 1})
    observer.clock_judged(True, -7200.0)
    telemetry.clients.statistics(statistics())
    telemetry.clients.error("_TRANSPORT")
    observer.topic_checked("gex.levels.all.changes", is_faulty=True)
    telemetry.metrics.set("gex_build_info", 1, "1.2.3", "host-1-ab")
    telemetry.metrics.set("gex_kafka_certificate_expiry_timestamp_seconds", 1.8e9)
    telemetry.progressed_at["poller"] = 1
    return telemetry.metrics


# A counter that appears with its first increase hides that increase from rate().
@pytest.mark.parametrize(
    "series_name",
    [
        'gex_upstream_request_duration_seconds_count{outcome="rate_limited"}',
        'gex_transactions_total{result="aborted"}',
        "gex_shard_fenced_total",
        "gex_quarantine_failed_total",
        'gex_shards_owned{feed="all"}',
        "gex_key_refused",
        "gex_end_to_end_seconds_count",
    ],
)
def test_series_with_known_labels_start_at_zero(
    metrics: Metrics, series_name: str
) -> None:
    assert_shown(metrics, {series_name: 0})


@pytest.mark.parametrize("kind", Kind)
def test_the_count_of_every_kind_of_event_starts_at_zero(
    metrics: Metrics, kind: Kind
) -> None:
    assert value(metrics, "gex_events_total", feed="all", kind=kind.value) == 0


@pytest.mark.parametrize("reason", ["older", "collapsed", "lost"])
def test_the_count_of_observations_dropped_for_any_reason_starts_at_zero(
    metrics: Metrics, reason: str
) -> None:
    name = "gex_observations_dropped_total"
    assert value(metrics, name, feed="all", reason=reason) == 0


@pytest.mark.parametrize(
    "name",
    [
        "gex_rate_limit_limit",
        "gex_rate_limit_remaining",
        "gex_rate_limit_reset_timestamp_seconds",
        "gex_request_price_seconds",
        "gex_visibility_lag_seconds",
        "gex_kafka_brokers_up",
    ],
)
def test_an_unknown_value_has_no_series(metrics: Metrics, name: str) -> None:
    assert series(metrics, name) == []


def test_two_workers_in_one_process_share_nothing() -> None:
    one = Telemetry()
    other = Telemetry()

    one.observer.fenced()

    assert value(other.metrics, "gex_shard_fenced_total") == 0


# --- the format ---


def test_the_format_is_plain_text_unless_openmetrics_is_accepted(
    metrics: Metrics,
) -> None:
    body, content_type = metrics.render("text/html, */*")

    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# EOF" not in body


def test_the_plain_text_has_the_types_of_the_metrics(metrics: Metrics) -> None:
    types = {family.name: family.type for family in families(metrics, "")}

    assert types["process_cpu_seconds"] == "counter"


@pytest.mark.parametrize(
    "accept",
    [
        OPENMETRICS,
        "application/openmetrics-text",
        "text/plain,Application/OpenMetrics-Text; version=9.9",
        "application/openmetrics-text;version=nonsense",
    ],
)
def test_any_version_of_openmetrics_is_accepted(metrics: Metrics, accept: str) -> None:
    body, content_type = metrics.render(accept)

    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert body.endswith(b"# EOF\n")


# The client library writes a second series per counter and histogram by default.
@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_creation_moments_are_left_out(metrics: Metrics, accept: str) -> None:
    body, _ = metrics.render(accept)

    assert b"_created" not in body


def test_the_process_is_described_too(metrics: Metrics) -> None:
    assert value(metrics, "process_cpu_seconds_total") is not None
    assert value(metrics, "process_resident_memory_bytes") is not None


def test_label_values_are_escaped(metrics: Metrics, observer: MetricsObserver) -> None:
    odd = 'a"b\\c\nd'

    observer.symbol_answered(odd, odd, Status.LIVE)

    assert value(metrics, "gex_symbols_served_total", feed=odd, symbol=odd) == 1


# --- symbols ---


def test_the_answers_for_a_symbol_are_counted_by_their_status(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    for _ in range(10):
        observer.request_sent(BTC, Purpose.EXPECTED)
    answers = [Status.LIVE] * 7 + [Status.MISSING] * 2 + [Status.INVALID]
    for status in answers:
        observer.symbol_answered("all", "BTCUSDT", status)

    expected = {
        'gex_symbols_requested_total{feed="all",symbol="BTCUSDT"}': 10,
        'gex_symbols_served_total{feed="all",symbol="BTCUSDT"}': 7,
        'gex_symbols_missing_total{feed="all",symbol="BTCUSDT"}': 2,
        'gex_symbols_invalid_total{feed="all",symbol="BTCUSDT"}': 1,
    }
    assert_shown(metrics, expected)


def test_the_moments_and_the_status_of_a_symbol_are_shown(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    observer.sighted(sighting(NOW + SECOND, NOW + SECOND // 4))
    observer.state_replaced(state(status=Status.STALE))
    poll(observer, "BTCUSDT")

    computed_at = btc_value(metrics, "gex_symbol_computed_timestamp_seconds")
    observed_at = btc_value(metrics, "gex_symbol_observed_timestamp_seconds")
    assert computed_at == NOW_SECONDS + 0.25
    assert observed_at == NOW_SECONDS + 1.0
    for status in Status:
        shown = btc_value(metrics, "gex_symbol_status", status=status)
        assert shown == float(status is Status.STALE)


# A state is committed after its observation, which newer ones may have overtaken.
def test_a_committed_state_does_not_set_a_newer_answer_back(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    poll(observer, "BTCUSDT")

    observer.sighted(sighting(computed_at=NOW + SECOND))
    observer.state_replaced(state(computed_at=NOW))

    computed_at = btc_value(metrics, "gex_symbol_computed_timestamp_seconds")
    assert computed_at == NOW_SECONDS + 1.0


def test_the_learnt_rhythm_of_a_symbol_is_shown(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    poll(observer, "BTCUSDT")
    check_at = NOW + SECOND // 2

    # No rhythm is known yet.
    observer.check_planned(next_check(check_at))
    assert series(metrics, "gex_symbol_period_seconds") == []

    observer.check_planned(next_check(check_at, 30.5, 0.25))
    next_check_at = btc_value(metrics, "gex_symbol_next_check_timestamp_seconds")
    assert btc_value(metrics, "gex_symbol_period_seconds") == 30.5
    assert btc_value(metrics, "gex_symbol_jitter_seconds") == 0.25
    assert next_check_at == NOW_SECONDS + 0.5


class CostlyRhythm:
    """A rhythm whose jitter nobody may compute."""

    period = 30.5

    @property
    def jitter(self) -> float:
        raise AssertionError("computed the jitter")


def test_a_planned_check_does_not_compute_the_jitter(
    observer: MetricsObserver,
) -> None:
    observer.check_planned(NextCheck("all", "BTCUSDT", NOW, CostlyRhythm()))


def test_requests_budget_and_uncertainty_are_shown(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    observer.request_sent(BTC, Purpose.SEARCH)
    observer.budget_changed(BudgetReport(20, 40, 1.5, MonthFigures()))
    observer.refresh_found(0.3)

    expected = {
        'gex_upstream_requests_total{purpose="search"}': 1,
        'gex_upstream_requests_total{purpose="expected"}': 0,
        "gex_request_budget_per_minute": 20,
        "gex_request_foreign_per_minute": 40,
        "gex_request_price_seconds": 1.5,
        "gex_detection_uncertainty_seconds_sum": 0.3,
    }
    assert_shown(metrics, expected)


def test_the_month_is_shown_and_an_unknown_end_is_not(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    observer.budget_changed(BudgetReport(20, 40, 1.5, MONTH))

    expected = {
        "gex_quota_limit": 10_000,
        "gex_quota_used": 4_000,
        "gex_quota_remaining": 6_000,
        "gex_quota_reset_timestamp_seconds": 2e9,
        "gex_quota_projected_end_timestamp_seconds": 1.9e9,
        "gex_quota_exhausted": 0,
    }
    assert_shown(metrics, expected)

    used_up = replace(MONTH, remaining=0, projected_end_at=None, is_used_up=True)
    observer.budget_changed(BudgetReport(20, 40, 1.5, used_up))
    assert_shown(metrics, {"gex_quota_exhausted": 1, "gex_quota_remaining": 0})
    assert series(metrics, "gex_quota_projected_end_timestamp_seconds") == []

    # A larger plan without a cap: the former limit must not stay.
    observer.budget_changed(BudgetReport(20, 40, 1.5, MonthFigures()))
    assert series(metrics, "gex_quota_limit") == []
    assert_shown(metrics, {"gex_quota_exhausted": 0})


def test_a_symbol_without_an_answer_has_no_moments_and_no_status(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    poll(observer, "BTCUSDT")

    assert series(metrics, "gex_symbol_computed_timestamp_seconds") == []
    assert series(metrics, "gex_symbol_observed_timestamp_seconds") == []
    for status in Status:
        assert btc_value(metrics, "gex_symbol_status", status=status) == 0.0


def test_the_model_behind_the_levels_and_a_fallback_are_shown(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    poll(observer, "BTCUSDT")
    std = Levels(positioning="std", positioning_fallback_reason="flow_tape_empty")

    observer.state_replaced(state(levels=std))

    assert btc_value(metrics, "gex_symbol_positioning", positioning="std") == 1
    fallback = btc_value(
        metrics, "gex_symbol_positioning_fallback", reason="flow_tape_empty"
    )
    assert fallback == 1

    observer.state_replaced(state(levels=Levels(positioning="flow")))

    # The series of the model before is gone, or an alert on it would never end.
    assert label_values(metrics, "gex_symbol_positioning", "positioning") == {"flow"}
    assert series(metrics, "gex_symbol_positioning_fallback") == []


@pytest.mark.parametrize(
    ("status", "model"), [(Status.MISSING, "std"), (Status.LIVE, None)]
)
def test_a_symbol_without_valid_levels_or_a_named_model_has_no_model(
    metrics: Metrics, observer: MetricsObserver, status: Status, model: str | None
) -> None:
    poll(observer, "BTCUSDT")

    observer.state_replaced(state(status=status, levels=Levels(positioning=model)))

    assert series(metrics, "gex_symbol_positioning") == []


# Another worker shows the gauges from now on. A counter may never disappear and return.
def test_a_lost_shard_loses_its_gauges_and_keeps_its_counts(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    poll(observer, "BTCUSDT")
    for _ in range(4):
        observer.request_sent(BTC, Purpose.EXPECTED)
    observer.sighted(sighting(2, 1))
    observer.check_planned(next_check(3, 30.5, 0.25))
    levels = Levels(
        spot_price=1.0, positioning="std", positioning_fallback_reason="flow_tape_empty"
    )
    observer.state_replaced(state(levels=levels))
    gauges = ["gex_level"]
    for name, metric in BY_NAME.items():
        if name.startswith("gex_symbol_") and metric.type == "gauge":
            gauges.append(name)
    for name in gauges:
        assert series(metrics, name)

    observer.shard_changed(SHARD, Phase.CLOSED, frozenset())

    for name in gauges:
        assert not series(metrics, name)
    assert btc_value(metrics, "gex_symbols_requested_total") == 4


# --- levels ---


def test_levels_have_the_paths_of_events_as_names_and_a_null_has_no_series(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    poll(observer, "BTCUSDT")
    all_expiry = AllExpiry(hvl=6.0)
    # Zero is a level, unlike null.
    odte = Odte(put_support=0.0)
    levels = Levels(spot_price=5.5, all_expiry=all_expiry, odte=odte)

    observer.state_replaced(state(levels=levels))

    shown = label_values(metrics, "gex_level", "level")
    assert shown == {"spot_price", "all_expiry.hvl", "odte.put_support"}
    assert shown <= set(NUMBER_PATHS)
    assert btc_value(metrics, "gex_level", level="odte.put_support") == 0


@pytest.mark.parametrize("status", [Status.MISSING, Status.INVALID, Status.REMOVED])
def test_levels_that_nobody_may_rely_on_are_not_shown(
    metrics: Metrics, observer: MetricsObserver, status: Status
) -> None:
    poll(observer, "BTCUSDT")

    observer.state_replaced(state(status=status, levels=Levels(spot_price=1.0)))

    assert series(metrics, "gex_level") == []


# Each symbol has dozens of levels, and Prometheus pays for each series.
@pytest.mark.parametrize("shown", [0, 3, 50])
def test_levels_are_shown_for_a_bounded_number_of_polled_symbols(shown: int) -> None:
    telemetry = Telemetry(shown)
    observer = telemetry.observer
    symbols = [f"S{n}" for n in range(shown + 10)]
    for symbol in symbols:
        observer.request_sent(Batch("all", (symbol,)), Purpose.FIRST)
        observer.state_replaced(state(symbol, levels=Levels(spot_price=1.0)))

    # The first symbol is not polled, so it takes none of the places.
    poll(observer, *symbols[1:])

    found = label_values(telemetry.metrics, "gex_level", "symbol")
    assert found == set(symbols[1 : shown + 1])
    requested = series(telemetry.metrics, "gex_symbols_requested_total")
    assert len(requested) == shown + 10


# --- events and durations ---


def test_events_are_counted_by_feed_and_kind(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    changed = event(Kind.CHANGED)
    stale = event(Kind.STALE, feed="other")

    observer.committed(commit(changed, changed, stale))

    expected = {
        'gex_events_total{feed="all",kind="CHANGED"}': 2,
        'gex_events_total{feed="other",kind="STALE"}': 1,
    }
    assert_shown(metrics, expected)


def test_every_count_counts(telemetry: Telemetry) -> None:
    metrics = telemetry.metrics
    observer = telemetry.observer

    observer.committed(commit())
    observer.quarantined("malformed")
    observer.quarantine_failed()
    observer.aborted()
    observer.dropped("all", "older")
    observer.dropped("all", "lost", 3)
    observer.response_decoded(response(inconsistencies=("unrequested",)))
    observer.fenced()
    telemetry.clients.error("_ALL_BROKERS_DOWN")

    expected = {
        'gex_transactions_total{result="committed"}': 1,
        'gex_transactions_total{result="aborted"}': 1,
        'gex_quarantined_total{reason="malformed"}': 1,
        "gex_quarantine_failed_total": 1,
        'gex_observations_dropped_total{feed="all",reason="older"}': 1,
        'gex_observations_dropped_total{feed="all",reason="lost"}': 3,
        'gex_responses_inconsistent_total{kind="unrequested"}': 1,
        "gex_shard_fenced_total": 1,
        'gex_kafka_errors_total{code="_ALL_BROKERS_DOWN"}': 1,
    }
    assert_shown(metrics, expected)


def test_every_duration_is_observed_in_seconds(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    observer.request_finished("unavailable", 10.0)
    # The levels were computed at NOW by the upstream's clock, and observed 1 s later by ours.
    at = NOW + SECOND + 4_000
    upstream_at = NOW + SECOND // 2
    observer.committed(commit(event(), at=at, upstream_at=upstream_at))
    restored = Restored({}, records=80, seconds=0.25)
    observer.restored(ShardId("all", 0), restored)

    expected = {
        'gex_upstream_request_duration_seconds_sum{outcome="unavailable"}': 10,
        "gex_publish_duration_seconds_sum": 0.004,
        "gex_end_to_end_seconds_sum": 0.5,
        "gex_restore_duration_seconds_sum": 0.25,
        "gex_restore_records_total": 80,
    }
    assert_shown(metrics, expected)


# The default target delay is 0.4 s, and a delay of just that length meets it.
def test_a_delay_belongs_to_the_bucket_that_it_equals(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    observer.sighted(sighting(detection_seconds=0.4))

    expected = {
        "gex_detection_delay_seconds_sum": 0.4,
        'gex_detection_delay_seconds_bucket{le="0.3"}': 0,
        'gex_detection_delay_seconds_bucket{le="0.4"}': 1,
    }
    assert_shown(metrics, expected)


@pytest.mark.parametrize(
    ("kind", "reason", "count"),
    [
        # A snapshot on request or a timer says nothing about the delay of a refresh.
        (Kind.SNAPSHOT, "asked", 0),
        (Kind.STALE, "old", 0),
        # Another model, or levels that the budget cannot keep fresh, come with a refresh.
        (Kind.SNAPSHOT, "positioning", 1),
        (Kind.CHANGED, "budget", 1),
    ],
)
def test_only_events_with_a_refresh_have_an_end_to_end_delay(
    metrics: Metrics, observer: MetricsObserver, kind: Kind, reason: str, count: int
) -> None:
    observer.committed(commit(event(kind=kind, reason=reason)))

    expected = {
        "gex_end_to_end_seconds_count": count,
        "gex_publish_duration_seconds_count": 1,
    }
    assert_shown(metrics, expected)


# The sum of a histogram is a counter, which may not fall.
def test_a_clock_that_is_behind_makes_no_negative_delay(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    before = NOW - SECOND

    observer.sighted(sighting(detection_seconds=-3.0))
    observer.committed(commit(event(), at=before, upstream_at=before))

    expected = {
        "gex_detection_delay_seconds_sum": 0,
        "gex_publish_duration_seconds_sum": 0,
        "gex_end_to_end_seconds_sum": 0,
    }
    assert_shown(metrics, expected)


# --- gauges ---


def test_figures_that_a_response_leaves_out_keep_their_value(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    reset_at = NOW_SECONDS + 30
    observer.response_decoded(response(RateLimit(60, 12, reset_at)))

    observer.response_decoded(response(RateLimit()))
    expected = {
        "gex_rate_limit_limit": 60,
        "gex_rate_limit_remaining": 12,
        "gex_rate_limit_reset_timestamp_seconds": reset_at,
    }
    assert_shown(metrics, expected)

    # Zero is a figure, unlike None.
    observer.response_decoded(response(RateLimit(remaining=0)))
    assert value(metrics, "gex_rate_limit_remaining") == 0


def test_gauges_show_the_present_value(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    observer.response_decoded(response(clock_correction_seconds=-0.25))
    observer.shards_owned("all", 2)
    observer.queue_length(3)
    metrics.set("gex_shards", 4, "all")
    metrics.set("gex_build_info", 1, "1.2.3", "host-1-ab")

    expected = {
        "gex_clock_correction_seconds": -0.25,
        'gex_shards{feed="all"}': 4,
        'gex_shards_owned{feed="all"}': 2,
        "gex_kafka_queue_messages": 3,
        'gex_build_info{version="1.2.3",worker="host-1-ab"}': 1,
    }
    assert_shown(metrics, expected)


def test_a_refused_key_is_shown_until_it_is_accepted(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    observer.key_refused(refused=True)
    assert value(metrics, "gex_key_refused") == 1

    observer.key_refused(refused=False)
    assert value(metrics, "gex_key_refused") == 0


def test_a_shard_is_shown_while_it_is_assigned(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    expected = {
        Phase.CLOSED: None,
        Phase.OPENING: 0,
        Phase.OPEN: 1,
        Phase.CLOSING: None,
    }
    assert value(metrics, "gex_shard_open", feed="all", shard="0") is None

    for phase, shown in expected.items():
        observer.shard_changed(SHARD, phase, frozenset())
        assert value(metrics, "gex_shard_open", feed="all", shard="0") == shown


# A loop that hangs cannot report it, so the scrape looks at the progress itself.
def test_the_progress_of_loops_is_read_at_every_scrape(telemetry: Telemetry) -> None:
    name = "gex_loop_progress_timestamp_seconds"
    telemetry.progressed_at["poll"] = NOW + SECOND // 2
    telemetry.progressed_at["group"] = NOW + SECOND
    assert value(telemetry.metrics, name, loop="poll") == NOW_SECONDS + 0.5

    del telemetry.progressed_at["group"]
    assert series(telemetry.metrics, name) == [{"loop": "poll"}]


# --- Kafka ---


def test_the_statistics_of_a_client_are_shown(
    metrics: Metrics, clients: KafkaClientObserver
) -> None:
    clients.statistics(statistics(p99_micros=2_500, requests=8))

    expected = {
        "gex_kafka_brokers_up": 1,
        'gex_kafka_broker_rtt_seconds{broker="1"}': 0.0025,
    }
    assert_shown(metrics, expected)


# Statistics cover a window of time. Without a request in it nothing was measured.
def test_a_broker_without_traffic_has_no_round_trip_time(
    metrics: Metrics, clients: KafkaClientObserver
) -> None:
    name = "gex_kafka_broker_rtt_seconds"

    clients.statistics(statistics(p99_micros=9, requests=1))
    clients.statistics(statistics(p99_micros=9, requests=0))
    assert value(metrics, name, broker="1") is None

    clients.statistics(statistics(p99_micros=9, requests=1))
    assert value(metrics, name, broker="1") == 0.000_009


def test_statistics_that_cannot_be_read_are_counted(
    metrics: Metrics, clients: KafkaClientObserver
) -> None:
    clients.statistics("<html>")

    assert value(metrics, "gex_kafka_errors_total", code="unreadable_statistics") == 1


# --- bounds ---


def test_values_from_outside_make_a_bounded_number_of_series(
    metrics: Metrics, clients: KafkaClientObserver
) -> None:
    for n in range(MAX_ERROR_CODES + 50):
        clients.error(f"code {n}")

    found = series(metrics, "gex_kafka_errors_total")
    assert len(found) == MAX_ERROR_CODES + 1
    assert value(metrics, "gex_kafka_errors_total", code="other") == 50

    # A code that is known already still counts under its own name.
    clients.error("code 7")
    assert value(metrics, "gex_kafka_errors_total", code="code 7") == 2
