"""A worker against a real broker and the simulator: the promises to a consumer."""

from __future__ import annotations

import json
import urllib.request
from operator import itemgetter
from typing import TYPE_CHECKING

import confluent_kafka
import confluent_kafka.admin
import pytest

from connector.core.model import Kind, Status
from connector.devkit.simulator.settings import DEFAULT_KEY
from tests.support import checker
from tests.support.processes import (
    PATIENCE_SECONDS,
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from connector.core.model import Event
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program, Variables

# A key of the right form that the simulator does not accept.
OTHER_KEY = "bq_live_" + "n" * 32

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
# Poll far more often than the levels refresh, so that no refresh is missed.
FAST = {
    "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.05",
    "GEX_SCHEDULE__MIN_INTERVAL_SECONDS": "0.05",
}


class Published:
    """Everything that the worker has published."""

    def __init__(self, kafka: LocalKafka, names: Names) -> None:
        self._kafka = kafka
        self._prefix = names.topic_prefix

    def events(self) -> list[Event]:
        """Return all events; none if the topic does not exist yet."""
        try:
            return checker.events(self._kafka, self._prefix)
        except KeyError:
            return []

    def of_kind(self, kind: Kind, symbol: str = "BTCUSDT") -> list[Event]:
        found = []
        for event in self.events():
            if event.kind is kind and event.symbol == symbol:
                found.append(event)
        return found

    def kinds(self, *kinds: Kind, symbol: str = "BTCUSDT") -> list[Kind]:
        """Return the kinds of a symbol's events in order, as far as they are in `kinds`."""
        found = []
        for event in checker.by_symbol(self.events())[symbol]:
            if event.kind in kinds:
                found.append(event.kind)
        return found

    def quarantined(self) -> list[checker.Record]:
        return self.records("quarantine")

    def records(self, topic: str) -> list[checker.Record]:
        return checker.records(self._kafka, f"{self._prefix}.{topic}")

    def violations(self) -> Sequence[str]:
        """Return the promises that the records break."""
        states = checker.states(self._kafka, self._prefix)
        return checker.violations(self.events(), states)

    def wait_for(
        self, kind: Kind, worker: Program, symbol: str = "BTCUSDT"
    ) -> list[Event]:
        """Wait for an event of a symbol, and return all of its kind."""

        def found() -> list[Event]:
            return self.of_kind(kind, symbol)

        return wait_until(found, f"an event {kind}", worker)

    def wait_for_another_change(self, worker: Program, symbol: str = "BTCUSDT") -> None:
        already_published = len(self.of_kind(Kind.CHANGED, symbol))
        self.wait_for_changes(worker, already_published + 1, symbol)

    def wait_for_changes(
        self, worker: Program, count: int, symbol: str = "BTCUSDT"
    ) -> None:
        """Wait until a symbol has at least `count` events CHANGED in total."""

        def has_changed() -> bool:
            return len(self.of_kind(Kind.CHANGED, symbol)) >= count

        wait_until(has_changed, f"{count} changes of {symbol}", worker)


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--period", "1", "--jitter", "0.1", "--limit", "0") as program:
        yield program


@pytest.fixture
def variables(kafka: LocalKafka, names: Names, simulator: Program) -> Variables:
    return variables_for(kafka, names, simulator, SYMBOLS) | FAST


@pytest.fixture
def published(kafka: LocalKafka, names: Names) -> Published:
    return Published(kafka, names)


def without(variables: Variables, removed: str) -> dict[str, str]:
    kept = dict(variables)
    del kept[removed]
    return kept


def set_fault(simulator: Program, fault: str, **options: object) -> None:
    simulator.ask("/_control/faults", {"fault": fault, **options})


def clear_faults(simulator: Program) -> None:
    url = f"{simulator.url}/_control/faults"
    request = urllib.request.Request(url, method="DELETE")
    urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).close()


def accept_only(simulator: Program, key: str) -> None:
    """Make the simulator refuse every other API key from now on."""
    simulator.ask("/_control/set", {"keys": [key]})


def wait_for_more_requests(simulator: Program, worker: Program) -> None:
    """Wait for enough requests that an answer to one of them was surely processed."""

    def total() -> int:
        return int(simulator.ask("/_control/stats")["requests_total"])

    before = total()

    def has_sent_more() -> bool:
        return total() > before + 5

    wait_until(has_sent_more, "more requests", worker)


def served_refreshes(simulator: Program) -> dict[str, list[str]]:
    """Return the different `computed_at` of each symbol in good answers, in order."""
    served: dict[str, list[str]] = {symbol: [] for symbol in SYMBOLS}
    for answer in simulator.ask("/_control/truth")["answers"]:
        if answer["status"] != 200:
            continue
        for symbol, entry in answer["shown"].items():
            computed_at = entry["computed_at"]
            if computed_at not in served[symbol]:
                served[symbol].append(computed_at)
    return served


