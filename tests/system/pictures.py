"""Draw dashboards from their queries' results, about as Grafana does.

The pictures of docs/images/dashboards:

`python -m tests.system.pictures calm FOLDER` draws both dashboards as they open, after an
hour in which all is well.
`python -m tests.system.pictures faults FOLDER` draws them with all rows open, after five
minutes in which everything fails.
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
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from connector.devkit.local_kafka import LocalKafka
from tests.conftest import Names
from tests.system.scene import Pace, calm_hour, watched

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from matplotlib.axes import Axes

    from tests.system.grafana import (
        Json,
        Mark,
        Point,
        Prometheus,
        Series,
        Shown,
        Window,
    )

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


class Scale(NamedTuple):
    """A scale of a unit, for absolute values of `least` and more."""

    least: float
    factor: float
    suffix: str


PER_MINUTE = (Scale(0, 1, " /min"),)
# The scales of each of Grafana's units, for large values first.
UNITS: dict[str, tuple[Scale, ...]] = {
    "s": (
        Scale(120, 1 / 60, " min"),
        Scale(1, 1, " s"),
        Scale(0, 1000, " ms"),
    ),
    "percentunit": (Scale(0, 100, " %"),),
    "bytes": (Scale(0, 2**-20, " MiB"),),
    "short": (Scale(1000, 0.001, " K"), Scale(0, 1, "")),
    "reqpm": PER_MINUTE,
    "epm": PER_MINUTE,
    "opm": PER_MINUTE,
    "locale": (Scale(0, 1, ""),),
}

LOCALE_DECIMALS = 3

# Sizes of letters in points.
HEADING_POINTS = 15
ROW_POINTS = 12
TITLE_POINTS = 10
STAT_POINTS = 19
# Several values in a panel.
SMALL_STAT_POINTS = 9
CELL_POINTS = 9
SMALL_POINTS = 7.5

# Estimates for the layout of a legend and of the labels beside states.
LETTERS_PER_INCH = 17
LEGEND_MARK_LETTERS = 6
LONG_NAME_LETTERS = 12
FEW_LINES = 3

# Space to the left of a title, as a part of the picture's width.
TITLE_LEFT = 0.006

SECONDS_PER_DAY = 86_400


class Area(NamedTuple):
    """A rectangle, in parts of the whole picture; matplotlib counts from below."""

    left: float
    bottom: float
    width: float
    height: float

    @property
    def top(self) -> float:
        return self.bottom + self.height

    @property
    def middle(self) -> float:
        return self.bottom + self.height / 2

    def without_margins(self, x: float, y: float) -> Area:
        """Return the area without margins of these sizes on both sides."""
        width = self.width - 2 * x
        height = self.height - 2 * y
        return Area(self.left + x, self.bottom + y, width, height)


def format_value(value: float, unit: str, decimals: int | None = None) -> str:
    """Return a value in its unit, as short as in Grafana."""
    scale = scale_of(value, unit)
    scaled = value * scale.factor
    if unit == "locale":
        # With separators between thousands, and without zeros at the end.
        digits = or_default(decimals, LOCALE_DECIMALS)
        return f"{scaled:,.{digits}f}".rstrip("0").rstrip(".")
    digits = or_default(decimals, usual_decimals(scaled))
    return f"{scaled:.{digits}f}{scale.suffix}"


def or_default(decimals: int | None, default: int) -> int:
    if decimals is None:
        return default
    return decimals


def scale_of(value: float, unit: str) -> Scale:
    for scale in UNITS[unit]:
        if abs(value) >= scale.least:
            return scale
    raise AssertionError(f"the last scale of {unit!r} must start at 0")


def usual_decimals(value: float) -> int:
    """Return the decimals for about three significant digits."""
    if value == round(value) or abs(value) >= 100:
        return 0
    if abs(value) >= 10:
        return 1
    return 2


def colour_of(name: str) -> str:
    return COLOURS.get(name, name)


def defaults(panel: Json) -> Json:
    found: Json = panel["fieldConfig"]["defaults"]
    return found


def mapping_of(look: Json, value: float) -> Mapping[str, str]:
    """Return the text and colour that a value is mapped to, or nothing."""
    for mapping in look.get("mappings", []):
        # The keys are texts, such as "1".
        found = mapping["options"].get(f"{value:g}")
        if found:
            return {"text": found["text"], "color": colour_of(found["color"])}
    return {}


def threshold_colour(look: Json, value: float) -> str:
    """Return the colour of the highest threshold that the value reaches."""
    if "thresholds" not in look:
        return BOX
    colour = BOX
    for step in look["thresholds"]["steps"]:
        # The first step has no value: it covers everything below the second.
        is_first = step["value"] is None
        if is_first or value >= step["value"]:
            colour = colour_of(step["color"])
    return colour


def overrides(panel: Json, name: str) -> dict[str, Any]:
    """Return the properties that a field of this name overrides."""
    found = {}
    for override in panel["fieldConfig"]["overrides"]:
        if not matches(override["matcher"], name):
            continue
        # Later overrides win, as in Grafana.
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
    """Draw a box with the last value of each series, one below the other."""
    look = defaults(shown.panel)
    # The only series of a legend without labels needs no name: the title has it.
    is_named = "{{" in shown.panel["targets"][0]["legendFormat"]
    has_names = is_named or len(shown.series) > 1
    axes.axis("off")
    height = 1 / len(shown.series)
    points = STAT_POINTS if len(shown.series) == 1 else SMALL_STAT_POINTS
    for place, series in enumerate(shown.series, start=1):
        text = text_of(look, series.last)
        if has_names:
            text = f"{series.name}: {text}"
        known = mapping_of(look, series.last)
        colour = known.get("color") or threshold_colour(look, series.last)
        bottom = 1 - place * height
        draw_box(axes, Area(0, bottom, 1, height), colour)
        axes.text(
            0.5,
            bottom + height / 2,
            text,
            transform=axes.transAxes,
            ha="center",
            va="center",
            color="white",
            fontsize=points,
        )


def text_of(look: Json, value: float) -> str:
    """Return the text that a value is mapped to, or else the value in its unit."""
    known = mapping_of(look, value)
    if "text" in known:
        return known["text"]
    return format_value(value, look["unit"], look.get("decimals"))


def draw_box(axes: Axes, area: Area, colour: str) -> None:
    """Fill an area of a panel with a colour."""
    corner = (area.left, area.bottom)
    box = Rectangle(
        corner, area.width, area.height, transform=axes.transAxes, color=colour
    )
    axes.add_patch(box)


def draw_states(axes: Axes, shown: Shown) -> None:
    """Draw a row of coloured stretches for each series."""
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
            stretch = [(days(at), width)]
            height = (row - 0.4, 0.8)
            axes.broken_barh(stretch, height, color=known["color"], linewidth=0)

    names = [series.name for series in rows]
    axes.set_yticks(range(len(names)), names)
    # Lines without points, for the legend only.
    for text, colour in colours.items():
        axes.plot([], [], color=colour, linewidth=6, label=f" {text}")
    draw_legend(axes, list(colours))


def name_of(series: Series) -> str:
    return series.name


def days(seconds: float) -> float:
    """Return seconds in days, matplotlib's unit of time."""
    return seconds / SECONDS_PER_DAY


