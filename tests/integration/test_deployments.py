"""The deployments of deploy/ run, as far as no container engine is needed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.schema_registry import (
    Schema,
    SchemaRegistryClient,
    SchemaRegistryError,
)

from connector.devkit import jars
from connector.devkit.java import JavaProcess
from connector.devkit.loopback_ports import free_port
from connector.devkit.simulator.settings import DEFAULT_KEY
from connector.errors import EXIT_CONFIG
from tests.support import kubectl
from tests.support.deployment import ROOT, composed, output, rendered, stages, unit
from tests.support.processes import start, start_simulator, wait_until
from tests.support.registry import _unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program
    from tests.support.registry import LocalRegistry

# The image installs packages, and three programs start one after the other.
SLOW = pytest.mark.timeout(1200)
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
CONFLICT = 409
# Enough for a busy machine; the registry first makes its own topics in Kafka.
REGISTRY_START_SECONDS = 240
KAFKA_START_SECONDS = 240


@dataclass(frozen=True, slots=True)
class Image:
    """The content of the image, below `folder` instead of the root."""

    folder: Path

    def relocate(self, text: str) -> str:
        """Replace paths inside the image by those below `folder`."""
        here = str(self.folder / "opt" / "gex-connector")
        return re.sub(r"/opt/gex-connector\b", here, text)

    def environment(self) -> dict[str, str]:
        """Return the ENV of the last stage."""
        _, final = stages()
        return pairs(shlex.split(self.relocate(final["ENV"])))

    def command(
        self, arguments: Sequence[str] | None, variables: Mapping[str, str]
    ) -> list[str]:
        """Return the entry point with its own arguments or others.

        It inherits nothing of our environment.
        """
        _, final = stages()
        entry_point = json.loads(final["ENTRYPOINT"])
        return [
            *clean_environment({**self.environment(), **variables}),
            *entry_point,
            *(arguments or json.loads(final["CMD"])),
        ]

    def check(
        self, command: Sequence[str], variables: Mapping[str, str] | None = None
    ) -> int:
        """Return the exit status of a health check inside the image."""
        return exit_status(command, {**self.environment(), **(variables or {})})


def exit_status(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> int:
    """Run a command, drop its output, and return its exit status."""
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    return done.returncode


def pairs(assignments: Sequence[str]) -> dict[str, str]:
    """Return names and values of assignments like `NAME=value`."""
    found = {}
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        found[name] = value
    return found


def clean_environment(variables: Mapping[str, str]) -> list[str]:
    """Return the beginning of a command that passes on these variables only."""
    assignments = [f"{name}={value}" for name, value in variables.items()]
    return ["env", "-i", *assignments]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The build stage of the Dockerfile, with a new environment as the base image."""
    folder = tmp_path_factory.mktemp("image")
    image = Image(folder)
    workdir = folder / "src"
    workdir.mkdir()
    (folder / "opt").mkdir()
    output(sys.executable, "-m", "venv", folder / "usr")

    # `python` and `pip` come from the base image, everything else from the system.
    path = f"{folder / 'usr' / 'bin'}:/usr/bin:/bin"
    variables: dict[str, str] = {}
    build, _ = stages()
    for word, rest in build:
        if word == "ENV":
            variables |= pairs(shlex.split(rest))
        elif word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                copy(ROOT / source, workdir / target)
        elif word == "RUN":
            environment = {**variables, "PATH": path}
            output("sh", "-ec", image.relocate(rest), cwd=workdir, env=environment)
    return image


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, target, ignore=ignored)
    else:
        shutil.copy(source, target)


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator() as program:
        yield program


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A folder with the files that every deployment has as secrets."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    # With a newline at the end, as `echo` and editors write them.
    (folder / "backquant_api_key").write_text(f"{DEFAULT_KEY}\n")
    (folder / "http_token").write_text("a-token-of-the-tests\n")
    return folder


@pytest.fixture
def addresses(
    kafka: LocalKafka,
    registry: LocalRegistry,
    simulator: Program,
    port: int,
    secrets: Path,
) -> dict[str, str]:
    """The addresses and paths in the files, and their counterparts on this machine."""
    return {
        "http://registry:8080/apis/ccompat/v7": registry.url,
        "http://simulator:8080": simulator.url,
        "kafka-bootstrap.kafka.svc:9092": kafka.bootstrap_servers,
        "kafka:9092": kafka.bootstrap_servers,
        "[::]:9464": f"127.0.0.1:{port}",
        "127.0.0.1:9464": f"127.0.0.1:{port}",
        "/run/secrets/gex-connector": str(secrets),
        "/run/secrets": str(secrets),
    }


def translate(text: str, addresses: Mapping[str, str]) -> str:
    """Replace all addresses at once, longer ones first.

    At once, since a replacement can contain another address of the table. Longer ones
    first, since `/run/secrets` is the beginning of another path.
    """
    ordered = sorted(addresses, key=len, reverse=True)
    pattern = "|".join(map(re.escape, ordered))

    def replacement(match: re.Match[str]) -> str:
        return addresses[match[0]]

    return re.sub(pattern, replacement, text)


