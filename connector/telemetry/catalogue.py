"""Every metric: its name, type, labels and meaning. Data only.

`metrics.py` builds the metrics from this list. `docs/reference/metrics.md` is generated from it.
Durations are seconds, moments (`_timestamp_seconds`) seconds since the Unix epoch, and
counts end in `_total`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from connector.core.model import Kind, Status
from connector.schedule.checks import Purpose

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, as data.

    `values` are the values of its last label that exist from the start, at zero. A metric
    that `starts_unknown` has no series until it is first set. A metric made `at_scrape` is
    built from the worker's present state each time somebody asks.
    """

    type: Literal["counter", "gauge", "histogram"]
    name: str
    labels: tuple[str, ...]
    help: str
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    starts_unknown: bool = False
    at_scrape: bool = False


def _counter(
    name: str,
    meaning: str,
    *,
    labels: tuple[str, ...] = (),
    values: Iterable[str] = (),
    at_scrape: bool = False,
) -> Metric:
    return Metric(
        "counter", name, labels, meaning, values=tuple(values), at_scrape=at_scrape
    )


def _gauge(
    name: str,
    meaning: str,
    *,
    labels: tuple[str, ...] = (),
    values: Iterable[str] = (),
    starts_unknown: bool = False,
    at_scrape: bool = False,
) -> Metric:
    return Metric(
        "gauge",
        name,
        labels,
        meaning,
        values=tuple(values),
        starts_unknown=starts_unknown,
        at_scrape=at_scrape,
    )


def _histogram(
    name: str,
    meaning: str,
    buckets: tuple[float, ...],
    *,
    labels: tuple[str, ...] = (),
    values: Iterable[str] = (),
) -> Metric:
    return Metric(
        "histogram", name, labels, meaning, values=tuple(values), buckets=buckets
    )


# A transaction takes milliseconds; the upper end is for a broker under load.
# fmt: off
_COMMIT_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)
# From a request within a data centre up to a slow broker or an upstream near its time-out.
_NETWORK_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)
# Fine steps around the default target delay of 0.4 s.
_DELAY_BUCKETS: Final = (
    0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0,
)
# fmt: on

# "ok", or the `outcome` of an UpstreamError.
_OUTCOMES: Final = (
    "ok",
    "key_refused",
    "plan_refused",
    "refused",
    "not_routed",
    "rate_limited",
    "quota_exhausted",
    "wrong_venues",
    "intercepted",
    "unavailable",
    "bad_response",
    "error",
)
_CONTRADICTIONS: Final = (
    "unrequested",
    "both_lists",
    "not_listed",
    "duplicate_keys",
    "empty_entry",
    "copy",
)
# The reasons of an EntryError.
_QUARANTINE_REASONS: Final = (
    "too_large",
    "malformed",
    "duplicate_keys",
    "wrong_type",
    "computed_at_unparsable",
    "computed_at_future",
)
_DROP_REASONS: Final = ("older", "flapping", "collapsed", "lost", "unpublishable")

# Labels of each metric of single symbols.
_SYMBOL: Final = ("feed", "symbol")

