"""Build the image and run it, without a registry of images and without an engine's daemon.

The base image is a minimal Debian, made from its packages. buildah and podman keep
everything in a folder of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.deployment import DEPLOY, composed, instructions, output
from tests.support.pythons import mmdebstrap

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

BASE = "localhost/base"
IMAGE = "localhost/gex-levels-connector"

# Tests that run beside it wait for their own programs, and come first.
_PATIENTLY = ("nice", "-n", "5")
_CERTIFICATES = "/etc/ssl/certs"
# The base's pip must trust the authorities of this machine.
_PIP_CONF = f"[global]\\ncert = {_CERTIFICATES}/ca-certificates.crt\\n"
_PACKAGES = ("python3", "python3-venv")

_RUN = (
    # Debian's default, crun, does not run on every machine.
    *("--runtime", "runc", "--cgroup-manager", "cgroupfs", "run"),
    # The broker and the simulator listen on loopback.
    *("--network", "host"),
    # podman's defaults may be higher than root may set.
    *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"),
)


def why_no_containers() -> str | None:
    """Return why this machine cannot run containers at all, or None if it can."""
    if os.geteuid() != 0:
        return "building and running an image needs root, who may mount"
    unshare = ("unshare", "--mount", "--pid", "--fork", "true")
    done = subprocess.run(unshare, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"the kernel refuses mounts: {done.stderr.strip()}"
    if not os.access("/sys/fs/cgroup", os.W_OK):
        return "/sys/fs/cgroup is read-only, and a container needs a cgroup"
    return None


class Containers:
    """Images and containers in a folder of their own, which is removed at the end."""

    def __init__(self) -> None:
        # Not pytest's folder: podman refuses long paths.
        self._folder = Path(tempfile.mkdtemp(prefix="gex-"))
        root = str(self._folder / "root")
        runroot = str(self._folder / "run")
        # `vfs` copies every layer, but needs nothing from the kernel.
        self._options = [
            "--storage-driver",
            "vfs",
            "--root",
            root,
            "--runroot",
            runroot,
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A failed test may have left containers behind.
        output(*self._podman("rm", "--force", "--all"))
        shutil.rmtree(self._folder)

    def build(self, suite: str, *packages: str) -> None:
        """Build deploy/Dockerfile on a Debian of this suite, with some more packages."""
        archive = self._folder / "base.tar"
        output(*_debian(suite, archive, packages))
        output(*self._podman("import", str(archive), BASE))
        archive.unlink()

        bases = []
        for word, rest in instructions():
            if word == "FROM":
                reference, *_ = rest.split()
                bases += ["--build-context", f"{reference}=container-image://{BASE}"]
        output(
            *(*_PATIENTLY, "buildah", *self._options, "build"),
            # A container for each step would need more of the kernel.
            *("--isolation", "chroot"),
            # The other format has no health check.
            *("--format", "docker"),
            *("--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"),
            *bases,
            *("--file", DEPLOY / "Dockerfile"),
            *("--ignorefile", DEPLOY / "Dockerfile.dockerignore"),
            *("--tag", IMAGE, "."),
        )

    def why_not_even_the_base(self) -> str | None:
        """Return why this machine cannot run a program of Debian, or None if it can."""
        command = self._podman(*_RUN, "--rm", BASE, "true")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return None
        return f"this machine cannot run Debian in a container: {done.stderr.strip()}"

    def size(self, image: str) -> int:
        """Return the bytes of an image, with those of its base."""
        (found,) = json.loads(output(*self._podman("image", "inspect", image)))
        return int(found["Size"])

    def config(self) -> dict[str, Any]:
        """Return what the image says about how to run it."""
        (found,) = json.loads(output(*self._podman("image", "inspect", IMAGE)))
        config: dict[str, Any] = found["Config"]
        return config

    def run(
        self, name: str, variables: Mapping[str, str], *arguments: str
    ) -> list[str]:
        """Return the command that runs the image with the limits of Compose."""
        environment = []
        for variable, value in variables.items():
            environment += ["--env", f"{variable}={value}"]
        return self._podman(
            *(*_RUN, "--name", name),
            *_limits_of_compose(),
            *environment,
            *(IMAGE, *arguments),
        )

    def ask(self, name: str, *command: str) -> str:
        """Run a command in a container that runs, and return what it printed."""
        return output(*self._podman("exec", name, *command))

    def status(self, name: str, *command: str) -> int:
        """Run a command in a container that runs, and return its exit status."""
        return _status(self._podman("exec", name, *command))

    def is_healthy(self, name: str) -> bool:
        """Run the image's health check in a container that runs."""
        return _status(self._podman("healthcheck", "run", name)) == 0

    def files(self) -> Path:
        """Return a folder with a copy of the image's files."""
        name = output(*self._podman("create", IMAGE)).strip()
        return Path(output(*self._podman("mount", name)).strip())

    def _podman(self, *arguments: str) -> list[str]:
        # Without systemd it cannot repeat health checks, and says so every time.
        return ["podman", *self._options, "--log-level", "fatal", *arguments]


def _debian(suite: str, archive: Path, packages: tuple[str, ...]) -> list[str]:
    """Return the command that makes a base image like Python's: Python is in /usr/local."""
    return mmdebstrap(
        "essential",
        suite,
        archive,
        (*_PACKAGES, *packages),
        '--customize-hook=chroot "$1" python3 -m venv /usr/local',
        f'--customize-hook=printf "{_PIP_CONF}" > "$1/etc/pip.conf"',
    )


def _limits_of_compose() -> list[str]:
    """Return how Compose limits the connector, as options of `podman run`."""
    service = composed("live")["services"]["connector"]
    limits = service["deploy"]["resources"]["limits"]
    options = [f"--memory={limits['memory']}", f"--pids-limit={limits['pids']}"]
    if service["read_only"]:
        # No folder of the image can be written, /tmp and /run included.
        options += ["--read-only", "--read-only-tmpfs=false"]
    for capability in service["cap_drop"]:
        options += ["--cap-drop", capability]
    for option in service["security_opt"]:
        # podman knows it without `:true`.
        options += ["--security-opt", option.removesuffix(":true")]
    return options


def _status(command: list[str]) -> int:
    done = subprocess.run(command, capture_output=True, check=False)
    return done.returncode