def steps_of(points: Sequence[Point]) -> list[float]:
    """Return the seconds between neighbouring points."""
    steps = []
    for (before, _), (after, _) in itertools.pairwise(points):
        steps.append(after - before)
    return steps


def shortest_step(series: Series) -> float:
    return min(steps_of(series.points), default=1)


def draw_legend(axes: Axes, names: Sequence[str]) -> None:
    """Draw a legend below the panel, in as many columns as fit."""
    figure_inches, _ = axes.figure.get_size_inches()  # type: ignore[union-attr]
    panel_inches = figure_inches * axes.get_position().width
    room = panel_inches * LETTERS_PER_INCH
    longest = max(map(len, names), default=1) + LEGEND_MARK_LETTERS
    fitting = max(1, int(room // longest))
    columns = max(1, min(len(names), fitting))
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        ncols=columns,
        frameon=False,
        fontsize=SMALL_POINTS,
        labelcolor=INK,
        handlelength=1.2,
        columnspacing=1.2,
        labelspacing=0.3,
        borderaxespad=0.2,
    )


def with_gaps(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Return days and values, with NaN where more than three steps are missing."""
    usual = usual_step(points)
    moments = list[float]()
    values = list[float]()
    for at, value in points:
        if moments and days(at) - moments[-1] > days(3 * usual):
            moments.append(moments[-1] + days(usual))
            values.append(float("nan"))
        moments.append(days(at))
        values.append(value)
    return moments, values


def usual_step(points: Sequence[Point]) -> float:
    """Return the median of the seconds between neighbouring points."""
    steps = sorted(steps_of(points))
    if not steps:
        return 1
    return steps[len(steps) // 2]


def draw_graph(axes: Axes, shown: Shown) -> None:
    """Draw the series as lines or stacked bars."""
    if not shown.series:
        draw_no_data(axes)
        return
    look = defaults(shown.panel)
    unit = look["unit"]
    custom = look["custom"]
    bottoms = defaultdict[float, float](float)
    names = list[str]()
    for number, series in enumerate(shown.series):
        own = overrides(shown.panel, series.name)
        colour = PALETTE[number % len(PALETTE)]
        if own:
            colour = colour_of(own["color"]["fixedColor"])
        own_name = own.get("displayName", series.name)
        name = line_name(shown, series, own_name)
        names.append(name)
        if custom.get("drawStyle") == "bars":
            draw_bars(axes, series, colour, bottoms, name)
        else:
            draw_line(axes, series, colour, own, name)

    if "thresholdsStyle" in custom:
        draw_thresholds(axes, look["thresholds"]["steps"])
    # matplotlib would centre a line at zero.
    with_values = [series for series in shown.series if has_values(series)]
    if not with_values:
        axes.set_ylim(0, 1)

    def format_tick(value: float, _: object) -> str:
        return format_value(value, unit)

    axes.yaxis.set_major_formatter(format_tick)
    if names:
        draw_legend(axes, names)


def draw_no_data(axes: Axes) -> None:
    """Write what Grafana shows for queries without results."""
    axes.axis("off")
    axes.text(
        0.5,
        0.5,
        "No data",
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=FAINT,
        fontsize=TITLE_POINTS,
    )


def has_values(series: Series) -> bool:
    """Return True if the line is not zero everywhere."""
    return any(value != 0 for _, value in series.points)


def line_name(shown: Shown, series: Series, name: str) -> str:
    """Return a line's text in the legend, with its last and highest value if shown."""
    if not shown.panel["options"]["legend"]["calcs"]:
        return name
    unit = defaults(shown.panel)["unit"]
    last = format_value(series.last, unit)
    values = [value for _, value in series.points]
    highest = format_value(max(values), unit)
    return f"{name}  {last}, max {highest}"


def draw_line(axes: Axes, series: Series, colour: str, own: Json, name: str) -> None:
    style = "default"
    if own.get("custom.lineInterpolation") == "stepAfter":
        style = "steps-post"
    moments, values = with_gaps(series.points)
    axes.plot(
        moments,
        values,
        color=colour,
        linewidth=own.get("custom.lineWidth", 1.3),
        drawstyle=style,
        label=f" {name}",
    )


def draw_bars(
    axes: Axes, series: Series, colour: str, bottoms: dict[float, float], name: str
) -> None:
    """Stack bars on `bottoms`, by moment, and raise these."""
    moments, values = zip(*series.points, strict=True)
    axes.bar(
        x=[days(at) for at in moments],
        height=values,
        width=days(shortest_step(series)),
        bottom=[bottoms[at] for at in moments],
        color=colour,
        linewidth=0,
        label=f" {name}",
    )
    # The next series stands on top of this one.
    for at, value in series.points:
        bottoms[at] += value


def draw_thresholds(axes: Axes, steps: Sequence[Json]) -> None:
    # The first step has no value: it covers everything below the second.
    for step in steps[1:]:
        colour = colour_of(step["color"])
        axes.axhline(step["value"], color=colour, linestyle="--", linewidth=1)


def draw_table(axes: Axes, shown: Shown) -> None:
    """Draw a row for each symbol and a column for each query, below a heading."""
    axes.axis("off")
    columns = columns_of(shown.panel)
    rows = rows_of(shown, columns)

    width = 1 / len(columns)
    height = 1 / (len(rows) + 1)
    for column, name in enumerate(columns.values()):
        left = column * width
        draw_text(axes, left, 1 - height / 2, name, HEADING)
        for row, symbol in enumerate(sorted(rows), 1):
            middle = 1 - (row + 0.5) * height
            text = ""
            colour = INK
            if column == 0:
                text = symbol
            if name in rows[symbol]:
                text, colour = cell(shown.panel, name, rows[symbol][name])
            # The colour of a mapped value is that of its cell, not of its letters.
            if colour != INK:
                bottom = middle - height / 2
                draw_box(axes, Area(left - 0.004, bottom, width - 0.01, height), colour)
            draw_text(axes, left, middle, text, "white")


def rows_of(shown: Shown, columns: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return the values of each symbol, by the name of their column."""
    rows = defaultdict[str, dict[str, float]](dict)
    for series in shown.series:
        # Grafana calls the field of query A "Value #A".
        name = columns[f"Value #{series.ref}"]
        rows[series.labels["symbol"]][name] = series.last
    return rows


def columns_of(panel: Json) -> dict[str, str]:
    """Return the names of a table's columns by field, in order."""
    for transformation in panel["transformations"]:
        if transformation["id"] == "organize":
            options = transformation["options"]
    positions = options["indexByName"]
    names = options["renameByName"]
    ordered = sorted(positions, key=positions.get)
    return {field: names[field] for field in ordered}


def draw_text(axes: Axes, left: float, middle: float, text: str, colour: str) -> None:
    axes.text(
        left,
        middle,
        text,
        color=colour,
        fontsize=CELL_POINTS,
        va="center",
        transform=axes.transAxes,
    )


def cell(panel: Json, name: str, value: float) -> tuple[str, str]:
    """Return the text of a cell, and its colour."""
    look = dict(defaults(panel)) | overrides(panel, name)
    known = mapping_of(look, value)
    return text_of(look, value), known.get("color", INK)


KINDS = {
    "stat": draw_stat,
    "state-timeline": draw_states,
    "timeseries": draw_graph,
    "table": draw_table,
}


def with_places(
    shown: Sequence[Shown], *, opened: bool
) -> Iterator[tuple[Shown, Mapping[str, int]]]:
    """Yield each panel and its place. Repeats go side by side, then into further rows.

    The places in the file are those of a dashboard whose rows are all `opened`.
    """
    number = 0
    previous_id = None
    saved_height = 0
    for one in shown:
        # Repeats of a panel follow each other and share its id.
        if one.panel["id"] == previous_id:
            number += 1
        else:
            number = 0
        previous_id = one.panel["id"]
        place = dict(one.panel["gridPos"])
        place["y"] -= saved_height
        if one.panel.get("repeat"):
            row, column = divmod(number, one.panel["maxPerRow"])
            place["x"] = column * place["w"]
            place["y"] += row * place["h"]
        if not opened:
            saved_height += height_of(one.panel.get("panels", []))
        yield one, place


def height_of(panels: Sequence[Json]) -> int:
    """Return the height of the panels of a row."""
    if not panels:
        return 0
    tops = []
    ends = []
    for panel in panels:
        place = panel["gridPos"]
        tops.append(place["y"])
        ends.append(place["y"] + place["h"])
    height: int = max(ends) - min(tops)
    return height


def draw(
    title: str,
    shown: Sequence[Shown],
    path: Path,
    *,
    opened: bool,
    marks: Sequence[Mark] = (),
) -> None:
    """Write the dashboard as PNG: as it opens, or with all rows `opened`."""
    if not opened:
        shown = [one for one in shown if not one.is_hidden]
    places = list(with_places(shown, opened=opened))
    ends = [place["y"] + place["h"] for _, place in places]
    # One more row for the heading.
    rows = 1 + max(ends)
    size = (GRID_WIDTH * CELL_WIDTH_INCHES, rows * CELL_HEIGHT_INCHES)
    figure = Figure(figsize=size, facecolor=BACKGROUND)
    figure.text(
        TITLE_LEFT,
        1 - 0.6 / rows,
        title,
        color=INK,
        fontsize=HEADING_POINTS,
        va="center",
        weight="bold",
    )
    for one, place in places:
        left = place["x"] / GRID_WIDTH
        width = place["w"] / GRID_WIDTH
        height = place["h"] / rows
        # The first row of the picture is its heading, and matplotlib counts from below.
        bottom = 1 - (place["y"] + place["h"] + 1) / rows
        area = Area(left, bottom, width, height)
        if one.panel["type"] == "row":
            is_closed = one.panel["collapsed"] and not opened
            draw_row(figure, one.title, area, is_closed=is_closed)
        else:
            draw_panel(figure, one, area, rows, marks)
    save(figure, path)


def draw_row(figure: Figure, title: str, area: Area, *, is_closed: bool) -> None:
    """Draw the heading of a row."""
    mark = ">" if is_closed else "⌄"
    left = area.left + TITLE_LEFT
    text = f"{mark} {title}"
    figure.text(left, area.middle, text, color=INK, fontsize=ROW_POINTS, va="center")


def draw_panel(
    figure: Figure, shown: Shown, area: Area, rows: int, marks: Sequence[Mark]
) -> None:
    """Draw a panel with its title and background. `rows` is the picture's height."""
    left = area.left + TITLE_LEFT
    inner = area.without_margins(0.1 / GRID_WIDTH, 0.1 / rows)
    corner = (inner.left, inner.bottom)
    # Behind everything, or it would cover the panel's content.
    box = Rectangle(corner, inner.width, inner.height, color=BOX, zorder=-1)
    figure.add_artist(box)

    height = area.top - 0.55 / rows
    figure.text(
        left, height, shown.title, color=INK, fontsize=TITLE_POINTS, va="center"
    )
    axes = figure.add_axes(content_area(shown, area, rows), facecolor=BOX)
    KINDS[shown.panel["type"]](axes, shown)
    if shown.panel["type"] in {"timeseries", "state-timeline"}:
        style_time_axis(axes)
    if shown.panel["type"] == "timeseries":
        for mark in marks:
            draw_mark(axes, mark)


def draw_mark(axes: Axes, mark: Mark) -> None:
    """Draw an annotation: a stretch with a dashed line at each end. Tooltips have its text."""
    colour = colour_of(mark.colour)
    start, end = days(mark.start), days(mark.end)
    axes.axvspan(start, end, color=colour, alpha=0.08, linewidth=0)
    for at in (start, end):
        axes.axvline(at, color=colour, linestyle=":", linewidth=0.7)


def style_time_axis(axes: Axes) -> None:
    clock = DateFormatter("%H:%M:%S")  # type: ignore[no-untyped-call]  # matplotlib's
    ticks = AutoDateLocator(minticks=2, maxticks=6)  # type: ignore[no-untyped-call]  # as above
    axes.xaxis_date()
    axes.xaxis.set_major_formatter(clock)
    axes.xaxis.set_major_locator(ticks)
    axes.tick_params(colors=FAINT, labelsize=SMALL_POINTS, length=0)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def content_area(shown: Shown, area: Area, rows: int) -> Area:
    """Return the area of a panel's content, below its title and above its legend."""
    edge = 0.3 / GRID_WIDTH
    if shown.panel["type"] in {"stat", "table"}:
        bottom = area.bottom + 0.35 / rows
        height = area.height - 1.45 / rows
        return Area(area.left + edge, bottom, area.width - 2 * edge, height)

    # Both sizes are in cells of the grid.
    label = label_cells(shown) / GRID_WIDTH
    legend = 3 / rows
    if len(shown.series) <= FEW_LINES:
        legend = 2.2 / rows
    width = area.width - label - edge
    height = area.height - legend - 1.2 / rows
    return Area(area.left + label, area.bottom + legend, width, height)


def label_cells(shown: Shown) -> float:
    """Return the width of the labels on the left of a graph."""
    lengths = [len(series.name) for series in shown.series]
    # Beside states there are names, which are longer than a graph's numbers.
    is_timeline = shown.panel["type"] == "state-timeline"
    if is_timeline and max(lengths, default=0) > LONG_NAME_LETTERS:
        return 2.6
    return 1.3


def save(figure: Figure, path: Path) -> None:
    """Write the figure with few colours, so that the file is small."""
    raw = io.BytesIO()
    figure.savefig(raw, dpi=DPI, facecolor=BACKGROUND)
    picture = Image.open(raw).convert("RGB")
    small = picture.quantize(PICTURE_COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def main(scene: str, folder: Path) -> None:
    """Run a scene and draw both dashboards."""
    # Before the scene, whose minutes would be lost.
    folder.mkdir(parents=True, exist_ok=True)
    names = Names(uuid.uuid4().hex[:12])
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalKafka(Path(scratch) / "kafka") as kafka,
    ):
        # Prometheus ends with the block: ask for everything before.
        if scene == "calm":
            with calm_hour(kafka, names, Path(scratch)) as (prometheus, window):
                draw_boards(prometheus, window, folder, opened=False)
        else:
            with watched(kafka, names, Path(scratch), PACE) as (prometheus, window):
                draw_boards(prometheus, window, folder, opened=True)


def draw_boards(
    prometheus: Prometheus, window: Window, folder: Path, *, opened: bool
) -> None:
    """Draw every dashboard: as it opens, or with all rows opened."""
    ending = "-faults" if opened else ""
    for path in sorted(GRAFANA.glob("*.json")):
        board = json.loads(path.read_text("utf-8"))
        shown = prometheus.shown(board, window)
        marks = prometheus.marks(board, window)
        picture = folder / f"{path.stem}{ending}.png"
        draw(board["title"], shown, picture, opened=opened, marks=marks)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in {"calm", "faults"}:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
