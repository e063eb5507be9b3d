"""Downloads of Java archives from a Maven repository on loopback."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from connector.devkit import jars
from connector.devkit.local_kafka import VERSION
from connector.devkit.loopback_ports import free_port
from connector.errors import KafkaUnavailable, SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOWNLOAD_SECONDS = 120
# A program of its own that downloads ARCHIVE. Its arguments: coordinate, sha256, cache.
DOWNLOAD = """
import pathlib, sys
from connector.devkit import jars
coordinate, sha256, cache = sys.argv[1:]
jars.ensure([jars.Archive(coordinate, sha256)], pathlib.Path(cache))
"""

CONTENT = b"an archive" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ARCHIVE = jars.Archive("org.example:thing:tar.gz:all:1.2", SHA256)
PATH = "/org/example/thing/1.2/thing-1.2-all.tar.gz"


@dataclass(slots=True)
class Repository:
    """Content of the server, by path.

    It sends `cut` bytes too few of each file. `requests` counts requests for archives.
    """

    files: dict[str, bytes] = field(default_factory=lambda: {PATH: CONTENT})
    cut: int = 0
    requests: int = 0


def use_repository(monkeypatch: pytest.MonkeyPatch, settings: Path, port: int) -> None:
    """Make jgo download from a local port instead of Maven Central."""
    settings.write_text(f"[repositories]\ncentral = http://127.0.0.1:{port}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(settings))
    # A developer's proxy cannot reach our loopback.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    served = Repository()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # Maven clients ask for a checksum as well, if there is one.
            if not self.path.endswith(".sha1"):
                served.requests += 1
            content = served.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) - served.cut])

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        use_repository(monkeypatch, tmp_path / "jgo.conf", server.server_port)
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def without_jgo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every import of jgo fail, as if the extra were not installed."""
    for name in ("jgo", "jgo.config", "jgo.constants", "jgo.maven"):
        monkeypatch.setitem(sys.modules, name, None)


def test_a_cached_file_is_not_downloaded_again(
    repository: Repository, cache: Path
) -> None:
    (path,) = jars.ensure([ARCHIVE], cache)
    assert path.read_bytes() == CONTENT
    assert jars.ensure([ARCHIVE], cache) == [path]
    assert repository.requests == 1


def test_a_cached_file_needs_no_maven_client(
    repository: Repository,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    (path,) = jars.ensure([ARCHIVE], cache)
    request.getfixturevalue("without_jgo")
    assert jars.ensure([ARCHIVE], cache) == [path]


@pytest.mark.usefixtures("without_jgo")
def test_without_the_extra_the_error_names_the_package_to_install(cache: Path) -> None:
    with pytest.raises(SetupError, match=r"pip install '\.\[demo\]'"):
        jars.ensure([ARCHIVE], cache)


def test_a_damaged_file_of_the_same_length_is_downloaded_again(
    repository: Repository, cache: Path
) -> None:
    (path,) = jars.ensure([ARCHIVE], cache)
    # Only the checksum can tell.
    path.write_bytes(CONTENT[:-1] + b"!")

    assert jars.ensure([ARCHIVE], cache) == [path]
    assert path.read_bytes() == CONTENT
    assert repository.requests == 2


def test_a_file_that_is_not_the_pinned_one_is_refused_and_discarded(
    repository: Repository, cache: Path
) -> None:
    repository.files[PATH] = b"another"
    found = hashlib.sha256(b"another").hexdigest()
    expected = f"thing-1.2-all.tar.gz.*expected sha256 {SHA256}, found {found}"
    with pytest.raises(SetupError, match=expected):
        jars.ensure([ARCHIVE], cache)
    # If it stayed, every later start would fail as well.
    assert not (cache / "maven" / ARCHIVE.path).exists()

    repository.files[PATH] = CONTENT
    (path,) = jars.ensure([ARCHIVE], cache)
    assert path.read_bytes() == CONTENT


def test_an_incomplete_download_is_discarded(
    repository: Repository, cache: Path
) -> None:
    repository.cut = 1
    # Depending on the HTTP client, the download fails, or only the checksum is wrong.
    errors = (KafkaUnavailable, SetupError)
    with pytest.raises(errors, match=r"thing-1\.2-all\.tar\.gz"):
        jars.ensure([ARCHIVE], cache)
    assert not (cache / "maven" / ARCHIVE.path).exists()

    repository.cut = 0
    (path,) = jars.ensure([ARCHIVE], cache)
    assert path.read_bytes() == CONTENT


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("is_terminal", [True, False])
def test_downloads_are_counted_on_a_terminal(
    is_terminal: bool,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)

    jars.ensure([ARCHIVE], cache)

    shown = capsys.readouterr().err
    assert ("1 of 1 Java archives" in shown) is is_terminal


@pytest.mark.usefixtures("repository")
def test_an_incomplete_file_of_a_killed_process_is_not_used(cache: Path) -> None:
    left = cache / "partial" / ARCHIVE.path
    left.parent.mkdir(parents=True)
    left.write_bytes(CONTENT[:100])

    (path,) = jars.ensure([ARCHIVE], cache)

    assert path.read_bytes() == CONTENT


def test_the_error_for_an_unreachable_repository_names_the_file(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens on a free port.
    use_repository(monkeypatch, tmp_path / "jgo.conf", free_port())
    expected = r"cannot download thing-1\.2-all\.tar\.gz: .*; check the network"
    with pytest.raises(KafkaUnavailable, match=expected):
        jars.ensure([ARCHIVE], cache)


def test_the_error_for_an_absent_file_names_it(
    repository: Repository, cache: Path
) -> None:
    repository.files.clear()
    expected = r"cannot download thing-1\.2-all\.tar\.gz"
    with pytest.raises(KafkaUnavailable, match=expected):
        jars.ensure([ARCHIVE], cache)


@pytest.mark.usefixtures("repository")
def test_the_error_for_an_unusable_cache_names_its_folder(tmp_path: Path) -> None:
    # A file in the place of a folder: nothing can be made below it.
    (tmp_path / "file").touch()
    expected = r"cannot use the cache folder .*/file/cache.*XDG_CACHE_HOME"
    with pytest.raises(SetupError, match=expected):
        jars.ensure([ARCHIVE], tmp_path / "file" / "cache")


def test_processes_that_start_at_the_same_time_download_once(
    repository: Repository, cache: Path
) -> None:
    command = [sys.executable, "-c", DOWNLOAD]
    command += [ARCHIVE.coordinate, ARCHIVE.sha256, str(cache)]
    with ExitStack() as stack:
        processes = []
        for _ in range(3):
            process = stack.enter_context(subprocess.Popen(command, env=os.environ))
            processes.append(process)
        exit_codes = [process.wait(DOWNLOAD_SECONDS) for process in processes]

    assert exit_codes == [0, 0, 0]
    assert repository.requests == 1
    assert (cache / "maven" / ARCHIVE.path).read_bytes() == CONTENT


def test_the_lock_file_pins_every_set() -> None:
    assert f"org.apache.kafka:kafka_2.13:jar::{VERSION}" in jars.ROOTS["kafka"]
    for name, roots in jars.ROOTS.items():
        pinned = jars.locked(name)
        coordinates = {archive.coordinate for archive in pinned}
        assert coordinates >= set(roots)
        # A SHA-256 has 64 hexadecimal digits.
        for archive in pinned:
            assert len(archive.sha256) == 64


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jars.cache_folder() == tmp_path / "gex-levels-connector"

    # An empty value counts as unset, says the XDG specification.
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert jars.cache_folder() == tmp_path / ".cache" / "gex-levels-connector"
