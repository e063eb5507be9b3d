"""The image, built from deploy/Dockerfile, and the systemd unit, really run.

They need root, mounts and the packages that `.ci/run` installs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from connector import __version__
from connector.core.model import Kind
from connector.devkit.loopback_ports import free_port
from connector.devkit.simulator.settings import DEFAULT_KEY, EIGHT_SYMBOLS
from connector.errors import EXIT_CONFIG
from tests.support import checker
from tests.support.containers import BASE, IMAGE, Containers, why_no_containers
from tests.support.deployment import UNIT
from tests.support.machine import Machine, started
from tests.support.processes import (
    start,
    start_simulator,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program, Variables

NO_CONTAINERS = why_no_containers()
pytestmark = [
    pytest.mark.skipif(NO_CONTAINERS is not None, reason=str(NO_CONTAINERS)),
    # The base is made of some 100 packages, and the image of 20 more.
    pytest.mark.timeout(1500),
]

# Debian's suites, and the versions of Python they have.
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
# With systemd.
WITH_SYSTEMD = "bookworm"

# The image was 75 MB larger than its base on 2026-11-27.
MAX_ADDED_MB = 90
TOKEN = "a-token-of-the-tests"

NO_CAPABILITY = "0000000000000000"


@dataclass(frozen=True, slots=True)
class Built:
    """The image on one suite of Debian."""

    suite: str
    containers: Containers


@pytest.fixture(scope="module", params=PYTHONS)
def built(request: pytest.FixtureRequest) -> Iterator[Built]:
    suite = request.param
    packages = ["systemd"] if suite == WITH_SYSTEMD else []
    with Containers() as containers:
        containers.build(suite, *packages)
        # Our image is not at fault if nothing runs.
        problem = containers.why_not_even_the_base()
        if problem is not None:
            pytest.skip(problem)
        yield Built(suite, containers)


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--period", "1", "--limit", "0") as program:
        yield program


@pytest.fixture
def variables(kafka: LocalKafka, names: Names, simulator: Program) -> Variables:
    listen = {"GEX_HTTP__LISTEN": f"[::]:{free_port()}", "GEX_HTTP__TOKEN": TOKEN}
    return variables_for(kafka, names, simulator) | listen


def url_of(variables: Variables) -> str:
    _, _, port = variables["GEX_HTTP__LISTEN"].rpartition(":")
    return f"http://127.0.0.1:{port}"


def fields_of(status: str) -> dict[str, str]:
    """Return the fields of a process' status."""
    fields = {}
    for line in status.splitlines():
        name, _, value = line.partition(":")
        fields[name] = value.strip()
    return fields


def test_the_image_publishes_to_kafka_without_rights_and_without_writing(
    built: Built,
    kafka: LocalKafka,
    names: Names,
    variables: Variables,
    record_property: Callable[[str, object], None],
) -> None:
    containers = built.containers
    name = f"worker-{names.unique}"
    command = containers.run(name, variables)

    def has_all_symbols() -> bool:
        found = set()
        for event in checker.events(kafka, names.topic_prefix):
            if event.kind is Kind.SNAPSHOT:
                found.add(event.symbol)
        return found == set(EIGHT_SYMBOLS)

    def is_healthy() -> bool:
        return containers.is_healthy(name)

    with start(command, url=url_of(variables)) as worker:
        wait_until(worker.ready, "ready", worker)
        wait_until(has_all_symbols, "a snapshot of each symbol", worker)

        # Process 1 is the worker itself, so that it gets the engine's signals.
        status = fields_of(containers.ask(name, "cat", "/proc/1/status"))
        record_property("threads", status["Threads"])
        assert status["Name"] == "gex-connector"
        assert status["Uid"].split() == ["10001"] * 4
        assert status["Gid"].split() == ["10001"] * 4
        assert {status["CapEff"], status["CapPrm"], status["CapBnd"]} == {NO_CAPABILITY}
        assert status["NoNewPrivs"] == "1"
        for folder in ("/", "/tmp", "/opt/gex-connector"):
            assert containers.status(name, "touch", f"{folder}/file") != 0

        python = containers.ask(name, "python", "--version")
        assert python.startswith(f"Python {PYTHONS[built.suite]}.")
        assert containers.ask(name, "gex-connector", "--version").strip() == __version__
        containers.ask(name, "gex-connector", "check")

        # The image's own check, and one that looks for a worker where none is. The engine
        # says no to a check that takes ten seconds, which a busy machine may need.
        wait_until(is_healthy, "the image's own check passes", worker)
        elsewhere = "GEX_HTTP__LISTEN=127.0.0.1:1"
        assert containers.status(name, "env", elsewhere, "gex-connector", "health") == 1

        # SIGTERM goes to the container.
        assert worker.terminate() == 0
        last_line = json.loads(worker.log().splitlines()[-1])
    assert last_line["message"] == "stopped"


