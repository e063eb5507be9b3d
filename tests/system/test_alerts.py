"""The alerts, checked by promtool, and by a Prometheus that watches real workers with faults."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse
import uuid
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import confluent_kafka.admin as ck_admin
import pytest

from connector.devkit.local_kafka import LocalKafka
from connector.devkit.simulator.settings import EIGHT_SYMBOLS
from tests.conftest import Names
from tests.support.processes import (
    start_prometheus,
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.support.processes import Program

# Fleet, alert and severity.
Fired = tuple[str, str, str]

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
UNIT_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))

# The rules' durations are divided by this: five minutes become ten seconds.
SPEED_UP = 30
# A rule that waits longer waits this long: it would last, and prove nothing more. A single
# scrape that comes too late begins the wait again.
LONGEST_WAIT_SECONDS = 5 * 60

# The range or offset of a selector, such as [5m], or the value of `for`.
RANGE = r"(?:(?<=\[)|(?<= offset ))(\d+)([mhd])(?=[\])])"
FOR = r"(?<= for: )(\d+)([mhd])$"
DURATION = re.compile(f"{RANGE}|{FOR}", re.MULTILINE)
SECONDS = {"m": 60, "h": 3_600, "d": 86_400}
# This rule keeps its range. It fires as soon as it has seen enough restarts, however long the
# range is, and a busy machine needs more than a minute for them.
COUNTS_RESTARTS = "changes(process_start_time_seconds"
# Long enough for a fast rule that would fire without a fault.
CALM_SECONDS = 10
PATIENCE_SECONDS = 300
STALE_AFTER_SECONDS = 5
STARTING_AT_ONCE = 4
JOB = "gex-connector"
# More than the scene needs, so that a month slows nothing down until it is used up.
MONTH_REQUESTS = 10_000_000

# Faults of each fleet's upstream, by the fleet's name.
UPSTREAM_FAULTS: dict[str, list[dict[str, Any]]] = {
    "fine": [],
    "401": [{"fault": "401"}],
    "missing": [{"fault": "missing", "symbols": EIGHT_SYMBOLS[:7]}],
    "bad-entries": [
        {"fault": "freeze", "symbols": EIGHT_SYMBOLS[:4]},
        {"fault": "invalid", "symbols": [EIGHT_SYMBOLS[4]]},
        {"fault": "wrong_types", "symbols": [EIGHT_SYMBOLS[5]]},
    ],
    "slow": [{"fault": "slow", "seconds": 4.0}],
    "429": [{"fault": "429", "retry_after_seconds": 1.0}],
    "clock": [{"fault": "clock_step", "seconds": 30.0}],
    "fallback": [
        {"fault": "flow_fallback", "symbols": EIGHT_SYMBOLS[:1]},
        {"fault": "renamed", "variant": "dash", "symbols": EIGHT_SYMBOLS[1:2]},
    ],
    "403": [{"fault": "403"}],
    # The answers are those to another feed's filter.
    "other-venues": [{"fault": "filter_ignored", "variant": "other"}],
}

# Other troubles of an upstream: the simulator's command that causes it, and its parameters.
UPSTREAM_TROUBLES: dict[str, tuple[str, dict[str, Any]]] = {
    "month-used-up": ("spend", {"requests": MONTH_REQUESTS, "budget": "month"}),
    "month-runs-out": ("spend", {"requests": MONTH_REQUESTS // 2, "budget": "month"}),
    "breaking-release": ("set", {"version": "2.11", "is_breaking": True}),
}

# Fleets whose trouble takes hours or days to be seen, without shorter months and days.
HASTY_FLEETS = {"month-runs-out", "breaking-release"}

# Alerts that each fleet's fault must raise.
EXPECTED = {
    "401": {"GexKeyRefused", "GexNoLiveSymbol", "GexFreshnessBurn"},
    "missing": {"GexMissingBurn"},
    "bad-entries": {"GexFreshnessBurn", "GexSymbolInvalid", "GexQuarantineGrowing"},
    "slow": {"GexDetectionDelayBurn"},
    "429": {"GexRateLimited"},
    "clock": {"GexClockCorrectionLarge"},
    "fallback": {"GexPositioningFallback", "GexSymbolOtherSpelling"},
    "403": {"GexPlanRefused", "GexNoLiveSymbol", "GexFreshnessBurn"},
    "other-venues": {"GexVenuesNotApplied", "GexNoLiveSymbol", "GexFreshnessBurn"},
    "month-used-up": {"GexQuotaExhausted", "GexNoLiveSymbol", "GexFreshnessBurn"},
    "month-runs-out": {"GexQuotaRunsOut"},
    "breaking-release": {"GexUpstreamBreakingRelease"},
    "kafka-killed": {"GexShardsNotOwned"},
    "records-refused": {"GexRecordsRefused"},
    "one-of-two-frozen": {"GexWorkerDown"},
    "all-killed": {"GexMetricsAbsent"},
    "two-fleets": {"GexAnotherFleet"},
    "restarting": {"GexWorkerRestarting"},
}

# Alerts that name a cause, however busy the machine is. No other fleet may raise them.
OF_ONE_CAUSE = {
    "GexKeyRefused",
    "GexPlanRefused",
    "GexQuotaExhausted",
    "GexQuotaRunsOut",
    "GexRateLimited",
    "GexVenuesNotApplied",
    "GexUpstreamBreakingRelease",
    "GexPositioningFallback",
    "GexSymbolInvalid",
    "GexSymbolOtherSpelling",
    "GexQuarantineGrowing",
    "GexRecordsRefused",
}

# Pages that a machine which is busy for some seconds raises here, too. Their unit tests show
# that they stay silent in a calm fleet.
OF_A_BUSY_MACHINE = {
    "GexDetectionDelayBurn",
    "GexFreshnessBurn",
    "GexMetricsAbsent",
    "GexNoLiveSymbol",
    "GexShardsNotOwned",
    "GexStaleButLive",
}


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    rules = promtool("check", "rules", PROMETHEUS / "rules.yml")
    assert "SUCCESS" in rules

    config = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert "1 rule files found" in config


@pytest.mark.parametrize("file", UNIT_TESTS, ids=attrgetter("stem"))
def test_every_alert_fires_in_its_own_cases_only(file: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", file)


def test_a_rule_that_never_fires_fails_its_unit_tests(tmp_path: Path) -> None:
    rules = (PROMETHEUS / "rules.yml").read_text()
    # The unit tests are worth something only if they can fail.
    broken = rules.replace("max by (job) (gex_key_refused) == 1", "vector(0) == 1")
    (tmp_path / "rules.yml").write_text(broken)
    (tmp_path / "tests").mkdir()
    shutil.copy(PROMETHEUS / "tests" / "alerts.yml", tmp_path / "tests")
    with pytest.raises(AssertionError, match="GexKeyRefused"):
        promtool("test", "rules", tmp_path / "tests" / "alerts.yml")


def sped_up(rules: str) -> str:
    """Return the rules with the ranges and every `for` divided by `SPEED_UP`.

    Thresholds stay, also those that are ages, and the range of `COUNTS_RESTARTS`.
    """

    def divide(match: re.Match[str]) -> str:
        # Only one of the two patterns has matched.
        number, unit = [part for part in match.groups() if part is not None]
        seconds = int(number) * SECONDS[unit]
        is_range = match[1] is not None
        if not is_range:
            seconds = min(seconds, LONGEST_WAIT_SECONDS)
        return f"{seconds // SPEED_UP}s"

    lines = []
    for line in rules.splitlines():
        is_kept = COUNTS_RESTARTS in line
        lines.append(line if is_kept else DURATION.sub(divide, line))
    return "\n".join(lines)


class Watch:
    """The configuration of a Prometheus with faster rules; each fleet it scrapes is a job."""

    def __init__(self, folder: Path) -> None:
        self._targets = folder / "targets.json"
        self._fleets: dict[str, list[Program]] = {}
        self._targets.write_text("[]")
        rules = (PROMETHEUS / "rules.yml").read_text()
        (folder / "rules.yml").write_text(sped_up(rules))
        discovery = {"files": [str(self._targets)], "refresh_interval": "1s"}
        self.config = {
            "global": {
                # As long as a busy machine allows: the shortest range with a rate, of
                # five minutes, has five samples, and one of two minutes has two.
                "scrape_interval": "2s",
                "scrape_timeout": "2s",
                "evaluation_interval": "500ms",
            },
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": JOB, "file_sd_configs": [discovery]}],
        }

    def add(self, fleets: Mapping[str, Sequence[Program]]) -> None:
        """Scrape these workers too. A fleet that is known is replaced."""
        for fleet, workers in fleets.items():
            self._fleets[fleet] = list(workers)
        groups = []
        for fleet, workers in self._fleets.items():
            addresses = [worker.url.removeprefix("http://") for worker in workers]
            labels = {"job": job_of(fleet)}
            groups.append({"targets": addresses, "labels": labels})

        # Prometheus must not read a file that is half written.
        new = self._targets.with_suffix(".new")
        new.write_text(json.dumps(groups))
        new.rename(self._targets)


def job_of(fleet: str) -> str:
    return f"{JOB}-{fleet}"


def samples(prometheus: Program, query: str) -> list[dict[str, Any]]:
    """Return the result of a query at this moment."""
    parameters = urllib.parse.urlencode({"query": query})
    answer = prometheus.ask(f"/api/v1/query?{parameters}")
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


# An alert may be over again when we look.
EVER_FIRING = 'last_over_time(ALERTS{alertstate="firing"}[10m])'
FIRST_FIRING = 'min_over_time(timestamp(ALERTS{alertstate="firing"})[6m:500ms])'


def fired(prometheus: Program, query: str = EVER_FIRING) -> dict[Fired, float]:
    """Return the alerts that have fired, with the query's value."""
    found = {}
    for sample in samples(prometheus, query):
        labels = sample["metric"]
        fleet = labels.get("job", "").removeprefix(f"{JOB}-")
        _, value = sample["value"]
        found[fleet, labels["alertname"], labels["severity"]] = float(value)
    return found


