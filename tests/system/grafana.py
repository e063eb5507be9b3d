"""What Grafana does with a dashboard: fill in its variables, ask Prometheus, name what comes back."""

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

JOB = "gex-connector"


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its query's letter, its legend, its labels, and moments with values, only those that are numbers."""

    ref: str
    name: str
    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]

    @property
    def last(self) -> float:
        return self.points[-1][1]


@dataclass(frozen=True, slots=True)
class Shown:
    """A panel as it is drawn; one that is repeated, for one value of its variable."""

    panel: Mapping[str, Any]
    title: str
    series: Sequence[Series]

    def empty(self) -> list[str]:
        """The queries that brought nothing."""
        brought = {series.ref for series in self.series}
        return [
            target["refId"]
            for target in self.panel["targets"]
            if target["refId"] not in brought
        ]


@dataclass(frozen=True, slots=True)
class Window:
    """The time chosen in Grafana, and what its datasource says of the scrapes."""

    start: float
    end: float
    scrape_seconds: int

    @property
    def step_seconds(self) -> int:
        """As for a panel 600 points wide."""
        return max(self.scrape_seconds, math.ceil((self.end - self.start) / 600))

    @property
    def variables(self) -> dict[str, str]:
        # https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/#use-__rate_interval
        rate = max(self.step_seconds + self.scrape_seconds, 4 * self.scrape_seconds)
        return {
            "__rate_interval": f"{rate}s",
            "__range": f"{round(self.end - self.start)}s",
        }


class Prometheus:
    """A running one."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def ask(self, path: str, **parameters: object) -> Any:
        """What it answers; AssertionError with its own words where it refuses."""
        try:
            url = f"{self.program.url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
            with urllib.request.urlopen(url, timeout=30) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def values(self, query: str, window: Window) -> list[str]:
        """What `label_values(selector, label)` stands for."""
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
        assert found, query
        between = {"start": window.start, "end": window.end}
        values: list[str] = self.ask(
            f"label/{found[2]}/values", **{"match[]": found[1]}, **between
        )
        return sorted(values)

    def series(
        self, target: Mapping[str, Any], variables: Mapping[str, str], window: Window
    ) -> list[Series]:
        """What a query of a panel brings."""
        expression = filled(target["expr"], variables)
        if target.get("instant"):
            found = self.ask("query", query=expression, time=window.end)
        else:
            step = window.step_seconds
            found = self.ask(
                "query_range",
                query=expression,
                start=window.start,
                end=window.end,
                step=step,
            )
        made = []
        for one in found["result"]:
            points = [
                (float(at), float(value))
                for at, value in one.get("values") or [one["value"]]
            ]
            if numbers := [point for point in points if math.isfinite(point[1])]:
                made.append(
                    Series(
                        target["refId"],
                        named(target["legendFormat"], one["metric"]),
                        one["metric"],
                        numbers,
                    )
                )
        return made

    def shown(self, board: Mapping[str, Any], window: Window) -> list[Shown]:
        """Every panel of a dashboard, as it opens: each variable at its first value, or at all of them."""
        chosen, options = dict(window.variables), dict[str, list[str]]()
        for variable in board["templating"]["list"]:
            name = variable["name"]
            if variable["type"] == "query":
                options[name] = self.values(filled(variable["query"], chosen), window)
                assert options[name], f"the variable {name} has no value"
                chosen[name] = (
                    variable["allValue"] if variable.get("multi") else options[name][0]
                )
            elif variable["type"] == "textbox":
                chosen[name] = variable["query"]
        made = []
        for panel in board["panels"]:
            over = panel.get("repeat")
            for value in options[over] if over else [""]:
                variables = chosen | ({over: value} if over else {})
                found = [
                    one
                    for target in panel.get("targets", [])
                    for one in self.series(target, variables, window)
                ]
                made.append(Shown(panel, filled(panel["title"], variables), found))
        return made


def named(legend: str, labels: Mapping[str, str]) -> str:
    """A legend with the values of its labels."""
    return re.sub(
        r"\{\{\s*(\w+)\s*\}\}", lambda label: labels.get(label[1], ""), legend
    )


def filled(text: str, variables: Mapping[str, str]) -> str:
    """A query or title with its variables; KeyError where one is unknown."""
    return re.sub(r"\$(\w+)", lambda found: variables[found[1]], text)


@contextmanager
def start_scraping(
    folder: Path, workers: Sequence[Program], scrape_seconds: int
) -> Iterator[Prometheus]:
    """One that scrapes these workers, once it is ready."""
    scraped = [{"targets": [worker.url.removeprefix("http://") for worker in workers]}]
    every = f"{scrape_seconds}s"
    config = {
        "global": {"scrape_interval": every, "scrape_timeout": every},
        "scrape_configs": [{"job_name": JOB, "static_configs": scraped}],
    }
    with start_prometheus(folder, config) as program:
        yield Prometheus(program)
