"""Dashboards as pictures: draws every panel from its queries' results, about as Grafana does.

`python -m tests.system.pictures FOLDER` makes the pictures of docs/dashboards, in about
five minutes.
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
# Long enough for a symbol to become STALE.
PACE = Pace(refresh=10, scrape=2, calm=45, fault=50)

# One cell of Grafana's grid, which is 24 columns wide.
GRID_WIDTH = 24
CELL_WIDTH_INCHES = 0.66
CELL_HEIGHT_INCHES = 0.34
DPI = 88
# Enough for the palette below; a PNG of all colours is several times larger.
PICTURE_COLOURS = 96

BACKGROUND = "#111217"
BOX = "#1b1d22"
INK = "#d5d6dd"
FAINT = "#8e9099"
GRID = "#2c2f36"
HEADING = "#6E9FFF"
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
    "green": "#56A64B",
    "orange": "#E57B12",
    "red": "#E02F44",
    "blue": "#3274D9",
    "purple": "#A352CC",
    "text": INK,
    "light-red": "#FF7383",
    "super-light-red": "#FFA6B0",
    "light-green": "#96D98D",
    "super-light-green": "#C8F2C2",
}

Scale = tuple[float, float, str]
# Scales of each unit: the absolute value from which one applies, factor and suffix.
UNITS: dict[str, tuple[Scale, ...]] = {
    "s": ((120, 1 / 60, " min"), (1, 1, " s"), (0, 1000, " ms")),
    "percentunit": ((0, 100, " %"),),
    "bytes": ((0, 2**-20, " MiB"),),
    "short": ((1000, 0.001, " K"), (0, 1, "")),
    "reqpm": ((0, 1, " /min"),),
    "epm": ((0, 1, " /min"),),
    "opm": ((0, 1, " /min"),),
    "locale": ((0, 1, ""),),
}

LOCALE_DECIMALS = 3

# Estimates for the layout of a legend and of the labels beside states.
LETTERS_PER_INCH = 17
LEGEND_MARK_LETTERS = 6
LONG_NAME_LETTERS = 12
FEW_LINES = 3

SECONDS_PER_DAY = 86_400

Rect = tuple[float, float, float, float]


def format_value(value: float, unit: str, decimals: int | None = None) -> str:
    """Return a value in its unit, as short as in Grafana."""
    factor, suffix = scale_of(value, unit)
    scaled = value * factor
    if unit == "locale":
        digits = LOCALE_DECIMALS if decimals is None else decimals
        return f"{scaled:,.{digits}f}".rstrip("0").rstrip(".")
    digits = usual_decimals(scaled) if decimals is None else decimals
    return f"{scaled:.{digits}f}{suffix}"


def scale_of(value: float, unit: str) -> tuple[float, str]:
    for least, factor, suffix in UNITS[unit]:
        if abs(value) >= least:
            return factor, suffix
    raise AssertionError(f"the last scale of {unit!r} must start at 0")


def usual_decimals(value: float) -> int:
    """Return the decimals for about three significant digits."""
    if value == round(value) or abs(value) >= 100:
        return 0
    return 1 if abs(value) >= 10 else 2


def colour_of(name: str) -> str:
    return COLOURS.get(name, name)


def defaults(panel: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = panel["fieldConfig"]["defaults"]
    return found


def mapping_of(look: Mapping[str, Any], value: float) -> Mapping[str, str]:
    """Return the text and colour that a value is mapped to, or nothing."""
    for mapping in look.get("mappings", []):
        found = mapping["options"].get(f"{value:g}")
        if found:
            return {"text": found["text"], "color": colour_of(found["color"])}
    return {}


def threshold_colour(look: Mapping[str, Any], value: float) -> str:
    """Return the colour of the highest threshold that the value reaches."""
    colour = BOX
    for step in look.get("thresholds", {"steps": []})["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = colour_of(step["color"])
    return colour


def overrides(panel: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the properties that a field of this name overrides."""
    found = {}
    for override in panel["fieldConfig"]["overrides"]:
        if matches(override["matcher"], name):
            for field in override["properties"]:
                found[field["id"]] = field["value"]
    return found


def matches(matcher: Mapping[str, str], name: str) -> bool:
    """Return True if Grafana's matcher selects the name.

    A pattern between slashes is searched for; any other must match the whole name.
    """
    pattern = matcher["options"]
    if matcher["id"] == "byName":
        return pattern == name
    if pattern.startswith("/"):
        return re.search(pattern[1:-1], name) is not None
    return re.fullmatch(pattern, name) is not None