def fleets_and_alerts(prometheus: Program) -> set[tuple[str, str]]:
    return {(fleet, alert) for fleet, alert, _ in fired(prometheus)}


class Fleets:
    """Workers by the name of their fleet, each fleet on topics of its own.

    Everything runs until the stack is closed.
    """

    def __init__(
        self,
        kafka: LocalKafka,
        broker_to_kill: LocalKafka,
        folder: Path,
        stack: contextlib.ExitStack,
    ) -> None:
        self.names = {}
        for fleet in {"fine", *EXPECTED}:
            self.names[fleet] = Names(f"alerts-{fleet}-{uuid.uuid4().hex[:8]}")
        self._brokers = {"kafka-killed": broker_to_kill}
        self._kafka = kafka
        self._stack = stack
        self._config = folder / "connector.toml"
        symbols = json.dumps(EIGHT_SYMBOLS)
        # The limit of staleness is a setting of a feed, so it needs a file.
        self._config.write_text(
            f'[[feeds]]\nname = "all"\nsymbols = {symbols}\n'
            f"stale_after_seconds = {STALE_AFTER_SECONDS}\n"
        )
        self.simulators = {}
        for fleet in [*UPSTREAM_FAULTS, *UPSTREAM_TROUBLES]:
            simulator = start_simulator(
                *("--period", "2"),
                *("--limit", "0"),
                *("--set", f"limit_per_month={MONTH_REQUESTS}"),
            )
            self.simulators[fleet] = stack.enter_context(simulator)

    def start_worker(self, fleet: str, **variables: str) -> Program:
        """Start one more worker of the fleet, without waiting until it is ready."""
        simulator = self.simulators.get(fleet, self.simulators["fine"])
        broker = self._brokers.get(fleet, self._kafka)
        environment = variables_for(broker, self.names[fleet], simulator) | variables
        # The file has the symbols.
        del environment["GEX_SYMBOLS"]
        is_hasty = fleet in HASTY_FLEETS
        worker = start_worker(
            environment,
            wait_ready=False,
            arguments=("--config", str(self._config)),
            module="tests.support.hasty_worker" if is_hasty else "connector",
        )
        return self._stack.enter_context(worker)


