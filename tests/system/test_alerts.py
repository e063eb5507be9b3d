"""The alerts, by Prometheus' own tools; and a real Prometheus that watches real workers while everything goes wrong."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import confluent_kafka.admin as ck_admin
import pytest

from connector.devkit.local_kafka import LocalKafka
from connector.devkit.simulator.settings import DEFAULT_SYMBOLS
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

Fired = tuple[str, str, str]

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
UNIT_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))

FASTER = 30
"""Every duration of the rules is so many times shorter than in production: five minutes are ten seconds."""

DURATION = re.compile(
    r"(?<=\[)(\d+)([mhd])(?=\])|(?<= for: )(\d+)([mhd])$", re.MULTILINE
)
SECONDS = {"m": 60, "h": 3_600, "d": 86_400}
CALM_SECONDS = 10
PATIENCE_SECONDS = 150
JOB = "gex-connector"

UPSTREAM_FAULTS: dict[str, list[dict[str, Any]]] = {
    "fine": [],
    "401": [{"fault": "401"}],
    "missing": [{"fault": "missing", "symbols": DEFAULT_SYMBOLS[:7]}],
    "spoilt": [
        {"fault": "freeze", "symbols": DEFAULT_SYMBOLS[:4]},
        {"fault": "invalid", "symbols": [DEFAULT_SYMBOLS[4]]},
        {"fault": "wrong_types", "symbols": [DEFAULT_SYMBOLS[5]]},
    ],
    "slow": [{"fault": "slow", "seconds": 4.0}],
    "429": [{"fault": "429", "retry_after_seconds": 1.0}],
    "clock": [{"fault": "clock_step", "seconds": 30.0}],
}
"""What is done to a fleet's upstream, by the name of its job."""

