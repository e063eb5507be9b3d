"""CPU per event by stage, as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.bench.report import Results, stage_costs

if TYPE_CHECKING:
    from pathlib import Path

_GROUPS: Final = {
    "request": ("request",),
    "decode": ("decode: envelope", "decode: entry"),
    "observe": ("observe",),
    "encode": ("encode: levels", "encode: event", "encode: state"),
    "produce": ("produce",),
    "metrics": ("metrics",),
}
_COLOURS: Final = ("#4c78a8", "#72b7b2", "#54a24b", "#eeca3b", "#f58518", "#b0a9a4")
_LABELS: Final = {"none": "no include", "all": "all includes"}
_LABELLED_FROM_MICROS: Final = 18


def plot(results: Results, path: Path) -> None:
    """Two bars, each stage alone; and where the whole worker stands flat out."""
    mpl.rcParams["svg.hashsalt"] = "gex"
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(reversed(_LABELS)):
        costs, left = stage_costs(results, name), 0.0
        for (group, stages), colour in zip(_GROUPS.items(), _COLOURS, strict=True):
            micros = sum(costs[stage] for stage in stages)
            axes.barh(place, micros, left=left, height=0.55, color=colour, label=group if place == 0 else None)
            if micros >= _LABELLED_FROM_MICROS:
                axes.text(left + micros / 2, place, f"{micros:.0f}", ha="center", va="center", fontsize=8)
            left += micros
        axes.text(left + 4, place, f"{left:.0f} µs", va="center", fontsize=9, fontweight="bold")
        whole = results["steady"].get(name)
        if whole:
            axes.plot(whole["cpu_micros_per_event"], place + 0.36, "v", color="black", markersize=6, clip_on=False)
    axes.plot([], [], "v", color="black", markersize=6, linestyle="none", label="the worker, measured whole")
    axes.set_yticks(range(len(_LABELS)), reversed(_LABELS.values()))
    axes.set_xlabel(
        "CPU per event, µs (each stage alone; one request and one transaction for eight symbols)", fontsize=9
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.1)
    figure.legend(loc="outside upper center", ncols=7, frameon=False, fontsize=8, handlelength=1, columnspacing=1.2)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
