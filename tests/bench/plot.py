"""Draws the CPU time of each event by stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.bench.report import Results, stage_costs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

_STAGES_BY_GROUP: Final = {
    "request": ("request",),
    "decode": ("decode: envelope", "decode: entry"),
    "observe": ("observe",),
    "encode": ("encode: levels", "encode: event", "encode: state"),
    "produce": ("produce",),
    "metrics": ("metrics",),
}

# One for each group, and white for the rest.
_COLOURS: Final = (
    "#4c78a8",
    "#72b7b2",
    "#54a24b",
    "#eeca3b",
    "#f58518",
    "#b0a9a4",
    "#ffffff",
)
_REST: Final = "the whole worker, less these"
_REST_EDGE: Final = "#888888"
_LABELS: Final = {"none": "no include", "all": "all includes"}

# A narrower part has no room for its number.
_MIN_LABELLED_MICROS: Final = 18


def plot(results: Results, path: Path) -> None:
    """Draw a bar of stages, each measured alone, for each choice of includes.

    The rest of the whole worker's time follows in white.
    """
    # SVG files must be the same for the same results.
    mpl.rcParams["svg.hashsalt"] = "gex"
    metadata = None
    if path.suffix == ".svg":
        metadata = {"Date": None}

    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    for row, include in enumerate(reversed(_LABELS)):
        # A quick run measures the whole worker with all includes only.
        whole = results["steady"].get(include)
        whole_micros = 0.0
        if whole is not None:
            whole_micros = whole["cpu_micros_per_event"]
        parts = _parts(stage_costs(results, include), whole_micros)
        end = _draw_bar(axes, row, parts)
        total = f"{end:.0f} µs"
        if whole is None:
            total += ", stages only"
        axes.text(end + 6, row, total, va="center", fontsize=9, fontweight="bold")

    axes.set_yticks(range(len(_LABELS)), reversed(_LABELS.values()))
    axes.set_xlabel(
        "CPU per event, µs: one request and one transaction for eight symbols",
        fontsize=9,
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.1)
    figure.legend(
        loc="outside upper center",
        ncols=len(_COLOURS),
        frameon=False,
        fontsize=8,
        handlelength=1,
    )
    figure.savefig(path, dpi=150, metadata=metadata)


def _parts(costs: Mapping[str, float], whole_micros: float) -> dict[str, float]:
    """Return the µs of each group of stages, and of the rest."""
    parts = {}
    for group, stages in _STAGES_BY_GROUP.items():
        parts[group] = sum(costs[stage] for stage in stages)
    parts[_REST] = max(whole_micros - sum(parts.values()), 0.0)
    return parts


def _draw_bar(axes: Axes, row: int, parts: Mapping[str, float]) -> float:
    """Draw the parts one after another, and return the end of the bar."""
    left = 0.0
    colours = dict(zip(parts, _COLOURS, strict=True))
    for group, micros in parts.items():
        colour = colours[group]
        # White needs an edge to be seen.
        edge = _REST_EDGE if group == _REST else colour
        # One entry in the legend is enough for both bars.
        label = group if row == 0 else None
        axes.barh(
            row,
            micros,
            left=left,
            height=0.55,
            color=colour,
            edgecolor=edge,
            linewidth=0.8,
            label=label,
        )
        if micros >= _MIN_LABELLED_MICROS:
            centre = left + micros / 2
            number = f"{micros:.0f}"
            axes.text(centre, row, number, ha="center", va="center", fontsize=8)
        left += micros
    return left
