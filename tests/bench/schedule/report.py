"""What was found, as tables for a terminal."""

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
_WIDTH: Final = 30
_SAME_HEADS: Final = (
    *(
        "requests",
        "fixed",
        "learnt",
        "ours",
        "",
        "bound",
        "free",
        "ours/bound",
        "ours/fixed",
    ),
    *("learnt p95", "p99", "ours p95", "p99"),
)


def tables(results: Sequence[Found]) -> str:
    """All of them."""
    rows = [found for found in results if found["limit"] is None]
    budgets = [found for found in results if found["limit"] is not None]
    lines = [_NOTE]
    for price in LEARNT_PRICES if rows else ():
        lines += _same(rows, f"c={price:g}")
    lines += _default(rows) if rows else ()
    lines += _budgets(budgets) if budgets else ()
    return "\n".join(lines)


def _mean(found: Found, *names: str) -> float:
    return fmean(_values(found, *names))


def _values(found: Found, *names: str) -> list[float]:
    values = []
    for seed in found["seeds"]:
        value = seed
        for name in names:
            value = value[name]
        values.append(float(value))
    return values


def _spread(values: Sequence[float]) -> str:
    return f"±{stdev(values):.2f}" if len(values) > 1 else ""


def _line(label: str, cells: Sequence[str]) -> str:
    return f"  {label:{_WIDTH}}" + "".join(f"{cell:>11}" for cell in cells)


def _same(rows: Sequence[Found], column: str) -> Iterator[str]:
    yield f"\nWith as many requests as the plain learnt schedule at {column}"
    yield _line("", _SAME_HEADS)
    for found in rows:
        requests = _mean(found, column, "learnt", "requests")
        ours, bound = (
            _values(found, column, "ours", "mean"),
            _values(found, column, "bound"),
        )
        fixed = fixed_mean(requests, 1)
        numbers = (requests, fixed, _mean(found, column, "learnt", "mean"), fmean(ours))
        ratios = (
            fmean(one / best for one, best in zip(ours, bound, strict=True)),
            fmean(ours) / fixed,
        )
        free = _mean(found, column, "bound, no shortest interval")
        tails = [
            _mean(found, column, who, name)
            for who in ("learnt", "ours")
            for name in ("p95", "p99")
        ]
        cells = [f"{number:.2f}" for number in numbers]
        cells += [
            _spread(ours),
            f"{fmean(bound):.3f}",
            f"{free:.3f}",
            f"{ratios[0]:.2f}",
            f"{ratios[1]:.3f}",
        ]
        yield _line(found["row"], cells + [f"{tail:.2f}" for tail in tails])


def _default(rows: Sequence[Found]) -> Iterator[str]:
    yield "\nOurs as configured by default: target 0.4 s, limit 60; and its first five minutes"
    yield _line(
        "",
        (
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
        ),
    )
    for found in rows:
        requests, means = (
            _mean(found, "default", "requests"),
            _values(found, "default", "mean"),
        )
        bound = _values(found, "default", "bound")
        ratio = fmean(one / best for one, best in zip(means, bound, strict=True))
        tails = [f"{_mean(found, 'default', name):.2f}" for name in ("p95", "p99")]
        first = [
            f"{_mean(found, 'default', name):.2f}"
            for name in ("first_requests", "first_mean")
        ]
        cells = [
            f"{requests:.2f}",
            f"{fmean(means):.3f}",
            _spread(means),
            *tails,
            f"{fmean(bound):.3f}",
        ]
        yield _line(
            found["row"],
            [*cells, f"{ratio:.2f}", f"{fixed_mean(requests, 1):.2f}", *first],
        )


def _budgets(rows: Sequence[Found]) -> Iterator[str]:
    yield "\nUnder a limit of requests a minute, nine tenths of it planned; target 0.4 s. `even`: the plan, fixed"
    yield _line(
        "",
        (
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
        ),
    )
    for found in rows:
        batches = found["seeds"][0]["batches"]
        even = fixed_mean(found["seeds"][0]["planned"], batches)
        for name in ("as given", "by rhythm"):
            if name not in found["seeds"][0]:
                continue
            requests, means = (
                _mean(found, name, "requests"),
                _values(found, name, "mean"),
            )
            bound = _values(found, name, "bound")
            ratio = fmean(one / best for one, best in zip(means, bound, strict=True))
            tails = [f"{_mean(found, name, tail):.2f}" for tail in ("p95", "p99")]
            cells = [
                f"{found['limit']:g}",
                f"{even:.2f}",
                name,
                f"{requests:.2f}",
                f"{fmean(means):.3f}",
            ]
            cells += [
                _spread(means),
                *tails,
                f"{fixed_mean(requests, batches):.2f}",
                f"{fmean(bound):.3f}",
            ]
            yield _line(found["row"], [*cells, f"{ratio:.2f}"])