def impatient_feed(folder: Path) -> list[str]:
    """Return the arguments of a worker whose levels are stale after seconds, not minutes.

    It is a setting of a feed, so it needs a file.
    """
    config = folder / "impatient.toml"
    symbols = json.dumps(SYMBOLS)
    config.write_text(
        f'[[feeds]]\nname = "all"\nsymbols = {symbols}\nstale_after_seconds = 3\n'
        # Restored levels are not stale before an answer had twice this time to come.
        "[upstream]\ntimeout_seconds = 2\n"
    )
    return ["--config", str(config)]


def publish_live_levels(published: Published, variables: Variables) -> None:
    """Let a worker with the usual patience publish levels of each symbol, and stop it.

    Arm a fault, and start an impatient worker afterwards. On a slow machine, the levels of
    one that runs already could become stale before the fault is armed.
    """
    with start_worker(variables) as worker:
        for symbol in SYMBOLS:
            published.wait_for(Kind.SNAPSHOT, worker, symbol)
        assert worker.terminate() == 0


def assert_live_but_not_ready(worker: Program) -> None:
    """Check that an orchestrator sends no traffic, but does not restart the worker.

    A restart would not help: the cause lies outside the process.
    """

    def is_not_ready() -> bool:
        return not worker.ready()

    # The cause may be logged a moment before the worker acts on it.
    wait_until(is_not_ready, "not ready", worker)
    assert worker.ask("/health/live")["ok"]


# --- events ---


def test_every_refresh_that_was_served_is_one_event_in_order(
    published: Published, simulator: Program, variables: Variables
) -> None:
    def has_published() -> bool:
        return len(published.events()) >= 15

    with start_worker(variables) as worker:
        wait_until(has_published, "some events", worker)
        assert worker.terminate() == 0

    served = served_refreshes(simulator)
    events = checker.by_symbol(published.events())
    assert published.violations() == []
    for symbol in SYMBOLS:
        # Refreshes that came while a slow broker committed another are one event.
        collapsed = sum(event.collapsed_observations for event in events[symbol])
        # An answer that the stop cut off was sent, but may not have been received.
        unpublished = len(served[symbol]) - len(events[symbol])
        assert 0 <= unpublished <= 1 + collapsed
        moments = [event.computed_at or 0 for event in events[symbol]]
        assert moments == sorted(set(moments))


def test_a_restart_publishes_nothing_but_changes(
    published: Published, simulator: Program, variables: Variables
) -> None:
    with start_worker(variables) as worker:
        published.wait_for_changes(worker, count=2)
        # From here on the levels stay the same, so the restart has nothing to publish.
        set_fault(simulator, "freeze")
        wait_for_more_requests(simulator, worker)
        worker.terminate()
    before = {event.event_id for event in published.events()}

    with start_worker(variables) as worker:
        wait_for_more_requests(simulator, worker)
        assert worker.terminate() == 0

    # A list, so that an event published twice is noticed.
    after = [event.event_id for event in published.events()]
    assert sorted(after) == sorted(before)


def test_a_bad_entry_is_quarantined_and_other_symbols_are_published(
    published: Published, simulator: Program, variables: Variables
) -> None:
    with start_worker(variables) as worker:
        published.wait_for(Kind.CHANGED, worker)
        set_fault(simulator, "nan", symbols=["BTCUSDT"])
        wait_until(published.quarantined, "an entry in quarantine", worker)
        # The same answer holds good entries of the other symbols.
        published.wait_for_another_change(worker, "ETHUSDT")
        metrics = worker.text("/metrics")
        worker.terminate()

    record = published.quarantined()[0]
    assert record.key == b"BTCUSDT"
    assert b"NaN" in record.value
    assert record.headers["why"].startswith(b"malformed: ")
    assert 'gex_quarantined_total{reason="malformed"}' in metrics
    assert published.violations() == []


def test_absence_is_published_once_and_so_is_its_end(
    published: Published, simulator: Program, variables: Variables
) -> None:
    is_missing = 'gex_symbol_status{feed="all",status="MISSING",symbol="BTCUSDT"} 1.0'

    def metric_shows_missing() -> bool:
        return is_missing in worker.text("/metrics")

    with start_worker(variables) as worker:
        published.wait_for(Kind.CHANGED, worker)

        set_fault(simulator, "missing", symbols=["BTCUSDT"])
        published.wait_for(Kind.MISSING, worker)
        wait_until(metric_shows_missing, "the status as a metric", worker)

        clear_faults(simulator)
        published.wait_for(Kind.RESTORED, worker)

        set_fault(simulator, "invalid", symbols=["BTCUSDT"])
        published.wait_for(Kind.INVALID, worker)
        worker.terminate()

    expected = [Kind.MISSING, Kind.RESTORED, Kind.INVALID]
    assert published.kinds(*expected) == expected
    # Without levels upstream, a consumer must not go on with the last ones.
    for event in published.of_kind(Kind.MISSING) + published.of_kind(Kind.INVALID):
        assert event.after is None


