"""Wherever a metric is named, it is one of the catalogue's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from connector.telemetry.catalogue import METRICS

ROOT = Path(__file__).parents[2]
PLACES = (
    "connector",
    "deploy",
    "docs",
    "examples",
    "schemas",
    "tests",
    "README.md",
    "CHANGELOG.md",
    "pyproject.toml",
)
TEXT = {
    ".avsc",
    ".css",
    ".html",
    ".js",
    ".json",
    ".md",
    ".py",
    ".sh",
    ".svg",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
    "",
}
NAMED = re.compile(r"(?<![A-Za-z0-9_])gex_[a-z0-9_]+")

NO_METRIC = {"gex_levels_connector", "gex_http_token"}
"""The distribution's name in a wheel's, and an example's file."""

KNOWN = {metric.name for metric in METRICS} | {
    metric.name + suffix
    for metric in METRICS
    if metric.buckets
    for suffix in ("_bucket", "_sum", "_count")
}


def misspelt(text: str) -> set[str]:
    """Names that are in no catalogue. One that ends in `_` stands for all that begin so, as in a pattern."""
    return {
        name
        for name in set(NAMED.findall(text)) - KNOWN - NO_METRIC
        if not (name.endswith("_") and any(known.startswith(name) for known in KNOWN))
    }


def files() -> list[Path]:
    found = [
        path
        for place in PLACES
        for path in (ROOT / place, *(ROOT / place).rglob("*"))
        if path.is_file()
    ]
    return [
        path
        for path in found
        if path.suffix in TEXT and "__pycache__" not in path.parts
    ]


def test_every_name_in_the_repository_is_in_the_catalogue() -> None:
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in files()
        if (found := misspelt(path.read_text("utf-8")))
    }
    assert not wrong


def test_the_places_that_matter_are_looked_at() -> None:
    assert {path.name for path in files()} >= {
        "catalogue.py",
        "metrics.md",
        "README.md",
        Path(__file__).name,
    }


@pytest.mark.parametrize(
    "text",
    [
        "rate(XX_events[5m])",
        "XX_event_total",
        "XX_symbol_status_total",
        "XX_publish_duration_seconds_max",
        "XX_nope_",
    ],
)
def test_a_misspelt_name_is_found(text: str) -> None:
    assert misspelt(text.replace("XX", "gex"))


@pytest.mark.parametrize(
    "text",
    [
        "rate(XX_events_total[5m])",
        "histogram_quantile(0.9, sum by (le) (rate(XX_publish_duration_seconds_bucket[5m])))",
        '{__name__=~"XX_symbols_.*_total"}',
        "noXX_nope",
    ],
)
def test_a_name_of_the_catalogue_is_no_mistake(text: str) -> None:
    assert not misspelt(text.replace("XX", "gex"))
