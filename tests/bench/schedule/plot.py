"""A picture of mean delay against requests a minute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tests.bench.schedule.policies import fixed_mean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from tests.bench.schedule.study import Found

PLOTTED: Final = (
    "together, jitter 0.3 s",
    "together, sleep after work",
    "together, uniform 0-10 s",
    "together, 5 % skipped",
    "own phase, jitter 0.3 s",
    "own phase, uniform 0-10 s",
)
_COLOURS: Final = {
    "fixed": "#b0a9a4",
    "learnt": "#f58518",
    "ours": "#4c78a8",
    "bound": "#222222",
}
_LABELS: Final = {
    "fixed": "fixed interval",
    "learnt": "plain learnt",
    "ours": "ours",
    "bound": "no schedule does better, 0.25 s between checks",
}

# Limits and marks of the axes: requests a minute, and seconds.
_REQUESTS: Final = (1.8, 70.0)
_DELAYS: Final = (0.08, 20.0)
_REQUEST_MARKS: Final = ("2", "5", "10", "20", "50")
_DELAY_MARKS: Final = ("0.1", "0.3", "1", "3", "10")


def plot(results: Sequence[Found], path: Path) -> None:
    """Draw a panel for each process with curves, and save the picture."""
    import matplotlib as mpl  # noqa: PLC0415 -- a second to load
    from matplotlib.figure import Figure  # noqa: PLC0415 -- the same

    # With a fixed salt and no date, the same figures give the same file.
    mpl.rcParams["svg.hashsalt"] = "gex"
    metadata = {"Date": None} if path.suffix == ".svg" else None

    drawn = {}
    for found in results:
        first_seed = found["seeds"][0]
        if "curves" in first_seed:
            drawn[found["row"]] = first_seed
    names = [name for name in PLOTTED if name in drawn]

    # Share the axes, so that panels can be compared.
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.1 * columns, 0.6 + 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, name in zip(panels.flat, names, strict=False):
        _panel(axes, drawn[name])
        axes.set_title(name, fontsize=9)

    # Hide the places that no panel fills.
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)

    figure.supxlabel("requests a minute", fontsize=9)
    figure.supylabel("mean delay, seconds", fontsize=9)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=150, metadata=metadata)


def _panel(axes: Axes, found: Found) -> None:
    """Draw the fixed interval, the curves, and our default as a circle."""
    requests = np.geomspace(*_REQUESTS, 30)
    axes.plot(
        requests,
        [fixed_mean(rate, 1) for rate in requests],
        color=_COLOURS["fixed"],
        label=_LABELS["fixed"],
    )
    for name in ("learnt", "ours", "bound"):
        points = np.array(found["curves"][name])
        # The bound is calculated, not measured: a dashed line without marks.
        is_bound = name == "bound"
        axes.plot(
            *points.T,
            "--" if is_bound else "-",
            marker="" if is_bound else "o",
            markersize=2.5,
            linewidth=1.3,
            color=_COLOURS[name],
            label=_LABELS[name],
        )
    default = found["default"]
    axes.plot(
        default["requests"],
        default["mean"],
        "o",
        color=_COLOURS["ours"],
        markersize=7,
        markerfacecolor="none",
        label="ours, by default",
    )

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*_REQUESTS)
    axes.set_ylim(*_DELAYS)
    axes.set_xticks(
        [float(mark) for mark in _REQUEST_MARKS], _REQUEST_MARKS, fontsize=8
    )
    axes.set_yticks([float(mark) for mark in _DELAY_MARKS], _DELAY_MARKS, fontsize=8)
    axes.minorticks_off()
    axes.grid(color="#eeeeee", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
