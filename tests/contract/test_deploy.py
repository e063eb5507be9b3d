"""The files of deploy/ agree with each other, with the code and with their own linters."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from connector import __version__
from connector.config.load import load
from connector.devkit.simulator.settings import DEFAULT_KEY
from tests.support import kubectl as kubectl_download
from tests.support.deployment import (
    BIN,
    DEPLOY,
    ROOT,
    Manifests,
    composed,
    instructions,
    output,
    rendered,
    stages,
    yaml,
)

# Imported by name, since it has no types.
kubernetes_validate: Any = importlib.import_module("kubernetes_validate")

PROFILES = ("simulator", "live")
PRODUCTION = "overlays/production"
KUSTOMIZATIONS = ("base", PRODUCTION)
# The API of the Prometheus operator.
MONITORING = "monitoring.coreos.com/v1"
LABELS = {"app.kubernetes.io/name": "gex-connector"}
SELECTOR = {"matchLabels": LABELS}


@pytest.fixture(scope="session")
def kubectl() -> Path:
    return kubectl_download.fetch()


@pytest.fixture
def production(kubectl: Path) -> Manifests:
    """The manifests of the production overlay, by kind."""
    return rendered(kubectl, PRODUCTION)


def container_of(deployment: dict[str, Any]) -> dict[str, Any]:
    """Return the only container of a deployment's pods."""
    pod = deployment["spec"]["template"]["spec"]
    container: dict[str, Any]
    (container,) = pod["containers"]
    return container


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A folder with the files that every deployment has as secrets."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "backquant_api_key").write_text(f"{DEFAULT_KEY}\n")
    (folder / "http_token").write_text("a-token-of-the-tests\n")
    return folder


# Image


def test_the_dockerfile_passes_its_linter() -> None:
    assert output(BIN / "hadolint", DEPLOY / "Dockerfile") == ""


def test_every_yaml_file_passes_its_linter() -> None:
    # Alert texts are long, and prometheusrule.yaml is generated from them.
    length = "{max: 120, ignore: [tests/, prometheusrule.yaml]}"
    rules = f"{{document-start: disable, line-length: {length}}}"
    config = f"{{extends: default, rules: {rules}}}"
    assert output(BIN / "yamllint", "--strict", "-d", config, DEPLOY) == ""


def test_the_base_images_are_one_and_pinned_by_digest() -> None:
    images = set()
    for word, rest in instructions():
        if word == "FROM":
            images.add(rest.split()[0])

    # Two base images could differ in the C library that wheels are built for.
    (image,) = images
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", image)


def test_the_build_context_has_the_copied_files_and_nothing_else() -> None:
    build, _ = stages()
    copied = set()
    for word, rest in build:
        if word == "COPY":
            # The last word is the destination.
            copied.update(rest.split()[:-1])

    patterns = []
    text = (DEPLOY / "Dockerfile.dockerignore").read_text()
    for line in text.splitlines():
        if not line.startswith("#"):
            patterns.append(line)

    # Everything is ignored, except for these. A secret in the folder cannot be copied.
    exceptions = [f"!{source}" for source in sorted(copied)]
    assert patterns == ["*", *exceptions, "**/__pycache__"]


def test_the_image_installs_pinned_packages_and_our_wheel_only() -> None:
    build, _ = stages()
    installs = []
    for word, rest in build:
        if word != "RUN":
            continue
        for command in rest.split("&&"):
            if " install " in command:
                installs.append(command)

    assert installs
    for install in installs:
        is_pinned = "--require-hashes" in install
        is_our_wheel = "--no-deps dist/*.whl" in install
        assert is_pinned or is_our_wheel


def test_the_label_has_this_version() -> None:
    _, final = stages()
    assert f'image.version="{__version__}"' in final["LABEL"]


def test_every_file_deploys_this_version(kubectl: Path) -> None:
    images = []
    for service in composed(*PROFILES)["services"].values():
        if "build" in service:
            images.append(service["image"])
    for kustomization in KUSTOMIZATIONS:
        deployment = rendered(kubectl, kustomization)["Deployment"]
        images.append(container_of(deployment)["image"])

    # An overlay may put a registry in front of the name.
    for image in images:
        _, _, name = image.rpartition("/")
        assert name == f"gex-levels-connector:{__version__}"


def test_the_wheel_is_built_with_the_packages_pinned_for_development() -> None:
    development = pinned(ROOT / "requirements" / "dev.txt")
    build = pinned(DEPLOY / "build.txt")

    # The tests run with the versions of dev.txt.
    assert build
    for name, hashes in build.items():
        assert development.get(name) == hashes


def pinned(file: Path) -> dict[str, set[str]]:
    """Return the hashes of each package of a requirements file."""
    text = re.sub(r"(?m)^ *#.*\n", "", file.read_text())
    found = {}
    # A package begins with name==version; its hashes follow on lines of their own.
    for part in re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE):
        if part.strip():
            package, *_ = part.split()
            hashes = re.findall(r"sha256:\w+", part)
            found[package] = set(hashes)
    return found


