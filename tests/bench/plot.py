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
_COLOURS: Final = (
    "#4c78a8",
    "#72b7b2",
    "#54a24b",
    "#eeca3b",
    "#f58518",
    "#b0a9a4",
    "#ffffff",
)
_LABELS: Final = {"none": "no include", "all": "all includes"}
_REST: Final = "the whole worker, less these"
_LABELLED_FROM_MICROS: Final = 18


def plot(results: Results, path: Path) -> None:
    """Two bars of stages, each measured alone; what the whole worker takes beyond them follows in white."""
    mpl.rcParams["svg.hashsalt"] = "gex"
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(reversed(_LABELS)):
        costs = stage_costs(results, name)
        parts = {
            group: sum(costs[stage] for stage in stages)
            for group, stages in _GROUPS.items()
        }
        whole = results["steady"].get(name, {}).get("cpu_micros_per_event", 0.0)
        parts[_REST] = max(whole - sum(parts.values()), 0.0)
        left = 0.0
        for (group, micros), colour in zip(parts.items(), _COLOURS, strict=True):
            edge = "#888888" if group == _REST else colour
            label = group if place == 0 else None
            axes.barh(
                place,
                micros,
                left=left,
                height=0.55,
                color=colour,
                edgecolor=edge,
                linewidth=0.8,
                label=label,
            )
            if micros >= _LABELLED_FROM_MICROS:
                axes.text(
                    left + micros / 2,
                    place,
                    f"{micros:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                )
            left += micros
        total = f"{left:.0f} µs" if whole else f"{left:.0f} µs, stages only"
        axes.text(left + 6, place, total, va="center", fontsize=9, fontweight="bold")
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
    figure.savefig(
        path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None
    )
