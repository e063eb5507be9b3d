"""The budget of a key as the simulator keeps it, and what it answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.processes import Program

MINUTE = 60
MICROS = 1_000_000

# Requests a minute that the simulator permits for a key.
LIMIT = 60


def without_our_cap(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a worker whose only limit is the server's."""
    kept = dict(variables)
    kept.pop("GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE", None)
    return kept


def answers_of(simulator: Program) -> list[dict[str, Any]]:
    """Return all answers of the simulator, with their moments and statuses."""
    answers: list[dict[str, Any]] = simulator.ask("/_control/truth")["answers"]
    return answers
