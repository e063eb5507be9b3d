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

# Has no types.
yaml: Any = importlib.import_module("yaml")

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
UNIT = DEPLOY / "systemd" / "gex-connector.service"
BIN = Path(sys.executable).parent


def output(
    *command: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> str:
    """Run a command that must succeed, and return its standard output."""
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


def instructions() -> list[tuple[str, str]]:
    """Return each instruction of the Dockerfile and the rest of its line."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            found.append((word, rest.strip()))
    return found


def stages() -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return the instructions of the build stage, and those of the last by name."""
    found = instructions()
    starts = [index for index, (word, _) in enumerate(found) if word == "FROM"]
    _, last = starts
    return found[:last], dict(found[last:])


def composed(*profiles: str) -> dict[str, Any]:
    """Return the compose file as Compose resolves it."""
    chosen = []
    for profile in profiles:
        chosen += ["--profile", profile]
    file = DEPLOY / "compose.yaml"
    command = (BIN / "docker-compose", "-f", file, *chosen, "config")
    found: dict[str, Any] = json.loads(output(*command, "--format", "json"))
    return found


def rendered(kubectl: Path, kustomization: str) -> dict[str, dict[str, Any]]:
    """Return the manifests that `kubectl apply -k` would send, one of each kind."""
    text = output(kubectl, "kustomize", KUBERNETES / kustomization)
    documents = list(yaml.safe_load_all(text))
    found = {document["kind"]: document for document in documents}
    assert len(found) == len(documents)
    return found


def unit() -> dict[str, list[str]]:
    """Return the settings of the systemd unit; some occur several times."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found
