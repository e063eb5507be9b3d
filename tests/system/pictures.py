"""Dashboards as pictures: each panel drawn from what its queries brought, where and about as Grafana would.

`python -m tests.system.pictures FOLDER` makes the pictures of docs/dashboards, in about five minutes.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import sys
import tempfile
import uuid
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from connector.devkit.local_kafka import LocalKafka
from tests.conftest import Names
from tests.system.scene import Pace, watched

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from matplotlib.axes import Axes

    from tests.system.grafana import Series, Shown

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
PACE = Pace(refresh=10, scrape=2, calm=45, fault=50)
INCHES_WIDE, INCHES_TALL, DPI = 0.66, 0.34, 88
BACKGROUND, BOX, INK, FAINT = "#111217", "#1b1d22", "#d5d6dd", "#8e9099"
PALETTE = (
    "#73BF69",
    "#F2CC0C",
    "#5794F2",
    "#FF9830",
    "#F2495C",
    "#B877D9",
    "#8AB8FF",
    "#C8F2C2",
    "#FFA6B0",
    "#37872D",
)
COLOURS = {
    "light-blue": "#8AB8FF",
    "green": "#56A64B", "orange": "#E57B12", "red": "#E02F44", "blue": "#3274D9", "purple": "#A352CC", "text": INK,
    "light-red": "#FF7383", "super-light-red": "#FFA6B0", "light-green": "#96D98D", "super-light-green": "#C8F2C2",
}  # fmt: skip
LETTERS_PER_INCH = 17
UNITS: dict[str, tuple[tuple[float, float, str], ...]] = {
    "s": ((120, 1 / 60, " min"), (1, 1, " s"), (0, 1000, " ms")),
    "percentunit": ((0, 100, " %"),),
    "bytes": ((0, 2**-20, " MiB"),),
    "short": ((1000, 0.001, " K"), (0, 1, "")),
    **dict.fromkeys(("reqpm", "epm", "opm"), ((0, 1, " /min"),)),
    "locale": ((0, 1, ""),),
}
"""From which absolute value on: factor and suffix."""

LONG, FEW = 12, 3

Rect = tuple[float, float, float, float]


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """A value in its unit, as short as Grafana has it."""
    factor, suffix = next(
        (factor, suffix) for least, factor, suffix in UNITS[unit] if abs(value) >= least
    )
    scaled = value * factor
    if unit == "locale":
        return f"{scaled:,.{3 if decimals is None else decimals}f}".rstrip("0").rstrip(
            "."
        )
    usual = (
        0
        if scaled == round(scaled) or abs(scaled) >= 100
        else 1
        if abs(scaled) >= 10
        else 2
    )
    return f"{scaled:.{usual if decimals is None else decimals}f}{suffix}"


def colour_of(name: str) -> str:
    return COLOURS.get(name, name)


def defaults(panel: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = panel["fieldConfig"]["defaults"]
    return found


def mapped(look: Mapping[str, Any], value: float) -> Mapping[str, str]:
    """Text and colour that a value has by itself; empty where it has none."""
    for mapping in look.get("mappings", []):
        if found := mapping["options"].get(f"{value:g}"):
            return {"text": found["text"], "color": colour_of(found["color"])}
    return {}


def by_thresholds(look: Mapping[str, Any], value: float) -> str:
    steps = look["thresholds"]["steps"] if "thresholds" in look else []
    held = [
        step["color"]
        for step in steps
        if step["value"] is None or value >= step["value"]
    ]
    return colour_of(held[-1]) if held else BOX


def overrides(panel: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a field of this name has of its own."""
    return {
        one["id"]: one["value"]
        for override in panel["fieldConfig"]["overrides"]
        if fits(override["matcher"], name)
        for one in override["properties"]
    }


def fits(matcher: Mapping[str, str], name: str) -> bool:
    """As Grafana has it: a pattern between slashes is searched for, another one must be all of the name."""
    wanted = matcher["options"]
    if matcher["id"] == "byName":
        return wanted == name
    return bool(
        re.search(wanted[1:-1], name)
        if wanted.startswith("/")
        else re.fullmatch(wanted, name)
    )


def stat(axes: Axes, shown: Shown) -> None:
    look = defaults(shown.panel)
    axes.axis("off")
    for place, series in enumerate(shown.series):
        known = mapped(look, series.last)
        text = known.get("text") or written(
            series.last, look["unit"], look.get("decimals")
        )
        colour = known.get("color") or by_thresholds(look, series.last)
        width = 1 / len(shown.series)
        axes.add_patch(
            Rectangle(
                (place * width, 0), width, 1, transform=axes.transAxes, color=colour
            )
        )
        at = (place + 0.5) * width
        named = "{{" in shown.panel["targets"][0]["legendFormat"]
        axes.text(
            at,
            0.5,
            f"{series.name}: {text}" if named else text,
            transform=axes.transAxes,
            ha="center",
            va="center",
            color="white",
            fontsize=19,
        )


