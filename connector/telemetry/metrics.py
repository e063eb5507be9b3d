"""The metrics of one worker, and the only module that knows Prometheus.

The hot path touches plain attributes (`SymbolStats`) and single children; the symbols' series are written at scrape
time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from connector.core.model import MICROS
from connector.telemetry import kafka_stats
from connector.telemetry.catalogue import BY_NAME
from connector.telemetry.symbols import SymbolStats, series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client import Metric as Family

MAX_CODES: Final = 200
"""Codes of Kafka's errors that are told apart; what comes after them is counted as `other`."""

_OPENMETRICS: Final = "application/openmetrics-text"

M = TypeVar("M", Counter, Gauge, Histogram)


class Metrics:
    """Everything of the catalogue, on a registry of its own; of any thread but for `symbol`, which is the event loop's.

    A counter is called with the values of its labels (`event(feed, kind)`), a gauge with its value before them
    (`shards(4, feed)`); None is a value that is not known, and has no series.
    """

    def __init__(self, feeds: Iterable[str] = (), level_symbols: int = 50) -> None:
        """The series of `feeds` are there from the start, at zero; levels are shown of `level_symbols` symbols."""
        self.registry = _Registry()
        self._feeds = tuple(feeds)
        self._level_symbols = level_symbols
        self._symbols: defaultdict[tuple[str, str], SymbolStats] = defaultdict(
            SymbolStats
        )
        self._loops: Callable[[], Mapping[str, int]] = dict
        self._codes: set[str] = set()
        self.requested = self._counter("gex_upstream_requests_total")
        self.budget = self._gauge("gex_request_budget_per_minute")
        self.foreign = self._gauge("gex_request_foreign_per_minute")
        self.price = self._gauge("gex_request_price_seconds", math.nan)
        self.visibility_lag = self._gauge("gex_visibility_lag_seconds", math.nan)
        self.key_refused = self._gauge("gex_key_refused")
        self.inconsistent = self._counter("gex_responses_inconsistent_total")
        self.clock_correction = self._gauge("gex_clock_correction_seconds")
        self.dropped = self._counter("gex_observations_dropped_total")
        self.event = self._counter("gex_events_total")
        self.transaction = self._counter("gex_transactions_total")
        self.quarantined = self._counter("gex_quarantined_total")
        self.shards = self._gauge("gex_shards")
        self.shards_owned = self._gauge("gex_shards_owned")
        self.shard_open = self._gauge("gex_shard_open")
        self.fenced = self._counter("gex_shard_fenced_total")
        self.build_info = self._gauge("gex_build_info")
        self._requests = self._family(
            Histogram, "gex_upstream_request_duration_seconds"
        )
        self._limit = self._gauge("gex_rate_limit_limit", math.nan)
        self._remaining = self._gauge("gex_rate_limit_remaining", math.nan)
        self._reset = self._gauge("gex_rate_limit_reset_timestamp_seconds", math.nan)
        self._detection = self._family(Histogram, "gex_detection_delay_seconds")
        self._uncertainty = self._family(Histogram, "gex_detection_uncertainty_seconds")
        self._publish = self._family(Histogram, "gex_publish_duration_seconds")
        self._end_to_end = self._family(Histogram, "gex_end_to_end_seconds")
        self._restore_seconds = self._family(Histogram, "gex_restore_duration_seconds")
        self._restore_records = self._family(Counter, "gex_restore_records_total")
        self.queue_messages = self._gauge("gex_kafka_queue_messages")
        self._brokers_up = self._gauge("gex_kafka_brokers_up", math.nan)
        self._rtt = self._family(Gauge, "gex_kafka_broker_rtt_seconds")
        self._kafka_errors = self._counter("gex_kafka_errors_total")
        self.registry.register(self)
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.PlatformCollector(self.registry)
        prometheus_client.GCCollector(self.registry)

    def symbol(self, feed: str, symbol: str) -> SymbolStats:
        """The symbol's figures, made at the first call; keep them, and write to them."""
        return self._symbols[feed, symbol]

    def watch_loops(self, progressed_at: Callable[[], Mapping[str, int]]) -> None:
        """Ask `progressed_at` (loop to microseconds since the epoch) at every scrape."""
        self._loops = progressed_at

    def request_finished(self, outcome: str, seconds: float) -> None:
        """A request to the upstream ended: `ok`, or the `outcome` of its UpstreamError."""
        self._requests.labels(outcome).observe(seconds)

    def rate_limit(
        self, limit: int | None, remaining: int | None, reset_at: int | None
    ) -> None:
        """What the upstream said of the quota; None where it said nothing, so that its last word stands."""
        if limit is not None:
            self._limit(limit)
        if remaining is not None:
            self._remaining(remaining)
        if reset_at is not None:
            self._reset(reset_at / MICROS)

    def detection(self, seconds: float) -> None:
        """`computed_at` to observed; what our clock makes negative counts as 0."""
        self._detection.observe(max(seconds, 0.0))

    def uncertainty(self, seconds: float) -> None:
        """Between the check that did not show a refresh yet and the one that did."""
        self._uncertainty.observe(seconds)

    def published(self, seconds: float) -> None:
        """Observed to committed."""
        self._publish.observe(max(seconds, 0.0))

    def end_to_end(self, seconds: float) -> None:
        """`computed_at` to committed; what our clock makes negative counts as 0."""
        self._end_to_end.observe(max(seconds, 0.0))

    def restored(self, records: int, seconds: float) -> None:
        """A shard's state was read back."""
        self._restore_records.inc(records)
        self._restore_seconds.observe(seconds)

    def kafka_error(self, code: str) -> None:
        """A client reported an error; `code` is librdkafka's name of it."""
        if len(self._codes) < MAX_CODES:
            self._codes.add(code)
        self._kafka_errors(code if code in self._codes else "other")

    def kafka_stats(self, text: str) -> None:
        """The last statistics of the group's client, as librdkafka's `stats_cb` gives them."""
        try:
            told = kafka_stats.decode(text)
        except msgspec.DecodeError:
            self.kafka_error("unreadable_statistics")
            return
        self._brokers_up(told.brokers_up)
        self._rtt.clear()
        for broker, seconds in told.rtt_seconds.items():
            self._rtt.labels(broker).set(seconds)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Body and Content-Type: OpenMetrics where the Accept header names it, Prometheus text else."""
        is_open = _OPENMETRICS in accept.lower()
        encode, content_type = choose_encoder(_OPENMETRICS if is_open else "")
        symbols = "".join(
            _text(name, samples, is_open)
            for name, samples in series(dict(self._symbols), self._level_symbols)
        )
        return symbols.encode() + encode(self.registry), content_type

    def collect(self) -> Iterator[Family]:
        """What is made at scrape time; the registry calls this."""
        metric = BY_NAME["gex_loop_progress_timestamp_seconds"]
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for loop, at in self._loops().items():
            family.add_metric((loop,), at / MICROS)
        yield family

    def _family(self, make: Callable[..., M], name: str) -> M:
        """The metric itself, with those of its series that can be named in advance."""
        metric = BY_NAME[name]
        buckets = {"buckets": metric.buckets} if metric.buckets else {}
        family = make(
            name, metric.help, metric.labels, registry=self.registry, **buckets
        )
        known = [
            self._feeds if label == "feed" else metric.values for label in metric.labels
        ]
        for labels in product(*known) if known else ():
            family.labels(*labels)
        return family

    def _counter(self, name: str) -> Callable[..., None]:
        family = self._family(Counter, name)
        return lambda *labels: (family.labels(*labels) if labels else family).inc()

    def _gauge(self, name: str, initial: float = 0.0) -> Callable[..., None]:
        family = self._family(Gauge, name)

        def put(value: float | None, *labels: object) -> None:
            (family.labels(*labels) if labels else family).set(
                math.nan if value is None else value
            )

        if not BY_NAME[name].labels:
            put(initial)
        return put


def _text(
    name: str, samples: Iterable[tuple[tuple[str, ...], float]], is_open: bool
) -> str:
    """A metric of the symbols: for 8,000 of them the client's own families take more than a second of CPU."""
    metric = BY_NAME[name]
    family = name.removesuffix("_total") if is_open else name
    form = name + "{" + ",".join(f'{label}="%s"' for label in metric.labels) + "} %r"
    lines = [form % (*map(_escaped, labels), value) for labels, value in samples]
    return "\n".join(
        [f"# HELP {family} {metric.help}", f"# TYPE {family} {metric.type}", *lines, ""]
    )


@lru_cache(maxsize=100_000)
def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class _Registry(CollectorRegistry):
    """A registry that leaves out what is not known (NaN), and the moments at which series were made."""

    def collect(self) -> Iterator[Family]:
        for family in super().collect():
            known = (
                sample for sample in family.samples if not math.isnan(sample.value)
            )
            family.samples = [
                sample for sample in known if not sample.name.endswith("_created")
            ]
            yield family