def test_the_image_says_how_to_run_it_and_is_small(
    built: Built, record_property: Callable[[str, object], None]
) -> None:
    config = built.containers.config()
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["gex-connector"]
    assert config["Cmd"] == ["run"]
    assert config["StopSignal"] == "SIGTERM"

    added = built.containers.size(IMAGE) - built.containers.size(BASE)
    added_mb = added / 1e6
    record_property("added_mb", round(added_mb, 1))
    assert added_mb < MAX_ADDED_MB


def test_the_image_runs_the_simulator_of_compose(built: Built, names: Names) -> None:
    listen = f"127.0.0.1:{free_port()}"
    name = f"simulator-{names.unique}"
    command = built.containers.run(name, {}, "simulate", "--listen", listen)

    with start(command, url=f"http://{listen}") as simulator:

        def answers() -> bool:
            try:
                simulator.text("/_control/stats")
            except OSError:
                return False
            return True

        wait_until(answers, "the simulator answers", simulator)
        assert simulator.terminate() == 0


@dataclass(frozen=True, slots=True)
class Installed:
    """A machine on which the unit is installed, and the unit's configuration file."""

    machine: Machine
    config: Path

    def main_process(self) -> dict[str, str]:
        """Return the status of the worker's process."""
        found = self.machine.properties(UNIT.name, "MainPID")
        return fields_of(self.machine.ask("cat", f"/proc/{found['MainPID']}/status"))


# The program is at the same place in the image as on a machine.
ON_SYSTEMD = pytest.mark.parametrize("built", [WITH_SYSTEMD], indirect=True)


@pytest.fixture
def installed(built: Built) -> Iterator[Installed]:
    """Install the unit as docs/how-to/deploy.md does."""
    files = built.containers.files()
    units = files / "etc" / "systemd" / "system"
    (units / UNIT.name).write_text(UNIT.read_text())
    folder = files / "etc" / "gex-connector"
    folder.mkdir(mode=0o700)
    for name, secret in (("backquant_api_key", DEFAULT_KEY), ("http_token", TOKEN)):
        (folder / name).write_text(f"{secret}\n")
    with started(files) as machine:
        yield Installed(machine, folder / "connector.toml")


def toml(variables: Variables) -> str:
    """Return a configuration file with the settings of a worker."""
    return f"""
[upstream]
base_url = "{variables["GEX_UPSTREAM__BASE_URL"]}"

[[feeds]]
name = "all"
symbols = {json.dumps(EIGHT_SYMBOLS)}

[kafka]
bootstrap_servers = "{variables["GEX_KAFKA__BOOTSTRAP_SERVERS"]}"
topic_prefix = "{variables["GEX_KAFKA__TOPIC_PREFIX"]}"
group_id = "{variables["GEX_KAFKA__GROUP_ID"]}"

[http]
listen = "{variables["GEX_HTTP__LISTEN"]}"
"""


@ON_SYSTEMD
def test_systemd_runs_the_unit_until_it_is_stopped(
    installed: Installed, variables: Variables
) -> None:
    machine = installed.machine
    assert (
        machine.ask("systemd-analyze", "verify", f"/etc/systemd/system/{UNIT.name}")
        == ""
    )

    # An invalid configuration ends the worker, and systemd does not try again.
    installed.config.write_text("nonsense = 1\n")
    assert machine.status("systemctl", "start", UNIT.name) != 0
    found = machine.properties(UNIT.name, "ExecMainStatus", "ActiveState", "NRestarts")
    assert found == {
        "ExecMainStatus": str(EXIT_CONFIG),
        "ActiveState": "failed",
        "NRestarts": "0",
    }
    assert "nonsense" in machine.log(UNIT.name)

    # `start` returns once the worker has joined its group.
    installed.config.write_text(toml(variables))
    machine.ask("systemctl", "start", UNIT.name)
    assert machine.properties(UNIT.name, "ActiveState") == {"ActiveState": "active"}
    status = installed.main_process()
    assert "0" not in status["Uid"].split()
    assert {status["CapEff"], status["CapPrm"], status["CapBnd"]} == {NO_CAPABILITY}
    assert status["NoNewPrivs"] == "1"

    def is_ready() -> bool:
        found = machine.properties(UNIT.name, "StatusText")
        return found["StatusText"] == "ready"

    wait_until(is_ready, "systemd shows that it is ready")

    machine.ask("systemctl", "stop", UNIT.name)
    found = machine.properties(UNIT.name, "Result", "ExecMainStatus")
    assert found == {"Result": "success", "ExecMainStatus": "0"}
    assert '"message": "stopped"' in machine.log(UNIT.name)