def test_a_used_up_month_stops_requests_until_a_new_key_is_there(
    published: Published,
    simulator: Program,
    variables: Variables,
    tmp_path: Path,
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(DEFAULT_KEY)
    settings = without(without(variables, "GEX_SYMBOLS"), "GEX_UPSTREAM__API_KEY")
    settings["GEX_UPSTREAM__API_KEY_FILE"] = str(key_file)
    publish_live_levels(published, variables)

    cap = 1_000_000
    simulator.ask("/_control/set", {"limit_per_month": cap})
    simulator.ask("/_control/spend", {"requests": cap, "budget": "month"})
    impatient = impatient_feed(tmp_path)
    with start_worker(settings, arguments=impatient, wait_ready=False) as worker:
        stale = published.wait_for(Kind.STALE, worker)[0]
        assert stale.reason == "quota"
        assert_live_but_not_ready(worker)
        budget = worker.ask("/api/status")["budget"]
        assert budget["quota_exhausted"]
        assert budget["quota_remaining"] == 0
        # Nothing is sent while levels grow old: the next probe is half an hour away.
        refused = simulator.ask("/_control/truth")["answers"]
        assert refused[-1]["status"] == 429
        assert refused[-2]["status"] == 200

        # A user with requests left.
        new_key = "another-" + DEFAULT_KEY
        users = {new_key: "another user"}
        simulator.ask("/_control/set", {"keys": [DEFAULT_KEY], "users": users})
        replaced = tmp_path / "new-key"
        replaced.write_text(new_key)
        replaced.rename(key_file)
        published.wait_for(Kind.FRESH, worker)
        wait_until(worker.ready, "readiness", worker)
        worker.terminate()
        log = worker.log()
    assert log.count("a check failed: quota_exhausted") == 1
    assert log.count(f"The monthly cap of {cap} is used up") == 1


def test_levels_become_stale_without_answers_and_fresh_again(
    published: Published,
    simulator: Program,
    variables: Variables,
    tmp_path: Path,
) -> None:
    def knows_no_outage() -> bool:
        # The answer is cached for half a second, so it may be older than the event.
        return worker.ask("/api/status")["budget"]["outage"] is None

    settings = without(variables, "GEX_SYMBOLS")
    publish_live_levels(published, variables)

    set_fault(simulator, "503")
    with start_worker(settings, arguments=impatient_feed(tmp_path)) as worker:
        stale = published.wait_for(Kind.STALE, worker)[0]
        assert stale.status is Status.STALE
        assert stale.reason == "no_answer"
        wait_for_log(worker, '"status": "STALE", "reason": "no_answer"')
        wait_for_log(worker, "checks fail; the API itself answers with the error")
        outage = worker.ask("/api/status")["budget"]["outage"]
        assert outage.startswith("the API itself answers with the error")
        # An outage upstream is no fault of the worker: a restart would not help.
        assert worker.ask("/health/live")["ok"]
        assert worker.ready()

        clear_faults(simulator)
        published.wait_for(Kind.FRESH, worker)
        wait_until(knows_no_outage, "the outage is over", worker)
        worker.terminate()
    assert published.violations() == []


def test_a_symbol_that_is_removed_and_added_again_continues_its_sequence(
    published: Published, variables: Variables
) -> None:
    with start_worker(variables) as worker:
        published.wait_for(Kind.CHANGED, worker)
        worker.terminate()

    without_btc = {**variables, "GEX_SYMBOLS": "ETHUSDT"}
    with start_worker(without_btc) as worker:
        published.wait_for(Kind.REMOVED, worker)
        worker.terminate()

    with start_worker(variables) as worker:
        published.wait_for(Kind.RESTORED, worker)
        worker.terminate()

    # A gap or a second #1 would be a violation.
    assert published.violations() == []


def test_an_older_entry_is_counted_and_dropped(
    published: Published, simulator: Program, variables: Variables
) -> None:
    none_dropped = 'gex_observations_dropped_total{feed="all",reason="older"} 0'

    def one_was_dropped() -> bool:
        return none_dropped not in worker.text("/metrics")

    with start_worker(variables) as worker:
        published.wait_for(Kind.CHANGED, worker)
        set_fault(simulator, "computed_at", variant="older", symbols=["BTCUSDT"])
        wait_until(one_was_dropped, "an older entry is counted", worker)

        clear_faults(simulator)
        published.wait_for_another_change(worker)
        worker.terminate()
    assert published.violations() == []


# --- the API key ---


def test_the_key_appears_nowhere(
    published: Published, simulator: Program, variables: Variables
) -> None:
    with start_worker(variables, arguments=["--log-level", "DEBUG"]) as worker:
        published.wait_for(Kind.CHANGED, worker)
        # A refusal is the most likely moment for a message that quotes the key.
        accept_only(simulator, OTHER_KEY)
        wait_for_log(worker, "key_refused")
        assert_live_but_not_ready(worker)

        accept_only(simulator, DEFAULT_KEY)
        pages = worker.text("/metrics") + worker.text("/health/live")
        worker.terminate()
        shown = worker.log() + pages

    assert DEFAULT_KEY not in shown
    key = DEFAULT_KEY.encode()
    for topic in ("all.changes", "all.current", "quarantine"):
        for record in published.records(topic):
            assert key not in record.value
            for header in record.headers.values():
                assert key not in header


def test_a_key_that_is_rotated_in_its_file_is_used(
    published: Published,
    simulator: Program,
    variables: Variables,
    tmp_path: Path,
) -> None:
    file = tmp_path / "key"
    # Editors and secret managers leave whitespace around a key.
    file.write_text(f"  {DEFAULT_KEY}\n")
    settings = without(variables, "GEX_UPSTREAM__API_KEY")
    settings["GEX_UPSTREAM__API_KEY_FILE"] = str(file)

    def is_not_ready() -> bool:
        return not worker.ready()

    with start_worker(settings) as worker:
        published.wait_for(Kind.CHANGED, worker)
        accept_only(simulator, OTHER_KEY)
        wait_until(is_not_ready, "not ready: the key is refused", worker)
        assert "gex_key_refused 1.0" in worker.text("/metrics")

        file.write_text(OTHER_KEY)
        wait_until(worker.ready, "ready again", worker)
        published.wait_for_another_change(worker)
        worker.terminate()


# --- trouble ---


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "html"},
        {"fault": "empty"},
        {"fault": "truncated"},
        {"fault": "huge"},
        {"fault": "gzip_bomb"},
        {"fault": "redirect"},
        {"fault": "success_false"},
        {"fault": "drop"},
        {"fault": "500"},
        {"fault": "429", "retry_after_seconds": 1},
    ],
    ids=itemgetter("fault"),
)
def test_a_worker_survives_a_bad_response(
    fault: dict[str, object],
    published: Published,
    simulator: Program,
    variables: Variables,
) -> None:
    with start_worker(variables) as worker:
        published.wait_for(Kind.CHANGED, worker)
        # Two responses, so that the worker must survive the fault more than once.
        simulator.ask("/_control/faults", {**fault, "count": 2})
        wait_for_log(worker, "a check failed")
        published.wait_for_another_change(worker)
        assert worker.terminate() == 0
        assert "Traceback" not in worker.log()
    assert published.violations() == []


