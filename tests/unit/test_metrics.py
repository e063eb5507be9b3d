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
from connector.core.diff import NUMBERS
from connector.core.model import AllExpiry, Kind, Levels, Odte, Status
from connector.errors import UpstreamError
from connector.schedule.forecast import Forecast
from connector.telemetry.catalogue import BY_NAME, METRICS, Metric
from connector.telemetry.metrics import MAX_CODES, Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5"

Labels = tuple[tuple[str, str], ...]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(["all"])


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


def test_the_reasons_of_quarantine_are_those_that_the_code_gives() -> None:
    code = "\n".join(
        path.read_text() for path in Path(connector.__file__).parent.rglob("*.py")
    )
    assert set(re.findall(r'EntryError\(\s*"(\w+)"', code)) == set(
        BY_NAME["gex_quarantined_total"].values
    )


# --- what is there from the start ---


def test_every_metric_is_declared_with_its_type_and_help_from_the_start(
    metrics: Metrics,
) -> None:
    found = {family.name: family for family in families(metrics)}
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


def rhythmic() -> Forecast:
    forecast = Forecast(0.0)
    for at in (10.0, 40.5):
        forecast.learn(at, 0.0, at)
    return forecast


def eventful() -> Metrics:
    """A worker to which everything happened once."""
    metrics = Metrics(["all"])
    metrics.request_finished("ok", 0.2)
    metrics.rate_limit(60, 59, 1_700_000_000_000_000)
    metrics.inconsistent("both_lists")
    metrics.symbol("all", "A").owned = True
    metrics.symbol("all", "A").computed_at = metrics.symbol("all", "A").observed_at = 1
    metrics.symbol("all", "A").next_check_at = 1
    metrics.symbol("all", "A").forecast = rhythmic()
    metrics.price(0.5)
    metrics.visibility_lag(0.1)
    metrics.symbol("all", "A").status = Status.LIVE
    metrics.symbol("all", "A").levels = Levels(spot_price=1.0)
    metrics.shard_open(1, "all", 0)
    metrics.kafka_stats(
        '{"brokers":{"b":{"nodeid":1,"state":"UP","rtt":{"p99":7,"cnt":1}}}}'
    )
    metrics.kafka_error("_TRANSPORT")
    metrics.build_info(1, "1.2.3")
    metrics.watch_loops(lambda: {"poll": 1})
    return metrics


def test_what_can_be_named_in_advance_is_there_at_zero(metrics: Metrics) -> None:
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
def test_what_is_not_known_yet_has_no_series(metrics: Metrics, name: str) -> None:
    assert series(metrics, name) == []


def test_two_workers_in_one_process_share_nothing() -> None:
    one, other = Metrics(["all"]), Metrics(["all"])
    one.fenced()
    assert value(other, "gex_shard_fenced_total") == 0


# --- how it is read ---


