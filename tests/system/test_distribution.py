"""What is published: built twice with the same bytes, and working where nothing else is."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.metadata import Metadata

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
from tests.support.pythons import Python, own_python, python_of_debian

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

# It installs twenty packages, and makes a Debian of thirty.
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

CLIENT = ("confluent-kafka", "fastavro", "msgspec")
# The schemas are read when a client is made.
IMPORT_CLIENT = """
from importlib import metadata
from connector.client import LiveLevels
LiveLevels("127.0.0.1:9092")
print(*sorted(found.name for found in metadata.distributions()))
"""


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

    python: Python
    wheel: Path

    @property
    def command(self) -> tuple[str, ...]:
        program = self.python.inside / "venv" / "bin" / "gex-connector"
        return (*self.python.enter, str(program))

    @property
    def packages(self) -> Path:
        (found,) = self.python.folder.glob("venv/lib/python3.*/site-packages")
        return self.python.inside / found.relative_to(self.python.folder)


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


@pytest.fixture(scope="module", params=["own", "trixie"])
def python(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Python]:
    """Return the Python of the tests, and that of a Debian."""
    folder = tmp_path_factory.mktemp("python")
    if request.param == "own":
        yield own_python(folder)
        return
    try:
        yield python_of_debian(request.param, folder)
    finally:
        # pytest keeps its folders.
        shutil.rmtree(folder)


def new_environment(python: Python, name: str) -> tuple[object, ...]:
    """Make an empty virtual environment. Return the command that installs packages there."""
    folder = python.inside / name
    python.output(python.program, "-m", "venv", "--without-pip", folder)
    pip = (python.program, "-m", "pip", "--python", folder / "bin" / "python")
    return (*pip, "install", "--quiet")


@pytest.fixture(scope="module")
def environment(python: Python, distributions: Distributions) -> Environment:
    for file in (ROOT / "requirements" / "run.txt", distributions.wheel):
        shutil.copy(file, python.folder)
    wheel = python.inside / distributions.wheel.name
    install = new_environment(python, "venv")
    python.output(*install, "--require-hashes", "-r", "run.txt")
    python.output(*install, "--no-deps", wheel)
    return Environment(python, wheel)


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


def test_the_metadata_are_valid_and_lead_to_the_project(
    distributions: Distributions,
) -> None:
    folder = f"gex_levels_connector-{__version__}.dist-info"
    with zipfile.ZipFile(distributions.wheel) as archive:
        text = archive.read(f"{folder}/METADATA")

    # An index refuses metadata that are not valid. hatchling knows the classifiers.
    metadata = Metadata.from_email(text, validate=True)

    assert metadata.metadata_version == "2.4"
    assert str(metadata.version) == __version__
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.description_content_type == "text/markdown"
    assert {"Documentation", "Source", "Changelog"} <= set(metadata.project_urls or ())


def test_the_wheel_publishes_to_kafka_where_nothing_else_is_installed(
    environment: Environment, kafka: LocalKafka, names: Names
) -> None:
    assert output(*environment.command, "--version").strip() == __version__

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
        output(*environment.command, "check", env=os.environ | variables)
        with start(
            [*environment.command, "run"], variables, f"http://{listen}"
        ) as worker:
            wait_until(worker.ready, "ready", worker)
            wait_until(has_all_symbols, "a snapshot of each symbol", worker)
            assert worker.terminate() == 0


def test_the_wheel_passes_the_tests_of_its_contracts(environment: Environment) -> None:
    # The tests' own packages come from there, but the connector from the wheel.
    python = environment.python
    copied(python.folder, [file for file in tracked() if file.parts[0] != "connector"])
    variables = os.environ | {"PYTHONPATH": str(environment.packages)}
    where = (python.program, "-c", "import connector; print(connector.__file__)")
    module = python.output(*where, env=variables).strip()
    assert Path(module).is_relative_to(environment.packages)

    tests = [f"tests/contract/{name}" for name in CONTRACT]
    # A folder of its own: another pytest is running.
    options = ("-q", "-p", "no:cacheprovider", f"--basetemp={python.inside / 'tmp'}")
    python.output(python.program, "-m", "pytest", *options, *tests, env=variables)


def test_the_client_of_the_wheel_needs_three_packages_only(
    environment: Environment,
) -> None:
    # As docs/how-to/client.md says, but with the pinned versions.
    python = environment.python
    install = new_environment(python, "client")
    python.output(*install, *[f"{name}=={version(name)}" for name in CLIENT])
    python.output(*install, "--no-deps", environment.wheel)

    there = python.inside / "client" / "bin" / "python"
    found = python.output(there, "-c", IMPORT_CLIENT).split()

    assert found == sorted([*CLIENT, "gex-levels-connector"])
