"""`history --parquet` without its extra, and a file that is not completed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from connector.errors import KafkaUnavailable, UsageError
from connector.tools.history import check_target, write_parquet
from connector.tools.parquet import new_parquet_file
from tests.support.simulated_day import simulated_day

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connector.core.model import Event


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "connector.tools.parquet")
    # Then `import pyarrow` fails.
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(UsageError, match=r"pip install 'gex-levels-connector\[parquet"):
        write_parquet(iter(()), tmp_path / "events.parquet")


def test_nothing_is_left_of_a_file_that_is_not_completed(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"

    with pytest.raises(KafkaUnavailable):
        write_parquet(interrupted(), path)

    assert list(tmp_path.iterdir()) == []


def interrupted() -> Iterator[Event]:
    yield from simulated_day(seconds=120)
    raise KafkaUnavailable("the broker is gone")


def test_a_file_is_replaced_only_once_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    path.write_text("the file before")

    with new_parquet_file(path):
        assert path.read_text() == "the file before"

    assert path.read_bytes().startswith(b"PAR1")


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder, expected a file"):
        check_target(tmp_path, replaces=True)


def test_a_place_that_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="File name too long"):
        check_target(tmp_path / ("x" * 300), replaces=False)
