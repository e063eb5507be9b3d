"""Writes the Grafana dashboards as JSON, from the tables in `board_*.py`.

`python deploy/grafana/generate.py [FOLDER]` writes gex-levels.json and connector.json,
by default into this folder.
"""  # noqa: INP001 - a script

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import board_connector
import board_levels
from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from panels import NAMED_COLOURS, PLACES, STATUSES, Annotation, Panel

from connector.config.model import Schedule
from connector.telemetry.catalogue import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from grafana_foundation_sdk.cog.builder import Builder

    from connector.telemetry.catalogue import Metric

# The dashboards link to all dashboards with this tag: to each other.
TAG: Final = "gex-levels-connector"

# A dashboard cannot read the configuration, so the reader enters a target that differs.
TARGET: Final = f"{Schedule().target_delay_seconds:g}"

# A variable, since each Grafana has its own name for the data source.
DATASOURCE: Final = c.DataSourceRef(type_val="prometheus", uid="${datasource}")

# Grafana names the queries of a panel by letters.
REFS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# Sizes in Grafana's grid, which is 24 columns wide.
GRID_WIDTH: Final = 24
HALF_WIDTH: Final = 12
STAT_SIZE: Final = (4, 4)
PANEL_SIZE: Final = (8, 8)

# Not finer than the scrape interval of deploy/prometheus.
ANNOTATION_STEP: Final = "15s"

METRIC_NAME: Final = re.compile(r"\bgex_\w+")

# A series' name, and the matchers in braces if it has some.
SERIES: Final = re.compile(r"\b((?:gex|process)_\w+)(?:\{([^}]*)\})?")

# The parts of a histogram.
SERIES_SUFFIX: Final = re.compile("_(bucket|sum|count)$")

# The symbols are a regular expression, since several can be chosen.
VARIABLE_MATCHERS: Final = {"feed": 'feed="$feed"', "symbol": 'symbol=~"$symbol"'}


# A worker's name, instead of the address at which it was scraped. A join of PromQL:
# https://prometheus.io/docs/prometheus/latest/querying/operators/#group-modifiers
WORKER_LABEL: Final = "{{worker}}"
WORKER_NAMES: Final = "on (instance) group_left (worker) gex_build_info"


def _metric_of(series: str) -> Metric | None:
    """Return the catalogue's metric of a series, or None for one of the process."""
    return BY_NAME.get(series) or BY_NAME.get(SERIES_SUFFIX.sub("", series))


def _scoped(expression: str, variables: Container[str]) -> str:
    """Return the expression with selectors for the dashboard's variables.

    Every series is limited to the chosen fleet, and to the chosen feed and symbols if it
    has these labels and the dashboard has these variables.
    """

    def with_selector(found: re.Match[str]) -> str:
        name, own_matchers = found.groups()
        matchers = ['job="$job"']
        metric = _metric_of(name)
        labels = () if metric is None else metric.labels
        for label in labels:
            if label in VARIABLE_MATCHERS and label in variables:
                matchers.append(VARIABLE_MATCHERS[label])
        # Keep the panel's own matchers, such as a status.
        if own_matchers:
            matchers.append(own_matchers)
        return f"{name}{{{', '.join(matchers)}}}"

    return SERIES.sub(with_selector, expression)


def _named(expression: str, legend: str) -> str:
    """Return the expression with the workers' names as a label, if the legend shows them."""
    if WORKER_LABEL not in legend:
        return expression
    return f"({expression}) * {WORKER_NAMES}"


def _description(panel: Panel) -> str:
    """Return the panel's meaning, the signs of trouble and the remedy, as Markdown."""
    shows = panel.shows
    if not shows:
        help_texts = [BY_NAME[name].help for name in _metrics(panel)]
        shows = " ".join(help_texts)

    # A remedy may end in the middle of a sentence: "For each outcome see".
    remedy = panel.do
    if not remedy.endswith(" see"):
        remedy = f"{remedy} See"
    link = f"docs/{panel.see}"
    return f"{shows}\n\n**Bad:** {panel.bad}\n\n**Do:** {remedy} {link}"