def draw_stat(axes: Axes, shown: Shown) -> None:
    look = defaults(shown.panel)
    named = "{{" in shown.panel["targets"][0]["legendFormat"]
    axes.axis("off")
    width = 1 / len(shown.series)
    for place, series in enumerate(shown.series):
        known = mapping_of(look, series.last)
        text = known.get("text")
        if text is None:
            text = format_value(series.last, look["unit"], look.get("decimals"))
        colour = known.get("color") or threshold_colour(look, series.last)
        axes.add_patch(
            Rectangle(
                (place * width, 0), width, 1, transform=axes.transAxes, color=colour
            )
        )
        axes.text(
            (place + 0.5) * width,
            0.5,
            f"{series.name}: {text}" if named else text,
            transform=axes.transAxes,
            ha="center",
            va="center",
            color="white",
            fontsize=19,
        )


def draw_states(axes: Axes, shown: Shown) -> None:
    look = defaults(shown.panel)
    colours = dict[str, str]()
    # matplotlib counts rows from below, Grafana from above.
    rows = sorted(shown.series, key=name_of, reverse=True)
    for row, series in enumerate(rows):
        # Slightly wider than a step, so that neighbours leave no gap.
        width = days(shortest_step(series) * 1.05)
        for at, value in series.points:
            known = mapping_of(look, value)
            colours[known["text"]] = known["color"]
            axes.broken_barh(
                [(days(at), width)],
                (row - 0.4, 0.8),
                color=known["color"],
                linewidth=0,
            )
    names = [series.name for series in rows]
    axes.set_yticks(range(len(names)), names)
    for text, colour in colours.items():
        axes.plot([], [], color=colour, linewidth=6, label=f" {text}")
    draw_legend(axes, list(colours))


def name_of(series: Series) -> str:
    return series.name


def days(seconds: float) -> float:
    """Return seconds in days, matplotlib's unit of time."""
    return seconds / SECONDS_PER_DAY


def steps_of(points: Sequence[tuple[float, float]]) -> list[float]:
    """Return the seconds between neighbouring points."""
    steps = []
    for (before, _), (after, _) in itertools.pairwise(points):
        steps.append(after - before)
    return steps


def shortest_step(series: Series) -> float:
    return min(steps_of(series.points), default=1)


