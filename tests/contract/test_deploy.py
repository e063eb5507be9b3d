"""The files of deploy/ agree with each other, with the code and with their own linters."""

from __future__ import annotations

import importlib
import json
import re
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
    composed,
    instructions,
    output,
    rendered,
    stages,
    yaml,
)

# Has no types.
kubernetes_validate: Any = importlib.import_module("kubernetes_validate")

PROFILES = ("simulator", "live")
KUSTOMIZATIONS = ("base", "overlays/production")
MONITORING = "monitoring.coreos.com/v1"
LABELS = {"app.kubernetes.io/name": "gex-connector"}
SELECTOR = {"matchLabels": LABELS}


@pytest.fixture(scope="session")
def kubectl() -> Path:
    return kubectl_download.fetch()


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
    (image,) = images
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", image)


def test_the_build_context_has_the_copied_files_and_nothing_else() -> None:
    build, _ = stages()
    copied = set()
    for word, rest in build:
        if word == "COPY":
            copied.update(rest.split()[:-1])

    text = (DEPLOY / "Dockerfile.dockerignore").read_text()
    patterns = [line for line in text.splitlines() if not line.startswith("#")]
    exceptions = [f"!{source}" for source in sorted(copied)]
    assert patterns == ["*", *exceptions, "**/__pycache__"]


def test_the_image_installs_pinned_packages_and_our_wheel_only() -> None:
    build, _ = stages()
    installs = []
    for word, rest in build:
        if word == "RUN":
            installs += [part for part in rest.split("&&") if " install " in part]

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
        containers = deployment["spec"]["template"]["spec"]["containers"]
        images += [container["image"] for container in containers]

    names = {image.split("/")[-1] for image in images}
    assert names == {f"gex-levels-connector:{__version__}"}


def test_the_wheel_is_built_with_the_packages_pinned_for_development() -> None:
    development = pinned(ROOT / "requirements" / "dev.txt")
    build = pinned(DEPLOY / "build.txt")
    assert build
    for name, hashes in build.items():
        assert development.get(name) == hashes


def pinned(file: Path) -> dict[str, set[str]]:
    """Return the hashes of each package of a requirements file."""
    text = re.sub(r"(?m)^ *#.*\n", "", file.read_text())
    found = {}
    for part in re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE):
        if part.strip():
            found[part.split()[0]] = set(re.findall(r"sha256:\w+", part))
    return found


def test_the_image_runs_without_a_shell_as_a_numeric_user_that_is_not_root() -> None:
    _, final = stages()
    # The exec form is a JSON list; the shell form is not.
    assert json.loads(final["ENTRYPOINT"])
    assert json.loads(final["CMD"])
    assert min(map(int, final["USER"].split(":"))) > 0
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
        assert int(service["deploy"]["resources"]["limits"]["memory"]) > 0, name

        is_pinned = re.search(r":[\w.]+@sha256:[0-9a-f]{64}$", service["image"])
        assert "build" in service or is_pinned, name
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name
        for dependency in service.get("depends_on", {}).values():
            assert dependency["condition"] == "service_healthy", name
        # The connector has the health check of its image.
        assert name == "connector" or "healthcheck" in service, name