def _metrics(panel: Panel) -> list[str]:
    """Return the catalogue's metrics in the panel's queries, in order."""
    series = METRIC_NAME.findall(" ".join(panel.queries.values()))
    names = [SERIES_SUFFIX.sub("", name) for name in series]
    # A dictionary keeps the order, unlike a set.
    return list(dict.fromkeys(names))


def _thresholds(steps: Mapping[float, str]) -> dashboard.ThresholdsConfig:
    rows = [d.Threshold(value, colour) for value, colour in steps.items()]
    # Grafana wants the lowest step without a value: it also covers everything below.
    rows[0].value = None
    return dashboard.ThresholdsConfig().mode(d.ThresholdsMode.ABSOLUTE).steps(rows)


def _mappings(values: Mapping[float, tuple[str, str]]) -> list[d.ValueMapping]:
    results = {}
    for index, (value, (text, colour)) in enumerate(values.items()):
        result = d.ValueMappingResult(text=text, color=colour, index=index)
        results[f"{value:g}"] = result
    return [d.ValueMap(results)]


def _stat(panel: Panel) -> stat.Panel:
    # The colour is the message, so it fills the panel.
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    return (
        stat.Panel()
        .unit(panel.unit)
        .reduce_options(last)
        .color_mode(c.BigValueColorMode.BACKGROUND_SOLID)
        .graph_mode(c.BigValueGraphMode.NONE)
    )


def _states(_: Panel) -> statetimeline.Panel:
    return statetimeline.Panel().show_value(c.VisibilityMode.NEVER).row_height(0.8)