_UPSTREAM: Final = (
    _histogram(
        "gex_upstream_request_duration_seconds",
        "Duration of requests to the upstream.",
        _NETWORK_BUCKETS,
        labels=("outcome",),
        values=_OUTCOMES,
    ),
    _counter(
        "gex_upstream_requests_total",
        "Requests by purpose.",
        labels=("purpose",),
        values=Purpose,
    ),
    _gauge(
        "gex_rate_limit_limit",
        "Requests per minute the upstream allows the user, over all keys and programs.",
        starts_unknown=True,
    ),
    _gauge(
        "gex_rate_limit_remaining",
        "Requests left in the upstream's window, after all programs of the user.",
        starts_unknown=True,
    ),
    _gauge(
        "gex_rate_limit_reset_timestamp_seconds",
        "When the upstream's window ends.",
        starts_unknown=True,
    ),
    _gauge(
        "gex_request_budget_per_minute",
        "Requests per minute this worker may send: its share of the user's limit.",
    ),
    _gauge(
        "gex_request_foreign_per_minute",
        "Requests per minute other programs of the user send, with any key.",
    ),
    _gauge(
        "gex_request_price_seconds",
        "Delay (in symbol-seconds) a request must save to be worth sending.",
        starts_unknown=True,
    ),
    _gauge(
        "gex_held_back_partitions",
        "Partitions of a topic in which a transaction that stays open hides new records.",
        labels=("topic",),
    ),
    _gauge(
        "gex_key_refused",
        "1 while the upstream refuses the API key and polling has stopped.",
    ),
    _gauge(
        "gex_plan_refused",
        "1 while the upstream accepts the API key, but its user's plan has no access.",
    ),
    _gauge(
        "gex_upstream_version_info",
        "Always 1; the label is the contract version of the upstream, as of the daily look.",
        labels=("version",),
    ),
    _gauge(
        "gex_upstream_breaking_release",
        "1 if the upstream has a breaking release after the contract this connector knows.",
        starts_unknown=True,
    ),
    _counter(
        "gex_venues_not_applied_total",
        "Responses with levels of other venues than requested, which are not published.",
        labels=("feed",),
    ),
    _gauge(
        "gex_quota_limit",
        "Requests a month for all programs of the user, or the configured cap if that is less.",
        starts_unknown=True,
    ),
    _gauge(
        "gex_quota_used",
        "Requests of this month by all programs of the user, as the upstream counts them.",
        starts_unknown=True,
    ),
    _gauge(
        "gex_quota_remaining",
        "Requests left in this month.",
        starts_unknown=True,
    ),
    _gauge(
        "gex_quota_reset_timestamp_seconds",
        "When the month ends.",
        starts_unknown=True,
    ),
    _gauge(
        "gex_quota_projected_end_timestamp_seconds",
        "When the month's requests are used up at the pace of the last day; absent if unknown.",
        starts_unknown=True,
    ),
    _gauge(
        "gex_quota_exhausted",
        "1 while the month's requests are used up and polling has stopped.",
    ),
    _counter(
        "gex_responses_inconsistent_total",
        "Contradictions in responses, by kind.",
        labels=("kind",),
        values=_CONTRADICTIONS,
    ),
    _gauge(
        "gex_clock_correction_seconds",
        "Estimated upstream clock minus this machine's; near 0 if both are right.",
    ),
    _gauge(
        "gex_clock_wrong",
        "1 while this machine's clock is wrong, so that the worker has left the group.",
    ),
    _gauge(
        "gex_broker_clock_difference_seconds",
        "The brokers' clock minus this machine's, as of the last time that one was in doubt.",
        starts_unknown=True,
    ),
)

_SYMBOLS: Final = (
    _counter(
        "gex_symbols_requested_total",
        "Checks that requested the symbol.",
        labels=_SYMBOL,
        at_scrape=True,
    ),
    _counter(
        "gex_symbols_served_total",
        "Checks that returned the symbol's levels, new or not.",
        labels=_SYMBOL,
        at_scrape=True,
    ),
    _counter(
        "gex_symbols_missing_total",
        "Checks for which the upstream had no levels of the symbol.",
        labels=_SYMBOL,
        at_scrape=True,
    ),
    _counter(
        "gex_symbols_invalid_total",
        "Checks for which the upstream did not know the symbol.",
        labels=_SYMBOL,
        at_scrape=True,
    ),
    _counter(
        "gex_symbol_other_spelling_total",
        "Answers without the symbol but with levels under a similar name, the spelling.",
        labels=(*_SYMBOL, "spelling"),
        at_scrape=True,
    ),
    _gauge(
        "gex_symbol_computed_timestamp_seconds",
        "When the latest levels were computed.",
        labels=_SYMBOL,
        at_scrape=True,
    ),
    _gauge(
        "gex_symbol_observed_timestamp_seconds",
        "When the upstream last answered for the symbol.",
        labels=_SYMBOL,
        at_scrape=True,
    ),
    _gauge(
        "gex_symbol_period_seconds",
        "Estimated time between two refreshes.",
        labels=_SYMBOL,
        at_scrape=True,
    ),
    _gauge(
        "gex_symbol_jitter_seconds",
        "Estimated standard deviation of the next refresh's moment.",
        labels=_SYMBOL,
        at_scrape=True,
    ),
    _gauge(
        "gex_symbol_next_check_timestamp_seconds",
        "When the symbol's next check is planned.",
        labels=_SYMBOL,
        at_scrape=True,
    ),
    _gauge(
        "gex_symbol_status",
        "1 for the symbol's current status, 0 for the others.",
        labels=(*_SYMBOL, "status"),
        values=Status,
        at_scrape=True,
    ),
    _gauge(
        "gex_symbol_positioning",
        "1 for the model behind the levels of a LIVE or STALE symbol (flow or std), if the "
        "upstream names it.",
        labels=(*_SYMBOL, "positioning"),
        at_scrape=True,
    ),
    _gauge(
        "gex_symbol_positioning_fallback",
        "1 while the upstream says that a LIVE or STALE symbol fell back to another model, by "
        "the upstream's reason.",
        labels=(*_SYMBOL, "reason"),
        at_scrape=True,
    ),
    _gauge(
        "gex_level",
        "A level of a LIVE or STALE symbol, of a worker's first symbols (50 unless configured): "
        "calls and puts are the strikes with the largest positive net gamma above and below "
        "spot, hvl is the gamma flip, odte and max_pain are of the expiry of today (until 08:00 "
        "UTC), the value of max_pain is a payout in USD, expected_move is one day ahead, and "
        "walls 2 and 3 are absent under the model flow.",
        labels=(*_SYMBOL, "level"),
        at_scrape=True,
    ),
    _counter(
        "gex_observations_dropped_total",
        "Observations not published: older than the last, flapping between values of one "
        "refresh, collapsed into a newer one, "
        "lost with the shard, or rejected by the broker (also changes without one).",
        labels=("feed", "reason"),
        values=_DROP_REASONS,
    ),
)

