"""Every metric that is named anywhere in the repository exists in the catalogue."""

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
TEXT_SUFFIXES = {
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
METRIC_NAME = re.compile(r"(?<![A-Za-z0-9_])gex_[a-z0-9_]+")

# A wheel's name for the distribution, and the name of a file in an example.
OTHER_NAMES = {"gex_levels_connector", "gex_http_token"}


def names_of_series() -> set[str]:
    """Return the names of all metrics, and those of a histogram's series."""
    names = set()
    for metric in METRICS:
        names.add(metric.name)
        if metric.buckets:
            for suffix in ("_bucket", "_sum", "_count"):
                names.add(metric.name + suffix)
    return names


KNOWN = names_of_series()


def misspelt(text: str) -> set[str]:
    """Return the names that are not in the catalogue.

    A name that ends in `_` stands for all names that begin with it, as in a pattern.
    """
    wrong = set()
    unknown = set(METRIC_NAME.findall(text)) - KNOWN - OTHER_NAMES
    for name in unknown:
        is_prefix = any(known.startswith(name) for known in KNOWN)
        if not (name.endswith("_") and is_prefix):
            wrong.add(name)
    return wrong


def files() -> list[Path]:
    found = []
    for place in PLACES:
        top = ROOT / place
        # The place itself may be a file.
        for path in (top, *top.rglob("*")):
            is_text = path.is_file() and path.suffix in TEXT_SUFFIXES
            if is_text and "__pycache__" not in path.parts:
                found.append(path)
    return found


def test_every_metric_named_in_the_repository_is_in_the_catalogue() -> None:
    wrong = {}
    for path in files():
        names = misspelt(path.read_text("utf-8"))
        if names:
            wrong[str(path.relative_to(ROOT))] = names

    assert wrong == {}


def test_the_important_files_are_searched() -> None:
    # A wrong folder or suffix in the lists above would make the test before pass.
    names = {path.name for path in files()}

    assert names >= {"catalogue.py", "metrics.md", "README.md", Path(__file__).name}


# XX stands for gex, since this file is searched as well.
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
        "histogram_quantile(0.9, rate(XX_publish_duration_seconds_bucket[5m]))",
        # A pattern for several metrics, and a longer word.
        '{__name__=~"XX_symbols_.*_total"}',
        "noXX_nope",
    ],
)
def test_a_name_in_the_catalogue_is_accepted(text: str) -> None:
    assert not misspelt(text.replace("XX", "gex"))
