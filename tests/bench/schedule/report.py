"""Tables of the measurements, for a terminal."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import TYPE_CHECKING, Final

from tests.bench.schedule.policies import fixed_mean
from tests.bench.schedule.study import LEARNT_PRICES, Found

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NOTE: Final = """\
Delays in seconds, means over all refreshes of all symbols; requests a minute. A fixed interval has a mean of half of it
whatever the source does, over its phase: 7.50 s for 4.0 requests a minute (15 s), 0.50 s for 60 (1 s); 95 % of its
delays are below 1.9 times the mean, 99 % below 1.98 times. `bound`: no schedule does better, the law of the source
known, with 0.25 s between checks as all here; `free`: without that. ± is the standard deviation between seeds."""

_LABEL_WIDTH: Final = 30

_SAME_HEADS: Final = (
    "requests",
    "fixed",
    "learnt",
    "ours",
    "",
    "bound",
    "free",
    "ours/bound",
    "ours/fixed",
    "learnt p95",
    "p99",
    "ours p95",
    "p99",
)
_DEFAULT_HEADS: Final = (
    "requests",
    "mean",
    "",
    "p95",
    "p99",
    "bound",
    "ours/bound",
    "fixed",
    "first req.",
    "first mean",
)
_BUDGET_HEADS: Final = (
    "limit",
    "even",
    "packing",
    "requests",
    "mean",
    "",
    "p95",
    "p99",
    "fixed",
    "bound",
    "ours/bound",
)


def tables(results: Sequence[Found]) -> str:
    """Return the note and all tables that have rows."""
    rows = []
    budgets = []
    for found in results:
        if found["limit"] is None:
            rows.append(found)
        else:
            budgets.append(found)

    lines = [_NOTE]
    if rows:
        for price in LEARNT_PRICES:
            lines += _same(rows, f"c={price:g}")
        lines += _default(rows)
    if budgets:
        lines += _budgets(budgets)
    return "\n".join(lines)


def _mean(found: Found, *names: str) -> float:
    """Return the mean over the seeds of the figure under these nested names."""
    return fmean(_values(found, *names))


def _values(found: Found, *names: str) -> list[float]:
    """Return the figure under these nested names, by seed."""
    values = []
    for seed in found["seeds"]:
        value = seed
        for name in names:
            value = value[name]
        values.append(float(value))
    return values


def _mean_ratio(ours: Sequence[float], bound: Sequence[float]) -> float:
    """Return the mean over the seeds of our delay against the bound."""
    return fmean(mean / best for mean, best in zip(ours, bound, strict=True))


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    return f"±{stdev(values):.2f}"


def _line(label: str, cells: Sequence[str]) -> str:
    columns = "".join(f"{cell:>11}" for cell in cells)
    return f"  {label:{_LABEL_WIDTH}}{columns}"


def _same(rows: Sequence[Found], column: str) -> Iterator[str]:
    yield f"\nWith as many requests as the plain learnt schedule at {column}"
    yield _line("", _SAME_HEADS)
    for found in rows:
        yield _line(found["row"], _same_cells(found, column))


def _same_cells(found: Found, column: str) -> list[str]:
    requests = _mean(found, column, "learnt", "requests")
    fixed = fixed_mean(requests, 1)
    learnt = _mean(found, column, "learnt", "mean")
    ours = _values(found, column, "ours", "mean")
    bound = _values(found, column, "bound")
    free = _mean(found, column, "bound, no shortest interval")

    return [
        f"{requests:.2f}",
        f"{fixed:.2f}",
        f"{learnt:.2f}",
        f"{fmean(ours):.2f}",
        _spread(ours),
        f"{fmean(bound):.3f}",
        f"{free:.3f}",
        f"{_mean_ratio(ours, bound):.2f}",
        f"{fmean(ours) / fixed:.3f}",
        f"{_mean(found, column, 'learnt', 'p95'):.2f}",
        f"{_mean(found, column, 'learnt', 'p99'):.2f}",
        f"{_mean(found, column, 'ours', 'p95'):.2f}",
        f"{_mean(found, column, 'ours', 'p99'):.2f}",
    ]


def _default(rows: Sequence[Found]) -> Iterator[str]:
    yield "\nOurs as configured by default: target 0.4 s, limit 60; and its first five minutes"
    yield _line("", _DEFAULT_HEADS)
    for found in rows:
        yield _line(found["row"], _default_cells(found))


def _default_cells(found: Found) -> list[str]:
    requests = _mean(found, "default", "requests")
    means = _values(found, "default", "mean")
    bound = _values(found, "default", "bound")
    return [
        f"{requests:.2f}",
        f"{fmean(means):.3f}",
        _spread(means),
        f"{_mean(found, 'default', 'p95'):.2f}",
        f"{_mean(found, 'default', 'p99'):.2f}",
        f"{fmean(bound):.3f}",
        f"{_mean_ratio(means, bound):.2f}",
        f"{fixed_mean(requests, 1):.2f}",
        f"{_mean(found, 'default', 'first_requests'):.2f}",
        f"{_mean(found, 'default', 'first_mean'):.2f}",
    ]


def _budgets(rows: Sequence[Found]) -> Iterator[str]:
    yield "\nUnder a limit of requests a minute, nine tenths of it planned; target 0.4 s. `even`: the plan, fixed"
    yield _line("", _BUDGET_HEADS)
    for found in rows:
        for packing in ("as given", "by rhythm"):
            # A row with a single batch has nothing to pack.
            if packing in found["seeds"][0]:
                yield _line(found["row"], _budget_cells(found, packing))


def _budget_cells(found: Found, packing: str) -> list[str]:
    batches = found["seeds"][0]["batches"]
    even = fixed_mean(found["seeds"][0]["planned"], batches)
    requests = _mean(found, packing, "requests")
    means = _values(found, packing, "mean")
    bound = _values(found, packing, "bound")
    return [
        f"{found['limit']:g}",
        f"{even:.2f}",
        packing,
        f"{requests:.2f}",
        f"{fmean(means):.3f}",
        _spread(means),
        f"{_mean(found, packing, 'p95'):.2f}",
        f"{_mean(found, packing, 'p99'):.2f}",
        f"{fixed_mean(requests, batches):.2f}",
        f"{fmean(bound):.3f}",
        f"{_mean_ratio(means, bound):.2f}",
    ]
