"""Fill in a dashboard's variables, query Prometheus and name the results, as Grafana does."""

from __future__ import annotations

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.processes import Program, start_prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    # A part of a dashboard, as its file has it.
    Json = Mapping[str, Any]
    # A moment in seconds, and a value.
    Point = tuple[float, float]

JOB = "gex-connector"
REQUEST_SECONDS = 30
# Grafana asks for about a point per pixel of a panel's width.
GRAPH_POINTS = 600


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a panel: its query's letter, its legend, its labels and its points.

    `points` are (moment, value) pairs without those that are not numbers.
    """

    ref: str
    name: str
    labels: Mapping[str, str]
    points: Sequence[Point]

    @property
    def last(self) -> float:
        _, value = self.points[-1]
        return value


@dataclass(frozen=True, slots=True)
class Shown:
    """A panel as Grafana draws it. A repeated panel has one for each value."""

    panel: Json
    title: str
    series: Sequence[Series]
    is_hidden: bool
    """True in a row that opens collapsed."""

    def empty(self) -> list[str]:
        """Return the letters of the queries without results."""
        found = {series.ref for series in self.series}
        missing = []
        for target in self.panel["targets"]:
            if target["refId"] not in found:
                missing.append(target["refId"])
        return missing


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch of time that Grafana marks on graphs, with the text of an annotation."""

    text: str
    colour: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Window:
    """The time range chosen in Grafana, and the datasource's scrape interval."""

    start: float
    end: float
    scrape_seconds: int

    @property
    def step_seconds(self) -> int:
        # Points closer together than the samples would show nothing more.
        step = math.ceil((self.end - self.start) / GRAPH_POINTS)
        return max(self.scrape_seconds, step)

    @property
    def variables(self) -> dict[str, str]:
        # https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/#use-__rate_interval
        fewest_seconds = 4 * self.scrape_seconds
        rate = max(self.step_seconds + self.scrape_seconds, fewest_seconds)
        return {
            "__rate_interval": f"{rate}s",
            "__range": f"{round(self.end - self.start)}s",
        }


class Prometheus:
    """A running Prometheus."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def ask(self, path: str, **parameters: object) -> Any:
        """Return the data of its answer. AssertionError with its text if it refuses."""
        query = urllib.parse.urlencode(parameters, doseq=True)
        url = f"{self.program.url}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(url, timeout=REQUEST_SECONDS) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            # The body says at which letter of the query Prometheus stumbled.
            reason = error.read().decode()
            raise AssertionError(f"{parameters}: {reason}") from error

    def values(self, query: str, window: Window) -> list[str]:
        """Return the result of `label_values(selector, label)`."""
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
        assert found, query
        selector, label = found.groups()
        path = f"label/{label}/values"
        period = {"start": window.start, "end": window.end}
        values: list[str] = self.ask(path, **period, **{"match[]": selector})
        return sorted(values)

    def series(
        self, target: Json, variables: Mapping[str, str], window: Window
    ) -> list[Series]:
        """Return the results of a panel's query."""
        expression = filled(target["expr"], variables)
        if target.get("instant"):
            answer = self.ask("query", query=expression, time=window.end)
        else:
            answer = self.ask(
                "query_range",
                query=expression,
                start=window.start,
                end=window.end,
                step=window.step_seconds,
            )
        found = []
        for result in answer["result"]:
            labels = result["metric"]
            # An instant query has a single sample.
            samples = result.get("values") or [result["value"]]
            points = numbers(samples)
            if points:
                name = legend_of(target["legendFormat"], labels)
                found.append(Series(target["refId"], name, labels, points))
        return found

    def shown(self, board: Json, window: Window) -> list[Shown]:
        """Return every panel of a dashboard, also those of collapsed rows.

        Variables have their first value, or all of them if several can be chosen.
        """
        chosen, options = self._choose(board["templating"]["list"], window)
        shown = []
        for panel, is_hidden in panels_of(board):
            repeated = panel.get("repeat")
            if not repeated:
                shown.append(self._show_panel(panel, chosen, window, is_hidden))
                continue
            for value in options[repeated]:
                variables = {**chosen, repeated: value}
                shown.append(self._show_panel(panel, variables, window, is_hidden))
        return shown

    def marks(self, board: Json, window: Window) -> list[Mark]:
        """Return the marks of a dashboard's annotations."""
        chosen, _ = self._choose(board["templating"]["list"], window)
        found = []
        for annotation in board["annotations"].get("list", []):
            target = {**annotation["target"], "legendFormat": annotation["titleFormat"]}
            colour = annotation["iconColor"]
            for series in self.series(target, chosen, window):
                found += marks_of(series, colour, window.step_seconds)
        return found

    def _show_panel(
        self,
        panel: Json,
        variables: Mapping[str, str],
        window: Window,
        is_hidden: bool,
    ) -> Shown:
        series: list[Series] = []
        # A heading between rows of panels has no queries.
        for target in panel.get("targets", []):
            series += self.series(target, variables, window)
        title = filled(panel["title"], variables)
        return Shown(panel, title, series, is_hidden)

    def _choose(
        self, variables: Sequence[Json], window: Window
    ) -> tuple[dict[str, str], dict[str, list[str]]]:
        """Return the value of every variable, and the options of those with a query."""
        chosen = dict(window.variables)
        options: dict[str, list[str]] = {}
        for variable in variables:
            name = variable["name"]
            if variable["type"] == "query":
                # The query can use variables that stand before it.
                query = filled(variable["query"], chosen)
                values = self.values(query, window)
                assert values, f"the variable {name} has no value"
                options[name] = values
                chosen[name] = values[0]
                if variable.get("multi"):
                    chosen[name] = variable["allValue"]
            elif variable["type"] == "textbox":
                chosen[name] = variable["query"]
        return chosen, options