@pytest.mark.timeout(1800)
def test_each_fault_raises_its_alerts_and_a_healthy_fleet_pages_nobody(
    kafka: LocalKafka, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    pause = threading.Event().wait
    expected = expected_alerts()
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(LocalKafka(tmp_path / "kafka"))
        fleets = Fleets(kafka, broker, tmp_path, stack)
        workers = start_workers(fleets)
        watch = Watch(tmp_path)
        prometheus = stack.enter_context(start_prometheus(tmp_path, watch.config))
        watch.add(workers)
        wait_until_scraped(prometheus, {job_of(fleet) for fleet in workers})

        # Without this look, an alert that always fires would pass.
        pause(CALM_SECONDS)
        assert of_one_cause(fleets_and_alerts(prometheus)) == set(), "before the faults"

        # All faults at once: each fleet meets one only.
        faults_at = time.time()
        for fleet, faults in UPSTREAM_FAULTS.items():
            fleets.simulators[fleet].ask("/_control/faults", faults)
        for fleet, (command, parameters) in UPSTREAM_TROUBLES.items():
            fleets.simulators[fleet].ask(f"/_control/{command}", parameters)
        broker.kill()
        refuse_records(kafka, fleets.names["records-refused"])
        workers["one-of-two-frozen"][0].signal(signal.SIGSTOP)
        workers["all-killed"][0].kill()
        other_group = fleets.names["two-fleets"].group_id + "-others"
        rival = fleets.start_worker("two-fleets", GEX_KAFKA__GROUP_ID=other_group)
        watch.add({"two-fleets": [*workers["two-fleets"], rival]})
        restart_repeatedly(fleets, workers["restarting"][0], prometheus)

        # Not `wait_until`: a failure must name the alerts that are missing.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            missing = expected - fleets_and_alerts(prometheus)
            if not missing:
                break
            pause(0.5)
        found = fired(prometheus)
        # Its steps are half a second apart, and miss an alert that fires only now.
        pause(1)
        since = fired(prometheus, FIRST_FIRING)

    for (fleet, alert, severity), at in sorted(since.items()):
        seconds = f"{at - faults_at:.1f} s"
        record_property(f"{fleet}: {alert} ({severity}) after", seconds)
    seen = {(fleet, alert) for fleet, alert, _ in found}
    missing = expected - seen
    assert missing == set()

    assert of_one_cause(seen - expected) == set()

    # Tickets of the healthy fleet do not count, and not every page: with durations this
    # short, a machine that is busy for seconds looks like a worker that is stuck for minutes.
    pages = set()
    for fleet, alert, severity in found:
        if fleet == "fine" and severity == "page":
            pages.add(alert)
    record_property("pages of the healthy fleet", sorted(pages))
    assert pages - OF_A_BUSY_MACHINE == set()


def of_one_cause(alerts: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return those of the alerts that a busy machine cannot raise."""
    return {(fleet, alert) for fleet, alert in alerts if alert in OF_ONE_CAUSE}


def start_workers(fleets: Fleets) -> dict[str, list[Program]]:
    """Start a worker of each fleet, and two of one, and wait until they are ready."""
    workers: dict[str, list[Program]] = {}
    starting: list[Program] = []
    for fleet in [*fleets.names, "one-of-two-frozen"]:
        worker = fleets.start_worker(fleet)
        workers.setdefault(fleet, []).append(worker)
        starting.append(worker)
        # All at once, they would take each other's time, and none be ready in time.
        if len(starting) > STARTING_AT_ONCE:
            wait_until_ready(starting.pop(0))
    for worker in starting:
        wait_until_ready(worker)
    return workers


def wait_until_ready(worker: Program) -> None:
    wait_until(worker.ready, "the worker is ready", worker)


def expected_alerts() -> set[tuple[str, str]]:
    """Return fleet and alert of everything that must fire."""
    found = set()
    for fleet, alerts in EXPECTED.items():
        for alert in alerts:
            found.add((fleet, alert))
    return found


def wait_until_scraped(prometheus: Program, jobs: set[str]) -> None:
    query = "count by (job) (job:gex_symbol_status:stale_ratio)"

    def scraped() -> bool:
        found = {sample["metric"]["job"] for sample in samples(prometheus, query)}
        return found == jobs

    wait_until(scraped, "every fleet is scraped")


def restart_repeatedly(fleets: Fleets, worker: Program, prometheus: Program) -> None:
    """Kill and start the worker four times, at the same address.

    At another address it would be another series, without a restart in it. Prometheus scrapes
    every process before it is killed: it counts no process that it has not seen.
    """
    address = worker.url.removeprefix("http://")
    query = f'process_start_time_seconds{{job="{job_of("restarting")}"}}'
    seen = {wait_until(lambda: value_of(prometheus, query), "the worker is scraped")}

    def scraped_again() -> str | None:
        value = value_of(prometheus, query)
        return value if value not in seen else None

    for _ in range(4):
        worker.kill()
        worker = fleets.start_worker("restarting", GEX_HTTP__LISTEN=address)
        seen.add(wait_until(scraped_again, "the new process is scraped", worker))


def value_of(prometheus: Program, query: str) -> str | None:
    """Return the value of the query's only result, or None without a result."""
    for sample in samples(prometheus, query):
        _, value = sample["value"]
        return str(value)
    return None


def refuse_records(kafka: LocalKafka, names: Names) -> None:
    """Make the broker reject records of an event's size."""
    changes = f"{names.topic_prefix}.all.changes"
    topic = ck_admin.ConfigResource(ck_admin.ResourceType.TOPIC, changes)
    limit = ck_admin.ConfigEntry(
        "max.message.bytes",
        "100",
        incremental_operation=ck_admin.AlterConfigOpType.SET,
    )
    topic.add_incremental_config(limit)
    admin = ck_admin.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    for altered in admin.incremental_alter_configs([topic]).values():
        altered.result()
