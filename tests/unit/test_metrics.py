"""The metrics of one worker, as they are scraped."""

from __future__ import annotations

import math
import re
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
from connector.kafka.shard_log import Quarantined
from connector.runtime.ports import (
    BudgetReport,
    Commit,
    NextCheck,
    Phase,
    ResponseReport,
    Sighting,
)
from connector.schedule.batches import Batch
from connector.schedule.scheduler import Purpose
from connector.telemetry.catalogue import BY_NAME, METRICS, Metric
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import (
    MAX_ERROR_CODES,
    KafkaClientObserver,
    MetricsObserver,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5"
SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND
ME = Source("1", "group", "worker")
SHARD = ShardId("all", 0)
BTC = Batch("all", ("BTCUSDT",))
BTC_LABELS = {"feed": "all", "symbol": "BTCUSDT"}

Labels = tuple[tuple[str, str], ...]


class Telemetry:
    """Everything that writes to the metrics of a worker."""

    def __init__(self, max_level_symbols: int = 50) -> None:
        self.progressed_at: dict[str, int] = {}
        self.metrics = Metrics(["all"], lambda: self.progressed_at)
        self.observer = MetricsObserver(self.metrics, max_level_symbols)
        self.clients = KafkaClientObserver(self.metrics)


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


def state(
    symbol: str = "BTCUSDT",
    status: Status = Status.LIVE,
    levels: Levels | None = None,
    computed_at: int | None = NOW,
) -> State:
    return State("all", symbol, 1, status, computed_at, NOW, "", ME, levels=levels)


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


def poll(observer: MetricsObserver, *symbols: str) -> None:
    observer.shard_changed(SHARD, Phase.OPEN, frozenset(symbols))


def families(metrics: Metrics, accept: str = OPENMETRICS) -> list[Any]:
    """As Prometheus' own parsers, which have no types, read them."""
    parser: Any = openmetrics if accept == OPENMETRICS else text_format
    body, _ = metrics.render(accept)
    return list(parser.text_string_to_metric_families(body.decode()))


def scraped(metrics: Metrics) -> dict[tuple[str, Labels], float]:
    samples = [sample for family in families(metrics) for sample in family.samples]
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for sample in samples
    }
    assert len(found) == len(samples)
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return scraped(metrics).get((name, tuple(sorted(labels.items()))))


def series(metrics: Metrics, name: str) -> list[dict[str, str]]:
    return [dict(labels) for found, labels in scraped(metrics) if found == name]


