"""Turns the runtime's and the Kafka clients' reports into metrics."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, Final

import msgspec

from connector.core.model import MICROS, Kind, Status
from connector.core.transition import REASON_POSITIONING
from connector.runtime.ports import Phase
from connector.telemetry import kafka_stats
from connector.telemetry.symbols import SymbolSeries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.core.model import State
    from connector.kafka.names import ShardId
    from connector.kafka.shard_log import Restored
    from connector.runtime.ports import (
        BudgetReport,
        Commit,
        NextCheck,
        ResponseReport,
        Sighting,
    )
    from connector.schedule.batches import Batch
    from connector.schedule.checks import Purpose
    from connector.telemetry.metrics import Metrics
    from connector.upstream.budget import MonthFigures

# Error codes with a series of their own. librdkafka has about 150; the rest is `other`.
MAX_ERROR_CODES: Final = 200


class MetricsObserver:
    """Implements the runtime's observers. Every method is called on the event loop."""

    def __init__(self, metrics: Metrics, max_level_symbols: int = 50) -> None:
        self._metrics = metrics
        self._symbols = SymbolSeries(max_level_symbols)
        metrics.register(self._symbols)

    # --- requests ---

    def request_sent(self, batch: Batch, purpose: Purpose) -> None:
        """Count a request and the symbols it asks for."""
        self._metrics.count("gex_upstream_requests_total", purpose)
        for symbol in batch.symbols:
            self._symbols.of(batch.feed, symbol).requested += 1

    def request_finished(self, outcome: str, seconds: float) -> None:
        """Record the duration of a request by its outcome."""
        self._metrics.observe("gex_upstream_request_duration_seconds", seconds, outcome)

    def response_decoded(self, report: ResponseReport) -> None:
        """Show the upstream's quota and clock. A figure it leaves out keeps its value."""
        metrics, quota = self._metrics, report.rate_limit
        if quota.limit is not None:
            metrics.set("gex_rate_limit_limit", quota.limit)
        if quota.remaining is not None:
            metrics.set("gex_rate_limit_remaining", quota.remaining)
        if quota.reset_at_seconds is not None:
            metrics.set(
                "gex_rate_limit_reset_timestamp_seconds", quota.reset_at_seconds
            )
        metrics.set("gex_clock_correction_seconds", report.clock_correction_seconds)
        for kind in report.inconsistencies:
            metrics.count("gex_responses_inconsistent_total", kind)

    def symbol_answered(self, feed: str, symbol: str, status: Status) -> None:
        """Count an answer: MISSING, INVALID, or LIVE for an entry."""
        figures = self._symbols.of(feed, symbol)
        if status is Status.MISSING:
            figures.missing += 1
        elif status is Status.INVALID:
            figures.invalid += 1
        else:
            figures.served += 1

    def venues_not_applied(self, feed: str) -> None:
        """Count a response for other venues than the feed's."""
        self._metrics.count("gex_venues_not_applied_total", feed)

    def other_spelling(self, feed: str, symbol: str, spelling: str) -> None:
        """Count an answer that had a similar name instead of the symbol."""
        self._symbols.of(feed, symbol).count_spelling(spelling)

    def contract_reported(self, version: str, *, is_breaking: bool) -> None:
        """Show the version of the vendor's contract, and whether a release breaks ours."""
        # A former version must not stay beside the present one.
        self._metrics.clear("gex_upstream_version_info")
        if version:
            self._metrics.set("gex_upstream_version_info", 1, version)
        self._metrics.set("gex_upstream_breaking_release", is_breaking)

    def refresh_found(self, uncertainty_seconds: float) -> None:
        """Record how long a refresh may have been visible before it was found."""
        self._metrics.observe("gex_detection_uncertainty_seconds", uncertainty_seconds)

    def visibility_lag_learnt(self, seconds: float) -> None:
        """Show how long computed levels take to be served."""
        self._metrics.set("gex_visibility_lag_seconds", seconds)

    def check_planned(self, check: NextCheck) -> None:
        """Show when a symbol is checked next, and the rhythm this is based on."""
        figures = self._symbols.of(check.feed, check.symbol)
        figures.next_check_at = check.at
        figures.rhythm = check.rhythm

    def budget_changed(self, budget: BudgetReport) -> None:
        """Show the requests that this worker may make, and their price."""
        metrics = self._metrics
        metrics.set("gex_request_budget_per_minute", budget.limit_per_minute)
        metrics.set("gex_request_foreign_per_minute", budget.other_clients_per_minute)
        metrics.set("gex_request_price_seconds", budget.price_seconds)
        self._show_month(budget.month)

    def _show_month(self, month: MonthFigures) -> None:
        metrics = self._metrics
        metrics.set("gex_quota_exhausted", month.is_used_up)
        figures = {
            "gex_quota_limit": month.limit,
            "gex_quota_used": month.used,
            "gex_quota_remaining": month.remaining,
            "gex_quota_reset_timestamp_seconds": month.resets_at,
            "gex_quota_projected_end_timestamp_seconds": month.projected_end_at,
        }
        for name, value in figures.items():
            # No series, rather than the last one: alerts compare them.
            metrics.set(name, nan if value is None else value)

    def key_refused(self, *, refused: bool) -> None:
        """Show whether the upstream refuses the API key."""
        self._metrics.set("gex_key_refused", refused)

    def plan_refused(self, *, refused: bool) -> None:
        """Show whether the upstream refuses the plan of the key's user."""
        self._metrics.set("gex_plan_refused", refused)

    def topic_checked(self, topic: str, is_faulty: bool) -> None:
        """Show whether a topic of the connector is gone or does not fit."""
        self._metrics.set("gex_topic_fault", is_faulty, topic)

    def clock_judged(self, is_wrong: bool, difference_seconds: float | None) -> None:
        """Show whether our clock is wrong, and the brokers' clock minus ours."""
        self._metrics.set("gex_clock_wrong", is_wrong)
        if difference_seconds is not None:
            self._metrics.set("gex_broker_clock_difference_seconds", difference_seconds)

    # --- shards ---

    def shard_changed(
        self, shard: ShardId, phase: Phase, polled: frozenset[str]
    ) -> None:
        """Show a shard while it is assigned, and its symbols while they are polled."""
        if phase in {Phase.OPENING, Phase.OPEN}:
            is_open = phase is Phase.OPEN
            self._metrics.set("gex_shard_open", is_open, shard.feed, shard.partition)
        else:
            self._metrics.remove("gex_shard_open", shard.feed, shard.partition)
            self._metrics.remove("gex_stray_records", shard.feed, shard.partition)
        self._symbols.set_polled(shard, polled)

    def shards_owned(self, feed: str, count: int) -> None:
        """Show how many shards of a feed this worker has open."""
        self._metrics.set("gex_shards_owned", count, feed)

    def queue_length(self, messages: int) -> None:
        """Show how many messages wait in the producers."""
        self._metrics.set("gex_kafka_queue_messages", messages)

    def restored(self, shard: ShardId, restored: Restored) -> None:
        """Record what it took to restore a shard, and the records that were skipped."""
        metrics = self._metrics
        metrics.count("gex_restore_records_total", by=restored.records)
        metrics.observe("gex_restore_duration_seconds", restored.seconds)
        strays = len(restored.strays)
        metrics.set("gex_stray_records", strays, shard.feed, shard.partition)

    def orphans_found(self, symbols: Mapping[str, int]) -> None:
        """Show how many symbols are left of each feed that is not configured."""
        self._metrics.clear("gex_orphaned_symbols")
        for feed, count in symbols.items():
            self._metrics.set("gex_orphaned_symbols", count, feed)

    def held_back(self, partitions: Mapping[str, int]) -> None:
        """Show how many partitions of each topic hide new records from consumers."""
        # A topic whose shards have moved away must not keep its last figure.
        self._metrics.clear("gex_held_back_partitions")
        for topic, count in partitions.items():
            self._metrics.set("gex_held_back_partitions", count, topic)

    def sighted(self, sighting: Sighting) -> None:
        """Show when a symbol was last seen, and record how late a refresh was found."""
        figures = self._symbols.of(sighting.feed, sighting.symbol)
        figures.observed_at = sighting.observed_at
        if sighting.computed_at is not None:
            figures.computed_at = sighting.computed_at
        if sighting.detection_seconds is not None:
            self._metrics.observe(
                "gex_detection_delay_seconds", sighting.detection_seconds
            )

    def state_replaced(self, state: State) -> None:
        """Show a state that was restored or committed."""
        figures = self._symbols.of(state.feed, state.symbol)
        figures.status = state.status
        figures.levels = state.levels
        # An answer that has not been committed yet may already be newer.
        newest = max(state.computed_at or 0, figures.computed_at or 0)
        figures.computed_at = newest or None

    def committed(self, commit: Commit) -> None:
        """Count a transaction with its events, and record their delays."""
        metrics = self._metrics
        metrics.count("gex_transactions_total", "committed")
        for event in commit.events:
            metrics.count("gex_events_total", event.feed, event.kind)
            waited = commit.at - event.observed_at
            metrics.observe("gex_publish_duration_seconds", waited / MICROS)
            # A snapshot on request or a timer says nothing about the delay of a refresh.
            is_changed = event.kind is Kind.CHANGED
            is_refresh = is_changed or event.reason in {None, REASON_POSITIONING}
            has_new_levels = event.after is not None and is_refresh
            if event.computed_at is not None and has_new_levels:
                age = commit.upstream_at - event.computed_at
                metrics.observe("gex_end_to_end_seconds", age / MICROS)

    def quarantined(self, reason: str) -> None:
        """Count an entry that could not be decoded."""
        self._metrics.count("gex_quarantined_total", reason)

    def quarantine_failed(self) -> None:
        """Count an entry that could not be written to the quarantine topic."""
        self._metrics.count("gex_quarantine_failed_total")

    def aborted(self) -> None:
        """Count a transaction that failed."""
        self._metrics.count("gex_transactions_total", "aborted")

    def fenced(self) -> None:
        """Count that another worker took over an open shard."""
        self._metrics.count("gex_shard_fenced_total")

    def dropped(self, feed: str, reason: str, count: int = 1) -> None:
        """Count observations that will not be published."""
        self._metrics.count("gex_observations_dropped_total", feed, reason, by=count)


class KafkaClientObserver:
    """Counts the errors and shows the statistics that Kafka's clients report.

    The clients call back from whichever thread polls them.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._codes: set[str] = set()

    def error(self, code: str) -> None:
        """Count an error by librdkafka's name of it."""
        # Codes come from outside, and series are never forgotten.
        if len(self._codes) < MAX_ERROR_CODES:
            self._codes.add(code)
        label = code if code in self._codes else "other"
        self._metrics.count("gex_kafka_errors_total", label)

    def statistics(self, text: str) -> None:
        """Show the latest statistics of the group's client (JSON, `stats_cb`)."""
        try:
            statistics = kafka_stats.decode(text)
        except msgspec.DecodeError:
            self.error("unreadable_statistics")
            return
        self._metrics.set("gex_kafka_brokers_up", statistics.brokers_up)
        # Brokers come and go; one that is gone must not keep its last figure.
        self._metrics.clear("gex_kafka_broker_rtt_seconds")
        for broker, seconds in statistics.rtt_seconds.items():
            self._metrics.set("gex_kafka_broker_rtt_seconds", seconds, broker)
