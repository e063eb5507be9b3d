"""Symbols that the API knows only in another case than upper case."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from connector.core.model import Status
from tests.support import checker
from tests.support.processes import (
    start,
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program

# One has a namesake in upper case, which is another symbol of the API.
KNOWN = ["btcusdt", "kPEPEUSDT", "BTCUSDT"]


def history_keys(variables: dict[str, str], symbol: str) -> set[str]:
    """Return the symbols of the events that `history` prints."""
    command = [sys.executable, "-m", "connector", "history", symbol, "--json"]
    with start(command, variables) as program:
        assert program.wait() == 0
        lines = program.log().splitlines()
    return {json.loads(line)["symbol"] for line in lines}


def wait_for_two_symbols(worker: Program) -> None:
    def are_known() -> bool:
        # 1 for the status of each symbol.
        return worker.metric("gex_symbol_status") == 2

    wait_until(are_known, "the status of both symbols", worker)


def test_symbols_are_requested_and_published_with_the_case_of_the_configuration(
    kafka: LocalKafka, names: Names
) -> None:
    with start_simulator(
        "--symbols", ",".join(KNOWN), "--period", "1", "--limit", "0"
    ) as simulator:
        variables = variables_for(kafka, names, simulator, ["btcusdt", "kPEPEUSDT"])
        variables["GEX_KEEP_LOWER_CASE"] = "true"
        with start_worker(variables) as worker:
            wait_for_two_symbols(worker)
            assert worker.terminate() == 0
        requested = set()
        for answer in simulator.ask("/_control/truth")["answers"]:
            requested.update(answer["symbols"])

    assert requested == {"btcusdt", "kPEPEUSDT"}
    states = checker.states(kafka, names.topic_prefix)
    assert set(states) == {"btcusdt", "kPEPEUSDT"}
    for state in states.values():
        assert state.status is Status.LIVE
    keys = set()
    for topic in ("changes", "current"):
        for record in checker.records(kafka, f"{names.topic_prefix}.all.{topic}"):
            keys.add(record.key)
    assert keys == {b"btcusdt", b"kPEPEUSDT"}
    assert history_keys(variables, "btcusdt") == {"btcusdt"}
    assert history_keys(variables, "kPEPEUSDT") == {"kPEPEUSDT"}


def test_a_symbol_in_lower_case_is_requested_in_upper_case_by_default(
    kafka: LocalKafka, names: Names
) -> None:
    with start_simulator(
        "--symbols", "btcusdt,ETHUSDT", "--period", "1", "--limit", "0"
    ) as simulator:
        variables = variables_for(kafka, names, simulator, ["btcusdt", "ethusdt"])
        with start_worker(variables) as worker:
            wait_for_two_symbols(worker)
            assert worker.terminate() == 0

    states = checker.states(kafka, names.topic_prefix)
    # The API of this test is one whose symbols differ by their case.
    assert states["BTCUSDT"].status is Status.INVALID
    assert states["ETHUSDT"].status is Status.LIVE
