"""Fixtures that several modules share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.guarded import GuardedKafka
from tests.support.processes import start_simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import Program


@pytest.fixture(scope="module")
def guarded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GuardedKafka]:
    """Start a broker that demands credentials, with `BROKER_SETTINGS` of the module."""
    settings = getattr(request.module, "BROKER_SETTINGS", None)
    kafka = GuardedKafka(tmp_path_factory.mktemp("guarded"), settings)
    with kafka.broker:
        kafka.admit()
        yield kafka


@pytest.fixture(scope="module")
def simulator() -> Iterator[Program]:
    """Start a simulator without limits. Modules with other wishes have their own."""
    with start_simulator("--limit", "0", "--period", "1") as program:
        yield program