def draw_legend(axes: Axes, names: Sequence[str]) -> None:
    """Draw a legend below the panel, in as many columns as fit."""
    inches = axes.figure.get_size_inches()[0]  # type: ignore[union-attr]
    room = inches * axes.get_position().width * LETTERS_PER_INCH
    longest = max(map(len, names), default=1) + LEGEND_MARK_LETTERS
    fitting = max(1, int(room // longest))
    columns = max(1, min(len(names), fitting))
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        ncols=columns,
        frameon=False,
        fontsize=7.5,
        labelcolor=INK,
        handlelength=1.2,
        columnspacing=1.2,
        labelspacing=0.3,
        borderaxespad=0.2,
    )


def with_gaps(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return days and values, with NaN where more than three steps are missing."""
    steps = sorted(steps_of(points))
    usual = steps[len(steps) // 2] if steps else 1
    moments = list[float]()
    values = list[float]()
    for at, value in points:
        if moments and days(at) - moments[-1] > days(3 * usual):
            moments.append(moments[-1] + days(usual))
            values.append(float("nan"))
        moments.append(days(at))
        values.append(value)
    return moments, values


def draw_graph(axes: Axes, shown: Shown) -> None:
    look = defaults(shown.panel)
    unit, custom = look["unit"], look["custom"]
    bottoms = defaultdict[float, float](float)
    names = list[str]()
    for number, series in enumerate(shown.series):
        own = overrides(shown.panel, series.name)
        colour = PALETTE[number % len(PALETTE)]
        if own:
            colour = colour_of(own["color"]["fixedColor"])
        name = line_name(shown, series, own.get("displayName", series.name))
        names.append(name)
        if custom.get("drawStyle") == "bars":
            draw_bars(axes, series, colour, bottoms, name)
        else:
            draw_line(axes, series, colour, own, name)

    if "thresholdsStyle" in custom:
        draw_thresholds(axes, look["thresholds"]["steps"])
    # matplotlib would centre a line at zero.
    if not any(has_values(series) for series in shown.series):
        axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: format_value(value, unit))
    if names:
        draw_legend(axes, names)


def has_values(series: Series) -> bool:
    """Return True if the line is not zero everywhere."""
    return any(value != 0 for _, value in series.points)


def line_name(shown: Shown, series: Series, name: str) -> str:
    """Return a line's text in the legend, with its last and highest value if shown."""
    if not shown.panel["options"]["legend"]["calcs"]:
        return name
    unit = defaults(shown.panel)["unit"]
    highest = max(value for _, value in series.points)
    last = format_value(series.last, unit)
    return f"{name}  {last}, max {format_value(highest, unit)}"


def draw_line(
    axes: Axes, series: Series, colour: str, own: Mapping[str, Any], name: str
) -> None:
    steps = own.get("custom.lineInterpolation") == "stepAfter"
    moments, values = with_gaps(series.points)
    axes.plot(
        moments,
        values,
        color=colour,
        linewidth=own.get("custom.lineWidth", 1.3),
        drawstyle="steps-post" if steps else "default",
        label=f" {name}",
    )


def draw_bars(
    axes: Axes, series: Series, colour: str, bottoms: dict[float, float], name: str
) -> None:
    """Stack bars on `bottoms`, by moment, and raise these."""
    moments, values = zip(*series.points, strict=True)
    axes.bar(
        [days(at) for at in moments],
        values,
        days(shortest_step(series)),
        [bottoms[at] for at in moments],
        color=colour,
        linewidth=0,
        label=f" {name}",
    )
    for at, value in series.points:
        bottoms[at] += value


def draw_thresholds(axes: Axes, steps: Sequence[Mapping[str, Any]]) -> None:
    # The first step has no value: it covers everything below the second.
    for step in steps[1:]:
        colour = colour_of(step["color"])
        axes.axhline(step["value"], color=colour, linestyle="--", linewidth=1)


def draw_table(axes: Axes, shown: Shown) -> None:
    axes.axis("off")
    columns = columns_of(shown.panel)
    rows = defaultdict[str, dict[str, float]](dict)
    for series in shown.series:
        name = columns[f"Value #{series.ref}"]
        rows[series.labels["symbol"]][name] = series.last

    width = 1 / len(columns)
    height = 1 / (len(rows) + 1)
    for column, name in enumerate(columns.values()):
        left = column * width
        draw_text(axes, left, 1 - height / 2, name, HEADING)
        for row, (symbol, values) in enumerate(sorted(rows.items()), 1):
            middle = 1 - (row + 0.5) * height
            text = symbol if column == 0 else ""
            colour = INK
            if name in values:
                text, colour = cell(shown.panel, name, values[name])
            if colour != INK:
                corner = (left - 0.004, middle - height / 2)
                box = Rectangle(
                    corner, width - 0.01, height, transform=axes.transAxes, color=colour
                )
                axes.add_patch(box)
            draw_text(axes, left, middle, text, "white")


def columns_of(panel: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of a table's columns by field, in order."""
    for transformation in panel["transformations"]:
        if transformation["id"] == "organize":
            options = transformation["options"]
    positions, names = options["indexByName"], options["renameByName"]
    return {field: names[field] for field in sorted(positions, key=positions.get)}


def draw_text(axes: Axes, left: float, middle: float, text: str, colour: str) -> None:
    axes.text(
        left,
        middle,
        text,
        color=colour,
        fontsize=9,
        va="center",
        transform=axes.transAxes,
    )


def cell(panel: Mapping[str, Any], name: str, value: float) -> tuple[str, str]:
    """Return the text of a cell, and its colour."""
    look = dict(defaults(panel)) | overrides(panel, name)
    known = mapping_of(look, value)
    text = known.get("text")
    if text is None:
        text = format_value(value, look["unit"], look.get("decimals"))
    return text, known.get("color", INK)


KINDS = {
    "stat": draw_stat,
    "state-timeline": draw_states,
    "timeseries": draw_graph,
    "table": draw_table,
}


def with_places(shown: Sequence[Shown]) -> Iterator[tuple[Shown, Mapping[str, int]]]:
    """Yield each panel and its place. Repeats go side by side, then into further rows."""
    number = 0
    previous_id = None
    for one in shown:
        # Repeats of a panel follow each other and share its id.
        number = number + 1 if one.panel["id"] == previous_id else 0
        previous_id = one.panel["id"]
        place = dict(one.panel["gridPos"])
        if one.panel.get("repeat"):
            row, column = divmod(number, one.panel["maxPerRow"])
            place["x"] = column * place["w"]
            place["y"] += row * place["h"]
        yield one, place


def draw(title: str, shown: Sequence[Shown], path: Path) -> None:
    """Write the dashboard as PNG."""
    places = list(with_places(shown))
    # One more row for the heading.
    rows = 1 + max(place["y"] + place["h"] for _, place in places)
    size = (GRID_WIDTH * CELL_WIDTH_INCHES, rows * CELL_HEIGHT_INCHES)
    figure = Figure(figsize=size, facecolor=BACKGROUND)
    heading = 1 - 0.6 / rows
    figure.text(
        0.006, heading, title, color=INK, fontsize=15, va="center", weight="bold"
    )
    for one, place in places:
        left = place["x"] / GRID_WIDTH
        width = place["w"] / GRID_WIDTH
        height = place["h"] / rows
        # The first row of the picture is its heading, and matplotlib counts from below.
        bottom = 1 - (place["y"] + place["h"] + 1) / rows
        draw_panel(figure, one, (left, bottom, width, height), rows)
    save(figure, path)


def draw_panel(figure: Figure, shown: Shown, area: Rect, rows: int) -> None:
    left, bottom, width, height = area
    if shown.panel["type"] == "row":
        text = f"⌄ {shown.title}"
        middle = bottom + height / 2
        figure.text(left + 0.006, middle, text, color=INK, fontsize=12, va="center")
        return

    margin_x, margin_y = 0.1 / GRID_WIDTH, 0.1 / rows
    box = Rectangle(
        (left + margin_x, bottom + margin_y),
        width - 2 * margin_x,
        height - 2 * margin_y,
        color=BOX,
        zorder=-1,
    )
    figure.add_artist(box)
    top = bottom + height - 0.55 / rows
    figure.text(left + 0.006, top, shown.title, color=INK, fontsize=10, va="center")
    axes = figure.add_axes(content_area(shown, area, rows), facecolor=BOX)
    KINDS[shown.panel["type"]](axes, shown)
    if shown.panel["type"] in {"timeseries", "state-timeline"}:
        style_time_axis(axes)


def style_time_axis(axes: Axes) -> None:
    clock = DateFormatter("%H:%M:%S")  # type: ignore[no-untyped-call]  # matplotlib's
    ticks = AutoDateLocator(minticks=2, maxticks=6)  # type: ignore[no-untyped-call]  # as above
    axes.xaxis_date()
    axes.xaxis.set_major_formatter(clock)
    axes.xaxis.set_major_locator(ticks)
    axes.tick_params(colors=FAINT, labelsize=7.5, length=0)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def content_area(shown: Shown, area: Rect, rows: int) -> Rect:
    """Return the area of a panel's content, below its title and above its legend."""
    left, bottom, width, height = area
    if shown.panel["type"] in {"stat", "table"}:
        edge = 0.3 / GRID_WIDTH
        return left + edge, bottom + 0.35 / rows, width - 2 * edge, height - 1.45 / rows

    longest = max((len(series.name) for series in shown.series), default=0)
    has_long_names = (
        shown.panel["type"] == "state-timeline" and longest > LONG_NAME_LETTERS
    )
    label = (2.6 if has_long_names else 1.3) / GRID_WIDTH
    legend = (2.2 if len(shown.series) <= FEW_LINES else 3) / rows
    return (
        left + label,
        bottom + legend,
        width - label - 0.3 / GRID_WIDTH,
        height - legend - 1.2 / rows,
    )


def save(figure: Figure, path: Path) -> None:
    """Write the figure with few colours, so that the file is small."""
    raw = io.BytesIO()
    figure.savefig(raw, dpi=DPI, facecolor=BACKGROUND)
    picture = Image.open(raw).convert("RGB")
    small = picture.quantize(PICTURE_COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def main(folder: Path) -> None:
    """Run the scene and draw both dashboards."""
    boards = {}
    for path in GRAFANA.glob("*.json"):
        boards[path.stem] = json.loads(path.read_text("utf-8"))
    names = Names(uuid.uuid4().hex[:12])
    shown = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalKafka(Path(scratch) / "kafka") as kafka,
        watched(kafka, names, Path(scratch), PACE) as (prometheus, window),
    ):
        for name, board in boards.items():
            shown[name] = prometheus.shown(board, window)
    for name, panels in shown.items():
        draw(boards[name]["title"], panels, folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
