"""`check`, `watch` and `history` as processes, with a real broker and the simulator."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import confluent_kafka as ck
import confluent_kafka.admin as admin_api
import pyarrow.parquet as pq
import pytest

from connector.devkit.loopback_ports import LOOPBACK
from tests.support import checker
from tests.support.guarded import NEEDED, GuardedKafka, grant, revoke_everything
from tests.support.processes import (
    PATIENCE_SECONDS,
    Program,
    start,
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)
from tests.support.tools import SYMBOLS, publish_events, run_tool
from tests.support.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connector.core.model import Event
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.registry import LocalRegistry

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The smallest pipe of Linux has a page.
PAGE_BYTES = 4096
CONNECTOR = (sys.executable, "-m", "connector")


@pytest.fixture(scope="module")
def simulator() -> Iterator[Program]:
    # A symbol more than the worker's, so that a report on the wrong list is noticed.
    symbols = ",".join((*SYMBOLS, "SOLUSDT"))
    arguments = ["--period", "1", "--limit", "600", "--symbols", symbols]
    with start_simulator(*arguments) as program:
        yield program


@pytest.fixture(scope="module")
def published(kafka: LocalKafka, simulator: Program) -> dict[str, str]:
    """Variables of a stopped worker that has published events of each symbol."""
    return publish_events(kafka, simulator)


def items(printed: str, mark: str) -> set[str]:
    """Return the items of a check that have a mark: ok, warn or FAIL."""
    found = set()
    for line in printed.splitlines():
        if line.startswith(f"{mark:<4} "):
            found.add(line.split()[1])
    return found


def events_of(kafka: LocalKafka, variables: dict[str, str], symbol: str) -> list[Event]:
    events = checker.events(kafka, variables["GEX_KAFKA__TOPIC_PREFIX"])
    return [event for event in events if event.symbol == symbol]


def json_lines(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


def without_silence(printed: str) -> str:
    """Return what a tool printed, without the line that no connector runs."""
    lines = printed.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("feed all: no record"))


def sequences(printed: str) -> list[int]:
    return [event["sequence"] for event in json_lines(printed)]


def assert_passed(code: int, printed: str) -> None:
    """Check that `check` found no fault."""
    assert code == 0, printed
    assert items(printed, "FAIL") == set(), printed


def guarded_variables(
    guarded: GuardedKafka, names: Names, simulator: Program
) -> dict[str, str]:
    """Return the settings of a worker that signs in to the guarded broker."""
    variables = variables_for(guarded.broker, names, simulator, SYMBOLS)
    return variables | guarded.by_password()


# terminals


# Python takes neither for UTF-8, as it would with `LC_ALL=C` alone.
TERMINALS = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin_1": {"PYTHONIOENCODING": "iso-8859-1"},
}


@pytest.mark.parametrize("terminal", TERMINALS.values(), ids=TERMINALS)
def test_every_command_prints_plain_text_on_a_terminal_without_utf_8(
    terminal: dict[str, str], published: dict[str, str]
) -> None:
    variables = {**published, **terminal}

    _, history = run_tool("history", "BTCUSDT", variables=variables)
    # Neither terminal has such a character.
    _, unknown = run_tool("history", "BTC\u20ac", variables=variables)
    _, checked = run_tool("check", variables={**variables, "GEX_SYMBOLS": "\u20ac"})
    _, usage = run_tool("watch", "--kind", "\u20ac", variables=variables)
    verified, proof = run_tool("verify", variables=variables)
    with start([*CONNECTOR, "watch", "--from-beginning"], variables) as watch:
        wait_until(lambda: " -> " in watch.log(), "a change", watch)
        watched = watch.log()

    assert " -> " in history
    assert verified == 0
    for printed in (history, unknown, checked, usage, proof, watched):
        assert printed.isascii()


# check


def test_check_passes_a_good_setup_and_changes_nothing(
    kafka: LocalKafka, registry: LocalRegistry, simulator: Program, names: Names
) -> None:
    variables = variables_for(kafka, names, simulator, SYMBOLS)
    variables["GEX_SCHEMA_REGISTRY__URL"] = registry.url
    variables["GEX_HTTP__LISTEN"] = f"{LOOPBACK}:0"

    code, printed = run_tool("check", variables=variables)

    assert_passed(code, printed)
    assert items(printed, "warn") == set(), printed
    assert items(printed, "ok") == {
        "configuration",
        "process",
        "listen",
        "proxy",
        "key",
        "quota",
        "month",
        "clock",
        "symbols",
        "service",
        "contract",
        "broker",
        "limits",
        "topics",
        "group",
        "rights",
        "registry",
    }
    # Users run it before they decide on the names of their topics.
    admin = admin_api.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    topics = admin.list_topics(timeout=PATIENCE_SECONDS).topics
    made = [topic for topic in topics if topic.startswith(names.topic_prefix)]
    assert made == []


class Fault(NamedTuple):
    """Variables that break a setup, and the exit status, item and text of the report."""

    variables: dict[str, str]
    exit_code: int
    item: str
    text: str


FAULTS = {
    "wrong key": Fault(
        {"GEX_UPSTREAM__API_KEY": "bq_live_" + "0" * 32},
        1,
        "key",
        "check upstream.api_key",
    ),
    "unknown symbol": Fault(
        {"GEX_SYMBOLS": "BTCUSDT,ETHUSTD"}, 1, "symbols", "did you mean ETHUSDT"
    ),
    "dead broker": Fault(
        {"GEX_KAFKA__BOOTSTRAP_SERVERS": f"{LOOPBACK}:1"},
        3,
        "broker",
        "check that the broker runs",
    ),
    "dead registry": Fault(
        {"GEX_SCHEMA_REGISTRY__URL": f"http://{LOOPBACK}:1"},
        3,
        "registry",
        "schema_registry.url",
    ),
    "wrong configuration": Fault(
        {"GEX_KAFKA__SHARDS": "many"}, 2, "configuration", "kafka.shards"
    ),
    "dead upstream": Fault(
        {"GEX_UPSTREAM__BASE_URL": f"http://{LOOPBACK}:1/v2"},
        1,
        "upstream",
        "upstream.base_url",
    ),
    "other partitions": Fault({"GEX_KAFKA__SHARDS": "3"}, 3, "topics", "kafka.shards"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_check_names_each_fault_with_its_remedy_and_tries_the_rest(
    published: dict[str, str], name: str
) -> None:
    fault = FAULTS[name]

    code, printed = run_tool("check", variables={**published, **fault.variables})

    assert code == fault.exit_code, printed
    assert items(printed, "FAIL") == {fault.item}, printed
    assert fault.text in printed
    # Without a configuration there is nothing to try.
    if fault.item == "registry":
        assert "states         not tried" in printed
    if fault.item != "configuration":
        tried = items(printed, "ok") | items(printed, "warn") | {"topics"}
        assert {"key", "broker", "topics"} - {fault.item} <= tried


@pytest.mark.parametrize(
    ("variables", "exit_status", "failed"),
    [
        ({}, 0, set()),
        ({"GEX_SYMBOLS": "BTCUSDT,ETHUSTD"}, 1, {"symbols"}),
        ({"GEX_KAFKA__SHARDS": "many"}, 2, {"configuration"}),
        ({"GEX_KAFKA__BOOTSTRAP_SERVERS": f"{LOOPBACK}:1"}, 3, {"broker"}),
        # A worker reads the setting before it connects to Kafka.
        ({"GEX_KAFKA__CLIENT__NO_SUCH_SETTING": "1"}, 2, {"broker"}),
    ],
)
def test_check_prints_one_json_object_with_all_findings(
    published: dict[str, str],
    variables: dict[str, str],
    exit_status: int,
    failed: set[str],
) -> None:
    code, printed = run_tool("check", "--json", variables={**published, **variables})

    (report,) = json_lines(printed)
    assert code == report["exit_status"] == exit_status
    by_result: dict[str, set[str]] = {"ok": set(), "warn": set(), "fail": set()}
    for finding in report["findings"]:
        assert finding["finding"]
        by_result[finding["result"]].add(finding["item"])
    assert by_result["fail"] == failed
    if "configuration" in failed:
        assert report["requests_sent"] == 0
    else:
        assert report["requests_sent"] > 0
        assert "key" in by_result["ok"]


def test_verify_prints_one_json_object(published: dict[str, str]) -> None:
    code, printed = run_tool("verify", "--json", variables=published)

    (summary,) = json_lines(printed)
    assert code == 0
    assert summary["ok"] is True
    assert summary["feeds"] == ["all"]
    assert summary["symbols"] == len(SYMBOLS)
    assert summary["faults"] == 0
    assert summary["first_faults"] == []
    assert summary["events"] > 0
    assert summary["states"] > 0


def test_check_says_why_it_could_not_try_something_and_counts_requests_sent(
    kafka: LocalKafka, names: Names
) -> None:
    with start_simulator() as simulator:
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        # Longer than the check: a real minute could end during it.
        fault = {"fault": "429", "retry_after_seconds": 600}
        simulator.ask("/_control/faults", fault)

        code, printed = run_tool("check", variables=variables)
        sent = simulator.ask("/_control/stats")["requests_total"]

    assert_passed(code, printed)
    assert "quota          used up for another" in printed
    assert "key, clock     not tried" in printed
    assert "no request is left this minute for the symbol list" in printed
    assert printed.splitlines()[-1].startswith(f"{sent} request(s)")


def test_check_tries_to_create_topics_without_creating_them(
    tmp_path: Path, simulator: Program, names: Names
) -> None:
    guarded = GuardedKafka(tmp_path)
    with guarded.broker:
        guarded.admit()
        variables = guarded_variables(guarded, names, simulator)

        # A missing right is found, so the check does ask the broker.
        grant(guarded, names, needed_except("topic CREATE"))
        code, printed = run_tool("check", variables=variables)
        assert code == 3, printed
        assert items(printed, "FAIL") == {"rights"}, printed
        assert f"creating topic {names.topic_prefix}.all.changes" in printed
        # Somebody else may have the right.
        assert "or create it by hand: kafka-topics --bootstrap-server" in printed

        # Also a right on topics that do not exist yet.
        revoke_everything(guarded)
        grant(guarded, names, needed_except("topic READ"))
        code, printed = run_tool("check", variables=variables)
        assert code == 3, printed
        assert items(printed, "FAIL") == {"rights"}, printed
        assert f"topic {names.topic_prefix}.all.changes: READ is missing" in printed

        # With all rights, nothing is created, written or joined.
        grant(guarded, names, NEEDED)
        before = internal_offsets(guarded.broker)
        code, printed = run_tool("check", variables=variables)
        assert_passed(code, printed)
        assert internal_offsets(guarded.broker) == before
        groups = guarded.admin().list_consumer_groups().result(PATIENCE_SECONDS)
        assert not groups.valid


def needed_except(right: str) -> dict[str, Any]:
    rights = dict(NEEDED)
    del rights[right]
    return rights


def internal_offsets(kafka: LocalKafka) -> dict[tuple[str, int], tuple[int, int]]:
    """Return the ends of all partitions, including Kafka's internal topics.

    A client that joins a group or begins a transaction moves those.
    """
    settings = {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "unused"}
    consumer = ck.Consumer(settings)
    topics = consumer.list_topics(timeout=PATIENCE_SECONDS).topics
    found = {}
    for name, topic in topics.items():
        for number in topic.partitions:
            partition = ck.TopicPartition(name, number)
            found[name, number] = consumer.get_watermark_offsets(
                partition, timeout=PATIENCE_SECONDS
            )
    consumer.close()
    return found


def test_check_names_a_transaction_that_hides_events(
    kafka: LocalKafka, published: dict[str, str], names: Names
) -> None:
    changes = f"{published['GEX_KAFKA__TOPIC_PREFIX']}.all.changes"
    foreign = ck.Producer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "transactional.id": names.transactional_id,
            # Longer than the check, or the broker would end the transaction by itself.
            "transaction.timeout.ms": 600_000,
        }
    )
    foreign.init_transactions(PATIENCE_SECONDS)
    foreign.begin_transaction()
    foreign.produce(changes, b"x", b"BTCUSDT", partition=2)
    foreign.flush()
    try:
        code, printed = run_tool("check", variables=published)
    finally:
        foreign.abort_transaction(PATIENCE_SECONDS)

    assert code == 3, printed
    assert items(printed, "FAIL") == {"transactions"}, printed
    assert f"{changes}-2: consumers cannot read the records from offset" in printed
    assert f"abort --topic {changes} --partition 2 --start-offset" in printed

    # The transaction has ended.
    code, printed = run_tool("check", variables=published)
    assert_passed(code, printed)
    assert "transactions" in items(printed, "ok")


def test_check_names_a_topic_whose_settings_do_not_fit(
    kafka: LocalKafka, published: dict[str, str], names: Names
) -> None:
    prefix = names.topic_prefix
    # Without compaction, the broker would delete the state of a quiet symbol.
    not_compacted = {"cleanup.policy": "delete"}
    create_topics(
        kafka,
        admin_api.NewTopic(f"{prefix}.all.current", 1, 1, config=not_compacted),
        admin_api.NewTopic(f"{prefix}.all.changes", 6, 1),
    )

    variables = {**published, "GEX_KAFKA__TOPIC_PREFIX": prefix}
    code, printed = run_tool("check", variables=variables)

    assert code == 3, printed
    assert items(printed, "FAIL") == {"topics"}, printed
    assert "cleanup.policy" in printed


# Seven checks, of which the missing right on the group takes 15 s.
@pytest.mark.timeout(900)
def test_check_names_each_missing_right_and_does_not_fence_a_worker(
    tmp_path: Path, simulator: Program, names: Names
) -> None:
    guarded = GuardedKafka(tmp_path)
    with guarded.broker:
        guarded.admit()
        variables = guarded_variables(guarded, names, simulator)
        grant(guarded, names, NEEDED)

        with start_worker(variables) as worker:
            code, printed = run_tool("check", variables=variables)
            assert_passed(code, printed)
            # A fenced worker would notice at its next transaction.
            wait_for_another_event(guarded.broker, names, worker)
            assert worker.metric("gex_shard_fenced_total") == 0
            assert worker.terminate() == 0

        for right in NEEDED:
            # The worker has created the topics.
            if right == "topic CREATE":
                continue
            revoke_everything(guarded)
            grant(guarded, names, needed_except(right))
            code, printed = run_tool("check", variables=variables)
            assert code == 3, (right, printed)
            assert items(printed, "FAIL") == {"rights"}, (right, printed)
            assert "docs/reference/rights.md" in printed


def wait_for_another_event(kafka: LocalKafka, names: Names, worker: Program) -> None:
    """Wait until the worker publishes an event after this call."""
    before = len(checker.events(kafka, names.topic_prefix))

    def has_published_more() -> bool:
        return len(checker.events(kafka, names.topic_prefix)) > before

    wait_until(has_published_more, "more events", worker)


# history


def test_history_prints_the_events_of_one_symbol_in_each_form(
    kafka: LocalKafka, published: dict[str, str]
) -> None:
    events = events_of(kafka, published, "BTCUSDT")
    numbers = [event.sequence for event in events]

    # A symbol in lower case, as people type it.
    code, printed = run_tool("history", "btcusdt", "--json", variables=published)
    assert code == 0
    assert sequences(printed) == numbers

    code, printed = run_tool("history", "BTCUSDT", "--csv", variables=published)
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [int(row["sequence"]) for row in rows] == numbers
    assert [row["kind"] for row in rows] == [event.kind for event in events]
    for row, event in zip(rows, events, strict=True):
        assert event.after is not None
        assert float(row["all_expiry_hvl"]) == event.after.all_expiry.hvl
        assert row["positioning"] == event.after.positioning == "flow"

    code, printed = run_tool("history", "BTCUSDT", variables=published)
    assert code == 0
    assert len(printed.splitlines()) == len(events)


def test_history_prints_the_period_between_since_and_until(
    kafka: LocalKafka, published: dict[str, str]
) -> None:
    events = events_of(kafka, published, "ETHUSDT")
    since = iso(events[1].observed_at)
    until = iso(events[-2].observed_at)
    period = ("--since", since, "--until", until)

    code, printed = run_tool(
        "history", "ETHUSDT", *period, "--json", variables=published
    )

    assert code == 0
    assert sequences(printed) == [event.sequence for event in events[1:-1]]


def test_history_prints_a_whole_feed_in_the_order_of_observation(
    kafka: LocalKafka, published: dict[str, str]
) -> None:
    events = checker.events(kafka, published["GEX_KAFKA__TOPIC_PREFIX"])

    code, printed = run_tool("history", "--json", variables=published)

    found = json_lines(printed)
    assert code == 0
    assert len(found) == len(events)
    moments = [event["observed_at"] for event in found]
    assert moments == sorted(moments)
    for symbol in SYMBOLS:
        numbers = [event["sequence"] for event in found if event["symbol"] == symbol]
        assert numbers == sorted(numbers)


def test_history_writes_a_parquet_file_and_does_not_replace_it_unasked(
    kafka: LocalKafka, published: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "events.parquet"
    options = ("history", "BTCUSDT", "--symbol", "ethusdt", "--parquet", str(file))

    code, printed = run_tool(*options, variables=published)
    assert code == 0, printed
    events = checker.events(kafka, published["GEX_KAFKA__TOPIC_PREFIX"])
    ids = [(event.symbol, event.sequence) for event in events]
    written = pq.read_table(file).to_pylist()
    assert sorted((row["symbol"], row["sequence"]) for row in written) == sorted(ids)

    code, printed = run_tool(*options, variables=published)
    assert code == 2
    assert "exists; choose another name, or replace it with --force" in printed

    # A period without events makes a file without rows, which programs can read, too.
    early = ("--since", "2020-01-01", "--until", "2020-01-02", "--force")
    code, printed = run_tool(*options, *early, variables=published)
    assert code == 0
    assert "no events" in printed
    assert pq.read_table(file).num_rows == 0
    assert list(tmp_path.iterdir()) == [file]


def test_history_says_that_a_folder_does_not_exist(published: dict[str, str]) -> None:
    file = "/nowhere/at/all/events.parquet"

    code, printed = run_tool("history", "--parquet", file, variables=published)

    assert code == 2
    assert f"cannot write {file}: No such file or directory" in printed


def test_history_refuses_a_moment_it_cannot_read(published: dict[str, str]) -> None:
    options = ("--since", "last week")
    code, _ = run_tool("history", "ETHUSDT", *options, variables=published)
    assert code == 2


def test_history_refuses_a_period_that_ends_before_it_begins(
    published: dict[str, str],
) -> None:
    options = ("--since", "1h", "--until", "2h")
    code, printed = run_tool("history", "ETHUSDT", *options, variables=published)
    assert code == 2
    assert "expected --since to be before --until" in printed


def test_history_says_that_a_symbol_has_no_events(published: dict[str, str]) -> None:
    _, printed = run_tool("history", "NONEUSDT", variables=published)
    assert "no events" in printed


def iso(at: int) -> str:
    """Return a moment in microseconds as ISO 8601."""
    return (EPOCH + timedelta(microseconds=at)).isoformat()


# watch


def test_watch_prints_the_events_that_match_and_ends_on_ctrl_c(
    published: dict[str, str],
) -> None:
    command = [*CONNECTOR, "watch", "--from-beginning", "--json"]
    command += ["--symbol", "ETHUSDT", "--kind", "changed"]
    with start(command, published) as program:

        def has_printed_events() -> bool:
            return len(program.lines()) > 2

        wait_until(has_printed_events, "events", program)
        # Ctrl-C sends SIGINT.
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        # No worker runs, which a slow machine may have time to notice.
        events = json_lines(without_silence(program.log()))

    assert {event["symbol"] for event in events} == {"ETHUSDT"}
    assert {event["kind"] for event in events} == {"CHANGED"}


def test_the_table_has_a_row_for_each_symbol_on_a_terminal(
    published: dict[str, str],
) -> None:
    # The table needs a terminal: into a pipe, `watch` prints lines.
    terminal, child_end = pty.openpty()
    process = subprocess.Popen(
        [*CONNECTOR, "watch", "--table"],
        env={**os.environ, **published, "TERM": "xterm"},
        stdout=child_end,
        stderr=child_end,
    )
    try:
        os.close(child_end)
        os.set_blocking(terminal, False)
        # The table is redrawn again and again: a row can come in any of the reads.
        shown = bytearray()

        def has_rows() -> bool:
            with suppress(BlockingIOError):
                shown.extend(os.read(terminal, 65_536))
            wanted = [*SYMBOLS, "LIVE"]
            missing = [text for text in wanted if text.encode() not in shown]
            return missing == []

        wait_until(has_rows, "a row for each symbol")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def test_the_table_refuses_to_be_written_anywhere_but_a_terminal(
    published: dict[str, str],
) -> None:
    code, printed = run_tool("watch", "--table", variables=published)

    assert code == 2
    assert printed == ("watch: --table needs a terminal; leave it out, or use --json\n")


def test_watch_says_at_once_what_it_follows(published: dict[str, str]) -> None:
    prefix = published["GEX_KAFKA__TOPIC_PREFIX"]
    servers = published["GEX_KAFKA__BOOTSTRAP_SERVERS"]
    # No worker runs, so that nothing else is printed.
    command = [*CONNECTOR, "watch", "--kind", "stale"]
    with start(command, published) as program:

        def has_printed() -> bool:
            return program.log().endswith("\n")

        wait_until(has_printed, "a line", program)
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        printed = without_silence(program.log())

    assert printed == (
        f"watching {prefix}.all.changes on {servers}; new events only "
        "(--from-beginning: all); kind STALE; Ctrl-C ends\n"
    )


def test_watch_says_that_no_connector_runs(published: dict[str, str]) -> None:
    command = [*CONNECTOR, "watch"]
    with start(command, published) as program:
        # Its worker has ended. No event would ever come.
        wait_for_log(program, "Is a connector running?")

        assert "feed all: no record for " in program.log()
        program.signal(signal.SIGINT)
        assert program.wait() == 0


def test_watch_names_an_unknown_symbol_and_goes_on(published: dict[str, str]) -> None:
    command = [*CONNECTOR, "watch", "--from-beginning"]
    # One is a typing mistake, and one is as people type it.
    command += ["--symbol", "ethustd", "--symbol", "btcusdt"]
    with start(command, published) as program:

        def has_printed_events() -> bool:
            return "SNAPSHOT" in program.log()

        wait_until(has_printed_events, "events", program)
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        first, second, *_ = program.log().splitlines()

    assert first.startswith("watching ")
    assert second == "'ethustd': no events so far in feed all; did you mean ETHUSDT?"


def test_history_suggests_the_symbol_that_was_meant(published: dict[str, str]) -> None:
    code, printed = run_tool("history", "ETHUSTD", variables=published)

    # A program that asked for a symbol with a typing mistake must not go on without it.
    assert code == 1
    assert "no events of ETHUSTD in this period" in printed
    assert "did you mean ETHUSDT" in printed


def test_an_unknown_feed_is_answered_with_the_known_ones(
    published: dict[str, str],
) -> None:
    code, printed = run_tool("watch", "--feed", "al", variables=published)

    assert code == 3
    assert "al.changes: the feeds here are all" in printed


# quarantine


@pytest.fixture(scope="module")
def quarantined(kafka: LocalKafka, published: dict[str, str]) -> dict[str, str]:
    """Variables of a worker whose quarantine has two entries, and a foreign record."""
    prefix = published["GEX_KAFKA__TOPIC_PREFIX"]
    producer = ck.Producer({"bootstrap.servers": kafka.bootstrap_servers})
    with start_simulator("--period", "1", "--limit", "0") as upstream:
        variables = {**published, "GEX_UPSTREAM__BASE_URL": f"{upstream.url}/v2"}
        with start_worker(variables) as worker:
            for symbol, fault in (("BTCUSDT", "nan"), ("ETHUSDT", "wrong_types")):
                fault_table = {"fault": fault, "symbols": [symbol], "count": 1}
                upstream.ask("/_control/faults", fault_table)

                def is_logged(symbol: str = symbol) -> bool:
                    return any(
                        "entry quarantined" in line and symbol in line
                        for line in worker.lines()
                    )

                wait_until(is_logged, f"{symbol} in quarantine", worker)
            assert worker.terminate() == 0
    # Whoever may write to the topic can write anything.
    producer.produce(f"{prefix}.quarantine", b"\x1b[2J\xff", b"STRAY")
    assert producer.flush(PATIENCE_SECONDS) == 0
    return published


def test_quarantine_lists_every_entry_with_its_reason(
    quarantined: dict[str, str],
) -> None:
    code, printed = run_tool("quarantine", "list", variables=quarantined)

    assert code == 0
    first, second, stray = printed.splitlines()
    assert "all/BTCUSDT" in first
    assert "malformed: " in first
    assert "all/ETHUSDT" in second
    assert "wrong_type: " in second
    assert "/STRAY" in stray


def test_quarantine_list_selects_by_symbol_and_prints_json(
    quarantined: dict[str, str],
) -> None:
    options = ("--symbol", "ethusdt", "--feed", "all", "--json")
    code, printed = run_tool("quarantine", "list", *options, variables=quarantined)

    (entry,) = json_lines(printed)
    assert code == 0
    assert entry["symbol"] == "ETHUSDT"
    assert entry["reason"] == "wrong_type"
    assert entry["request_id"]
    assert entry["size"] == len(entry["entry"])
    # The bytes as they came.
    assert "all_expiry" in json.loads(entry["entry"])


def test_quarantine_shows_all_of_an_entry(quarantined: dict[str, str]) -> None:
    newest = run_tool("quarantine", "show", "--feed", "all", variables=quarantined)
    _, listed = run_tool(
        "quarantine", "list", "--symbol", "BTCUSDT", "--json", variables=quarantined
    )
    (entry,) = json_lines(listed)
    place = f"{entry['partition']}:{entry['offset']}"

    code, printed = run_tool("quarantine", "show", place, variables=quarantined)
    _, raw = run_tool("quarantine", "show", place, "--raw", variables=quarantined)

    assert code == newest[0] == 0
    assert "symbol      ETHUSDT" in newest[1]
    assert f"request id  {entry['request_id']}" in printed
    assert "reason      malformed" in printed
    assert raw == entry["entry"]
    assert printed.endswith(f"\n\n{raw}\n")
    assert "NaN" in raw


def test_quarantine_shows_a_foreign_record_without_controlling_the_terminal(
    quarantined: dict[str, str],
) -> None:
    options = ("show", "--symbol", "STRAY")
    code, printed = run_tool("quarantine", *options, variables=quarantined)

    assert code == 0
    assert "\x1b" not in printed
    assert "\\x1b[2J\\xff" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("show", "0:999999"), 1, "no such entry in "),
        (("show", "newest"), 2, "expected PARTITION:OFFSET"),
        (("list", "0:0"), 2, "takes no record"),
        (("list", "--raw"), 2, "--raw is for show only"),
        (("show", "0:0", "--symbol", "BTCUSDT"), 2, "not both"),
        (("show", "--raw", "--json"), 2, "not allowed with argument"),
        (("list", "--symbol", "NONEUSDT"), 0, "no such entries in "),
    ],
)
def test_quarantine_says_what_it_did_not_find_or_understand(
    quarantined: dict[str, str], arguments: tuple[str, ...], code: int, text: str
) -> None:
    done, printed = run_tool("quarantine", *arguments, variables=quarantined)

    assert done == code, printed
    assert text in printed


def test_quarantine_can_be_read_although_the_topics_of_the_feeds_are_gone(
    kafka: LocalKafka, names: Names, published: dict[str, str]
) -> None:
    topic = f"{names.topic_prefix}.quarantine"
    variables = {**published, "GEX_KAFKA__TOPIC_PREFIX": names.topic_prefix}

    missing, printed = run_tool("quarantine", "list", variables=variables)
    assert missing == 3
    assert f"cannot find topic {topic}" in printed

    create_topics(kafka, admin_api.NewTopic(topic, 1, 1))
    producer = ck.Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(topic, b"{}", b"BTCUSDT")
    producer.flush(PATIENCE_SECONDS)
    code, printed = run_tool("quarantine", "list", variables=variables)
    assert code == 0
    assert "/BTCUSDT" in printed


def test_quarantine_follows_new_entries(
    kafka: LocalKafka, quarantined: dict[str, str]
) -> None:
    topic = f"{quarantined['GEX_KAFKA__TOPIC_PREFIX']}.quarantine"
    producer = ck.Producer({"bootstrap.servers": kafka.bootstrap_servers})
    with start([*CONNECTOR, "quarantine", "follow", "--json"], quarantined) as program:

        def has_printed_an_entry() -> bool:
            # It starts at the end, and may still be starting: write until it is there.
            headers: list[tuple[str, str | bytes | None]] = [
                ("where", b"all/NEWUSDT/"),
                ("why", b"malformed: x"),
            ]
            producer.produce(topic, b"{}", b"NEWUSDT", headers=headers)
            producer.flush(PATIENCE_SECONDS)
            return program.log().endswith("\n")

        wait_until(has_printed_an_entry, "an entry", program)
        program.signal(signal.SIGINT)
        assert program.wait() == 0
        entries = json_lines(program.log())

    assert {entry["symbol"] for entry in entries} == {"NEWUSDT"}
    assert {entry["reason"] for entry in entries} == {"malformed"}


@pytest.mark.parametrize(
    "command", ["history BTCUSDT --json", "watch --from-beginning --json", "check"]
)
def test_a_tool_ends_quietly_when_the_pipe_behind_it_closes(
    published: dict[str, str], command: str
) -> None:
    with subprocess.Popen(
        [*CONNECTOR, *command.split()],
        env={**os.environ, **published},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # A small pipe: all events at once must not fit into it, or the tool would wait
        # for the next event and not notice the end of the reader.
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PAGE_BYTES)
        # `head -1` does the same.
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(90) == 0
        assert without_silence(process.stderr.read().decode()) == ""
