"""The catalogue as a page: `docs/metrics.md` is what `metrics_reference` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connector.runtime.catalogue import GROUPS, LABELS, METRICS

if TYPE_CHECKING:
    from connector.runtime.catalogue import Metric

_HEAD: Final = """\
# Metrics

<!-- Generated from connector/runtime/catalogue.py. -->

`GET /metrics`, as Prometheus text or OpenMetrics. Moments are timestamps: an age is `time() -` the metric. A value
that is not known has no series. Events, durations and counts are those of this worker since it started: sum them over
the workers. What is true of a symbol now is shown by the one worker that owns its shard."""

_TAIL: Final = """\
`process_*` and `python_*` are the Prometheus client's own: memory, CPU, file descriptors, garbage collection."""


def metrics_reference() -> str:
    """`docs/metrics.md`: the catalogue as Markdown."""
    parts = [_HEAD, *(_table(title, metrics) for title, metrics in GROUPS.items()), _labels(), _TAIL]
    return "\n\n".join(parts) + "\n"


def _table(title: str, metrics: tuple[Metric, ...]) -> str:
    rows = [f"| `{metric.name}` | {metric.type} | {_label_names(metric)} | {metric.help} |" for metric in metrics]
    table = "\n".join([f"## {title}\n", "| name | type | labels | meaning |", "|---|---|---|---|", *rows])
    buckets = [f"- `{m.name}`: {', '.join(f'{bound:g}' for bound in m.buckets)}" for m in metrics if m.buckets]
    return "\n".join([table, "\nBuckets, in seconds:\n", *buckets]) if buckets else table


def _label_names(metric: Metric) -> str:
    return ", ".join(f"`{label}`" for label in metric.labels) or "none"


def _labels() -> str:
    rows = [f"| `{label}` | {meaning} |" for label, meaning in LABELS.items()]
    known = [
        f"- `{metric.name}`, `{metric.labels[-1]}`: {', '.join(f'`{value}`' for value in metric.values)}"
        for metric in METRICS
        if metric.values
    ]
    return "\n".join(
        ["## Labels\n", "| label | is |", "|---|---|", *rows, "\nThere from the start, at zero:\n", *known]
    )
