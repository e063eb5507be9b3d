"""Every metric: its name, type, labels and meaning. Data only; `metrics.py` builds them, `docs/metrics.md` lists them.

Durations are seconds, moments (`_timestamp_seconds`) seconds since the Unix epoch, counts end in `_total`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from connector.core.model import Kind, Status
from connector.schedule.scheduler import Purpose


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `values` are those of its last label that exist from the start, at zero."""

    type: Literal["counter", "gauge", "histogram"]
    name: str
    labels: tuple[str, ...]
    help: str
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, labels: str, meaning: str, values: str = "") -> Metric:
    return Metric(
        "counter", name, tuple(labels.split()), meaning, tuple(values.split())
    )


def _gauge(name: str, labels: str, meaning: str, values: str = "") -> Metric:
    return Metric("gauge", name, tuple(labels.split()), meaning, tuple(values.split()))


def _histogram(
    name: str, labels: str, meaning: str, buckets: tuple[float, ...], values: str = ""
) -> Metric:
    return Metric(
        "histogram",
        name,
        tuple(labels.split()),
        meaning,
        tuple(values.split()),
        buckets,
    )


_QUICK: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
_NETWORK: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_DELAY: Final = (
    0.05,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    1.5,
    2.0,
    3.0,
    5.0,
    10.0,
    30.0,
    60.0,
)
_OUTCOMES: Final = "ok key_refused refused rate_limited unavailable bad_response error"
_CONTRADICTIONS: Final = "unrequested both_lists not_listed duplicate_keys"
_UNUSABLE: Final = "too_large malformed duplicate_keys wrong_type computed_at_unparsable computed_at_future"