def test_the_image_runs_without_a_shell_as_a_numeric_user_that_is_not_root() -> None:
    _, final = stages()
    # The exec form is a JSON list; the shell form is not.
    assert json.loads(final["ENTRYPOINT"])
    assert json.loads(final["CMD"])

    # Kubernetes cannot verify that a user with a name is not root.
    user, group = final["USER"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert final["STOPSIGNAL"] == "SIGTERM"


# Compose


@pytest.mark.parametrize("profile", PROFILES)
def test_every_service_of_a_profile_is_confined_and_has_a_health_check(
    profile: str,
) -> None:
    services = composed(profile)["services"]
    assert {"kafka", "registry", "prometheus", "grafana"} < services.keys()
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        # Kafka's image writes its configuration.
        assert service.get("read_only", False) != (name == "kafka"), name
        limits = service["deploy"]["resources"]["limits"]
        assert int(limits["memory"]) > 0, name

        # Our own images are built; those of others are pinned by version and digest.
        is_pinned = re.search(r":[\w.]+@sha256:[0-9a-f]{64}$", service["image"])
        assert "build" in service or is_pinned, name
        # Docker opens published ports in the firewall, past the rules of the host.
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name
        for dependency in service.get("depends_on", {}).values():
            assert dependency["condition"] == "service_healthy", name
        # The connector has the health check of its image.
        assert name == "connector" or "healthcheck" in service, name


@pytest.mark.parametrize("profile", PROFILES)
def test_every_file_that_compose_mounts_exists(profile: str) -> None:
    # Docker creates a folder in the place of a missing file, and mounts that.
    project = composed(profile)
    created_by_the_user = DEPLOY / "compose" / "secrets"
    for service in project["services"].values():
        for mount in service.get("volumes", []):
            if mount["type"] == "bind":
                assert Path(mount["source"]).exists()
        for secret in service.get("secrets", []):
            file = Path(project["secrets"][secret["source"]]["file"])
            assert file.exists() or file.parent == created_by_the_user


def test_compose_gives_the_simulator_and_its_connector_the_same_key() -> None:
    file = DEPLOY / "compose" / "simulator" / "backquant_api_key"

    assert file.read_text().strip() == DEFAULT_KEY


def test_prometheus_finds_the_connector_of_compose() -> None:
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    (scrape,) = yaml.safe_load(text)["scrape_configs"]

    # Only one of the two runs, so both have the same alias.
    services = composed(*PROFILES)["services"]
    for name in ("connector", "connector-simulated"):
        service = services[name]
        (port,) = service["ports"]
        (alias,) = service["networks"]["default"]["aliases"]
        target = f"{alias}:{port['target']}"
        assert scrape["static_configs"] == [{"targets": [target]}]


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (sources,) = (provisioning / "datasources").iterdir()
    (source,) = yaml.safe_load(sources.read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"

    (boards,) = (provisioning / "dashboards").iterdir()
    (provider,) = yaml.safe_load(boards.read_text())["providers"]
    services = composed(*PROFILES)["services"]
    mounted = [mount["target"] for mount in services["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted


def test_compose_configures_the_live_connector_with_known_keys(secrets: Path) -> None:
    service = composed("live")["services"]["connector"]
    # The paths are those in the container.
    variables = {}
    for name, value in service["environment"].items():
        variables[name] = value.replace("/run/secrets", str(secrets))

    config = load(None, variables)

    assert config.upstream.base_url.startswith("https://")
    assert config.upstream.api_key.reveal() == DEFAULT_KEY


# Kubernetes


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_every_manifest_is_valid(kubectl: Path, kustomization: str) -> None:
    # Strict: a misspelt field is an error, which the API server would drop silently.
    version = kubernetes_validate.latest_version()
    for manifest in rendered(kubectl, kustomization).values():
        # Custom resources have no schema here.
        if manifest["apiVersion"] != MONITORING:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_every_selector_matches_the_pods(kubectl: Path, kustomization: str) -> None:
    found = rendered(kubectl, kustomization)
    deployment = found["Deployment"]["spec"]
    pod = deployment["template"]

    # A selector without a match is valid: it guards, admits or spreads nothing.
    assert pod["metadata"]["labels"] == LABELS
    assert deployment["selector"] == SELECTOR
    assert found["PodDisruptionBudget"]["spec"]["selector"] == SELECTOR
    assert found["NetworkPolicy"]["spec"]["podSelector"] == SELECTOR
    assert found["Service"]["spec"]["selector"] == LABELS
    for constraint in pod["spec"]["topologySpreadConstraints"]:
        assert constraint["labelSelector"] == SELECTOR
    account = found["ServiceAccount"]["metadata"]["name"]
    assert pod["spec"]["serviceAccountName"] == account


def test_the_network_policy_permits_the_api_over_ipv4_and_ipv6(
    production: Manifests,
) -> None:
    permitted = []
    for rule in production["NetworkPolicy"]["spec"]["egress"]:
        for peer in rule.get("to", []):
            if "ipBlock" in peer:
                permitted.append((peer["ipBlock"]["cidr"], rule["ports"]))

    https = [{"protocol": "TCP", "port": 443}]
    assert permitted == [("0.0.0.0/0", https), ("::/0", https)]


def test_every_deployment_listens_on_ipv4_and_ipv6(kubectl: Path) -> None:
    listens = []
    for kustomization in KUSTOMIZATIONS:
        config = rendered(kubectl, kustomization)["ConfigMap"]["data"]["connector.toml"]
        listens.append(tomllib.loads(config)["http"]["listen"])
    for profile, name in (("live", "connector"), ("simulator", "connector-simulated")):
        service = composed(profile)["services"][name]
        listens.append(service["environment"]["GEX_HTTP__LISTEN"])

    assert set(listens) == {"[::]:9464"}


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_pods_are_spread_and_one_may_be_evicted(
    kubectl: Path, kustomization: str
) -> None:
    found = rendered(kubectl, kustomization)
    deployment = found["Deployment"]["spec"]
    pod = deployment["template"]["spec"]

    keys = set()
    for constraint in pod["topologySpreadConstraints"]:
        keys.add(constraint["topologyKey"])
    assert keys == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}

    # Otherwise no node could ever be drained.
    available = found["PodDisruptionBudget"]["spec"]["minAvailable"]
    assert available < deployment["replicas"]


def test_a_pod_fits_the_restricted_standard(
    production: Manifests,
) -> None:
    deployment = production["Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    container = container_of(deployment)

    # The Pod Security Standard "restricted" of Kubernetes, and a read-only file system.
    context = pod["securityContext"]
    assert context["runAsNonRoot"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    # The connector does not use the API of Kubernetes.
    assert pod["automountServiceAccountToken"] is False
    assert production["ServiceAccount"]["automountServiceAccountToken"] is False
    # Enough for a worker to commit and to hand its shards over.
    assert pod["terminationGracePeriodSeconds"] >= 30

    # The files of the image belong to this user.
    _, final = stages()
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == final["USER"]


def test_production_has_a_namespace_that_enforces_the_restricted_standard(
    production: Manifests,
) -> None:
    namespace = production.pop("Namespace")

    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for manifest in production.values():
        assert manifest["metadata"]["namespace"] == "gex"


def test_production_is_configured_with_known_keys(
    production: Manifests, secrets: Path, tmp_path: Path
) -> None:
    # The paths are those in the container.
    text = production["ConfigMap"]["data"]["connector.toml"]
    file = tmp_path / "connector.toml"
    text = text.replace("/run/secrets/gex-connector", str(secrets))
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (secrets / name).touch()
    file.write_text(text.replace("/run/secrets/kafka", str(secrets)))

    config = load(file, {})

    assert config.upstream.api_key.reveal() == DEFAULT_KEY


def test_production_mounts_every_file_of_its_configuration(
    production: Manifests,
) -> None:
    text = production["ConfigMap"]["data"]["connector.toml"]
    container = container_of(production["Deployment"])

    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in re.findall(r'"(/[^"]+)"', text):
        assert str(Path(path).parent) in mounted


def test_the_operator_scrapes_the_service(
    production: Manifests,
) -> None:
    # The monitor selects the service by its labels.
    monitor = production["ServiceMonitor"]["spec"]
    labels = production["Service"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()

    # Its endpoint names a port of the service, which names one of the container.
    (port,) = production["Service"]["spec"]["ports"]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] == port["name"]
    container = container_of(production["Deployment"])
    names = [container_port["name"] for container_port in container["ports"]]
    assert port["targetPort"] in names


def test_the_operator_names_each_namespaces_job_and_the_pods(
    production: Manifests,
) -> None:
    monitor = production["ServiceMonitor"]["spec"]
    (endpoint,) = monitor["endpoints"]

    job, instance = endpoint["relabelings"]
    # The rules group by job, and the operator would give all namespaces the same one.
    assert job["sourceLabels"] == ["__meta_kubernetes_namespace"]
    assert job["targetLabel"] == "job"
    assert job["replacement"] == "gex-connector-$1"
    # Alerts name the instance, which would be an address.
    assert instance["sourceLabels"] == ["__meta_kubernetes_pod_name"]
    assert instance["targetLabel"] == "instance"


def test_the_operator_loads_the_rules_of_prometheus(
    production: Manifests,
) -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())

    found = production["PrometheusRule"]["spec"]
    assert found == rules, "prometheusrule.yaml is out of date: run make docs"