def translate_all(
    variables: Mapping[str, str], addresses: Mapping[str, str]
) -> dict[str, str]:
    return {name: translate(value, addresses) for name, value in variables.items()}


def translate_command(
    command: Sequence[str], addresses: Mapping[str, str]
) -> list[str]:
    return [translate(argument, addresses) for argument in command]


def health_check(service: Mapping[str, Mapping[str, list[str]]]) -> list[str]:
    _, *command = service["healthcheck"]["test"]  # the first is CMD
    return command


def own_names(names: Names) -> dict[str, str]:
    """Return variables that keep a worker away from the topics of other tests."""
    return {
        "GEX_KAFKA__TOPIC_PREFIX": names.topic_prefix,
        "GEX_KAFKA__GROUP_ID": names.group_id,
    }


@SLOW
def test_the_image_becomes_ready_in_compose_and_its_health_checks_notice(
    image: Image, addresses: Mapping[str, str], names: Names, port: int
) -> None:
    service = composed("simulator")["services"]["connector-simulated"]
    variables = translate_all(service["environment"], addresses) | own_names(names)
    command = image.command(service.get("command"), variables)

    _, final = stages()
    _, _, check = final["HEALTHCHECK"].partition("CMD ")
    checks = [json.loads(check), health_check(service)]

    def statuses() -> list[int]:
        return [image.check(check, variables) for check in checks]

    with start(command, url=f"http://127.0.0.1:{port}") as worker:
        wait_until(worker.ready, "ready", worker)
        assert statuses() == [0, 0]
        assert "<html" in worker.text("/status")
        # A user's first command in the container; it must exit with 0.
        output(*image.command(["check"], variables))
        assert worker.terminate() == 0

    # A health check that always passes would notice nothing.
    assert 0 not in statuses()


@SLOW
def test_the_simulator_of_compose_runs_in_the_same_image_and_becomes_healthy(
    image: Image, port: int
) -> None:
    service = composed("simulator")["services"]["simulator"]
    address = f"127.0.0.1:{port}"
    addresses = {"0.0.0.0:8080": address, "127.0.0.1:8080": address}
    check = translate_command(health_check(service), addresses)
    arguments = translate_command(service["command"], addresses)

    def is_healthy() -> bool:
        return image.check(check) == 0

    with start(image.command(arguments, {})) as simulator:
        wait_until(is_healthy, "healthy", simulator)
        assert simulator.terminate() == 0
    assert image.check(check) != 0