def subclasses(kind: type[UpstreamError]) -> Iterator[type[UpstreamError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from subclasses(below)


# --- the catalogue ---


def test_no_two_metrics_share_a_name() -> None:
    assert len(BY_NAME) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_prometheus_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"gex_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.type == "counter")
    assert not metric.name.endswith(
        ("_count", "_sum", "_bucket", "_created", "_milliseconds", "_micros", "_age")
    )
    assert (metric.type == "histogram") == bool(metric.buckets)
    assert metric.type != "histogram" or metric.name.endswith("_seconds")
    assert "le" not in metric.labels


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_help_is_one_sentence(metric: Metric) -> None:
    assert re.fullmatch(r"[A-Z0-9][^.|\n]+\.", metric.help)
    assert "`" not in metric.help


@pytest.mark.parametrize(
    "metric", [m for m in METRICS if m.buckets], ids=lambda metric: metric.name
)
def test_buckets_rise(metric: Metric) -> None:
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.buckets[0] > 0
    assert math.isfinite(metric.buckets[-1])


def test_the_outcomes_are_those_of_the_error_tree() -> None:
    known = set(BY_NAME["gex_upstream_request_duration_seconds"].values)
    assert known == {"ok"} | {kind.outcome for kind in subclasses(UpstreamError)}


def test_the_quarantine_reasons_are_those_in_the_code() -> None:
    code = "\n".join(
        path.read_text() for path in Path(connector.__file__).parent.rglob("*.py")
    )
    assert set(re.findall(r'EntryError\(\s*"(\w+)"', code)) == set(
        BY_NAME["gex_quarantined_total"].values
    )


# --- what is there from the start ---


def test_every_metric_is_declared_with_its_type_and_help_from_the_start(
    telemetry: Telemetry,
) -> None:
    found = {family.name: family for family in families(telemetry.metrics)}
    for metric in METRICS:
        family = found[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.type, metric.help)
    ours = {name for name in found if name.startswith("gex_")}
    assert ours == {metric.name.removesuffix("_total") for metric in METRICS}


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_every_metric_has_the_labels_of_the_catalogue_once_something_happened(
    accept: str,
) -> None:
    labels: dict[str, set[tuple[str, ...]]] = {}
    for family in families(eventful(), accept):
        for sample in family.samples:
            base = (
                re.sub("_(bucket|sum|count)$", "", sample.name)
                if family.type == "histogram"
                else sample.name
            )
            labels.setdefault(base, set()).add(
                tuple(sorted(set(sample.labels) - {"le"}))
            )
    for metric in METRICS:
        assert labels[metric.name] == {tuple(sorted(metric.labels))}, metric.name


def eventful() -> Metrics:
    """Return the metrics of a worker to which everything happened once."""
    telemetry = Telemetry()
    observer = telemetry.observer
    quota = RateLimit(60, 59, 1_700_000_000)
    observer.request_sent(BTC, Purpose.FIRST)
    observer.request_finished("ok", 0.2)
    observer.response_decoded(ResponseReport(quota, ("both_lists",), 0.1))
    observer.symbol_answered("all", "BTCUSDT", Status.LIVE)
    observer.sighted(Sighting("all", "BTCUSDT", NOW, NOW, 0.1))
    observer.check_planned(NextCheck("all", "BTCUSDT", NOW, 30.0, 0.5))
    observer.budget_changed(BudgetReport(60, 0, 0.5))
    observer.visibility_lag_learnt(0.1)
    poll(observer, "BTCUSDT")
    observer.state_replaced(state(levels=Levels(spot_price=1.0)))
    telemetry.clients.statistics(
        '{"brokers":{"b":{"nodeid":1,"state":"UP","rtt":{"p99":7,"cnt":1}}}}'
    )
    telemetry.clients.error("_TRANSPORT")
    telemetry.metrics.set("gex_build_info", 1, "1.2.3")
    telemetry.progressed_at["poller"] = 1
    return telemetry.metrics


def test_series_that_can_be_named_in_advance_start_at_zero(metrics: Metrics) -> None:
    assert (
        value(
            metrics,
            "gex_upstream_request_duration_seconds_count",
            outcome="rate_limited",
        )
        == 0
    )
    for kind in Kind:
        assert value(metrics, "gex_events_total", feed="all", kind=kind.value) == 0
    for reason in ("older", "collapsed", "lost"):
        assert (
            value(metrics, "gex_observations_dropped_total", feed="all", reason=reason)
            == 0
        )
    assert value(metrics, "gex_transactions_total", result="aborted") == 0
    assert value(metrics, "gex_shard_fenced_total") == 0
    assert value(metrics, "gex_shards_owned", feed="all") == 0
    assert value(metrics, "gex_key_refused") == 0
    assert value(metrics, "gex_end_to_end_seconds_count") == 0


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
    one, other = Telemetry(), Telemetry()
    one.observer.fenced()
    assert value(other.metrics, "gex_shard_fenced_total") == 0


# --- how it is read ---


def test_the_format_is_plain_text_unless_openmetrics_is_accepted(
    metrics: Metrics,
) -> None:
    body, content_type = metrics.render("text/html, */*")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert {family.name: family.type for family in families(metrics, "")}[
        "process_cpu_seconds"
    ] == "counter"
    assert b"# EOF" not in body


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


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_creation_moments_are_left_out(metrics: Metrics, accept: str) -> None:
    assert b"_created" not in metrics.render(accept)[0]


def test_the_process_is_described_too(metrics: Metrics) -> None:
    assert value(metrics, "process_cpu_seconds_total") is not None
    assert value(metrics, "process_resident_memory_bytes") is not None


def test_label_values_are_escaped(metrics: Metrics, observer: MetricsObserver) -> None:
    odd = 'a"b\\c\nd'
    observer.symbol_answered(odd, odd, Status.LIVE)
    assert value(metrics, "gex_symbols_served_total", feed=odd, symbol=odd) == 1


# --- symbols ---


def test_the_figures_of_a_symbol_are_shown(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    for _ in range(10):
        observer.request_sent(BTC, Purpose.EXPECTED)
    answers = [Status.LIVE] * 7 + [Status.MISSING] * 2 + [Status.INVALID]
    for status in answers:
        observer.symbol_answered("all", "BTCUSDT", status)
    observer.sighted(Sighting("all", "BTCUSDT", NOW + SECOND, NOW + SECOND // 4))
    observer.state_replaced(state(status=Status.STALE))
    poll(observer, "BTCUSDT")
    assert value(metrics, "gex_symbols_requested_total", **BTC_LABELS) == 10
    assert value(metrics, "gex_symbols_served_total", **BTC_LABELS) == 7
    assert value(metrics, "gex_symbols_missing_total", **BTC_LABELS) == 2
    assert value(metrics, "gex_symbols_invalid_total", **BTC_LABELS) == 1
    computed_at = value(metrics, "gex_symbol_computed_timestamp_seconds", **BTC_LABELS)
    assert computed_at == 1_700_000_000.25
    observed_at = value(metrics, "gex_symbol_observed_timestamp_seconds", **BTC_LABELS)
    assert observed_at == 1_700_000_001.0
    for status in Status:
        shown = value(metrics, "gex_symbol_status", **BTC_LABELS, status=status)
        assert shown == float(status is Status.STALE)


def test_a_committed_state_does_not_set_a_newer_answer_back(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    poll(observer, "BTCUSDT")
    observer.sighted(Sighting("all", "BTCUSDT", NOW, NOW + SECOND))
    observer.state_replaced(state(computed_at=NOW))
    computed_at = value(metrics, "gex_symbol_computed_timestamp_seconds", **BTC_LABELS)
    assert computed_at == 1_700_000_001.0


def test_the_learnt_rhythm_of_a_symbol_is_shown(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    poll(observer, "BTCUSDT")
    at = NOW + SECOND // 2
    observer.check_planned(NextCheck("all", "BTCUSDT", at, None, None))
    assert series(metrics, "gex_symbol_period_seconds") == []
    observer.check_planned(NextCheck("all", "BTCUSDT", at, 30.5, 0.25))
    assert value(metrics, "gex_symbol_period_seconds", **BTC_LABELS) == 30.5
    assert value(metrics, "gex_symbol_jitter_seconds", **BTC_LABELS) == 0.25
    next_check_at = value(
        metrics, "gex_symbol_next_check_timestamp_seconds", **BTC_LABELS
    )
    assert next_check_at == 1_700_000_000.5


def test_requests_budget_and_uncertainty_are_shown(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    observer.request_sent(BTC, Purpose.SEARCH)
    observer.budget_changed(BudgetReport(20, 40, 1.5))
    observer.refresh_found(0.3)
    assert value(metrics, "gex_upstream_requests_total", purpose="search") == 1
    assert value(metrics, "gex_upstream_requests_total", purpose="expected") == 0
    assert value(metrics, "gex_request_budget_per_minute") == 20
    assert value(metrics, "gex_request_foreign_per_minute") == 40
    assert value(metrics, "gex_request_price_seconds") == 1.5
    assert value(metrics, "gex_detection_uncertainty_seconds_sum") == 0.3


def test_a_symbol_without_an_answer_has_no_moments_and_no_status(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    poll(observer, "BTCUSDT")
    assert series(metrics, "gex_symbol_computed_timestamp_seconds") == []
    assert series(metrics, "gex_symbol_observed_timestamp_seconds") == []
    for status in Status:
        shown = value(metrics, "gex_symbol_status", **BTC_LABELS, status=status)
        assert shown == 0.0


def test_a_lost_shard_takes_its_gauges_along_and_leaves_its_counts(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    poll(observer, "BTCUSDT")
    for _ in range(4):
        observer.request_sent(BTC, Purpose.EXPECTED)
    observer.sighted(Sighting("all", "BTCUSDT", 2, 1))
    observer.check_planned(NextCheck("all", "BTCUSDT", 3, 30.5, 0.25))
    observer.state_replaced(state(levels=Levels(spot_price=1.0)))
    gauges = [name for name in BY_NAME if name.startswith("gex_symbol_")]
    gauges.append("gex_level")
    for name in gauges:
        assert series(metrics, name)
    observer.shard_changed(SHARD, Phase.CLOSED, frozenset())
    for name in gauges:
        assert not series(metrics, name)
    assert value(metrics, "gex_symbols_requested_total", **BTC_LABELS) == 4


def test_levels_are_named_by_the_paths_of_events_and_nulls_are_left_out(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    levels = Levels(
        spot_price=5.5, all_expiry=AllExpiry(hvl=6.0), odte=Odte(put_support=0.0)
    )
    poll(observer, "BTCUSDT")
    observer.state_replaced(state(levels=levels))
    shown = {labels["level"] for labels in series(metrics, "gex_level")}
    assert shown == {"spot_price", "all_expiry.hvl", "odte.put_support"}
    assert shown <= set(NUMBER_PATHS)
    assert value(metrics, "gex_level", **BTC_LABELS, level="odte.put_support") == 0


@pytest.mark.parametrize("status", [Status.MISSING, Status.INVALID, Status.REMOVED])
def test_levels_that_nobody_may_rely_on_are_not_shown(
    metrics: Metrics, observer: MetricsObserver, status: Status
) -> None:
    poll(observer, "BTCUSDT")
    observer.state_replaced(state(status=status, levels=Levels(spot_price=1.0)))
    assert series(metrics, "gex_level") == []


@pytest.mark.parametrize("shown", [0, 3, 50])
def test_levels_are_shown_for_a_bounded_number_of_polled_symbols(shown: int) -> None:
    telemetry = Telemetry(shown)
    symbols = [f"S{n}" for n in range(shown + 10)]
    for symbol in symbols:
        telemetry.observer.request_sent(Batch("all", (symbol,)), Purpose.FIRST)
        telemetry.observer.state_replaced(state(symbol, levels=Levels(spot_price=1.0)))
    poll(telemetry.observer, *symbols[1:])
    found = {labels["symbol"] for labels in series(telemetry.metrics, "gex_level")}
    assert found == set(symbols[1 : shown + 1])
    requested = series(telemetry.metrics, "gex_symbols_requested_total")
    assert len(requested) == shown + 10


# --- events and durations ---


def test_events_are_counted_by_feed_and_kind(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    events = (event(Kind.CHANGED), event(Kind.CHANGED), event(Kind.STALE, feed="other"))
    observer.committed(Commit(events, (), NOW, NOW))
    assert value(metrics, "gex_events_total", feed="all", kind="CHANGED") == 2
    assert value(metrics, "gex_events_total", feed="other", kind="STALE") == 1


def test_every_count_counts(telemetry: Telemetry) -> None:
    metrics, observer = telemetry.metrics, telemetry.observer
    entry = Quarantined("A", b"", "malformed", "", NOW, None)
    observer.committed(Commit((), (entry,), NOW, NOW))
    observer.aborted()
    observer.dropped("all", "older")
    observer.dropped("all", "lost", 3)
    observer.response_decoded(ResponseReport(RateLimit(), ("unrequested",), 0.0))
    observer.fenced()
    telemetry.clients.error("_ALL_BROKERS_DOWN")
    assert value(metrics, "gex_transactions_total", result="committed") == 1
    assert value(metrics, "gex_transactions_total", result="aborted") == 1
    assert value(metrics, "gex_quarantined_total", reason="malformed") == 1
    dropped = "gex_observations_dropped_total"
    assert value(metrics, dropped, feed="all", reason="older") == 1
    assert value(metrics, dropped, feed="all", reason="lost") == 3
    assert value(metrics, "gex_responses_inconsistent_total", kind="unrequested") == 1
    assert value(metrics, "gex_shard_fenced_total") == 1
    assert value(metrics, "gex_kafka_errors_total", code="_ALL_BROKERS_DOWN") == 1


def test_every_duration_is_observed_in_seconds(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    observer.request_finished("unavailable", 10.0)
    observer.sighted(Sighting("all", "BTCUSDT", NOW, NOW, 0.4))
    commit = Commit((event(),), (), NOW + SECOND + 4_000, NOW + SECOND // 2)
    observer.committed(commit)
    observer.restored(records=80, seconds=0.25)
    duration = "gex_upstream_request_duration_seconds_sum"
    assert value(metrics, duration, outcome="unavailable") == 10
    assert value(metrics, "gex_detection_delay_seconds_sum") == 0.4
    assert value(metrics, "gex_detection_delay_seconds_bucket", le="0.3") == 0
    assert value(metrics, "gex_detection_delay_seconds_bucket", le="0.4") == 1
    assert value(metrics, "gex_publish_duration_seconds_sum") == 0.004
    assert value(metrics, "gex_end_to_end_seconds_sum") == 0.5
    assert value(metrics, "gex_restore_duration_seconds_sum") == 0.25
    assert value(metrics, "gex_restore_records_total") == 80


def test_events_with_a_reason_have_no_end_to_end_delay(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    observer.committed(Commit((event(reason="asked"),), (), NOW, NOW))
    assert value(metrics, "gex_end_to_end_seconds_count") == 0
    assert value(metrics, "gex_publish_duration_seconds_count") == 1


def test_a_clock_that_is_behind_makes_no_negative_delay(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    observer.sighted(Sighting("all", "BTCUSDT", NOW, NOW, -3.0))
    observer.committed(Commit((event(),), (), NOW - SECOND, NOW - SECOND))
    assert value(metrics, "gex_detection_delay_seconds_sum") == 0
    assert value(metrics, "gex_publish_duration_seconds_sum") == 0
    assert value(metrics, "gex_end_to_end_seconds_sum") == 0


def test_figures_that_a_response_leaves_out_keep_their_value(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    def told(quota: RateLimit) -> None:
        observer.response_decoded(ResponseReport(quota, (), 0.0))

    told(RateLimit(60, 12, 1_700_000_030))
    told(RateLimit())
    assert value(metrics, "gex_rate_limit_limit") == 60
    assert value(metrics, "gex_rate_limit_remaining") == 12
    assert value(metrics, "gex_rate_limit_reset_timestamp_seconds") == 1_700_000_030
    told(RateLimit(remaining=0))
    assert value(metrics, "gex_rate_limit_remaining") == 0


def test_gauges_show_the_present_value(
    metrics: Metrics, observer: MetricsObserver
) -> None:
    observer.key_refused(refused=True)
    observer.response_decoded(ResponseReport(RateLimit(), (), -0.25))
    observer.shards_owned("all", 2)
    observer.queue_length(3)
    metrics.set("gex_shards", 4, "all")
    metrics.set("gex_build_info", 1, "1.2.3")
    assert value(metrics, "gex_key_refused") == 1
    assert value(metrics, "gex_clock_correction_seconds") == -0.25
    assert value(metrics, "gex_shards", feed="all") == 4
    assert value(metrics, "gex_shards_owned", feed="all") == 2
    assert value(metrics, "gex_kafka_queue_messages") == 3
    assert value(metrics, "gex_build_info", version="1.2.3") == 1
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


def test_loops_are_asked_at_every_scrape(telemetry: Telemetry) -> None:
    name, progressed = "gex_loop_progress_timestamp_seconds", telemetry.progressed_at
    progressed |= {"poll": 1_700_000_000_500_000, "group": 1_700_000_001_000_000}
    assert value(telemetry.metrics, name, loop="poll") == 1_700_000_000.5
    del progressed["group"]
    loops = [labels["loop"] for labels in series(telemetry.metrics, name)]
    assert loops == ["poll"]


# --- Kafka ---


def test_the_statistics_of_a_client_are_shown(
    metrics: Metrics, clients: KafkaClientObserver
) -> None:
    clients.statistics(
        '{"brokers":{"h:1/1":{"nodeid":1,"state":"UP","rtt":{"p99":2500,"cnt":8}}}}'
    )
    assert value(metrics, "gex_kafka_brokers_up") == 1
    assert value(metrics, "gex_kafka_broker_rtt_seconds", broker="1") == 0.0025


def test_a_broker_without_traffic_has_no_round_trip(
    metrics: Metrics, clients: KafkaClientObserver
) -> None:
    stats = '{"brokers":{"b":{"nodeid":1,"state":"UP","rtt":{"p99":9,"cnt":%d}}}}'
    clients.statistics(stats % 1)
    clients.statistics(stats % 0)
    assert value(metrics, "gex_kafka_broker_rtt_seconds", broker="1") is None
    clients.statistics(stats % 1)
    assert value(metrics, "gex_kafka_broker_rtt_seconds", broker="1") == 0.000009


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
    clients.error("code 7")
    assert value(metrics, "gex_kafka_errors_total", code="code 7") == 2
