"""The table and the picture of `tests.bench.month_live`."""

from __future__ import annotations

from collections import Counter
from statistics import mean
from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.bench.measure import percentile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from tests.bench.month_live import Result

_MINUTE_SECONDS: Final = 60.0
_PARTS: Final = 4
_HEADER: Final = (
    "case",
    "workers' requests by quarter",
    "used at the end / limit",
    "429",
    "delay mean / p95, s",
    "refreshes seen",
    "last request of the month",
    "first minute of the next",
    "STALE by reason",
)

_COLOURS: Final = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
_LIMIT_COLOUR: Final = "#888888"


def table(results: Sequence[Result]) -> str:
    """Return a row for each case, as Markdown."""
    lines = [_row(_HEADER), _row(["---"] * len(_HEADER))]
    lines += [_row(_cells(result)) for result in results]
    for result in results:
        if result.killed_at is not None:
            lines += ["", _killed(result)]
    return "\n".join(lines) + "\n"


def plot(results: Sequence[Result], path: Path) -> None:
    """Draw the server's count of each month over time, a panel for each plan."""
    # SVG files must be the same for the same results.
    mpl.rcParams["svg.hashsalt"] = "gex"
    metadata = {"Date": None} if path.suffix == ".svg" else None

    plans = list(dict.fromkeys(result.plan for result in results))
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, len(plans))
    for axes, plan in zip(panels, plans, strict=True):
        of_plan = [result for result in results if result.plan == plan]
        _draw_plan(axes, of_plan)
    panels[0].set_ylabel("requests used of the month, all programs", fontsize=9)
    figure.savefig(path, dpi=150, metadata=metadata)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(result: Result) -> list[str]:
    in_month = [at for at, _, _ in result.requests if at < result.seconds]
    next_minute_ends_at = result.seconds + _MINUTE_SECONDS
    next_minute = 0
    for at, _, _ in result.requests:
        next_minute += result.seconds <= at < next_minute_ends_at
    others = sum(at < result.seconds for at in result.others)

    used = f"{_used_at_end(result)} / {result.limit}"
    if others:
        used += f" (the second program: {others})"
    # All answers count here, also those of the second program.
    refused = str(result.answers_by_status.get("429", 0))
    delay = f"{mean(result.delays):.1f} / {percentile(result.delays, 95):.1f}"
    seen = f"{len(result.delays)} of {result.refreshes}"
    stale = Counter(reason for _, reason in result.stale)
    reasons = ", ".join(f"{reason}: {count}" for reason, count in stale.items())
    return [
        result.title,
        ", ".join(str(count) for count in _by_quarter(in_month, result.seconds)),
        used,
        refused,
        delay,
        seen,
        f"{_clock(in_month[-1])} of {_clock(result.seconds)}",
        str(next_minute),
        reasons or "none",
    ]


def _by_quarter(moments: Sequence[float], seconds: float) -> list[int]:
    """Return the number of moments in each quarter of the month."""
    counts = [0] * _PARTS
    for at in moments:
        counts[int(at * _PARTS / seconds)] += 1
    return counts


def _used_at_end(result: Result) -> int:
    """Return the server's last count in the first month."""
    _, first_month, _ = result.used[0]
    return max(used for _, month, used in result.used if month == first_month)


def _killed(result: Result) -> str:
    """Return a line that tells which worker sent how much before and after the kill."""
    assert result.killed_at is not None
    before: Counter[int] = Counter()
    after: Counter[int] = Counter()
    for at, slot, _ in result.requests:
        if at < result.killed_at:
            before[slot] += 1
        elif at < result.seconds:
            after[slot] += 1
    shards = " and ".join(str(count) for count in result.shards_at_kill)
    return (
        f"{result.title}: killed at {_clock(result.killed_at)}, when the workers owned "
        f"{shards} shards. Requests until then: {before[0]} by the killed worker, "
        f"{before[1]} by the other one; from then to the month's end: {after[0]} and "
        f"{after[1]}."
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


def _draw_plan(axes: Axes, results: Sequence[Result]) -> None:
    """Draw the cases of a plan, its limit and the month's end."""
    end = results[0].seconds / 60
    limit = results[0].limit
    for colour, result in zip(_COLOURS, results, strict=False):
        _, _, rhythm = result.title.partition(", ")
        _draw_months(axes, result, colour, rhythm)
        if result.others:
            _draw_others(axes, result, colour)
        if result.killed_at is not None:
            _mark_kill(axes, result, colour)
    axes.axhline(limit, color=_LIMIT_COLOUR, linestyle="--", linewidth=1)
    axes.axvline(end, color=_LIMIT_COLOUR, linestyle=":", linewidth=1)
    axes.text(0, limit, f"limit {limit}", fontsize=8, va="bottom")
    axes.text(end, limit, "month's end ", fontsize=8, ha="right", va="bottom")

    # Leave room for the legend above the limit.
    axes.set_ylim(0, 1.55 * limit)
    axes.set_xlim(0, None)
    axes.set_title(results[0].plan, fontsize=10)
    axes.set_xlabel("minutes", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    # Hide the line of the month's end behind long entries.
    axes.legend(loc="upper left", edgecolor="none", framealpha=1, fontsize=8)


def _draw_months(axes: Axes, result: Result, colour: str, label: str) -> None:
    """Draw a line for each month, since the server's count begins again."""
    months = dict.fromkeys(month for _, month, _ in result.used)
    for number, month in enumerate(months):
        minutes = []
        used = []
        for at, sampled_month, count in result.used:
            if sampled_month == month:
                minutes.append(at / 60)
                used.append(count)
        axes.step(
            minutes,
            used,
            color=colour,
            where="post",
            linewidth=1.3,
            # One entry in the legend is enough.
            label=label if number == 0 else None,
        )


def _draw_others(axes: Axes, result: Result, colour: str) -> None:
    """Draw the second program's part of the first month."""
    others = [at / 60 for at in result.others if at < result.seconds]
    axes.step(
        others,
        range(1, len(others) + 1),
        color=colour,
        where="post",
        linestyle=":",
        linewidth=1.3,
        label="… its part",
    )


def _mark_kill(axes: Axes, result: Result, colour: str) -> None:
    """Mark the moment at which a worker was killed."""
    assert result.killed_at is not None
    used_before = [used for at, _, used in result.used if at < result.killed_at]
    axes.plot(
        [result.killed_at / 60],
        [used_before[-1]],
        color=colour,
        marker="x",
        markersize=8,
        markeredgewidth=2,
        linestyle="",
    )