@pytest.mark.parametrize("profile", PROFILES)
def test_every_file_that_compose_mounts_exists(profile: str) -> None:
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
    services = composed(*PROFILES)["services"]
    for name in ("connector", "connector-simulated"):
        (port,) = services[name]["ports"]
        (alias,) = services[name]["networks"]["default"]["aliases"]
        assert scrape["static_configs"] == [{"targets": [f"{alias}:{port['target']}"]}]


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (sources,) = (provisioning / "datasources").iterdir()
    (source,) = yaml.safe_load(sources.read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"

    (boards,) = (provisioning / "dashboards").iterdir()
    (provider,) = yaml.safe_load(boards.read_text())["providers"]
    mounts = composed(*PROFILES)["services"]["grafana"]["volumes"]
    assert provider["options"]["path"] in [mount["target"] for mount in mounts]


def test_compose_configures_the_live_connector_with_known_keys(secrets: Path) -> None:
    service = composed("live")["services"]["connector"]
    variables = {}
    for name, value in service["environment"].items():
        variables[name] = value.replace("/run/secrets", str(secrets))

    config = load(None, variables)
    assert config.upstream.base_url.startswith("https://")
    assert config.upstream.api_key.reveal() == DEFAULT_KEY


# Kubernetes


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_every_manifest_is_valid(kubectl: Path, kustomization: str) -> None:
    version = kubernetes_validate.latest_version()
    for manifest in rendered(kubectl, kustomization).values():
        # Custom resources have no schema here.
        if manifest["apiVersion"] != MONITORING:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_every_selector_matches_the_pods(kubectl: Path, kustomization: str) -> None:
    found = rendered(kubectl, kustomization)
    pod = found["Deployment"]["spec"]["template"]
    assert pod["metadata"]["labels"] == LABELS
    assert found["Deployment"]["spec"]["selector"] == SELECTOR
    assert found["PodDisruptionBudget"]["spec"]["selector"] == SELECTOR
    assert found["NetworkPolicy"]["spec"]["podSelector"] == SELECTOR
    assert found["Service"]["spec"]["selector"] == LABELS
    for constraint in pod["spec"]["topologySpreadConstraints"]:
        assert constraint["labelSelector"] == SELECTOR
    account = found["ServiceAccount"]["metadata"]["name"]
    assert pod["spec"]["serviceAccountName"] == account


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_pods_are_spread_and_one_may_be_evicted(
    kubectl: Path, kustomization: str
) -> None:
    found = rendered(kubectl, kustomization)
    pod = found["Deployment"]["spec"]["template"]["spec"]
    constraints = pod["topologySpreadConstraints"]
    assert {constraint["topologyKey"] for constraint in constraints} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    available = found["PodDisruptionBudget"]["spec"]["minAvailable"]
    assert available < found["Deployment"]["spec"]["replicas"]


def test_a_pod_fits_the_restricted_standard(kubectl: Path) -> None:
    found = rendered(kubectl, "overlays/production")
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

    context = pod["securityContext"]
    _, final = stages()
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == final["USER"]


def test_production_has_a_namespace_that_enforces_the_restricted_standard(
    kubectl: Path,
) -> None:
    found = rendered(kubectl, "overlays/production")
    labels = found.pop("Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for manifest in found.values():
        assert manifest["metadata"]["namespace"] == "gex"


def test_production_is_configured_with_known_keys(
    kubectl: Path, secrets: Path, tmp_path: Path
) -> None:
    found = rendered(kubectl, "overlays/production")
    text = found["ConfigMap"]["data"]["connector.toml"]
    file = tmp_path / "connector.toml"
    file.write_text(text.replace("/run/secrets/gex-connector", str(secrets)))
    assert load(file, {}).upstream.api_key.reveal() == DEFAULT_KEY


def test_production_mounts_every_file_of_its_configuration(kubectl: Path) -> None:
    found = rendered(kubectl, "overlays/production")
    text = found["ConfigMap"]["data"]["connector.toml"]
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in re.findall(r'"(/[^"]+)"', text):
        assert str(Path(path).parent) in mounted


def test_the_operator_scrapes_the_service(kubectl: Path) -> None:
    found = rendered(kubectl, "overlays/production")
    monitor = found["ServiceMonitor"]["spec"]
    labels = found["Service"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()

    (port,) = found["Service"]["spec"]["ports"]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] == port["name"]
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert port["targetPort"] in [one["name"] for one in container["ports"]]


def test_the_operator_gives_each_namespace_a_job_of_its_own(kubectl: Path) -> None:
    """The rules group by job; the operator would give all namespaces the same."""
    (endpoint,) = rendered(kubectl, "overlays/production")["ServiceMonitor"]["spec"][
        "endpoints"
    ]
    (relabelling,) = endpoint["relabelings"]
    assert relabelling["sourceLabels"] == ["__meta_kubernetes_namespace"]
    assert relabelling["targetLabel"] == "job"
    assert relabelling["replacement"] == "gex-connector-$1"


def test_the_operator_loads_the_rules_of_prometheus(kubectl: Path) -> None:
    found = rendered(kubectl, "overlays/production")["PrometheusRule"]["spec"]
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
    assert found == rules, "prometheusrule.yaml is out of date: run make docs"
