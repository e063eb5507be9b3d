"""Write `docs/reference/metrics.md` from the metric catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connector.telemetry.catalogue import METRICS

if TYPE_CHECKING:
    from connector.telemetry.catalogue import Metric

_INTRODUCTION: Final = """\
# Metrics

<!-- Generated from connector/telemetry/catalogue.py. -->

`GET /metrics` answers in the Prometheus text format or in OpenMetrics. Moments are Unix timestamps, so an age is
`time()` minus the metric. A value that is not known yet has no series. Counters start at zero for every label value
listed here. Events, durations and counts cover one worker since it started: sum them over the workers. The current
state of a symbol is exported only by the worker that owns its shard. `process_*` and `python_*` come from the
Prometheus client library.

| name | type | labels | meaning |
|---|---|---|---|
"""


def metrics_reference() -> str:
    """Return the content of `docs/reference/metrics.md`."""
    rows = map(_row, METRICS)
    return _INTRODUCTION + "".join(rows)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    meaning = metric.help

    if metric.values:
        # The catalogue lists values for the last label only.
        values = ", ".join(f"`{value}`" for value in metric.values)
        meaning += f" Values of `{metric.labels[-1]}`: {values}."

    if metric.buckets:
        bounds = ", ".join(f"{bound:g}" for bound in metric.buckets)
        meaning += f" Buckets: {bounds}."

    return f"| `{metric.name}` | {metric.type} | {labels or 'none'} | {meaning} |\n"
