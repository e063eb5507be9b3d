"""The metrics of one worker, and the only module that knows Prometheus.

The hot path touches plain attributes (`SymbolStats`) and children prepared in advance; series are made at scrape time.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Final, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from connector.core.model import MICROS
from connector.runtime.catalogue import BY_NAME
from connector.runtime.kafka_stats import KafkaStats
from connector.runtime.symbols import Symbols, SymbolStats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client import Metric as Family

    from connector.runtime.catalogue import Metric

MAX_VALUES: Final = 200
"""Distinct values of a metric's last label; what comes after them is counted as `other`."""

MAX_VALUE_LENGTH: Final = 64

_OTHER: Final = "other"
_OPENMETRICS: Final = "application/openmetrics-text"
_UNKNOWN: Final = math.nan

M = TypeVar("M")


class Metrics:
    """Everything of the catalogue, on a registry of its own. Every method may be called from any thread."""

    def __init__(self, feeds: Iterable[str] = ()) -> None:
        """The series of `feeds` are there from the start, at zero."""
        self.registry = _Registry()
        self._feeds = tuple(feeds)
        self._symbols = Symbols()
        self._loops: Callable[[], Mapping[str, int]] = dict
        self._requests = self._histogram("gex_upstream_request_duration_seconds")
        self._limit = self._gauge("gex_rate_limit_limit", _UNKNOWN)
        self._remaining = self._gauge("gex_rate_limit_remaining", _UNKNOWN)
        self._reset = self._gauge("gex_rate_limit_reset_timestamp_seconds", _UNKNOWN)
        self._key_refused = self._gauge("gex_key_refused")
        self._inconsistent = self._counter("gex_responses_inconsistent_total")
        self._correction = self._gauge("gex_clock_correction_seconds")
        self._dropped = self._counter("gex_observations_dropped_total")
        self._detection = self._histogram("gex_detection_delay_seconds")[()]
        self._publish = self._histogram("gex_publish_duration_seconds")[()]
        self._end_to_end = self._histogram("gex_end_to_end_seconds")[()]
        self._events = self._counter("gex_events_total")
        self._transactions = self._counter("gex_transactions_total")
        self._quarantined = self._counter("gex_quarantined_total")
        self._shards = self._gauge("gex_shards")
        self._owned = self._gauge("gex_shards_owned")
        self._open = self._gauge("gex_shard_open")
        self._fenced = self._counter("gex_shard_fenced_total")[()]
        self._restore_seconds = self._histogram("gex_restore_duration_seconds")[()]
        self._restore_records = self._counter("gex_restore_records_total")[()]
        self._kafka = KafkaStats()
        self._queue_messages = self._gauge("gex_kafka_queue_messages", _UNKNOWN)
        self._queue_bytes = self._gauge("gex_kafka_queue_bytes", _UNKNOWN)
        self._brokers_up = self._gauge("gex_kafka_brokers_up", _UNKNOWN)
        self._rtt = self._gauge("gex_kafka_broker_rtt_seconds")
        self._kafka_errors = self._counter("gex_kafka_errors_total")
        self._build = self._gauge("gex_build_info")
        self.registry.register(self)
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.PlatformCollector(self.registry)
        prometheus_client.GCCollector(self.registry)

    def symbol(self, feed: str, symbol: str) -> SymbolStats:
        """The symbol's figures, made at the first call; keep them, and write to them."""
        return self._symbols.get(feed, symbol)

    def watch_loops(self, progressed_at: Callable[[], Mapping[str, int]]) -> None:
        """Ask `progressed_at` (loop to microseconds since the epoch) at every scrape."""
        self._loops = progressed_at

    def request_finished(self, outcome: str, seconds: float) -> None:
        """A request to the upstream ended: `ok`, or the `outcome` of its UpstreamError."""
        self._requests[(outcome,)].observe(seconds)

    def rate_limit(self, limit: int | None, remaining: int | None, reset_at: int | None) -> None:
        """What the upstream said of the quota; None where it said nothing, so that its last word stands."""
        if limit is not None:
            self._limit[()].set(limit)
        if remaining is not None:
            self._remaining[()].set(remaining)
        if reset_at is not None:
            self._reset[()].set(reset_at / MICROS)

    def key_refused(self, refused: bool) -> None:
        """Whether polling has stopped because of the key."""
        self._key_refused[()].set(refused)

    def inconsistent(self, kind: str) -> None:
        """A response contradicted itself or the request."""
        self._inconsistent[(kind,)].inc()

    def clock_correction(self, seconds: float) -> None:
        """The upstream's clock less ours, as it is applied."""
        self._correction[()].set(seconds)

    def dropped(self, feed: str, reason: str) -> None:
        """An observation that is not compared: `older` or `collapsed`."""
        self._dropped[feed, reason].inc()

    def detection(self, seconds: float) -> None:
        """`computed_at` to observed; what our clock makes negative counts as 0."""
        self._detection.observe(max(seconds, 0.0))

    def published(self, seconds: float) -> None:
        """Observed to committed."""
        self._publish.observe(seconds)

    def end_to_end(self, seconds: float) -> None:
        """`computed_at` to committed; what our clock makes negative counts as 0."""
        self._end_to_end.observe(max(seconds, 0.0))

    def event(self, feed: str, kind: str) -> None:
        """An event was committed."""
        self._events[feed, kind].inc()

    def transaction(self, result: str) -> None:
        """A transaction ended: `committed` or `aborted`."""
        self._transactions[(result,)].inc()

    def quarantined(self, reason: str) -> None:
        """An entry went to quarantine; `reason` is its EntryError's."""
        self._quarantined[(reason,)].inc()

    def shards(self, feed: str, n: int) -> None:
        """How many shards the feed has."""
        self._shards[(feed,)].set(n)

    def shards_owned(self, feed: str, n: int) -> None:
        """How many of them this worker has open."""
        self._owned[(feed,)].set(n)

    def shard_open(self, feed: str, shard: int, opened: bool | None) -> None:
        """Whether an assigned shard is open yet; None once it is no longer assigned."""
        self._open[feed, str(shard)].set(_UNKNOWN if opened is None else opened)

    def fenced(self) -> None:
        """Another worker took a shard."""
        self._fenced.inc()

    def restored(self, records: int, seconds: float) -> None:
        """A shard's state was read back."""
        self._restore_records.inc(records)
        self._restore_seconds.observe(seconds)

    def kafka_error(self, code: str) -> None:
        """A client reported an error; `code` is librdkafka's name of it."""
        self._kafka_errors[(code,)].inc()

    def kafka_stats(self, json_text: str | bytes) -> None:
        """One client's statistics, as librdkafka's `stats_cb` gives them; unreadable ones are counted as an error."""
        totals = self._kafka.update(json_text)
        if totals is None:
            self.kafka_error("unreadable_statistics")
            return
        self._queue_messages[()].set(totals.queue_messages)
        self._queue_bytes[()].set(totals.queue_bytes)
        self._brokers_up[()].set(totals.brokers_up)
        for broker in {(node,) for node in totals.rtt_seconds} | set(self._rtt):
            self._rtt[broker].set(totals.rtt_seconds.get(broker[0], _UNKNOWN))

    def build_info(self, version: str) -> None:
        """What runs."""
        self._build[(version,)].set(1)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Body and Content-Type: OpenMetrics where the Accept header names it, Prometheus text else."""
        media = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
        encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in media else "")
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Family]:
        """What is made at scrape time; the registry calls this."""
        loops = (((loop,), at / MICROS) for loop, at in self._loops().items())
        for name, series in (*self._symbols.series(), ("gex_loop_progress_timestamp_seconds", loops)):
            family = _family(name)
            for labels, value in series:
                family.add_metric(labels, value)
            yield family

    def _counter(self, name: str) -> _Children[Counter]:
        metric = BY_NAME[name]
        family = Counter(metric.name, metric.help, metric.labels, registry=self.registry)
        return _Children(metric, self._feeds, family.labels if metric.labels else lambda: family)

    def _gauge(self, name: str, initial: float = 0.0) -> _Children[Gauge]:
        metric = BY_NAME[name]
        family = Gauge(metric.name, metric.help, metric.labels, registry=self.registry)
        if not metric.labels:
            family.set(initial)
        return _Children(metric, self._feeds, family.labels if metric.labels else lambda: family)

    def _histogram(self, name: str) -> _Children[Histogram]:
        metric = BY_NAME[name]
        buckets = metric.buckets or Histogram.DEFAULT_BUCKETS
        family = Histogram(metric.name, metric.help, metric.labels, registry=self.registry, buckets=buckets)
        return _Children(metric, self._feeds, family.labels if metric.labels else lambda: family)


class _Children(dict[tuple[str, ...], M]):
    """A metric's children by their label values, made when first asked for; a metric without labels has one, `()`."""

    def __init__(self, metric: Metric, feeds: Iterable[str], labelled: Callable[..., M]) -> None:
        super().__init__()
        self._labelled = labelled
        self._seen: set[str] = set()
        known = [feeds if label == "feed" else () for label in metric.labels]
        if metric.values:
            known[-1] = metric.values
        self.update({key: self[key] for key in product(*known)})

    def __missing__(self, key: tuple[str, ...]) -> M:
        if not key:
            return self.setdefault(key, self._labelled())
        last = key[-1][:MAX_VALUE_LENGTH]
        if last not in self._seen and len(self._seen) >= MAX_VALUES:
            last = _OTHER
        bounded = (*key[:-1], last)
        if bounded != key:
            return self[bounded]
        self._seen.add(last)
        return self.setdefault(key, self._labelled(*key))


class _Registry(CollectorRegistry):
    """A registry that leaves out what is not known (NaN), and the moments at which series were made."""

    def collect(self) -> Iterator[Family]:
        for family in super().collect():
            family.samples = [
                sample
                for sample in family.samples
                if not math.isnan(sample.value) and not sample.name.endswith("_created")
            ]
            yield family


def _family(name: str) -> CounterMetricFamily | GaugeMetricFamily:
    metric = BY_NAME[name]
    make = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    return make(metric.name, metric.help, labels=metric.labels)
