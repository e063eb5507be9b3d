"""The catalogue as a page: `docs/metrics.md` is what `metrics_reference` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connector.telemetry.catalogue import METRICS

if TYPE_CHECKING:
    from connector.telemetry.catalogue import Metric

_HEAD: Final = """\
# Metrics

<!-- Generated from connector/telemetry/catalogue.py. -->

`GET /metrics`, as Prometheus text or OpenMetrics. Moments are timestamps: an age is `time() -` the metric. A value
that is not known has no series; counters are there at zero from the start, with the values of the label named here.
Events, durations and counts are those of this worker since it started: sum them over the workers. What is true of a
symbol now is shown by the one worker that owns its shard. `process_*` and `python_*` are the Prometheus client's own.

| name | type | labels | meaning |
|---|---|---|---|
"""


def metrics_reference() -> str:
    """`docs/metrics.md`: the catalogue as Markdown."""
    return _HEAD + "".join(map(_row, METRICS))


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
    meaning = metric.help
    if metric.values:
        meaning += f" Of `{metric.labels[-1]}`: {', '.join(f'`{value}`' for value in metric.values)}."
    if metric.buckets:
        meaning += f" Buckets: {', '.join(f'{bound:g}' for bound in metric.buckets)}."
    return f"| `{metric.name}` | {metric.type} | {labels} | {meaning} |\n"
