"""The files of deploy/, read as the programs that use them read them."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Imported by name, since it has no types.
yaml: Any = importlib.import_module("yaml")

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
UNIT = DEPLOY / "systemd" / "gex-connector.service"
# The linters are installed beside Python, as packages for development.
BIN = Path(sys.executable).parent


def output(
    *command: object,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command that must succeed, and return its standard output."""
    # pytest shows the message, and not the output that an exception would hold.
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


# The first word of a line of the Dockerfile, and the rest.
Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    """Return each instruction of the Dockerfile and the rest of its line."""
    text = (DEPLOY / "Dockerfile").read_text()
    # A backslash continues an instruction on the next line.
    joined = text.replace("\\\n", " ")
    found = []
    for line in joined.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            found.append((word, rest.strip()))
    return found


def stages() -> tuple[list[Instruction], dict[str, str]]:
    """Return the instructions of the build stage, and those of the last by name."""
    found = instructions()
    starts = []
    for index, (word, _) in enumerate(found):
        if word == "FROM":
            starts.append(index)
    # There are two stages; a third would hold instructions that no test looks at.
    _, last = starts
    return found[:last], dict(found[last:])


def composed(*profiles: str) -> dict[str, Any]:
    """Return the compose file as Compose resolves it."""
    chosen = []
    for profile in profiles:
        chosen += ["--profile", profile]
    # `config` resolves variables, anchors and paths without a running Docker.
    program = BIN / "docker-compose"
    file = DEPLOY / "compose.yaml"
    command = (program, "-f", file, *chosen, "config", "--format", "json")
    found: dict[str, Any] = json.loads(output(*command))
    return found


# The manifests of a deployment, by their kind.
Manifests = dict[str, dict[str, Any]]


def rendered(kubectl: Path, kustomization: str) -> Manifests:
    """Return the manifests that `kubectl apply -k` would send, one of each kind."""
    text = output(kubectl, "kustomize", KUBERNETES / kustomization)
    found: Manifests = {}
    for document in yaml.safe_load_all(text):
        kind = document["kind"]
        assert kind not in found
        found[kind] = document
    return found


def unit() -> dict[str, list[str]]:
    """Return the settings of the systemd unit; some occur several times."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found