def test_a_worker_is_not_ready_while_one_of_its_shards_cannot_be_opened(
    kafka: LocalKafka, names: Names, variables: Variables
) -> None:
    # A first run creates the topics.
    with start_worker(variables) as worker:
        worker.terminate()

    # Another program leaves a transaction open, which hides the end of the state topic.
    settings = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "transactional.id": names.transactional_id,
        # Longer than the test, or the broker would end the transaction by itself.
        "transaction.timeout.ms": 600_000,
    }
    foreign = confluent_kafka.Producer(settings)
    foreign.init_transactions(PATIENCE_SECONDS)
    foreign.begin_transaction()
    topic = f"{names.topic_prefix}.all.current"
    foreign.produce(topic, b"x", b"BTCUSDT", partition=0)
    foreign.flush()

    with start_worker(variables, wait_ready=False) as worker:
        wait_for_log(worker, "in a transaction with another id")
        assert_live_but_not_ready(worker)

        foreign.abort_transaction(PATIENCE_SECONDS)
        wait_until(worker.ready, "ready after the other has aborted", worker)
        worker.terminate()


def test_a_worker_notices_that_its_topics_were_deleted(
    kafka: LocalKafka,
    names: Names,
    published: Published,
    variables: Variables,
) -> None:
    admin = confluent_kafka.admin.AdminClient(
        {"bootstrap.servers": kafka.bootstrap_servers}
    )
    changes = f"{names.topic_prefix}.all.changes"
    current = f"{names.topic_prefix}.all.current"

    with start_worker(variables) as worker:
        published.wait_for(Kind.CHANGED, worker)
        for future in admin.delete_topics([changes, current]).values():
            future.result(PATIENCE_SECONDS)

        wait_for_log(worker, "topics are gone")
        assert_live_but_not_ready(worker)
        assert worker.terminate() == 0