def test_plain_text_is_for_whoever_does_not_ask_for_openmetrics(
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
def test_openmetrics_is_for_whoever_names_it_in_whatever_version(
    metrics: Metrics, accept: str
) -> None:
    body, content_type = metrics.render(accept)
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_nobody_is_told_when_series_were_made(metrics: Metrics, accept: str) -> None:
    assert b"_created" not in metrics.render(accept)[0]


def test_the_process_is_described_too(metrics: Metrics) -> None:
    assert value(metrics, "process_cpu_seconds_total") is not None
    assert value(metrics, "process_resident_memory_bytes") is not None


def test_label_values_are_escaped(metrics: Metrics) -> None:
    odd = 'a"b\\c\nd'
    metrics.symbol(odd, odd).requested = 3
    assert value(metrics, "gex_symbols_requested_total", feed=odd, symbol=odd) == 3


# --- symbols ---


def test_a_symbols_figures_are_read_when_scraped(metrics: Metrics) -> None:
    stats = metrics.symbol("all", "BTCUSDT")
    assert metrics.symbol("all", "BTCUSDT") is stats
    stats.requested, stats.served, stats.missing, stats.invalid = 10, 7, 2, 1
    stats.computed_at, stats.observed_at = 1_700_000_000_250_000, 1_700_000_001_000_000
    stats.status, stats.owned = Status.STALE, True
    of = {"feed": "all", "symbol": "BTCUSDT"}
    assert value(metrics, "gex_symbols_requested_total", **of) == 10
    assert value(metrics, "gex_symbols_served_total", **of) == 7
    assert value(metrics, "gex_symbols_missing_total", **of) == 2
    assert value(metrics, "gex_symbols_invalid_total", **of) == 1
    assert (
        value(metrics, "gex_symbol_computed_timestamp_seconds", **of)
        == 1_700_000_000.25
    )
    assert (
        value(metrics, "gex_symbol_observed_timestamp_seconds", **of) == 1_700_000_001.0
    )
    assert {s: value(metrics, "gex_symbol_status", **of, status=s) for s in Status} == {
        s: float(s is Status.STALE) for s in Status
    }


def test_what_was_learnt_of_a_symbol_is_shown(metrics: Metrics) -> None:
    stats = metrics.symbol("all", "BTCUSDT")
    stats.owned, stats.forecast, stats.next_check_at = (
        True,
        Forecast(0.0),
        1_700_000_002_500_000,
    )
    assert series(metrics, "gex_symbol_period_seconds") == []
    stats.forecast = rhythmic()
    of = {"feed": "all", "symbol": "BTCUSDT"}
    assert value(metrics, "gex_symbol_period_seconds", **of) == 30.5
    assert value(metrics, "gex_symbol_jitter_seconds", **of) == stats.forecast.jitter
    assert (
        value(metrics, "gex_symbol_next_check_timestamp_seconds", **of)
        == 1_700_000_002.5
    )


def test_requests_budget_and_uncertainty_are_shown(metrics: Metrics) -> None:
    metrics.requested("search")
    metrics.budget(20)
    metrics.foreign(40)
    metrics.price(1.5)
    metrics.uncertainty(0.3)
    assert value(metrics, "gex_upstream_requests_total", purpose="search") == 1
    assert value(metrics, "gex_upstream_requests_total", purpose="expected") == 0
    assert value(metrics, "gex_request_budget_per_minute") == 20
    assert value(metrics, "gex_request_foreign_per_minute") == 40
    assert value(metrics, "gex_request_price_seconds") == 1.5
    assert value(metrics, "gex_detection_uncertainty_seconds_sum") == 0.3


def test_a_symbol_that_never_answered_has_no_moments_and_no_status_that_holds(
    metrics: Metrics,
) -> None:
    metrics.symbol("all", "BTCUSDT").owned = True
    assert series(metrics, "gex_symbol_computed_timestamp_seconds") == []
    assert series(metrics, "gex_symbol_observed_timestamp_seconds") == []
    assert [
        value(metrics, "gex_symbol_status", feed="all", symbol="BTCUSDT", status=s)
        for s in Status
    ] == [0.0] * 5


def test_a_lost_shard_takes_its_gauges_along_and_leaves_its_counts(
    metrics: Metrics,
) -> None:
    stats = metrics.symbol("all", "BTCUSDT")
    stats.requested, stats.computed_at, stats.observed_at, stats.next_check_at = (
        4,
        1,
        2,
        3,
    )
    stats.forecast = rhythmic()
    stats.status, stats.levels, stats.owned = Status.LIVE, Levels(spot_price=1.0), True
    gauges = [name for name in BY_NAME if name.startswith("gex_symbol_")] + [
        "gex_level"
    ]
    assert all(series(metrics, name) for name in gauges)
    stats.owned = False
    assert not any(series(metrics, name) for name in gauges)
    assert (
        value(metrics, "gex_symbols_requested_total", feed="all", symbol="BTCUSDT") == 4
    )


def test_levels_go_by_the_paths_of_events_and_nulls_are_left_out(
    metrics: Metrics,
) -> None:
    stats = metrics.symbol("all", "BTCUSDT")
    stats.levels = Levels(
        spot_price=5.5, all_expiry=AllExpiry(hvl=6.0), odte=Odte(put_support=0.0)
    )
    stats.status, stats.owned = Status.LIVE, True
    shown = {labels["level"] for labels in series(metrics, "gex_level")}
    assert shown == {"spot_price", "all_expiry.hvl", "odte.put_support"}
    assert shown <= set(NUMBERS)
    assert (
        value(
            metrics, "gex_level", feed="all", symbol="BTCUSDT", level="odte.put_support"
        )
        == 0
    )


@pytest.mark.parametrize(
    "status", [None, Status.MISSING, Status.INVALID, Status.REMOVED]
)
def test_levels_that_nobody_may_rely_on_are_not_shown(
    metrics: Metrics, status: Status | None
) -> None:
    stats = metrics.symbol("all", "BTCUSDT")
    stats.levels, stats.status, stats.owned = Levels(spot_price=1.0), status, True
    assert series(metrics, "gex_level") == []


@pytest.mark.parametrize("shown", [0, 3, 50])
def test_levels_are_shown_of_so_many_symbols_and_no_more(shown: int) -> None:
    metrics = Metrics(["all"], shown)
    for n in range(shown + 10):
        stats = metrics.symbol("all", f"S{n}")
        stats.levels, stats.status, stats.owned = (
            Levels(spot_price=1.0),
            Status.LIVE,
            n > 0,
        )
    assert {labels["symbol"] for labels in series(metrics, "gex_level")} == {
        f"S{n}" for n in range(1, shown + 1)
    }
    assert len(series(metrics, "gex_symbols_requested_total")) == shown + 10


# --- events and durations ---


def test_events_are_counted_by_feed_and_kind(metrics: Metrics) -> None:
    metrics.event("all", Kind.CHANGED)
    metrics.event("all", "CHANGED")
    metrics.event("other", Kind.STALE)
    assert value(metrics, "gex_events_total", feed="all", kind="CHANGED") == 2
    assert value(metrics, "gex_events_total", feed="other", kind="STALE") == 1


def test_every_count_counts(metrics: Metrics) -> None:
    metrics.transaction("committed")
    metrics.quarantined("malformed")
    metrics.dropped("all", "older")
    metrics.inconsistent("unrequested")
    metrics.fenced()
    metrics.kafka_error("_ALL_BROKERS_DOWN")
    assert value(metrics, "gex_transactions_total", result="committed") == 1
    assert value(metrics, "gex_quarantined_total", reason="malformed") == 1
    assert (
        value(metrics, "gex_observations_dropped_total", feed="all", reason="older")
        == 1
    )
    assert value(metrics, "gex_responses_inconsistent_total", kind="unrequested") == 1
    assert value(metrics, "gex_shard_fenced_total") == 1
    assert value(metrics, "gex_kafka_errors_total", code="_ALL_BROKERS_DOWN") == 1


def test_every_duration_is_observed_in_seconds(metrics: Metrics) -> None:
    metrics.request_finished("unavailable", 10.0)
    metrics.detection(0.4)
    metrics.published(0.004)
    metrics.end_to_end(0.5)
    metrics.restored(records=80, seconds=0.25)
    assert (
        value(
            metrics, "gex_upstream_request_duration_seconds_sum", outcome="unavailable"
        )
        == 10
    )
    assert value(metrics, "gex_detection_delay_seconds_sum") == 0.4
    assert value(metrics, "gex_detection_delay_seconds_bucket", le="0.3") == 0
    assert value(metrics, "gex_detection_delay_seconds_bucket", le="0.4") == 1
    assert value(metrics, "gex_publish_duration_seconds_sum") == 0.004
    assert value(metrics, "gex_end_to_end_seconds_sum") == 0.5
    assert value(metrics, "gex_restore_duration_seconds_sum") == 0.25
    assert value(metrics, "gex_restore_records_total") == 80


def test_a_clock_that_is_behind_makes_no_negative_delay(metrics: Metrics) -> None:
    metrics.detection(-3.0)
    metrics.published(-3.0)
    metrics.end_to_end(-3.0)
    assert value(metrics, "gex_detection_delay_seconds_sum") == 0
    assert value(metrics, "gex_publish_duration_seconds_sum") == 0
    assert value(metrics, "gex_end_to_end_seconds_sum") == 0


def test_the_last_word_on_the_quota_stands(metrics: Metrics) -> None:
    metrics.rate_limit(60, 12, 1_700_000_030_000_000)
    metrics.rate_limit(None, None, None)
    assert value(metrics, "gex_rate_limit_limit") == 60
    assert value(metrics, "gex_rate_limit_remaining") == 12
    assert value(metrics, "gex_rate_limit_reset_timestamp_seconds") == 1_700_000_030
    metrics.rate_limit(None, 0, None)
    assert value(metrics, "gex_rate_limit_remaining") == 0


def test_gauges_say_how_it_is_now(metrics: Metrics) -> None:
    metrics.key_refused(True)
    metrics.clock_correction(-0.25)
    metrics.shards(4, "all")
    metrics.shards_owned(2, "all")
    metrics.build_info(1, "1.2.3")
    assert value(metrics, "gex_key_refused") == 1
    assert value(metrics, "gex_clock_correction_seconds") == -0.25
    assert value(metrics, "gex_shards", feed="all") == 4
    assert value(metrics, "gex_shards_owned", feed="all") == 2
    assert value(metrics, "gex_build_info", version="1.2.3") == 1
    metrics.key_refused(False)
    assert value(metrics, "gex_key_refused") == 0


def test_a_shard_is_shown_while_it_is_assigned(metrics: Metrics) -> None:
    assert value(metrics, "gex_shard_open", feed="all", shard="0") is None
    metrics.shard_open(False, "all", 0)
    assert value(metrics, "gex_shard_open", feed="all", shard="0") == 0
    metrics.shard_open(True, "all", 0)
    assert value(metrics, "gex_shard_open", feed="all", shard="0") == 1
    metrics.shard_open(None, "all", 0)
    assert value(metrics, "gex_shard_open", feed="all", shard="0") is None


def test_loops_are_asked_at_every_scrape(metrics: Metrics) -> None:
    progressed = {"poll": 1_700_000_000_500_000, "group": 1_700_000_001_000_000}
    metrics.watch_loops(lambda: progressed)
    assert (
        value(metrics, "gex_loop_progress_timestamp_seconds", loop="poll")
        == 1_700_000_000.5
    )
    del progressed["group"]
    assert [
        labels["loop"]
        for labels in series(metrics, "gex_loop_progress_timestamp_seconds")
    ] == ["poll"]


# --- Kafka ---


def test_kafkas_own_figures_are_shown(metrics: Metrics) -> None:
    metrics.kafka_stats(
        '{"brokers":{"h:1/1":{"nodeid":1,"state":"UP","rtt":{"p99":2500,"cnt":8}}}}'
    )
    metrics.queue_messages(3)
    assert value(metrics, "gex_kafka_queue_messages") == 3
    assert value(metrics, "gex_kafka_brokers_up") == 1
    assert value(metrics, "gex_kafka_broker_rtt_seconds", broker="1") == 0.0025


def test_a_broker_without_traffic_has_no_round_trip(metrics: Metrics) -> None:
    stats = '{"brokers":{"b":{"nodeid":1,"state":"UP","rtt":{"p99":9,"cnt":%d}}}}'
    metrics.kafka_stats(stats % 1)
    metrics.kafka_stats(stats % 0)
    assert value(metrics, "gex_kafka_broker_rtt_seconds", broker="1") is None
    metrics.kafka_stats(stats % 1)
    assert value(metrics, "gex_kafka_broker_rtt_seconds", broker="1") == 0.000009


def test_statistics_that_cannot_be_read_are_counted(metrics: Metrics) -> None:
    metrics.kafka_stats("<html>")
    assert value(metrics, "gex_kafka_errors_total", code="unreadable_statistics") == 1


# --- bounds ---


def test_values_from_outside_cannot_make_series_without_end(metrics: Metrics) -> None:
    for n in range(MAX_CODES + 50):
        metrics.kafka_error(f"code {n}")
    found = series(metrics, "gex_kafka_errors_total")
    assert len(found) == MAX_CODES + 1
    assert value(metrics, "gex_kafka_errors_total", code="other") == 50
    metrics.kafka_error("code 7")
    assert value(metrics, "gex_kafka_errors_total", code="code 7") == 2
