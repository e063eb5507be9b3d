"""`docs/metrics.md` is the catalogue."""

from __future__ import annotations

from pathlib import Path

from connector.runtime.catalogue import LABELS, METRICS
from connector.runtime.metrics_reference import metrics_reference

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == metrics_reference(), "python -m connector.reference metrics"


def test_the_page_says_everything_of_every_metric() -> None:
    rows = {row.split(" | ")[0]: row for row in metrics_reference().splitlines() if row.startswith("| `")}
    for metric in METRICS:
        row = rows[f"| `{metric.name}`"]
        assert metric.help in row
        assert metric.type in row
        assert all(f"`{label}`" in row for label in metric.labels)
    assert {f"| `{label}`" for label in LABELS} <= set(rows)


def test_no_cell_breaks_the_table() -> None:
    tables = [row for row in metrics_reference().splitlines() if row.startswith("|")]
    assert {row.count("|") for row in tables} == {3, 5}