def marks_of(series: Series, colour: str, step_seconds: float) -> list[Mark]:
    """Join the points above zero to stretches, as Grafana does."""
    marks: list[Mark] = []
    for at, value in series.points:
        if value <= 0:
            continue
        start = at
        if marks and marks[-1].end + step_seconds >= at:
            start = marks.pop().start
        marks.append(Mark(series.name, colour, start, at))
    return marks


def panels_of(board: Json) -> Iterator[tuple[Json, bool]]:
    """Yield each panel and row from top to bottom, and True if its row is collapsed."""
    for panel in board["panels"]:
        yield panel, False
        # The panels of an open row are not in it, but follow it.
        for hidden in panel.get("panels", []):
            yield hidden, True


def numbers(samples: Sequence[tuple[float, str]]) -> list[Point]:
    """Return the samples as numbers, without NaN and infinity."""
    points = []
    for at, text in samples:
        value = float(text)
        if math.isfinite(value):
            points.append((float(at), value))
    return points


def legend_of(template: str, labels: Mapping[str, str]) -> str:
    """Return a legend with the values of its labels."""

    def value(found: re.Match[str]) -> str:
        # Grafana shows nothing for a label that the series lacks.
        return labels.get(found[1], "")

    return re.sub(r"\{\{\s*(\w+)\s*\}\}", value, template)


def filled(text: str, variables: Mapping[str, str]) -> str:
    """Return a query or title with its variables. KeyError for an unknown one."""

    def value(found: re.Match[str]) -> str:
        return variables[found[1]]

    return re.sub(r"\$(\w+)", value, text)


@contextmanager
def start_scraping(
    folder: Path, workers: Sequence[Program], scrape_seconds: int
) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes these workers, and yield it when it is ready."""
    targets = [worker.url.removeprefix("http://") for worker in workers]
    interval = f"{scrape_seconds}s"
    job = {"job_name": JOB, "static_configs": [{"targets": targets}]}
    config = {
        # A longer timeout than the interval is refused.
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "scrape_configs": [job],
    }
    with start_prometheus(folder, config) as program:
        yield Prometheus(program)