def states(axes: Axes, shown: Shown) -> None:
    look = defaults(shown.panel)
    seen = dict[str, str]()
    lines = sorted(shown.series, key=lambda series: series.name, reverse=True)
    for row, series in enumerate(lines):
        moments = [at for at, _ in series.points]
        step = (
            min(b - a for a, b in itertools.pairwise(moments))
            if len(moments) > 1
            else 1
        )
        for at, value in series.points:
            known = mapped(look, value)
            seen[known["text"]] = known["color"]
            axes.broken_barh(
                [(moment(at), step * 1.05 / 86400)],
                (row - 0.4, 0.8),
                color=known["color"],
                linewidth=0,
            )
    axes.set_yticks(range(len(lines)), [series.name for series in lines])
    for text, colour in seen.items():
        axes.plot([], [], color=colour, linewidth=6, label=f" {text}")
    legend(axes, list(seen))


def moment(at: float) -> float:
    """Matplotlib's days."""
    return at / 86400


def legend(axes: Axes, names: Sequence[str]) -> None:
    """Beneath the panel, in as many columns as fit."""
    inches = axes.figure.get_size_inches()[0]  # type: ignore[union-attr]
    room = inches * axes.get_position().width * LETTERS_PER_INCH
    columns = max(
        1, min(len(names), int(room // (max(map(len, names), default=1) + 6)))
    )
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=columns, frameon=False, fontsize=7.5, labelcolor=INK,
        handlelength=1.2, columnspacing=1.2, labelspacing=0.3, borderaxespad=0.2,
    )  # fmt: skip


def gaps(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Moments and values, with a hole where more than three steps are missing, as Prometheus leaves one."""
    steps = sorted(b[0] - a[0] for a, b in itertools.pairwise(points))
    usual = steps[len(steps) // 2] if steps else 1
    moments, values = list[float](), list[float]()
    for at, value in points:
        if moments and moment(at) - moments[-1] > moment(3 * usual):
            moments.append(moments[-1] + moment(usual))
            values.append(float("nan"))
        moments.append(moment(at))
        values.append(value)
    return moments, values


def lines(axes: Axes, shown: Shown) -> None:
    look = defaults(shown.panel)
    unit, custom = look["unit"], look["custom"]
    beneath = defaultdict[float, float](float)
    names = list[str]()
    for number, series in enumerate(shown.series):
        own = overrides(shown.panel, series.name)
        colour = (
            colour_of(own["color"]["fixedColor"])
            if own
            else PALETTE[number % len(PALETTE)]
        )
        name = own.get("displayName", series.name)
        if shown.panel["options"]["legend"]["calcs"]:
            most = max(value for _, value in series.points)
            name += f"  {written(series.last, unit)}, max {written(most, unit)}"
        names.append(name)
        if custom.get("drawStyle") == "bars":
            bars(axes, series, colour, beneath, name)
        else:
            style = (
                "steps-post"
                if own.get("custom.lineInterpolation") == "stepAfter"
                else "default"
            )
            width = own.get("custom.lineWidth", 1.3)
            axes.plot(
                *gaps(series.points),
                color=colour,
                linewidth=width,
                drawstyle=style,
                label=f" {name}",
            )
    for step in look["thresholds"]["steps"][1:] if "thresholdsStyle" in custom else ():
        axes.axhline(
            step["value"], color=colour_of(step["color"]), linestyle="--", linewidth=1
        )
    if all(value == 0 for series in shown.series for _, value in series.points):
        axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: written(value, unit))
    if names:
        legend(axes, names)


def bars(
    axes: Axes, series: Series, colour: str, beneath: dict[float, float], name: str
) -> None:
    """Upon what is `beneath`, by moment; that grows. Where all is zero only the legend says so."""
    step = min((b[0] - a[0] for a, b in itertools.pairwise(series.points)), default=1)
    at, values = zip(*series.points, strict=True)
    bottoms = [beneath[one] for one in at]
    axes.bar(
        [moment(one) for one in at],
        values,
        step / 86400,
        bottoms,
        color=colour,
        linewidth=0,
        label=f" {name}",
    )
    for one, value in series.points:
        beneath[one] += value


def table(axes: Axes, shown: Shown) -> None:
    axes.axis("off")
    arranged = next(
        one["options"]
        for one in shown.panel["transformations"]
        if one["id"] == "organize"
    )
    columns = {
        name: arranged["renameByName"][name]
        for name in sorted(arranged["indexByName"], key=arranged["indexByName"].get)
    }
    rows = defaultdict[str, dict[str, float]](dict)
    for series in shown.series:
        rows[series.labels["symbol"]][columns[f"Value #{series.ref}"]] = series.last
    names = list(columns.values())
    height = 1 / (len(rows) + 1)
    for column, name in enumerate(names):
        left = column / len(names)
        axes.text(
            left,
            1 - height / 2,
            name,
            color="#6E9FFF",
            fontsize=9,
            va="center",
            transform=axes.transAxes,
        )
        for row, (symbol, values) in enumerate(sorted(rows.items()), 1):
            middle = 1 - (row + 0.5) * height
            text, colour = symbol if column == 0 else "", INK
            if name in values:
                text, colour = cell(shown.panel, name, values[name])
            if colour != INK:
                place = (
                    (left - 0.004, middle - height / 2),
                    1 / len(names) - 0.01,
                    height,
                )
                axes.add_patch(
                    Rectangle(*place, transform=axes.transAxes, color=colour)
                )
            axes.text(
                left,
                middle,
                text,
                color="white",
                fontsize=9,
                va="center",
                transform=axes.transAxes,
            )


def cell(panel: Mapping[str, Any], name: str, value: float) -> tuple[str, str]:
    """Text, and the colour of a cell that has one."""
    look = dict(defaults(panel)) | overrides(panel, name)
    known = mapped(look, value)
    return known.get("text") or written(
        value, look["unit"], look.get("decimals")
    ), known.get("color", INK)


KINDS = {"stat": stat, "state-timeline": states, "timeseries": lines, "table": table}


def placed(shown: Sequence[Shown]) -> Iterator[tuple[Shown, Mapping[str, int]]]:
    """Each panel and its place; the repeats of one side by side, as many as it says, then in further rows."""
    for _, group in itertools.groupby(shown, key=lambda one: one.panel["id"]):
        for number, one in enumerate(group):
            place = dict(one.panel["gridPos"])
            if one.panel.get("repeat"):
                down, right = divmod(number, one.panel["maxPerRow"])
                place["x"], place["y"] = (
                    right * place["w"],
                    place["y"] + down * place["h"],
                )
            yield one, place


def draw(title: str, shown: Sequence[Shown], path: Path) -> None:
    """The dashboard, as PNG."""
    places = list(placed(shown))
    tall = max(place["y"] + place["h"] for _, place in places) + 1
    figure = Figure(
        figsize=(24 * INCHES_WIDE, tall * INCHES_TALL), facecolor=BACKGROUND
    )
    figure.text(
        0.006, 1 - 0.6 / tall, title, color=INK, fontsize=15, va="center", weight="bold"
    )
    for one, place in places:
        left, width, height = place["x"] / 24, place["w"] / 24, place["h"] / tall
        bottom = 1 - (place["y"] + place["h"] + 1) / tall
        if one.panel["type"] == "row":
            figure.text(
                left + 0.006,
                bottom + height / 2,
                f"⌄ {one.title}",
                color=INK,
                fontsize=12,
                va="center",
            )
            continue
        across, up = 0.1 / 24, 0.1 / tall
        box = Rectangle(
            (left + across, bottom + up),
            width - 2 * across,
            height - 2 * up,
            color=BOX,
            zorder=-1,
        )
        figure.add_artist(box)
        figure.text(
            left + 0.006,
            bottom + height - 0.55 / tall,
            one.title,
            color=INK,
            fontsize=10,
            va="center",
        )
        axes = figure.add_axes(
            inner(one, left, bottom, width, height, tall), facecolor=BOX
        )
        KINDS[one.panel["type"]](axes, one)
        if one.panel["type"] in {"timeseries", "state-timeline"}:
            axes.xaxis_date()
            axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))  # type: ignore[no-untyped-call] # matplotlib's
            axes.xaxis.set_major_locator(AutoDateLocator(minticks=2, maxticks=6))  # type: ignore[no-untyped-call] # as above
            axes.tick_params(colors=FAINT, labelsize=7.5, length=0)
            axes.grid(color="#2c2f36", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[:].set_visible(False)
    save(figure, path)


def inner(
    shown: Shown, left: float, bottom: float, width: float, height: float, tall: float
) -> Rect:
    """Where the content of a panel lies: beneath its title, and above its legend."""
    if shown.panel["type"] in {"stat", "table"}:
        edge = 0.3 / 24
        return left + edge, bottom + 0.35 / tall, width - 2 * edge, height - 1.45 / tall
    names = max((len(series.name) for series in shown.series), default=0)
    label = (
        2.6 if shown.panel["type"] == "state-timeline" and names > LONG else 1.3
    ) / 24
    under = (2.2 if len(shown.series) <= FEW else 3) / tall
    return (
        left + label,
        bottom + under,
        width - label - 0.3 / 24,
        height - under - 1.2 / tall,
    )


def save(figure: Figure, path: Path) -> None:
    """With as many colours as it needs, so that it is small."""
    raw = io.BytesIO()
    figure.savefig(raw, dpi=DPI, facecolor=BACKGROUND)
    Image.open(raw).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


def main(folder: Path) -> None:
    """Live through a scene that is long enough for a symbol to become STALE, and draw it."""
    boards = {
        path.stem: json.loads(path.read_text("utf-8"))
        for path in GRAFANA.glob("*.json")
    }
    names = Names(uuid.uuid4().hex[:12])
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalKafka(Path(scratch) / "kafka") as kafka,
        watched(kafka, names, Path(scratch), PACE) as (prometheus, window),
    ):
        shown = {
            stem: prometheus.shown(board, window) for stem, board in boards.items()
        }
    for stem, panels in shown.items():
        draw(boards[stem]["title"], panels, folder / f"{stem}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