_DELAYS: Final = (
    _histogram(
        "gex_detection_delay_seconds",
        "Time from the upstream's computation to our observation.",
        _DELAY_BUCKETS,
    ),
    _histogram(
        "gex_detection_uncertainty_seconds",
        "Time from the last check without a refresh to the first check with it: the "
        "uncertainty of the detection delay.",
        _DELAY_BUCKETS,
    ),
    _gauge(
        "gex_visibility_lag_seconds",
        "Estimated time from a computation until the upstream serves it, including the "
        "difference of the clocks.",
        starts_unknown=True,
    ),
    _histogram(
        "gex_publish_duration_seconds",
        "Time from our observation to the committed transaction.",
        _COMMIT_BUCKETS,
    ),
    _histogram(
        "gex_end_to_end_seconds",
        "Time from the upstream's computation to the committed transaction.",
        _DELAY_BUCKETS,
    ),
)

_EVENTS: Final = (
    _counter(
        "gex_events_total",
        "Committed events, by kind.",
        labels=("feed", "kind"),
        values=Kind,
    ),
    _counter(
        "gex_transactions_total",
        "Kafka transactions, by result.",
        labels=("result",),
        values=("committed", "aborted"),
    ),
    _counter(
        "gex_quarantined_total",
        "Entries quarantined because they could not be decoded, by reason.",
        labels=("reason",),
        values=_QUARANTINE_REASONS,
    ),
    _counter(
        "gex_quarantine_failed_total",
        "Entries that could not be written to the quarantine topic; the log has them.",
    ),
)

_SHARDS: Final = (
    _gauge("gex_shards", "Shards of the feed.", labels=("feed",)),
    _gauge(
        "gex_shards_owned",
        "Shards this worker has open; the sum over all workers should be gex_shards.",
        labels=("feed",),
    ),
    _gauge(
        "gex_shard_open",
        "1 if an assigned shard is open, 0 while it is being opened.",
        labels=("feed", "shard"),
    ),
    _counter(
        "gex_shard_fenced_total",
        "Times another worker took over a shard that this one had open.",
    ),
    _histogram(
        "gex_restore_duration_seconds",
        "Time to restore a shard's state from its topic.",
        (*_NETWORK_BUCKETS, 60.0),
    ),
    _counter(
        "gex_restore_records_total",
        "Records read to restore shards; many more than symbols if compaction lags.",
    ),
    _gauge(
        "gex_orphaned_symbols",
        "Symbols that are not REMOVED although their feed is not configured.",
        labels=("feed",),
    ),
    _gauge(
        "gex_stray_records",
        "Keys whose last record in current another program wrote, as of the shard's opening.",
        labels=("feed", "shard"),
    ),
)

_KAFKA: Final = (
    _gauge(
        "gex_topic_fault",
        "1 if a topic of the connector is gone or does not fit; the log names the fault.",
        labels=("topic",),
    ),
    _gauge(
        "gex_kafka_queue_messages",
        "Records and requests queued in the shards' producers.",
    ),
    _gauge(
        "gex_kafka_broker_rtt_seconds",
        "99th percentile of the group client's round trips to a broker.",
        labels=("broker",),
    ),
    _gauge(
        "gex_kafka_brokers_up",
        "Brokers the group's client is connected to; 0 while Kafka is unreachable.",
        starts_unknown=True,
    ),
    _gauge(
        "gex_kafka_certificate_expiry_timestamp_seconds",
        "When the client certificate expires that this worker shows to Kafka.",
        starts_unknown=True,
    ),
    _counter(
        "gex_kafka_errors_total",
        "Errors reported by the Kafka clients, by librdkafka's error name.",
        labels=("code",),
    ),
)

_PROCESS: Final = (
    _gauge(
        "gex_build_info",
        "Always 1; the labels are the running version, and the worker's name in log and records.",
        labels=("version", "worker"),
    ),
    _gauge(
        "gex_loop_progress_timestamp_seconds",
        "When the loop last made progress; it has stalled if that is long ago.",
        labels=("loop",),
        at_scrape=True,
    ),
    _counter(
        "gex_log_lines_dropped_total",
        "Log lines that were dropped because nobody read standard error, or it was closed.",
        at_scrape=True,
    ),
)

METRICS: Final = (
    *_UPSTREAM,
    *_SYMBOLS,
    *_DELAYS,
    *_EVENTS,
    *_SHARDS,
    *_KAFKA,
    *_PROCESS,
)

BY_NAME: Final = {metric.name: metric for metric in METRICS}
