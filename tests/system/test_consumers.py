"""The example consumers in other languages, against everything that topics can hold."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conformance.cases import ALL_CASES
from tests.conformance.program import Program
from tests.conformance.suite import Result, new_world, play_all

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "schemas"
PATIENCE_SECONDS = 120.0
BUILD_SECONDS = 600.0


def build(folder: Path, *command: str) -> None:
    """Run a build command in the folder of an example."""
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


def go(output: Path) -> Program:
    binary = output / "go-consumer"
    # Unoptimized: on a new machine the standard library is compiled as well.
    command = ["go", "build", "-gcflags=all=-N -l", "-o", str(binary), "."]
    build(ROOT / "examples" / "go", *command)
    return Program("go", (str(binary), "--schemas", str(SCHEMAS)))


LANGUAGES: tuple[Callable[[Path], Program], ...] = (go,)


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, str], Result]:
    """Build every program, and play every case with all of them at once."""
    folder = tmp_path_factory.mktemp("consumers")
    with ThreadPoolExecutor() as pool:
        programs = list(pool.map(lambda language: language(folder), LANGUAGES))
    with new_world(folder, PATIENCE_SECONDS) as world:
        played = play_all(world, programs, ALL_CASES)
    return {(result.program, result.case): result for result in played}


@pytest.mark.parametrize("case", [case.__name__ for case in ALL_CASES])
@pytest.mark.parametrize("language", [language.__name__ for language in LANGUAGES])
def test_a_program_prints_what_was_committed(
    results: dict[tuple[str, str], Result], language: str, case: str
) -> None:
    assert results[language, case].faults == []
