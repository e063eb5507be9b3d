"""Every metric: its name, type, labels and meaning. Data only; `metrics.py` builds them, `docs/metrics.md` lists them.

Durations are seconds, moments (`_timestamp_seconds`) seconds since the Unix epoch, counts end in `_total`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from connector.core.model import Kind, Status

Type = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `values` are those of its last label that exist from the start, at zero."""

    name: str
    type: Type
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] | None = None
    values: tuple[str, ...] = ()


LEVEL_SYMBOLS: Final = 50
"""How many symbols of one worker `gex_level` shows."""

LABELS: Final = {
    "broker": "a broker's numeric id",
    "code": "librdkafka's name of an error",
    "feed": "`feeds.name` of the configuration",
    "kind": "what sort of event or contradiction",
    "level": "the path of one number, as in `changed_levels`",
    "loop": "one of the worker's loops",
    "outcome": "how a request ended",
    "reason": "why it was not used",
    "result": "how a transaction ended",
    "shard": "a partition of the feed's `current` topic",
    "status": "the symbol's status, one series for each, 1 for the one that holds",
    "symbol": "a symbol of the feed",
    "version": "of the connector",
}

_REQUEST: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_DELAY: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
_PUBLISH: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RESTORE: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_UNUSABLE: Final = "too_large malformed duplicate_keys wrong_type computed_at_unparsable computed_at_future"
_SYMBOL: Final = ("feed", "symbol")

UPSTREAM: Final = (
    Metric(
        "gex_upstream_request_duration_seconds",
        "histogram",
        ("outcome",),
        "How long requests to the upstream took, by outcome; high values mean a slow upstream or network.",
        _REQUEST,
        ("ok", "key_refused", "refused", "rate_limited", "unavailable", "bad_response", "error"),
    ),
    Metric(
        "gex_rate_limit_limit",
        "gauge",
        (),
        "Requests a minute the upstream allows this key; absent until it has said so, high is a larger plan.",
    ),
    Metric(
        "gex_rate_limit_remaining",
        "gauge",
        (),
        "Requests left in the upstream's current window, other users of the key included; high is room to spare.",
    ),
    Metric(
        "gex_rate_limit_reset_timestamp_seconds",
        "gauge",
        (),
        "When the upstream's current window ends; a high value, far ahead of now, is a long wait once it is used up.",
    ),
    Metric("gex_key_refused", "gauge", (), "1 while the upstream refuses the API key, so that polling has stopped."),
    Metric(
        "gex_responses_inconsistent_total",
        "counter",
        ("kind",),
        "Contradictions found in responses, by kind; a rising count means that the upstream answers carelessly.",
        values=("unrequested", "both_lists", "not_listed", "duplicate_keys"),
    ),
    Metric(
        "gex_clock_correction_seconds",
        "gauge",
        (),
        "Added to our clock to make it the upstream's; far from zero, one of the two clocks is wrong.",
    ),
)

SYMBOLS: Final = (
    Metric(
        "gex_symbols_requested_total",
        "counter",
        _SYMBOL,
        "Checks that asked for the symbol; a high rate spends the budget on it.",
    ),
    Metric(
        "gex_symbols_served_total",
        "counter",
        _SYMBOL,
        "Checks that brought the symbol's levels, new or not; high, near the requests, is healthy.",
    ),
    Metric(
        "gex_symbols_missing_total",
        "counter",
        _SYMBOL,
        "Checks for which the upstream had nothing on the symbol; a high rate means that its cache stays cold.",
    ),
    Metric(
        "gex_symbols_invalid_total",
        "counter",
        _SYMBOL,
        "Checks for which the upstream did not know the symbol; a rising count means that it is misspelt or gone.",
    ),
    Metric(
        "gex_symbol_computed_timestamp_seconds",
        "gauge",
        _SYMBOL,
        "When the upstream computed the levels last seen, shown by the owner; high is recent.",
    ),
    Metric(
        "gex_symbol_observed_timestamp_seconds",
        "gauge",
        _SYMBOL,
        "When the symbol's last answer was complete, shown by the owner; high is recent.",
    ),
    Metric(
        "gex_symbol_status",
        "gauge",
        (*_SYMBOL, "status"),
        "1 for the status the symbol has and 0 for the others, shown by the owner; all 0 before the first answer.",
        values=tuple(str(status) for status in Status),
    ),
    Metric(
        "gex_level",
        "gauge",
        (*_SYMBOL, "level"),
        f"A price in quote units while the symbol is LIVE or STALE, of up to {LEVEL_SYMBOLS} symbols a worker; "
        "a high value is a high price.",
    ),
    Metric(
        "gex_observations_dropped_total",
        "counter",
        ("feed", "reason"),
        "Observations not compared: older than the one before, or overtaken while Kafka was away; "
        "high means an upstream that goes back and forth, or a slow Kafka.",
        values=("older", "collapsed"),
    ),
)

