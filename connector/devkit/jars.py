"""Pinned Java archives: downloaded once into the user's cache, verified at every use.

`jars.lock.json`, beside this file, pins every file of every set by its coordinate,
`group:name:packaging:classifier:version`, and its SHA-256. `python -m connector.devkit.jars`
resolves `ROOTS` and rewrites it.

Downloads come from the repositories of jgo: Maven Central, or those of the section
`[repositories]` in its settings file (`central = https://mirror.example/maven2`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from connector.devkit.java import demo_module
from connector.errors import KafkaUnavailable, SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOCK_PATH: Final = Path(__file__).with_name("jars.lock.json")

# A `jar` includes its dependencies; other packagings stand for themselves only.
ROOTS: Final = {
    "kafka": (
        "org.apache.kafka:kafka_2.13:jar::4.3.1",
        "org.slf4j:slf4j-simple:jar::1.7.36",
    ),
    "apicurio": ("io.apicurio:apicurio-registry-app:tar.gz:all:3.3.3",),
}

_TIMEOUT_SECONDS: Final = 30
# The files are many and small, so that the round trips take longer than the transfer.
_PARALLEL_DOWNLOADS: Final = 8

# Resolvers quote whole pages in their errors; the beginning has the reason.
_MAX_ERROR_CHARACTERS: Final = 300

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Archive:
    """A file of a Maven repository and its expected SHA-256, in hex."""

    coordinate: str
    sha256: str

    @property
    def path(self) -> Path:
        """Path of the file inside a Maven repository."""
        group, name, packaging, classifier, version = self.coordinate.split(":")
        suffix = f"-{classifier}" if classifier else ""
        file = f"{name}-{version}{suffix}.{packaging}"
        return Path(*group.split("."), name, version, file)


def fetch_set(name: str) -> list[Path]:
    """Return the verified files of a set of `ROOTS`. Raises the errors of `ensure`."""
    return ensure(locked(name), cache_folder())


def locked(name: str) -> list[Archive]:
    """Return the pinned archives of a set of `ROOTS`."""
    sets = json.loads(LOCK_PATH.read_text())
    archives = []
    for coordinate, sha256 in sets[name].items():
        archives.append(Archive(coordinate, sha256))
    return archives


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME/gex-levels-connector`, by default below `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "gex-levels-connector"


def ensure(archives: Sequence[Archive], folder: Path) -> list[Path]:
    """Return the verified path of every archive below `folder`.

    Missing and damaged files are downloaded; if there are none, nothing is requested. A
    file gets its final name once it is complete and verified. Only one process downloads
    at a time.

    Raises:
        SetupError: A downloaded file is not the pinned one, `folder` cannot be written, or
            jgo is not installed.
        KafkaUnavailable: No repository serves the file.
    """
    repository = folder / "maven"
    # Look before locking: with everything in place, the folder may be read-only.
    if _missing(archives, repository):
        try:
            with exclusive(folder):
                # Another process may have downloaded them while we waited for the lock.
                missing = _missing(archives, repository)
                _download_all(missing, folder / "partial", repository)
        except OSError as error:
            raise SetupError(
                f"cannot use the cache folder {folder}: {error}; set XDG_CACHE_HOME"
            ) from error
    return [repository / archive.path for archive in archives]


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock `folder` against other processes. Raises OSError.

    The kernel releases the lock if this process dies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        yield


def lock() -> None:
    """Rewrite the lock file with the files that `ROOTS` resolve to now."""
    sets = {}
    with tempfile.TemporaryDirectory() as folder:
        context = _maven(Path(folder))
        for name, roots in ROOTS.items():
            sets[name] = _resolve(context, roots)
    LOCK_PATH.write_text(json.dumps(sets, indent=2, sort_keys=True) + "\n")


def _missing(archives: Sequence[Archive], repository: Path) -> list[Archive]:
    def is_valid(archive: Archive) -> bool:
        path = repository / archive.path
        return path.is_file() and _sha256(path) == archive.sha256

    return [archive for archive in archives if not is_valid(archive)]


def _download_all(archives: Sequence[Archive], partial: Path, repository: Path) -> None:
    if not archives:
        return
    log.warning("downloading %d Java archives into %s", len(archives), repository)

    # Leftovers of a process that was killed. We hold the lock, so nobody else uses them.
    shutil.rmtree(partial, ignore_errors=True)

    context = _maven(partial)

    def download(archive: Archive) -> Path:
        return _download(archive, context)

    with ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool:
        downloads = pool.map(download, archives)
        for number, (archive, path) in enumerate(zip(archives, downloads, strict=True)):
            _show_progress(number + 1, len(archives))
            target = repository / archive.path
            target.parent.mkdir(parents=True, exist_ok=True)
            # A rename is atomic, so other processes see complete files only.
            path.replace(target)
    shutil.rmtree(partial, ignore_errors=True)


def _show_progress(done: int, total: int) -> None:
    # Only a terminal shows one line again and again; a log would get one line per archive.
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        sys.stderr.write(f"\r  {done} of {total} Java archives{end}")
        sys.stderr.flush()


def _download(archive: Archive, context: Any) -> Path:
    try:
        path: Path = _artifact(context, archive.coordinate).resolve()
    except (OSError, RuntimeError) as error:
        # The errors of requests are OSErrors; jgo raises RuntimeError for "not found".
        raise KafkaUnavailable(
            f"cannot download {archive.path.name}: {str(error)[:_MAX_ERROR_CHARACTERS]}; "
            "check the network and [repositories] in jgo's settings, then start again"
        ) from error

    found = _sha256(path)
    if found != archive.sha256:
        raise SetupError(
            f"{archive.path.name} is not the pinned file: expected sha256 "
            f"{archive.sha256}, found {found}; it was discarded. Start again. If this "
            "happens again, the repository or a proxy serves another file"
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
    project = context.project(group, name)
    return project.at_version(version).artifact(classifier, packaging)


def _resolve(context: Any, roots: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of the roots and their dependencies, by coordinate."""
    artifacts = [_artifact(context, root) for root in roots]
    jar_roots = [artifact for artifact in artifacts if artifact.packaging == "jar"]
    dependencies = [context.create_dependency(str(root)) for root in jar_roots]
    if dependencies:
        _, resolved = context.resolver.resolve(dependencies)
        artifacts += [dependency.artifact for dependency in resolved]

    hashes = {}
    for artifact in artifacts:
        coordinate = (
            f"{artifact.groupId}:{artifact.artifactId}:{artifact.packaging}:"
            f"{artifact.classifier}:{artifact.version}"
        )
        hashes[coordinate] = _sha256(artifact.resolve())
    return hashes


if __name__ == "__main__":
    lock()