METRICS: Final = (
    # The upstream
    _histogram(
        "gex_upstream_request_duration_seconds",
        "outcome",
        "How long requests took.",
        _NETWORK,
        _OUTCOMES,
    ),
    _counter(
        "gex_upstream_requests_total",
        "purpose",
        "Requests by what they were for.",
        " ".join(Purpose),
    ),
    _gauge(
        "gex_rate_limit_limit", "", "Requests a minute the upstream allows this key."
    ),
    _gauge(
        "gex_rate_limit_remaining",
        "",
        "Requests left in the upstream's window, other users of the key included.",
    ),
    _gauge(
        "gex_rate_limit_reset_timestamp_seconds", "", "When the upstream's window ends."
    ),
    _gauge(
        "gex_request_budget_per_minute",
        "",
        "Requests a minute that this worker may make: its share of the key's.",
    ),
    _gauge(
        "gex_request_foreign_per_minute",
        "",
        "Requests a minute that other programs make with the key.",
    ),
    _gauge(
        "gex_request_price_seconds",
        "",
        "Delay of one symbol that a request must save to be made.",
    ),
    _gauge(
        "gex_key_refused",
        "",
        "1 while the upstream refuses the API key, so that polling has stopped.",
    ),
    _counter(
        "gex_responses_inconsistent_total",
        "kind",
        "Contradictions found in responses.",
        _CONTRADICTIONS,
    ),
    _gauge(
        "gex_clock_correction_seconds",
        "",
        "Added to our clock to make it the upstream's; near 0 both are right.",
    ),
    # Symbols
    _counter(
        "gex_symbols_requested_total",
        "feed symbol",
        "Checks that asked for the symbol.",
    ),
    _counter(
        "gex_symbols_served_total",
        "feed symbol",
        "Checks that brought the symbol's levels, new or not.",
    ),
    _counter(
        "gex_symbols_missing_total",
        "feed symbol",
        "Checks for which the upstream had nothing on the symbol.",
    ),
    _counter(
        "gex_symbols_invalid_total",
        "feed symbol",
        "Checks for which the upstream did not know the symbol.",
    ),
    _gauge(
        "gex_symbol_computed_timestamp_seconds",
        "feed symbol",
        "When the levels last seen were computed.",
    ),
    _gauge(
        "gex_symbol_observed_timestamp_seconds",
        "feed symbol",
        "When the symbol's last answer was complete.",
    ),
    _gauge(
        "gex_symbol_period_seconds", "feed symbol", "Learnt time between two refreshes."
    ),
    _gauge(
        "gex_symbol_jitter_seconds",
        "feed symbol",
        "Learnt standard deviation of the next refresh's moment.",
    ),
    _gauge(
        "gex_symbol_next_check_timestamp_seconds",
        "feed symbol",
        "When the symbol is to be asked for next.",
    ),
    _gauge(
        "gex_symbol_status",
        "feed symbol status",
        "1 for the one that holds, 0 for the others.",
        " ".join(Status),
    ),
    _gauge(
        "gex_level",
        "feed symbol level",
        "A price while LIVE or STALE, of the first symbols of a worker, 50 unless configured.",
    ),
    _counter(
        "gex_observations_dropped_total",
        "feed reason",
        "Observations not published: older than the last, overtaken, lost with the shard, or refused by the broker.",
        "older collapsed lost unpublishable",
    ),
    # Delays
    _histogram(
        "gex_detection_delay_seconds",
        "",
        "From the upstream's computation to our observation.",
        _DELAY,
    ),
    _histogram(
        "gex_detection_uncertainty_seconds",
        "",
        "From the last check without a refresh to the first one with it: so much of the delay before may be lag.",
        _DELAY,
    ),
    _gauge(
        "gex_visibility_lag_seconds",
        "",
        "Learnt time from a computation to its being served, clocks included.",
    ),
    _histogram(
        "gex_publish_duration_seconds",
        "",
        "From our observation to the committed transaction.",
        _QUICK,
    ),
    _histogram(
        "gex_end_to_end_seconds",
        "",
        "From the upstream's computation to the committed transaction.",
        _DELAY,
    ),
    # Events
    _counter("gex_events_total", "feed kind", "Events committed.", " ".join(Kind)),
    _counter(
        "gex_transactions_total",
        "result",
        "Kafka transactions ended.",
        "committed aborted",
    ),
    _counter(
        "gex_quarantined_total", "reason", "Entries that could not be used.", _UNUSABLE
    ),
    # Shards
    _gauge("gex_shards", "feed", "Shards the feed has."),
    _gauge(
        "gex_shards_owned",
        "feed",
        "Shards this worker has open; over all workers the sum is gex_shards.",
    ),
    _gauge(
        "gex_shard_open",
        "feed shard",
        "1 for an assigned shard that is open, 0 for one still being opened.",
    ),
    _counter(
        "gex_shard_fenced_total",
        "",
        "Times another worker took a shard from under this one.",
    ),
    _histogram(
        "gex_restore_duration_seconds",
        "",
        "How long it took to read a shard's state back.",
        (*_NETWORK, 60.0),
    ),
    _counter(
        "gex_restore_records_total",
        "",
        "Records read for that; many more than symbols: compaction lags.",
    ),
    # Kafka
    _gauge(
        "gex_kafka_queue_messages",
        "",
        "Records and requests that wait in the shards' producers for Kafka.",
    ),
    _gauge(
        "gex_kafka_broker_rtt_seconds",
        "broker",
        "99th percentile of the group client's round trips.",
    ),
    _gauge(
        "gex_kafka_brokers_up",
        "",
        "Brokers the group's client is connected to; 0 while Kafka is away.",
    ),
    _counter(
        "gex_kafka_errors_total",
        "code",
        "Errors that Kafka's clients reported, by librdkafka's names.",
    ),
    # The process
    _gauge("gex_build_info", "version", "Always 1; the label says which version runs."),
    _gauge(
        "gex_loop_progress_timestamp_seconds",
        "loop",
        "When the loop last made progress; far back: stalled.",
    ),
)

BY_NAME: Final = {metric.name: metric for metric in METRICS}