@SLOW
def test_the_probes_of_kubernetes_match_the_endpoints_of_the_image(
    image: Image,
    addresses: Mapping[str, str],
    names: Names,
    simulator: Program,
    tmp_path: Path,
) -> None:
    # Read the pod that Kustomize renders.
    found = rendered(kubectl.fetch(), "base")
    pod = found["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {}
    for mount in container["volumeMounts"]:
        mounts[mount["name"]] = mount["mountPath"]
    assert {volume["name"] for volume in pod["volumes"]} == mounts.keys()

    # Its configuration file with the addresses of this machine.
    config = translate(found["ConfigMap"]["data"]["connector.toml"], addresses)
    (tmp_path / "connector.toml").write_text(config)
    arguments = []
    for argument in container["args"]:
        arguments.append(argument.replace(mounts["config"], str(tmp_path)))
    variables = own_names(names)
    variables["GEX_UPSTREAM__BASE_URL"] = f"{simulator.url}/v2"

    # A start may take long, so only the startup probe decides about it.
    startup = container["startupProbe"]["httpGet"]
    liveness = container["livenessProbe"]["httpGet"]
    readiness = container["readinessProbe"]["httpGet"]
    assert startup["path"] == "/health/live"
    assert liveness["path"] == "/health/live"
    assert readiness["path"] == "/health/ready"

    # Probes name their port; the container says which number that is.
    ports = {}
    for exposed in container["ports"]:
        ports[exposed["name"]] = exposed["containerPort"]
    (probed,) = {probe["port"] for probe in (startup, liveness, readiness)}
    address = translate(f"127.0.0.1:{ports[probed]}", addresses)
    command = image.command(arguments, variables)
    with start(command, url=f"http://{address}") as worker:
        wait_until(worker.ready, "ready", worker)
        for probe in (startup, liveness, readiness):
            assert worker.ask(probe["path"])["ok"]
        assert worker.terminate() == 0


@dataclass(frozen=True, slots=True)
class Service:
    """The systemd unit with its paths on this machine, and the variables of a test."""

    image: Image
    credentials: Path
    variables: Mapping[str, str]

    def command(self, **variables: str) -> list[str]:
        (command,) = unit()["ExecStart"]
        assignments = []
        for assignment in unit()["Environment"]:
            assignments.append(self._translate(assignment))
        environment = pairs(assignments)
        # systemd sets these two itself.
        environment["CREDENTIALS_DIRECTORY"] = str(self.credentials)
        environment["PATH"] = SYSTEM_PATH
        environment |= {**self.variables, **variables}
        return [
            *clean_environment(environment),
            *shlex.split(self._translate(command)),
        ]

    def _translate(self, text: str) -> str:
        # systemd replaces %d by the folder of the credentials.
        return self.image.relocate(text).replace("%d", str(self.credentials))


@pytest.fixture
def service(
    image: Image,
    addresses: dict[str, str],
    secrets: Path,
    names: Names,
    simulator: Program,
    port: int,
    tmp_path: Path,
) -> Service:
    # systemd copies each credential into a folder that only the service can read.
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    sources = {"connector.toml": ROOT / "examples" / "config.toml"}
    for entry in unit()["LoadCredential"]:
        name, path = entry.split(":")
        assert path == f"/etc/gex-connector/{name}"
        shutil.copy(sources.get(name, secrets / name), credentials / name)

    variables = own_names(names) | {
        "GEX_KAFKA__BOOTSTRAP_SERVERS": addresses["kafka:9092"],
        "GEX_UPSTREAM__BASE_URL": f"{simulator.url}/v2",
        "GEX_HTTP__LISTEN": f"127.0.0.1:{port}",
    }
    return Service(image, credentials, variables)


@SLOW
def test_the_command_of_the_unit_becomes_ready(service: Service, port: int) -> None:
    with start(service.command(), url=f"http://127.0.0.1:{port}") as worker:
        wait_until(worker.ready, "ready", worker)
        assert worker.terminate() == 0


@SLOW
def test_the_unit_does_not_restart_a_worker_with_an_invalid_configuration(
    service: Service,
) -> None:
    with start(service.command(GEX_KAFKA__SHARDS="none")) as worker:
        assert worker.wait() == EXIT_CONFIG
    assert unit()["RestartPreventExitStatus"] == [str(EXIT_CONFIG)]


@SLOW
def test_kafka_and_the_registry_start_with_the_settings_of_compose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = composed()["services"]
    inside = free_port()
    outside = free_port()
    controller = free_port()
    port = free_port()
    management = free_port()
    addresses = {
        "0.0.0.0:9092": f"127.0.0.1:{inside}",
        "kafka:9092": f"127.0.0.1:{inside}",
        "0.0.0.0:19092": f"127.0.0.1:{outside}",
        "127.0.0.1:9092": f"127.0.0.1:{outside}",
        "127.0.0.1:9093": f"127.0.0.1:{controller}",
        "127.0.0.1/9000": f"127.0.0.1/{management}",
        "/var/lib/kafka/data": str(tmp_path / "data"),
    }
    for name in ("kafka", "registry"):
        variables = translate_all(services[name]["environment"], addresses)
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
    check = translate_command(health_check(services["registry"]), addresses)

    def kafka_is_started() -> bool:
        return "Kafka Server started" in kafka.log()

    def registry_is_healthy() -> bool:
        return exit_status(check) == 0

    with contextlib.ExitStack() as stack:
        kafka = start_kafka(tmp_path)
        stack.callback(kafka.stop)
        kafka.wait_until(kafka_is_started, KAFKA_START_SECONDS)

        # The registry keeps its schemas in Kafka, and ends if there is none.
        registry = start_registry(port, management, tmp_path / "registry.log")
        stack.callback(registry.stop)
        registry.wait_until(registry_is_healthy, REGISTRY_START_SECONDS)

        url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        client = stack.enter_context(SchemaRegistryClient({"url": url}))
        client.register_schema("a-value", record_schema())
        # Compose makes the registry check compatibility, which it does not by default.
        incompatible = record_schema({"name": "has_no_default", "type": "int"})
        with pytest.raises(SchemaRegistryError) as refused:
            client.register_schema("a-value", incompatible)

    assert refused.value.http_status_code == CONFLICT


def start_kafka(folder: Path) -> JavaProcess:
    """Start Kafka as its image does, from the environment variables."""
    classpath = os.pathsep.join(map(str, jars.fetch_set("kafka")))
    java = ("-Xmx512m", "-cp", classpath)
    options = []
    for kind in ("default", "mounted", "final"):
        (folder / kind).mkdir()
        options.append(f"--{kind}-configs-dir={folder / kind}")

    # The image's wrapper writes server.properties and formats the storage.
    setup = [*java, "kafka.docker.KafkaDockerWrapper", "setup", *options]
    JavaProcess("setup", setup, folder / "setup.log").finish(60)
    properties = str(folder / "final" / "server.properties")
    return JavaProcess("Kafka", [*java, "kafka.Kafka", properties], folder / "k.log")


def start_registry(port: int, management_port: int, log: Path) -> JavaProcess:
    options = (
        "-Xmx512m",
        "-Dquarkus.http.host=127.0.0.1",
        f"-Dquarkus.http.port={port}",
        "-Dquarkus.management.host=127.0.0.1",
        f"-Dquarkus.management.port={management_port}",
    )
    archive = str(_unpacked() / "quarkus-run.jar")
    return JavaProcess("registry", [*options, "-jar", archive], log)


def record_schema(*fields: Mapping[str, str]) -> Schema:
    schema = {"type": "record", "name": "A", "fields": fields}
    return Schema(json.dumps(schema), "AVRO")