EXPECTED = {
    "401": {"GexKeyRefused", "GexNoLiveSymbol", "GexFreshnessBurn"},
    "missing": {"GexMissingBurn"},
    "spoilt": {"GexFreshnessBurn", "GexSymbolInvalid", "GexQuarantineGrowing"},
    "slow": {"GexDetectionDelayBurn"},
    "429": {"GexRateLimited"},
    "clock": {"GexClockCorrectionLarge"},
    "kafka-killed": {"GexShardsNotOwned"},
    "records-refused": {"GexRecordsRefused"},
    "one-of-two-frozen": {"GexWorkerDown"},
    "all-killed": {"GexMetricsAbsent"},
    "two-fleets": {"GexAnotherFleet"},
    "restarting": {"GexWorkerRestarting"},
}


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    assert "SUCCESS" in promtool("check", "rules", PROMETHEUS / "rules.yml")
    assert "1 rule files found" in promtool(
        "check", "config", PROMETHEUS / "prometheus.yml"
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: str(file.stem))
def test_every_alert_fires_when_it_should_and_only_then(file: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", file)


def test_a_rule_that_is_taken_out_fails_its_unit_tests(tmp_path: Path) -> None:
    rules = (PROMETHEUS / "rules.yml").read_text()
    (tmp_path / "rules.yml").write_text(
        rules.replace("max by (job) (gex_key_refused) == 1", "vector(0) == 1")
    )
    (tmp_path / "tests").mkdir()
    shutil.copy(PROMETHEUS / "tests" / "alerts.yml", tmp_path / "tests")
    with pytest.raises(AssertionError, match="GexKeyRefused"):
        promtool("test", "rules", tmp_path / "tests" / "alerts.yml")


def faster(rules: str) -> str:
    """The rules with every range and every `for` divided; thresholds, and the ages in them, stay."""

    def divided(match: re.Match[str]) -> str:
        number, unit = (part for part in match.groups() if part is not None)
        return f"{int(number) * SECONDS[unit] // FASTER}s"

    return DURATION.sub(divided, rules)


class Watch:
    """Prometheus with the rules `faster`, and the fleets it is told of, each a job."""

    def __init__(self, folder: Path) -> None:
        self._targets = folder / "targets.json"
        self._fleets: dict[str, list[Program]] = {}
        self._targets.write_text("[]")
        (folder / "rules.yml").write_text(
            faster((PROMETHEUS / "rules.yml").read_text())
        )
        scrape = {
            "job_name": JOB,
            "file_sd_configs": [
                {"files": [str(self._targets)], "refresh_interval": "1s"}
            ],
        }
        self.config = {
            "global": {
                "scrape_interval": "1s",
                "scrape_timeout": "1s",
                "evaluation_interval": "500ms",
            },
            "rule_files": ["rules.yml"],
            "scrape_configs": [scrape],
        }

    def add(self, fleets: Mapping[str, Sequence[Program]]) -> None:
        self._fleets |= {fleet: list(workers) for fleet, workers in fleets.items()}
        groups = [
            {
                "targets": [worker.url.removeprefix("http://") for worker in workers],
                "labels": {"job": job_of(fleet)},
            }
            for fleet, workers in self._fleets.items()
        ]
        written = self._targets.with_suffix(".new")
        written.write_text(json.dumps(groups))
        written.rename(self._targets)


def job_of(fleet: str) -> str:
    return f"{JOB}-{fleet}"


def samples(prometheus: Program, query: str) -> list[dict[str, Any]]:
    answer = prometheus.ask(f"/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def fired(
    prometheus: Program, query: str = 'last_over_time(ALERTS{alertstate="firing"}[10m])'
) -> dict[Fired, float]:
    """Fleet, alert and severity of each that has fired, with the query's value."""
    return {
        (
            labels.get("job", "").removeprefix(f"{JOB}-"),
            labels["alertname"],
            labels["severity"],
        ): float(value)
        for labels, (_, value) in (
            (sample["metric"], sample["value"]) for sample in samples(prometheus, query)
        )
    }


class Fleets:
    """Workers by the name of their job, each fleet on topics of its own, until the stack is closed."""

    def __init__(
        self,
        kafka: LocalKafka,
        broker: LocalKafka,
        folder: Path,
        stack: contextlib.ExitStack,
    ) -> None:
        self.names = {
            fleet: Names(f"alerts-{fleet}-{uuid.uuid4().hex[:8]}")
            for fleet in {"fine", *EXPECTED}
        }
        self._brokers = {"kafka-killed": broker}
        self._kafka, self._stack = kafka, stack
        self._config = folder / "connector.toml"
        symbols = json.dumps(DEFAULT_SYMBOLS)
        self._config.write_text(
            f'[[feeds]]\nname = "all"\nsymbols = {symbols}\nstale_after_seconds = 5\n'
        )
        self.simulators = {
            fleet: stack.enter_context(start_simulator("--period", "2", "--limit", "0"))
            for fleet in UPSTREAM_FAULTS
        }

    def worker(self, fleet: str, **more: str) -> Program:
        """One more of them, not waited for."""
        simulator = self.simulators.get(fleet, self.simulators["fine"])
        variables = variables_for(
            self._brokers.get(fleet, self._kafka), self.names[fleet], simulator
        )
        del variables["GEX_SYMBOLS"]
        arguments = ("--config", str(self._config))
        return self._stack.enter_context(
            start_worker(variables | more, wait_ready=False, arguments=arguments)
        )


@pytest.mark.timeout(420)
def test_each_fault_raises_its_alerts_and_a_fleet_without_one_pages_nobody(
    kafka: LocalKafka, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    pause = threading.Event().wait
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(LocalKafka(tmp_path / "kafka"))
        fleets = Fleets(kafka, broker, tmp_path, stack)
        workers = {fleet: [fleets.worker(fleet)] for fleet in fleets.names}
        workers["one-of-two-frozen"].append(fleets.worker("one-of-two-frozen"))
        for one in itertools.chain(*workers.values()):
            wait_until(one.ready, "it is ready", one)
        watch = Watch(tmp_path)
        prometheus = stack.enter_context(start_prometheus(tmp_path, watch.config))
        watch.add(workers)
        jobs = {job_of(fleet) for fleet in workers}
        shown = "count by (job) (job:gex_symbol_status:stale_ratio)"
        wait_until(
            lambda: (
                {one["metric"]["job"] for one in samples(prometheus, shown)} == jobs
            ),
            "all are scraped",
        )
        pause(CALM_SECONDS)
        expected = {
            (fleet, alert) for fleet, alerts in EXPECTED.items() for alert in alerts
        }
        assert expected & {key[:2] for key in fired(prometheus)} == set(), (
            "before the fault"
        )

        began = time.time()
        for fleet, faults in UPSTREAM_FAULTS.items():
            fleets.simulators[fleet].ask("/_control/faults", faults)
        broker.kill()
        refuse_records(kafka, fleets.names["records-refused"])
        workers["one-of-two-frozen"][0].signal(signal.SIGSTOP)
        workers["all-killed"][0].kill()
        other = fleets.names["two-fleets"].group_id + "-others"
        watch.add(
            {
                "two-fleets": [
                    *workers["two-fleets"],
                    fleets.worker("two-fleets", GEX_KAFKA__GROUP_ID=other),
                ]
            }
        )
        (restarting,) = workers["restarting"]
        for _ in range(4):
            restarting.kill()
            restarting = fleets.worker(
                "restarting", GEX_HTTP__LISTEN=restarting.url.removeprefix("http://")
            )
            wait_until(restarting.ready, "it is ready again", restarting)

        deadline = time.monotonic() + PATIENCE_SECONDS
        while (
            expected - {key[:2] for key in fired(prometheus)}
            and time.monotonic() < deadline
        ):
            pause(0.5)
        found = fired(prometheus)
        since = fired(
            prometheus,
            'min_over_time(timestamp(ALERTS{alertstate="firing"})[6m:500ms])',
        )
    for (fleet, alert, severity), at in sorted(since.items()):
        record_property(f"{fleet}: {alert} ({severity}) after", f"{at - began:.1f} s")
    assert expected - {key[:2] for key in found} == set()
    # With durations so short, a machine that is busy for seconds looks like a worker that is stuck for minutes.
    assert {key for key in found if key[0] == "fine" and key[2] == "page"} == set()


def refuse_records(kafka: LocalKafka, names: Names) -> None:
    """Have the broker take no record of a size that an event has."""
    topic = ck_admin.ConfigResource(
        ck_admin.ResourceType.TOPIC, f"{names.topic_prefix}.all.changes"
    )
    topic.add_incremental_config(
        ck_admin.ConfigEntry(
            "max.message.bytes",
            "100",
            incremental_operation=ck_admin.AlterConfigOpType.SET,
        )
    )
    admin = ck_admin.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    for altered in admin.incremental_alter_configs([topic]).values():
        altered.result()
