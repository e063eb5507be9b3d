"""`connector.client` without the worker's dependencies."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from connector import client

ROOT = Path(__file__).parents[2]
ALLOWED = ("confluent-kafka", "fastavro", "msgspec")
# The schemas are read when a client is made.
PROGRAM = """
import sys
for name in sys.argv[1:]:
    sys.modules[name] = None
import connector.client
connector.client.LiveLevels("127.0.0.1:9092")
"""


def test_the_client_needs_three_packages_only() -> None:
    blocked = []
    for module, distributions in metadata.packages_distributions().items():
        allowed = {*ALLOWED, "gex-levels-connector"}
        if allowed.isdisjoint(distributions) and module.isidentifier():
            blocked.append(module)
    assert {"aiohttp", "httpx", "prometheus_client"} <= set(blocked)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *blocked],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_extra_names_what_the_client_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["client"]
    names = [requirement.split(">")[0] for requirement in extra]
    assert sorted(names) == sorted(ALLOWED)
    # The same bounds as the worker's.
    assert set(extra) <= set(project["dependencies"])


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "connector" / "py.typed").is_file()


def test_the_page_names_every_error() -> None:
    page = (ROOT / "docs" / "how-to" / "client.md").read_text()
    for name in client.__all__:
        value = getattr(client, name)
        if isinstance(value, type) and issubclass(value, client.ClientError):
            assert f"`{name}`" in page, name
