"""What is published: built twice with the same bytes, and working where nothing else is."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from connector import __version__
from connector.core.model import Kind
from connector.devkit.loopback_ports import free_port
from connector.devkit.simulator.settings import EIGHT_SYMBOLS
from tests.support import checker
from tests.support.deployment import ROOT, output
from tests.support.processes import (
    start,
    start_simulator,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

# It installs twenty packages.
pytestmark = pytest.mark.timeout(900)

# What others rely on: the API's answers, schemas, metrics, the simulator and its faults.
CONTRACT = (
    "test_api.py",
    "test_http_listener.py",
    "test_levels_api.py",
    "test_refusals.py",
    "test_schemas.py",
    "test_simulator_contract.py",
    "test_upstream_client.py",
)


@dataclass(frozen=True, slots=True)
class Distributions:
    """The files that a release publishes."""

    wheel: Path
    sdist: Path

    def digests(self) -> list[str]:
        files = (self.wheel, self.sdist)
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment with the wheel and the pinned packages of production."""

    folder: Path

    @property
    def command(self) -> str:
        return str(self.folder / "bin" / "gex-connector")

    @property
    def packages(self) -> Path:
        (found,) = self.folder.glob("lib/python3.*/site-packages")
        return found


def tracked() -> list[Path]:
    """Return the repository's files, those of the next commit included."""
    names = output(
        "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"
    )
    return [Path(name) for name in names.split("\0") if (ROOT / name).is_file()]


def copied(folder: Path, files: list[Path]) -> Path:
    """Copy these files of the repository to a folder."""
    for file in files:
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, target)
    return folder


def built(source: Path, folder: Path) -> Distributions:
    """Build what `make dist` builds."""
    output(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=source)
    name = f"gex_levels_connector-{__version__}"
    return Distributions(folder / f"{name}-py3-none-any.whl", folder / f"{name}.tar.gz")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    folder = tmp_path_factory.mktemp("dist")
    return built(copied(folder / "source", tracked()), folder / "built")


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory, distributions: Distributions
) -> Environment:
    folder = tmp_path_factory.mktemp("environment") / "venv"
    output(sys.executable, "-m", "venv", "--without-pip", folder)
    install = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    locked = ROOT / "requirements" / "run.txt"
    output(*install, "install", "--quiet", "--require-hashes", "-r", locked)
    output(*install, "install", "--quiet", "--no-deps", distributions.wheel)
    return Environment(folder)


def test_two_builds_have_the_same_bytes(
    distributions: Distributions, tmp_path: Path
) -> None:
    source = copied(tmp_path / "elsewhere", tracked())
    # Another user's file mode, and another time.
    for file in tracked():
        os.utime(source / file, (10**9, 10**9))
        (source / file).chmod(stat.S_IRUSR | stat.S_IWUSR)

    again = built(source, tmp_path / "built")

    assert again.digests() == distributions.digests()


def test_the_sdist_makes_the_same_wheel(
    distributions: Distributions, tmp_path: Path
) -> None:
    with tarfile.open(distributions.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / distributions.sdist.name.removesuffix(".tar.gz")

    again = built(source, tmp_path / "built")

    assert again.digests()[0] == distributions.digests()[0]


def test_the_wheel_has_the_package_and_nothing_else(
    distributions: Distributions,
) -> None:
    expected = set()
    for file in tracked():
        if file.parts[0] == "connector":
            expected.add(str(file))
        elif file.parts[0] == "schemas":
            expected.add(str("connector" / file))

    with zipfile.ZipFile(distributions.wheel) as archive:
        found = set(archive.namelist())

    assert {name for name in found if ".dist-info/" not in name} == expected


def test_the_wheel_publishes_to_kafka_where_nothing_else_is_installed(
    environment: Environment, kafka: LocalKafka, names: Names, tmp_path: Path
) -> None:
    assert output(environment.command, "--version", cwd=tmp_path).strip() == __version__

    def has_all_symbols() -> bool:
        found = set()
        for event in checker.events(kafka, names.topic_prefix):
            if event.kind is Kind.SNAPSHOT:
                found.add(event.symbol)
        return found == set(EIGHT_SYMBOLS)

    listen = f"127.0.0.1:{free_port()}"
    with start_simulator("--period", "1", "--limit", "0") as simulator:
        variables = variables_for(kafka, names, simulator)
        variables |= {"GEX_HTTP__LISTEN": listen}
        everything = os.environ | variables
        output(environment.command, "check", cwd=tmp_path, env=everything)
        with start(
            [environment.command, "run"], variables, f"http://{listen}"
        ) as worker:
            wait_until(worker.ready, "ready", worker)
            wait_until(has_all_symbols, "a snapshot of each symbol", worker)
            assert worker.terminate() == 0


def test_the_wheel_passes_the_tests_of_its_contracts(
    environment: Environment, tmp_path: Path
) -> None:
    # The tests' own packages come from here, but the connector from the wheel.
    others = [file for file in tracked() if file.parts[0] != "connector"]
    elsewhere = copied(tmp_path / "tests", others)
    variables = os.environ | {"PYTHONPATH": str(environment.packages)}
    where = (sys.executable, "-c", "import connector; print(connector.__file__)")
    module = output(*where, cwd=elsewhere, env=variables).strip()
    assert Path(module).is_relative_to(environment.packages)

    tests = [f"tests/contract/{name}" for name in CONTRACT]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=elsewhere,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
