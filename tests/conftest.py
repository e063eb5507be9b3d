"""What every test may ask for: a broker, a registry, names of its own."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from connector.devkit.local_kafka import LocalKafka
from tests.support.registry import LocalRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("unit", "property", "contract", "integration", "chaos", "system")
TESTS = Path(__file__).parent
RAN = ("passed", "failed", "xfailed", "xpassed")


@dataclass(frozen=True, slots=True)
class Names:
    """Names that no other test of any run has: the brokers outlive a test."""

    unique: str

    @property
    def topic_prefix(self) -> str:
        return f"levels.{self.unique}"

    @property
    def group_id(self) -> str:
        return f"group-{self.unique}"

    @property
    def transactional_id(self) -> str:
        return f"transactions-{self.unique}"


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A broker for the whole run: not to be stopped, and only to be used under `names`."""
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    """A schema registry for the whole run, FULL_TRANSITIVE."""
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def names() -> Names:
    return Names(uuid.uuid4().hex[:12])


def kind_of(path: Path) -> str | None:
    """Return the folder directly below `tests` that `path` lies in, where that is a kind of test."""
    kind = path.relative_to(TESTS).parts[0] if path.is_relative_to(TESTS) else ""
    return kind if kind in KINDS else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if kind := kind_of(item.path):
            item.add_marker(kind)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for report in terminalreporter.getreports("passed"):
        if report.when == "call" and report.user_properties:
            said = ", ".join(
                f"{name} {value}" for name, value in report.user_properties
            )
            terminalreporter.write_line(f"{report.nodeid}: {said}")
    reports = (
        report for outcome in RAN for report in terminalreporter.getreports(outcome)
    )
    kinds = Counter(
        kind_of(config.rootpath / report.nodeid.split("::")[0]) for report in reports
    )
    counted = [f"{kind} {kinds[kind]}" for kind in KINDS if kinds[kind]]
    if counted:
        terminalreporter.write_line(f"kinds: {', '.join(counted)}")