def _graph(panel: Panel) -> timeseries.Panel:
    """Return a panel of lines. A wide one has the last and the highest value, too."""
    graph = (
        timeseries.Panel()
        .unit(panel.unit)
        .show_points(c.VisibilityMode.NEVER)
        .line_width(1)
        .legend(_legend(panel))
    )
    # List all lines at the pointer, the highest first.
    tooltip = common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI)
    graph.tooltip(tooltip.sort(c.SortOrder.DESCENDING))
    if panel.steps:
        dashed = common.GraphThresholdsStyleConfig()
        graph.thresholds_style(dashed.mode(c.GraphThresholdsStyleMode.DASHED))

    # Colour the lines whose names are known: values of a label, or legends.
    names = set(panel.queries)
    for metric in _metrics(panel):
        names.update(BY_NAME[metric].values)
    for name, colour in NAMED_COLOURS.items():
        if name in names:
            graph.override_by_name(name, _properties({"color": _fixed(colour)}))

    # Repeat the panel for each chosen value of the variable.
    if panel.repeat:
        graph.repeat(panel.repeat).repeat_direction("h")
        graph.max_per_row(GRID_WIDTH // panel.width)
        _draw_levels(graph)
    return graph


def _legend(panel: Panel) -> common.VizLegendOptions:
    legend = common.VizLegendOptions().show_legend(True)
    legend.placement(c.LegendPlacement.BOTTOM)
    has_room = panel.width >= HALF_WIDTH and not panel.repeat
    if has_room:
        legend.display_mode(c.LegendDisplayMode.TABLE)
        return legend.calcs(["lastNotNull", "max"])
    return legend.display_mode(c.LegendDisplayMode.LIST).calcs([])


def _draw_levels(graph: timeseries.Panel) -> None:
    """Set name, colour and width of every level's line."""
    for level, (name, colour, width) in board_levels.LEVELS.items():
        # A level holds until its next value. A slope would show prices nobody published.
        interpolation = "linear" if name == "Spot" else "stepAfter"
        look = {
            "displayName": name,
            "color": _fixed(colour),
            "custom.lineWidth": width,
            "custom.lineInterpolation": interpolation,
        }
        graph.override_by_name(level, _properties(look))


def _bars(panel: Panel) -> timeseries.Panel:
    stacked = common.StackingConfig().mode(c.StackingMode.NORMAL).group("A")
    bars = _graph(panel).draw_style(c.GraphDrawStyle.BARS).fill_opacity(70)
    return bars.stacking(stacked)


def _table(panel: Panel) -> table.Panel:
    """Return a table with a row per symbol and a column per query.

    Columns are prices, except the status, seconds, and shares (`to ...`).
    """
    # Merging the queries by symbol leaves a column `Value #A` for the first, and so on.
    columns = {}
    for ref, column in zip(REFS, panel.queries, strict=False):
        columns[f"Value #{ref}"] = column
    positions = {name: index for index, name in enumerate(["symbol", *columns])}
    arrangement = {
        "excludeByName": {"Time": True},
        "indexByName": positions,
        "renameByName": {"symbol": "Symbol", **columns},
    }
    status = {
        "mappings": _mappings(STATUSES),
        "custom.cellOptions": {"type": "color-background", "mode": "basic"},
    }
    place = {
        "mappings": _mappings(PLACES),
        "custom.cellOptions": {"type": "color-text"},
    }
    seconds = {"unit": units.Seconds, "decimals": 1}
    share = {"unit": units.PercentUnit, "decimals": 2}
    return (
        table.Panel()
        .unit(panel.unit)
        .filterable(True)
        .with_transformation(d.DataTransformerConfig("merge", options={}))
        .with_transformation(d.DataTransformerConfig("organize", options=arrangement))
        .override_by_name("Status", _properties(status))
        .override_by_name("Spot is", _properties(place))
        .override_by_regexp("/^(Age|Period|Jitter)$/", _properties(seconds))
        .override_by_regexp("/^to /", _properties(share))
    )


def _fixed(colour: str) -> dict[str, str]:
    return {"mode": "fixed", "fixedColor": colour}


def _properties(look: Mapping[str, object]) -> list[d.DynamicConfigValue]:
    return [d.DynamicConfigValue(name, value) for name, value in look.items()]


KINDS: Final[Mapping[str, Callable[[Panel], Any]]] = {
    "stat": _stat,
    "graph": _graph,
    "bars": _bars,
    "states": _states,
    "table": _table,
}


def _build_panel(panel: Panel, panel_id: int, variables: Container[str]) -> Any:
    """Return the panel for Grafana. `variables` are those of its dashboard."""
    built = (
        KINDS[panel.kind](panel)
        .id(panel_id)
        .title(panel.title)
        .description(_description(panel))
        .datasource(DATASOURCE)
    )
    # Set the size, and the options that not every kind of panel has.
    width, height = STAT_SIZE if panel.kind == "stat" else PANEL_SIZE
    built.span(panel.width or width).height(panel.height or height)
    if panel.steps:
        built.thresholds(_thresholds(panel.steps))
    if panel.values:
        built.mappings(_mappings(panel.values))
    if panel.decimals is not None:
        built.decimals(panel.decimals)

    # Query one moment if the panel shows the last value only: that is much cheaper.
    is_table = panel.kind == "table"
    shows_last_value = is_table or panel.kind == "stat"
    format_ = PromQueryFormat.TABLE if is_table else PromQueryFormat.TIME_SERIES
    for ref, (legend, expression) in zip(REFS, panel.queries.items(), strict=False):
        query = (
            prometheus.Dataquery()
            .ref_id(ref)
            .expr(_scoped(_named(expression, legend), variables))
            .datasource(DATASOURCE)
            .legend_format(legend)
            .format(format_)
        )
        if shows_last_value:
            query.instant()
        else:
            query.range()
        built.with_target(query)
    return built


def _annotation(
    annotation: Annotation, variables: Container[str]
) -> dashboard.AnnotationQuery:
    expression = _scoped(annotation.query, variables)
    query = (
        prometheus.Dataquery()
        .ref_id("Anno")
        .expr(expression)
        .interval(ANNOTATION_STEP)
        .datasource(DATASOURCE)
        .range()
    )
    # Grafana up to version 10 reads the query from `expr` and `step`, later ones from `target`.
    return (
        dashboard.AnnotationQuery()
        .name(annotation.name)
        .datasource(DATASOURCE)
        .enable(enable=True)
        .icon_color(annotation.colour)
        .expr(expression)
        .step(ANNOTATION_STEP)
        .target(query)
        .title_format(annotation.title)
        .tag_keys("symbol")
    )


def _dashboard(
    title: str,
    rows: Mapping[str, tuple[Panel, ...]],
    *variables: Builder[d.VariableModel],
    annotations: Sequence[Annotation] = (),
) -> dashboard.Dashboard:
    """Return a dashboard of these rows, of which only the first is open."""
    # Follow a link with the same time range and variables.
    links = (
        dashboard.DashboardLink("Dashboards")
        .type(d.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .keep_time(True)
        .include_vars(True)
    )
    board = (
        dashboard.Dashboard(title)
        .uid(title.lower().replace(" ", "-"))
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(d.DashboardCursorSync.CROSSHAIR)
        # The files are generated: an edit in the browser would be lost.
        .readonly()
        .link(links)
    )
    for variable in variables:
        board.with_variable(variable)

    # Grafana wants a unique number for each row and panel.
    names = {variable.build().name for variable in variables}
    for annotation in annotations:
        board.annotation(_annotation(annotation, names))
    ids = itertools.count(1)
    for place, (heading, panels) in enumerate(rows.items()):
        if place == 0:
            if heading:
                board.with_row(dashboard.Row(heading).id(next(ids)))
            for panel in panels:
                board.with_panel(_build_panel(panel, next(ids), names))
            continue
        # Grafana queries the panels of a collapsed row only when the row is opened.
        row = dashboard.Row(heading).id(next(ids)).collapsed(collapsed=True)
        for panel in panels:
            row.with_panel(_build_panel(panel, next(ids), names))
        board.with_row(row)
    return board


def _label_variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """Return a variable to choose from a label's values."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .definition(query)
        .datasource(DATASOURCE)
        .refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(d.VariableSort.ALPHABETICAL_ASC)
    )


def _dashboards() -> dict[str, dashboard.Dashboard]:
    """Return the dashboards by the name of their file."""
    source = dashboard.DatasourceVariable("datasource").label("Prometheus")
    source.type("prometheus")

    # Each choice narrows the next: the fleet, its feeds, the feed's symbols.
    fleet = _label_variable("job", "Fleet", "label_values(gex_build_info, job)")
    feed = _label_variable("feed", "Feed", 'label_values(gex_shards{job="$job"}, feed)')
    symbol = _label_variable(
        "symbol", "Symbols", 'label_values(gex_level{job="$job", feed="$feed"}, symbol)'
    )
    # Any symbol, instead of a long list of all that exist at the moment.
    symbol.multi(True).include_all(True).all_value(".*")
    symbol.current(d.VariableOption(True, "All", "$__all"))

    target = dashboard.TextBoxVariable("target").label("Target delay (s)")
    target.default_value(TARGET).current(d.VariableOption(True, TARGET, TARGET))

    return {
        "gex-levels": _dashboard(
            "GEX levels",
            board_levels.ROWS,
            source,
            fleet,
            feed,
            symbol,
            annotations=board_levels.ANNOTATIONS,
        ),
        "connector": _dashboard(
            "GEX connector", board_connector.ROWS, source, fleet, target
        ),
    }


def main(folder: Path) -> None:
    """Write both files."""
    for name, board in _dashboards().items():
        # Sorted, so that a change of the tables makes a small change of the file.
        text = json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True)
        (folder / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


def _chosen_folder() -> Path:
    if len(sys.argv) > 1:
        return Path(sys.argv[1])
    return Path(__file__).parent


if __name__ == "__main__":
    main(_chosen_folder())
