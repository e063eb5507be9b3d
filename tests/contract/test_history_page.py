"""The page about history: its examples run, and its table names every column."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from connector.tools.event_columns import COLUMNS
from connector.tools.parquet import new_parquet_file
from tests.support.simulated_day import SECOND, simulated_day

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "how-to" / "history.md").read_text("utf-8")
HOUR: Final = 3_600
# 2026-11-25T00:00:00Z, the day of the examples.
DAY_BEGINS_AT: Final = 1_795_564_800 * SECOND

# One process for all examples: DuckDB takes long to import.
RUN_SQL: Final = """
import sys, duckdb
duckdb.sql("SET TimeZone = 'UTC'")
for text in sys.stdin.read().split(";"):
    if text.strip():
        print(duckdb.sql(text).df().to_string())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the file of the examples: an hour of the day."""
    path = tmp_path_factory.mktemp("history")
    with new_parquet_file(path / "day.parquet") as file:
        for event in simulated_day(begins_at=DAY_BEGINS_AT, seconds=HOUR):
            file.add(event)
    return path


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def run(program: str, folder: Path, *, text: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def shares_of(printed: str) -> dict[str, str]:
    """Return the number behind each symbol in what was printed."""
    return dict(re.findall(r"([A-Z]+USDT) +([\d.]+)$", printed, re.MULTILINE))


def test_the_examples_for_pandas_run(folder: Path) -> None:
    # Each block continues the one before it.
    printed = run("\n".join(blocks("python")), folder)

    assert re.search(r"^all_expiry.hvl +\d+ ", printed, re.MULTILINE)
    assert "hvl_move" in printed


def test_the_examples_for_duckdb_run(folder: Path) -> None:
    examples = blocks("sql")

    printed = run(RUN_SQL, folder, text="".join(examples))

    assert len(examples) == 5
    assert "all_expiry.hvl" in printed
    assert "2026-11-25 00:10:00+00:00" in printed
    # Ten strikes of each symbol.
    assert printed.count("ETHUSDT") == 12


def test_pandas_and_duckdb_agree_on_the_time_near_a_wall(folder: Path) -> None:
    by_minutes = shares_of(run("\n".join(blocks("python")[:2]), folder))
    example = [block for block in blocks("sql") if "near_a_wall" in block]
    by_time = shares_of(run(RUN_SQL, folder, text=example[0]))

    assert len(by_minutes) == 4
    assert by_minutes.keys() == by_time.keys()
    assert any(float(share) > 0 for share in by_time.values())
    for symbol, share in by_minutes.items():
        # An hour has 60 minutes, and each may have changed in between.
        assert float(share) == pytest.approx(float(by_time[symbol]), abs=0.1)


def test_the_table_names_every_column_in_order() -> None:
    table = PAGE[PAGE.index("| columns |") :]
    named = []
    for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        named += re.findall(r"`(\w+)`", row)

    assert named == [column.name for column in COLUMNS]
