"""Pages that say what the code says are what the code writes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from connector.config.load import load
from connector.config.model import (
    TABLES,
    Feed,
    Http,
    Kafka,
    Schedule,
    SchemaRegistry,
    Upstream,
)
from connector.config.secrets import Secret
from connector.core.diff import Threshold
from connector.devkit.reference.__main__ import PAGES, main
from connector.telemetry.catalogue import METRICS

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "config.toml"


FILES = {
    "configuration": "docs/configuration.md",
    "metrics": "docs/metrics.md",
    "openapi": "connector/web/page/openapi.json",
}


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_up_to_date(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == 0
    assert (ROOT / FILES[name]).read_text("utf-8") == capsys.readouterr().out


@pytest.mark.parametrize("names", [[], ["configuration", "elsewhere"]])
def test_a_page_that_is_none_is_refused(
    names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(names) == 2
    assert "configuration" in capsys.readouterr().err


def test_the_example_is_the_defaults_and_one_feed() -> None:
    config = load(EXAMPLE, {"GEX_UPSTREAM__API_KEY": "demo-key"})

    assert config.upstream == Upstream(api_key=Secret("demo-key"))
    assert config.kafka == Kafka()
    assert config.schema_registry == SchemaRegistry()
    assert config.schedule == Schedule()
    assert config.http == Http()
    assert config.feeds == (
        Feed(
            name="majors",
            symbols=("BTCUSDT", "ETHUSDT"),
            include=("max_pain", "ranked"),
        ),
    )


def test_what_the_example_leaves_out_can_be_put_in(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    config = tmp_path / "config.toml"
    config.write_text(text.replace("# thresholds = ", "thresholds = "))
    (feed,) = load(config, {"GEX_UPSTREAM__API_KEY": "demo-key"}).feeds
    assert feed.thresholds == {
        "all_expiry.hvl": Threshold(absolute=25.0, relative=0.001),
        "odte": Threshold(relative=0.0005),
    }


def test_the_example_leaves_no_key_out() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    given = tomllib.loads(text)

    for name, struct in TABLES.items():
        for field in msgspec.structs.fields(struct):
            table = given[name][0] if name == "feeds" else given[name]
            assert field.name in table or f"# {field.name} = " in text


def test_the_page_of_metrics_says_everything_of_every_metric() -> None:
    rows = {
        row.split(" | ")[0]: row
        for row in PAGES["metrics"]().splitlines()
        if row.startswith("| `")
    }
    for metric in METRICS:
        row = rows[f"| `{metric.name}`"]
        assert metric.help in row
        assert metric.type in row
        assert all(f"`{name}`" in row for name in metric.labels + metric.values)
        assert all(f"{bound:g}" in row for bound in metric.buckets)


def test_no_cell_breaks_a_table_of_metrics() -> None:
    tables = [row for row in PAGES["metrics"]().splitlines() if row.startswith("|")]
    assert {row.count("|") for row in tables} == {5}
