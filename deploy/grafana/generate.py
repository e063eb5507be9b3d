"""The Grafana dashboards as JSON, from the tables of `board_levels` and `board_connector`.

`python deploy/grafana/generate.py [FOLDER]` writes gex-levels.json and connector.json, by default next to itself.
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
from panels import NAMED_COLOURS, STATUSES, Panel

from connector.config.model import Schedule
from connector.telemetry.catalogue import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from grafana_foundation_sdk.cog.builder import Builder

TAG: Final = "gex-levels-connector"
TARGET: Final = f"{Schedule().target_delay_seconds:g}"
DATASOURCE: Final = c.DataSourceRef(type_val="prometheus", uid="${datasource}")
REFS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HALF: Final = 12
SMALL: Final = (4, 4)
USUAL: Final = (8, 8)


def _scoped(expression: str, variables: Container[str]) -> str:
    """The expression, of the fleet chosen, and where both metric and dashboard have them of feed and symbols."""

    def selector(found: re.Match[str]) -> str:
        name, more = found.groups()
        metric = BY_NAME.get(name) or BY_NAME.get(
            re.sub("_(bucket|sum|count)$", "", name)
        )
        known = {"feed": 'feed="$feed"', "symbol": 'symbol=~"$symbol"'}
        ours = (
            [known[one] for one in metric.labels if one in known and one in variables]
            if metric
            else []
        )
        matchers = ", ".join(filter(None, ('job="$job"', *ours, more)))
        return f"{name}{{{matchers}}}"

    return re.sub(r"\b((?:gex|process)_\w+)(?:\{([^}]*)\})?", selector, expression)


def _described(panel: Panel) -> str:
    """What is shown, what is bad, what to do."""
    shows = panel.shows or " ".join(BY_NAME[name].help for name in _metrics(panel))
    return f"{shows}\n\n**Bad:** {panel.bad}\n\n**Do:** {panel.do} docs/{panel.see}"


def _metrics(panel: Panel) -> list[str]:
    """The metrics of the catalogue that it asks for."""
    named = re.findall(r"\bgex_\w+", " ".join(panel.queries.values()))
    return list(
        dict.fromkeys(re.sub("_(bucket|sum|count)$", "", name) for name in named)
    )


def _thresholds(steps: Mapping[float, str]) -> dashboard.ThresholdsConfig:
    first, *others = steps.items()
    rows = [
        d.Threshold(None, first[1]),
        *(d.Threshold(value, colour) for value, colour in others),
    ]
    return dashboard.ThresholdsConfig().mode(d.ThresholdsMode.ABSOLUTE).steps(rows)


def _mapped(values: Mapping[float, tuple[str, str]]) -> list[d.ValueMapping]:
    rows = {
        f"{value:g}": d.ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, (text, colour)) in enumerate(values.items())
    }
    return [d.ValueMap(rows)]


def _stat(panel: Panel) -> stat.Panel:
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    made = stat.Panel().unit(panel.unit).reduce_options(last)
    return made.color_mode(c.BigValueColorMode.BACKGROUND_SOLID).graph_mode(
        c.BigValueGraphMode.NONE
    )


def _states(_: Panel) -> statetimeline.Panel:
    return statetimeline.Panel().show_value(c.VisibilityMode.NEVER).row_height(0.8)


def _graph(panel: Panel) -> timeseries.Panel:
    """Lines; with the last and the highest value where there is room for them."""
    wide = panel.width >= HALF and not panel.repeat
    legend = (
        common.VizLegendOptions().show_legend(True).placement(c.LegendPlacement.BOTTOM)
    )
    legend.display_mode(c.LegendDisplayMode.TABLE if wide else c.LegendDisplayMode.LIST)
    made = (
        timeseries.Panel()
        .unit(panel.unit)
        .show_points(c.VisibilityMode.NEVER)
        .line_width(1)
    )
    made.legend(legend.calcs(["lastNotNull", "max"] if wide else []))
    made.tooltip(
        common.VizTooltipOptions()
        .mode(c.TooltipDisplayMode.MULTI)
        .sort(c.SortOrder.DESCENDING)
    )
    if panel.steps:
        made.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(c.GraphThresholdsStyleMode.DASHED)
        )
    values = {value for name in _metrics(panel) for value in BY_NAME[name].values}
    for name, colour in NAMED_COLOURS.items():
        if name in values or name in panel.queries:
            made.override_by_name(name, _properties({"color": _fixed(colour)}))
    if panel.repeat:
        made.repeat(panel.repeat).repeat_direction("h").max_per_row(24 // panel.width)
        for name, (shown, colour, width) in board_levels.LEVELS.items():
            look = {
                "displayName": shown,
                "color": _fixed(colour),
                "custom.lineWidth": width,
                # A level holds until the next one: a slope between two would be prices that nobody said.
                "custom.lineInterpolation": "linear"
                if shown == "Spot"
                else "stepAfter",
            }
            made.override_by_name(name, _properties(look))
    return made


def _bars(panel: Panel) -> timeseries.Panel:
    made = _graph(panel).draw_style(c.GraphDrawStyle.BARS).fill_opacity(70)
    return made.stacking(common.StackingConfig().mode(c.StackingMode.NORMAL).group("A"))


def _table(panel: Panel) -> table.Panel:
    """A row a symbol, a column a query: prices, shares (`to ...`), seconds, and the status in its colour."""
    columns = {
        f"Value #{ref}": column
        for ref, column in zip(REFS, panel.queries, strict=False)
    }
    arranged = {
        "excludeByName": {"Time": True},
        "indexByName": {name: index for index, name in enumerate(["symbol", *columns])},
        "renameByName": {"symbol": "Symbol", **columns},
    }
    made = table.Panel().unit(panel.unit).filterable(True)
    made.with_transformation(d.DataTransformerConfig("merge", options={}))
    made.with_transformation(d.DataTransformerConfig("organize", options=arranged))
    coloured = {
        "mappings": _mapped(STATUSES),
        "custom.cellOptions": {"type": "color-background", "mode": "basic"},
    }
    made.override_by_name("Status", _properties(coloured))
    made.override_by_regexp(
        "/^(Age|Period|Jitter)$/", _properties({"unit": units.Seconds, "decimals": 1})
    )
    return made.override_by_regexp(
        "/^to /", _properties({"unit": units.PercentUnit, "decimals": 2})
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


def _built(panel: Panel, number: int, variables: Container[str]) -> Any:
    """The SDK's panel; `number` is its id."""
    made = (
        KINDS[panel.kind](panel)
        .id(number)
        .title(panel.title)
        .description(_described(panel))
        .datasource(DATASOURCE)
    )
    width, height = SMALL if panel.kind == "stat" else USUAL
    made.span(panel.width or width).height(panel.height or height)
    if panel.steps:
        made.thresholds(_thresholds(panel.steps))
    if panel.values:
        made.mappings(_mapped(panel.values))
    if panel.decimals is not None:
        made.decimals(panel.decimals)
    for ref, (legend, expression) in zip(REFS, panel.queries.items(), strict=False):
        query = (
            prometheus.Dataquery()
            .ref_id(ref)
            .expr(_scoped(expression, variables))
            .datasource(DATASOURCE)
        )
        is_table = panel.kind == "table"
        query.legend_format(legend).format(
            PromQueryFormat.TABLE if is_table else PromQueryFormat.TIME_SERIES
        )
        made.with_target(
            query.instant() if is_table or panel.kind == "stat" else query.range()
        )
    return made


