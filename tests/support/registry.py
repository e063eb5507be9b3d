"""A real schema registry on loopback: Apicurio Registry, with Confluent's API."""

from __future__ import annotations

import json
import shutil
import tarfile
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Self

from connector.devkit import jars
from connector.devkit.java import JavaProcess
from connector.devkit.loopback_ports import LOOPBACK, free_port

if TYPE_CHECKING:
    from pathlib import Path

# An idle machine takes ten seconds, and a loaded one much longer.
START_TIMEOUT_SECONDS = 240.0
_REQUEST_TIMEOUT_SECONDS = 10.0
# Apicurio's own default is NONE.
_COMPATIBILITY = "FULL_TRANSITIVE"


class LocalRegistry:
    """A registry with its schemas in memory: it is empty after each start.

    `data_dir` holds its log.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.absolute()
        self._port = free_port()
        self._process: JavaProcess | None = None

    @property
    def url(self) -> str:
        """Return the base of the Confluent API."""
        return f"http://{LOOPBACK}:{self._port}/apis/ccompat/v7"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("this registry was never started")
        return self._process.pid

    def start(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Start, and wait until the registry enforces FULL_TRANSITIVE."""
        self._data_dir.mkdir(parents=True, exist_ok=True)
        # Without the management settings it opens port 9000 on every address.
        settings = {
            "quarkus.http.host": LOOPBACK,
            "quarkus.http.port": self._port,
            "quarkus.management.host": LOOPBACK,
            "quarkus.management.port": free_port(),
        }
        arguments = ["-Xmx512m"]
        arguments += [f"-D{name}={value}" for name, value in settings.items()]
        arguments += ["-jar", str(_unpacked() / "quarkus-run.jar")]
        log = self._data_dir / "registry.log"
        process = JavaProcess("Apicurio Registry", arguments, log)
        process.wait_until(self._set_compatibility, timeout_seconds)
        self._process = process

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _set_compatibility(self) -> bool:
        request = urllib.request.Request(
            f"{self.url}/config",
            json.dumps({"compatibility": _COMPATIBILITY}).encode(),
            {"Content-Type": "application/json"},
            method="PUT",
        )
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_SECONDS):
                return True
        except (OSError, urllib.error.HTTPError):
            return False


def _unpacked() -> Path:
    """Return the folder of the unpacked distribution, in the cache with its archive."""
    (archive,) = jars.fetch_set("apicurio")
    cache = jars.cache_folder()
    folder = cache / archive.name.removesuffix(".tar.gz")
    with jars.exclusive(cache):
        if not folder.exists():
            # The rename makes the folder complete or absent, even after a crash.
            partial = cache / "unpacking"
            shutil.rmtree(partial, ignore_errors=True)
            with tarfile.open(archive) as tar:
                tar.extractall(partial, filter="data")
            partial.rename(folder)
    return folder
