"""Java archives, pinned: fetched once into the user's cache folder, checked by SHA-256 at every use.

`jars.lock.json`, beside this file, names every file of every set as `group:name:packaging:classifier:version`.
Run `python -m connector.devkit.jars` to rewrite it from `ROOTS`. Repositories are those of jgo: Maven Central, or
what the `[repositories]` section of its settings file says (`central = https://mirror.example/maven2`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connector.devkit.java import demo_module
from connector.errors import KafkaUnavailable, SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOCK_PATH = Path(__file__).with_name("jars.lock.json")
# A `jar` brings what it depends on, anything else only itself.
ROOTS = {
    "kafka": (
        "org.apache.kafka:kafka_2.13:jar::4.3.1",
        "org.slf4j:slf4j-simple:jar::1.7.36",
    ),
    "apicurio": ("io.apicurio:apicurio-registry-app:tar.gz:all:3.3.3",),
}

_TIMEOUT_SECONDS = 30
_DOWNLOADS_AT_ONCE = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Archive:
    """One file of a Maven repository, and the SHA-256 (hex) it must have."""

    coordinate: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where the file lies inside a repository."""
        group, name, packaging, classifier, version = self.coordinate.split(":")
        suffix = f"-{classifier}" if classifier else ""
        return Path(
            *group.split("."), name, version, f"{name}-{version}{suffix}.{packaging}"
        )


def bring(name: str) -> list[Path]:
    """The files of the set `name` (a key of `ROOTS`), brought as `ensure` does."""
    return ensure(locked(name), cache_folder())


def locked(name: str) -> list[Archive]:
    """What the lock file says of the set `name`."""
    return [
        Archive(*entry) for entry in json.loads(LOCK_PATH.read_text())[name].items()
    ]


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/gex-levels-connector`, by default below `~/.cache`."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "gex-levels-connector"
    )


def ensure(archives: Sequence[Archive], folder: Path) -> list[Path]:
    """The path of every archive below `folder`, each of them verified; no request where all are there.

    A file gets its name only once it is complete and verified, and one process at a time fetches.
    Raises SetupError where a fetched file is not the pinned one, the folder cannot be written or jgo is not
    installed, KafkaUnavailable where no repository brings it.
    """
    repository = folder / "maven"
    if _missing(archives, repository):
        try:
            with exclusive(folder):
                _fetch(_missing(archives, repository), folder / "partial", repository)
        except OSError as error:
            raise SetupError(
                f"the cache folder {folder} cannot be used: {error}; set XDG_CACHE_HOME"
            ) from error
    return [repository / archive.path for archive in archives]


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder` against every other process; the kernel lets go of it if we die. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def lock() -> None:
    """Write the lock file anew from what `ROOTS` resolve to now, as the repositories serve it."""
    with tempfile.TemporaryDirectory() as folder:
        context = _maven(Path(folder))
        sets = {name: _resolved(context, roots) for name, roots in ROOTS.items()}
    LOCK_PATH.write_text(json.dumps(sets, indent=2, sort_keys=True) + "\n")


def _missing(archives: Sequence[Archive], repository: Path) -> list[Archive]:
    paths = [repository / archive.path for archive in archives]
    return [
        archive
        for archive, path in zip(archives, paths, strict=True)
        if not path.is_file() or _sha256(path) != archive.sha256
    ]


def _fetch(archives: Sequence[Archive], partial: Path, repository: Path) -> None:
    if not archives:
        return
    log.warning("fetching %d Java archives into %s", len(archives), repository)
    shutil.rmtree(
        partial, ignore_errors=True
    )  # of a process that was killed: ours alone, the folder is locked
    context = _maven(partial)
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        for archive, path in zip(
            archives,
            pool.map(lambda each: _download(each, context), archives),
            strict=True,
        ):
            target = repository / archive.path
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    shutil.rmtree(partial, ignore_errors=True)


def _download(archive: Archive, context: Any) -> Path:
    try:
        path: Path = _artifact(context, archive.coordinate).resolve()
    except (
        OSError,
        RuntimeError,
    ) as error:  # requests' errors are OSErrors, jgo says "not found" by RuntimeError
        raise KafkaUnavailable(
            f"{archive.path.name} cannot be fetched: {str(error)[:300]}; "
            "check the network and the [repositories] of jgo's settings, then start again"
        ) from error
    if (found := _sha256(path)) != archive.sha256:
        raise SetupError(
            f"{archive.path.name} is not the pinned file: expected sha256 {archive.sha256}, found {found}; "
            "it was not kept. Start again; if it stays, the repository or a proxy before it serves another file"
        )
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _maven(repository: Path) -> Any:
    settings = demo_module("jgo.config").GlobalSettings.load()
    central = {"central": demo_module("jgo.constants").MAVEN_CENTRAL_URL}
    return demo_module("jgo.maven").MavenContext(
        repo_cache=repository,
        remote_repos=central | settings.repositories,
        timeout=_TIMEOUT_SECONDS,
    )


def _artifact(context: Any, coordinate: str) -> Any:
    group, name, packaging, classifier, version = coordinate.split(":")
    return (
        context.project(group, name).at_version(version).artifact(classifier, packaging)
    )


def _resolved(context: Any, roots: Sequence[str]) -> dict[str, str]:
    """SHA-256 of the roots and all they depend on, by coordinate."""
    artifacts = [_artifact(context, root) for root in roots]
    dependencies = [
        context.create_dependency(str(one))
        for one in artifacts
        if one.packaging == "jar"
    ]
    if dependencies:
        artifacts += [
            found.artifact for found in context.resolver.resolve(dependencies)[1]
        ]
    return {
        f"{one.groupId}:{one.artifactId}:{one.packaging}:{one.classifier}:{one.version}": _sha256(
            one.resolve()
        )
        for one in artifacts
    }


if __name__ == "__main__":
    lock()