def _dashboard(
    title: str,
    rows: Mapping[str, tuple[Panel, ...]],
    *variables: Builder[d.VariableModel],
) -> dashboard.Dashboard:
    names = {variable.build().name for variable in variables}
    links = (
        dashboard.DashboardLink("Dashboards")
        .type(d.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
    )
    made = (
        dashboard.Dashboard(title)
        .uid(title.lower().replace(" ", "-"))
        .tags([TAG])
        .time("now-1h", "now")
    )
    made.refresh("30s").timezone("browser").tooltip(
        d.DashboardCursorSync.CROSSHAIR
    ).readonly()
    made.link(links.keep_time(True).include_vars(True))
    numbers = itertools.count(1)
    for variable in variables:
        made.with_variable(variable)
    for row, panels in rows.items():
        if row:
            made.with_row(dashboard.Row(row).id(next(numbers)))
        for panel in panels:
            made.with_panel(_built(panel, next(numbers), names))
    return made


def _chosen(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """A variable with the values of a label."""
    made = (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .definition(query)
        .datasource(DATASOURCE)
    )
    return made.refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        d.VariableSort.ALPHABETICAL_ASC
    )


def main(folder: Path) -> None:
    """Write both files."""
    prometheuses = (
        dashboard.DatasourceVariable("datasource")
        .label("Prometheus")
        .type("prometheus")
    )
    fleet = _chosen("job", "Fleet", "label_values(gex_build_info, job)")
    feed = _chosen("feed", "Feed", 'label_values(gex_shards{job="$job"}, feed)')
    symbol = _chosen(
        "symbol", "Symbols", 'label_values(gex_level{job="$job", feed="$feed"}, symbol)'
    )
    symbol.multi(True).include_all(True).all_value(".*").current(
        d.VariableOption(True, "All", "$__all")
    )
    target = (
        dashboard.TextBoxVariable("target")
        .label("Target delay (s)")
        .default_value(TARGET)
    )
    target.current(d.VariableOption(True, TARGET, TARGET))
    for name, made in {
        "gex-levels": _dashboard(
            "GEX levels", board_levels.ROWS, prometheuses, fleet, feed, symbol
        ),
        "connector": _dashboard(
            "GEX connector", board_connector.ROWS, prometheuses, fleet, target
        ),
    }.items():
        text = json.dumps(made.build(), cls=JSONEncoder, indent=2, sort_keys=True)
        (folder / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
