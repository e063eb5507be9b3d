"""A registry with every metric of the catalogue, and its exposition."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from connector import logs
from connector.core.model import MICROS
from connector.telemetry.catalogue import BY_NAME, METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client import Metric as Family
    from prometheus_client.registry import Collector

    from connector.telemetry.catalogue import Metric

_OPENMETRICS: Final = "application/openmetrics-text"


class Metrics:
    """The metrics of one worker. Every method may be called from any thread.

    Metrics are named as in the catalogue. Label values come in the catalogue's order.
    """

    def __init__(
        self,
        feeds: Iterable[str] = (),
        progressed_at: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """Create the series that can be named in advance, at zero.

        `progressed_at` returns the moment (microseconds since the epoch) at which each loop
        last made progress. It is called at every scrape.
        """
        self.registry = _Registry()
        self._feeds = tuple(feeds)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS:
            if not metric.at_scrape:
                self._create(metric)

        # A registry of our own has none of the collectors of the global one.
        self.register(_LoopCollector(progressed_at))
        self.register(_LogCollector())
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.PlatformCollector(self.registry)
        prometheus_client.GCCollector(self.registry)

    def count(self, name: str, *labels: object, by: float = 1) -> None:
        """Increase a counter."""
        counter = self._counters[name]
        if labels:
            counter = counter.labels(*labels)
        counter.inc(by)

    def set(self, name: str, value: float, *labels: object) -> None:
        """Set a gauge."""
        gauge = self._gauges[name]
        if labels:
            gauge = gauge.labels(*labels)
        gauge.set(value)

    def observe(self, name: str, seconds: float, *labels: object) -> None:
        """Add a duration to a histogram. Negative durations count as 0.

        Most of them span two clocks, so a short one may come out negative.
        """
        histogram = self._histograms[name]
        if labels:
            histogram = histogram.labels(*labels)
        histogram.observe(max(seconds, 0.0))

    def remove(self, name: str, *labels: object) -> None:
        """Remove one series of a gauge, if it exists."""
        self._gauges[name].remove(*labels)

    def clear(self, name: str) -> None:
        """Remove every series of a gauge that has labels."""
        self._gauges[name].clear()

    def register(self, collector: Collector) -> None:
        """Add series that are built when somebody asks for the metrics."""
        self.registry.register(collector)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return body and Content-Type for an Accept header.

        The format is OpenMetrics if the header names it, and Prometheus text otherwise.
        """
        wants_openmetrics = _OPENMETRICS in accept.lower()
        # Name the type alone: the library would take version and escaping from the header.
        known_header = _OPENMETRICS if wants_openmetrics else ""
        encode, content_type = choose_encoder(known_header)
        return encode(self.registry), content_type

    def _create(self, metric: Metric) -> None:
        """Register a metric, with the series that can be named in advance."""
        name = metric.name
        recorder: Counter | Gauge | Histogram
        if metric.type == "counter":
            recorder = Counter(name, metric.help, metric.labels, registry=self.registry)
            self._counters[name] = recorder
        elif metric.type == "gauge":
            recorder = Gauge(name, metric.help, metric.labels, registry=self.registry)
            # prometheus_client starts gauges at 0, which would be a wrong figure here.
            if metric.starts_unknown:
                recorder.set(math.nan)
            self._gauges[name] = recorder
        else:
            recorder = Histogram(
                name,
                metric.help,
                metric.labels,
                registry=self.registry,
                buckets=metric.buckets,
            )
            self._histograms[name] = recorder

        # Create every series in advance: a counter that appears at 1 hides its first event
        # from `rate` and `increase`.
        if metric.labels:
            known_values = []
            for label in metric.labels:
                known_values.append(self._known_values(metric, label))
            for values in product(*known_values):
                recorder.labels(*values)

    def _known_values(self, metric: Metric, label: str) -> tuple[str, ...]:
        return self._feeds if label == "feed" else metric.values


def new_family(name: str) -> CounterMetricFamily | GaugeMetricFamily:
    """Return an empty family for a metric that is made at scrape time."""
    metric = BY_NAME[name]
    if metric.type == "counter":
        return CounterMetricFamily(name, metric.help, labels=metric.labels)
    return GaugeMetricFamily(name, metric.help, labels=metric.labels)


class _LoopCollector:
    """Collects the moments at which the worker's loops last made progress."""

    def __init__(self, progressed_at: Callable[[], Mapping[str, int]]) -> None:
        self._progressed_at = progressed_at

    def collect(self) -> Iterator[Family]:
        family = new_family("gex_loop_progress_timestamp_seconds")
        for loop, at in self._progressed_at().items():
            family.add_metric((loop,), at / MICROS)
        yield family


class _LogCollector:
    """Collects how much of the log is lost."""

    def collect(self) -> Iterator[Family]:
        family = new_family("gex_log_lines_dropped_total")
        family.add_metric((), logs.dropped_lines())
        yield family


class _Registry(CollectorRegistry):
    """A registry that leaves out unknown values (NaN) and `_created` samples."""

    def collect(self) -> Iterator[Family]:
        for family in super().collect():
            samples = []
            for sample in family.samples:
                is_known = not math.isnan(sample.value)
                # `_created` doubles the number of series, and nobody reads it.
                if is_known and not sample.name.endswith("_created"):
                    samples.append(sample)
            family.samples = samples
            yield family