DELAYS: Final = (
    Metric(
        "gex_detection_delay_seconds",
        "histogram",
        (),
        "From the upstream's computation to our observation of new levels; high means polling too late or too seldom.",
        _DELAY,
    ),
    Metric(
        "gex_publish_duration_seconds",
        "histogram",
        (),
        "From the observation to the committed transaction; high means a slow or distant Kafka.",
        _PUBLISH,
    ),
    Metric(
        "gex_end_to_end_seconds",
        "histogram",
        (),
        "From the upstream's computation to the committed transaction; high means that consumers act on old levels.",
        _DELAY,
    ),
)

EVENTS: Final = (
    Metric(
        "gex_events_total",
        "counter",
        ("feed", "kind"),
        "Events committed, by kind; a high rate of CHANGED asks for thresholds, of STALE or MISSING for the vendor.",
        values=tuple(str(kind) for kind in Kind),
    ),
    Metric(
        "gex_transactions_total",
        "counter",
        ("result",),
        "Kafka transactions ended, by result; a high share of aborted ones means that Kafka is in trouble.",
        values=("committed", "aborted"),
    ),
    Metric(
        "gex_quarantined_total",
        "counter",
        ("reason",),
        "Entries put into quarantine because they could not be used, by reason; "
        "a rising count means that the upstream's format has changed or is broken.",
        values=tuple(_UNUSABLE.split()),
    ),
)

SHARDS: Final = (
    Metric("gex_shards", "gauge", ("feed",), "Shards the feed has; high allows more workers to share it."),
    Metric(
        "gex_shards_owned",
        "gauge",
        ("feed",),
        "Shards of the feed that this worker has open; the sum over the workers is high enough when it is gex_shards.",
    ),
    Metric(
        "gex_shard_open",
        "gauge",
        ("feed", "shard"),
        "1 for an assigned shard that is open and 0 for one still being opened; absent when it is another worker's.",
    ),
    Metric(
        "gex_shard_fenced_total",
        "counter",
        (),
        "Times another worker took a shard from under this one; a rising count means workers that stall or flap.",
    ),
    Metric(
        "gex_restore_duration_seconds",
        "histogram",
        (),
        "How long it took to read a shard's state back; high means a slow Kafka or a topic that is not compacted.",
        _RESTORE,
    ),
    Metric(
        "gex_restore_records_total",
        "counter",
        (),
        "Records read to restore shards; many more than there are symbols means that compaction lags.",
    ),
)

KAFKA: Final = (
    Metric(
        "gex_kafka_queue_messages",
        "gauge",
        (),
        "Records that wait in this process for Kafka, all clients together; high means that Kafka does not keep up.",
    ),
    Metric(
        "gex_kafka_queue_bytes",
        "gauge",
        (),
        "Size of the records that wait in this process for Kafka; high means that Kafka does not keep up.",
    ),
    Metric(
        "gex_kafka_broker_rtt_seconds",
        "gauge",
        ("broker",),
        "99th percentile of the producers' round trips to the broker in the last interval, the slowest client's; "
        "high means a slow broker or network.",
    ),
    Metric(
        "gex_kafka_brokers_up",
        "gauge",
        (),
        "Brokers that at least one client is connected to; high is better, and 0 means that Kafka is away.",
    ),
    Metric(
        "gex_kafka_errors_total",
        "counter",
        ("code",),
        "Errors that Kafka's clients reported, by code; a rising count says what is wrong with Kafka.",
    ),
)

PROCESS: Final = (
    Metric("gex_build_info", "gauge", ("version",), "Always 1; the label says which version runs."),
    Metric(
        "gex_loop_progress_timestamp_seconds",
        "gauge",
        ("loop",),
        "When the loop last made progress; high is recent, and one that falls behind now has stalled.",
    ),
)

GROUPS: Final = {
    "Upstream": UPSTREAM,
    "Symbols": SYMBOLS,
    "Delays": DELAYS,
    "Events": EVENTS,
    "Shards": SHARDS,
    "Kafka": KAFKA,
    "Process": PROCESS,
}
"""Metrics that are read together."""

METRICS: Final = tuple(metric for group in GROUPS.values() for metric in group)

BY_NAME: Final = {metric.name: metric for metric in METRICS}
