"""The budget of a key holds in real time while another program uses it, too."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from connector.devkit.simulator.settings import DEFAULT_KEY
from tests.support.processes import start_simulator, start_worker, variables_for
from tests.support.server_budget import (
    LIMIT,
    MICROS,
    MINUTE,
    answers_of,
    without_our_cap,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names


class OtherProgram:
    """A thread that sends forty requests a minute with our key."""

    def __init__(self, url: str) -> None:
        self.refused_at: list[float] = []
        self._url = url
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        # Every 1.5 s: forty a minute, in no rhythm with the upstream's refreshes.
        while not self._stopped.wait(1.5):
            headers = {"X-API-Key": DEFAULT_KEY}
            request = urllib.request.Request(self._url, headers=headers)
            try:
                # A busy machine may need seconds, and a time-out would end the thread.
                urllib.request.urlopen(request, timeout=60).close()
            except urllib.error.HTTPError:
                self.refused_at.append(time.time())


def test_two_programs_share_a_key_and_neither_gets_a_429_after_the_first_minute(
    kafka: LocalKafka, names: Names, record_property: Callable[[str, object], None]
) -> None:
    with start_simulator("--limit", str(LIMIT)) as simulator:
        url = f"{simulator.url}/v2/multi/gex/levels?symbols=BTCUSDT"
        other = OtherProgram(url)
        other.start()
        try:
            variables = without_our_cap(variables_for(kafka, names, simulator))
            with start_worker(variables):
                # The worker learns of the other program by its requests.
                settled_at = time.time() + MINUTE
                threading.Event().wait(6 * MINUTE)
        finally:
            other.stop()
        answers = answers_of(simulator)

    late_refusals = [moment for moment in other.refused_at if moment > settled_at]
    assert late_refusals == []
    late = []
    for answer in answers:
        if answer["received_at"] / MICROS > settled_at:
            late.append(answer)
    assert {answer["status"] for answer in late} == {200}

    # The other program requests a single symbol.
    ours = [answer for answer in late if len(answer["symbols"]) > 1]
    record_property("started at second", round(settled_at % MINUTE))
    record_property("our requests a minute", len(ours) / 5)
    # Five minutes have passed since. A worker that sends nothing is refused nothing.
    assert len(ours) > 5 * 6, "the rest of the budget is used"
