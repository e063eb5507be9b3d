"""Fixtures for every test: a broker, a registry, and names of its own."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from connector.devkit.local_kafka import LocalKafka
from tests.support.internal_topics import create_internal_topics
from tests.support.registry import LocalRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("unit", "property", "contract", "integration", "chaos", "system")
TESTS = Path(__file__).parent
# These take longest, so they must start first.
LONGEST = (
    TESTS / "system" / "test_shared_key.py",
    TESTS / "system" / "test_budget.py",
    TESTS / "system" / "test_image.py",
    TESTS / "system" / "test_consumers.py",
)
RAN = ("passed", "failed", "xfailed", "xpassed")


@dataclass(frozen=True, slots=True)
class Names:
    """Names that no other test uses. Brokers outlive a test, so tests must not share topics."""

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


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Undo what the start of a program does to logging: later tests look for messages."""
    root = logging.getLogger()
    ours = logging.getLogger("connector")
    root_level = root.level
    our_level = ours.level
    handlers = list(root.handlers)

    yield

    logging.captureWarnings(False)
    for handler in list(root.handlers):
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(root_level)
    ours.setLevel(our_level)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """Start a broker for all tests of this process.

    Do not stop it, and use it under `names` only.
    """
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as broker:
        create_internal_topics(broker)
        yield broker


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    """Start a schema registry for all tests of this process, FULL_TRANSITIVE."""
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def names() -> Names:
    return Names(uuid.uuid4().hex[:12])


def kind_of(path: Path) -> str | None:
    """Return the folder below `tests` that holds a file, if it is one of KINDS."""
    if not path.is_relative_to(TESTS):
        return None
    kind = path.relative_to(TESTS).parts[0]
    if kind not in KINDS:
        return None
    return kind


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if kind := kind_of(item.path):
            item.add_marker(kind)
    items.sort(key=lambda item: item.path not in LONGEST)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    # Print the figures that tests record, such as seconds to recover.
    for report in terminalreporter.getreports("passed"):
        if report.when == "call" and report.user_properties:
            figures = [f"{name} {value}" for name, value in report.user_properties]
            terminalreporter.write_line(f"{report.nodeid}: {', '.join(figures)}")

    # Count by kind, so that a kind that ran no test is noticed.
    kinds = Counter[str | None]()
    for outcome in RAN:
        for report in terminalreporter.getreports(outcome):
            file, _, _ = report.nodeid.partition("::")
            kinds[kind_of(config.rootpath / file)] += 1
    counted = [f"{kind} {kinds[kind]}" for kind in KINDS if kinds[kind]]
    if counted:
        terminalreporter.write_line(f"kinds: {', '.join(counted)}")
