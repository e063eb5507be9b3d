"""The example consumers in every language, against everything that topics can hold."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from connector.devkit import jars
from tests.conformance.cases import ALL_CASES
from tests.conformance.program import PYTHON, Program
from tests.conformance.suite import Result, new_world, play_all

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "schemas"
PATIENCE_SECONDS = 400.0
# Four compilers run at once, and one compiles a library of C.
BUILD_SECONDS = 1500.0

# A short life: compiling Java to fast machine code costs more than it saves.
QUICK_JAVA = "-XX:TieredStopAtLevel=1"
# For npm. librdkafka is compiled, linked to Debian's libraries, if npm cannot download it.
BUILD_VARIABLES = {
    "MAVEN_OPTS": QUICK_JAVA,
    "CKJS_LINKING": "dynamic",
    "CFLAGS": "-O0",
    "CXXFLAGS": "-O0",
    "JOBS": "2",
}

# The first test builds the programs and plays all cases.
pytestmark = pytest.mark.timeout(3000)


def build(folder: Path, *command: str) -> None:
    """Run a build command in the folder of an example."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **BUILD_VARIABLES},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


def go(output: Path) -> Program:
    binary = output / "go-consumer"
    # Unoptimized: on a new machine the standard library is compiled as well.
    fast = "-gcflags=all=-N -l"
    folder = ROOT / "examples" / "go"
    build(folder, "go", "build", fast, "-o", str(binary), ".")
    build(folder, "go", "test", "-vet=off", fast, ".")
    return Program("go", (str(binary), "--schemas", str(SCHEMAS)))


def java(output: Path) -> Program:
    folder = ROOT / "examples" / "java"
    options = ("-B", "-ntp", "-q", "--strict-checksums", f"-DargLine={QUICK_JAVA}")
    build(folder, "mvn", *options, "package")
    command = ["java", QUICK_JAVA, "-jar"]
    jar = str(folder / "target" / "consumer.jar")
    return Program("java", (*command, jar, "--schemas", str(SCHEMAS)))


def python(output: Path) -> Program:
    return PYTHON


def typescript(output: Path) -> Program:
    source = ROOT / "examples" / "typescript"
    lock_file = source / "package-lock.json"
    # Native code is built for one version of Node.js.
    version = subprocess.check_output(["node", "--version"])
    digest = hashlib.sha256(lock_file.read_bytes() + version).hexdigest()[:12]
    # The packages take a minute to build: keep them.
    packages = jars.cache_folder() / f"typescript-{digest}"
    with jars.exclusive(packages):
        if not (packages / "installed").exists():
            for name in ("package.json", lock_file.name, ".npmrc"):
                shutil.copy(source / name, packages)
            install_npm_packages(packages)
            (packages / "installed").touch()

    # Only the packages are shared: other checkouts build other programs.
    folder = output / "typescript"
    shutil.copytree(source / "src", folder / "src")
    for name in ("package.json", "tsconfig.json"):
        shutil.copy(source / name, folder)
    (folder / "node_modules").symlink_to(packages / "node_modules")
    build(folder, "npx", "--no-install", "tsc")
    program = str(folder / "dist" / "consumer.js")
    return Program("typescript", ("node", program, "--schemas", str(SCHEMAS)))


def install_npm_packages(folder: Path) -> None:
    """Install the packages of a lock file, and compile the one with native code."""
    build(folder, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    native = "@confluentinc/kafka-javascript"
    # With several jobs, `make` looks for the results of this step before it has run it.
    build(folder / "node_modules" / native / "deps", "node", "../util/configure")
    build(folder, "npm", "rebuild", native)


LANGUAGES: tuple[Callable[[Path], Program], ...] = (go, java, python, typescript)


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
