"""Generated pages match the code, and the example shows every option."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import msgspec
import pytest

from connector.config.load import load
from connector.config.model import (
    TABLES,
    Feed,
    Http,
    Kafka,
    Schedule,
    SchemaRegistry,
    Upstream,
)
from connector.config.secrets import Secret
from connector.core.diff import Threshold
from connector.core.model import Event, Kind
from connector.devkit.reference.__main__ import PAGES, main
from connector.devkit.reference.event_story import play
from connector.devkit.simulator.catalogue import FAULTS
from connector.devkit.simulator.faults import parse_fault
from connector.devkit.simulator.settings import Settings
from connector.kafka.avro import Codec, SingleObject
from connector.telemetry.catalogue import METRICS
from tests.support.processes import start_simulator

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "config.toml"
VARIABLES = {"GEX_UPSTREAM__API_KEY": "demo-key"}
FILES = {
    "asyncapi": "schemas/asyncapi.json",
    "configuration": "docs/reference/configuration.md",
    "events": "docs/reference/events.md",
    "metrics": "docs/reference/metrics.md",
    "openapi": "connector/web/page/openapi.json",
    "schemas": "docs/reference/schemas.md",
    "simulator": "docs/reference/simulator.md",
}


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_up_to_date(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == 0

    page = (ROOT / FILES[name]).read_text("utf-8")
    assert page == capsys.readouterr().out, "run `make docs`"


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["configuration", "elsewhere"],
    ],
)
def test_an_unknown_page_is_refused(
    names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(names) == 2

    # The message lists the pages that exist.
    assert "configuration" in capsys.readouterr().err


def test_the_example_is_the_defaults_and_one_feed() -> None:
    # Users copy the example: a value that is not the default would look like advice.
    config = load(EXAMPLE, VARIABLES)

    assert config.upstream == Upstream(api_key=Secret("demo-key"))
    assert config.kafka == Kafka()
    assert config.schema_registry == SchemaRegistry()
    assert config.schedule == Schedule()
    assert config.http == Http()
    feed = Feed(
        name="majors",
        symbols=("BTCUSDT", "ETHUSDT"),
        include=("max_pain", "ranked"),
    )
    assert config.feeds == (feed,)


def test_the_examples_thresholds_are_valid_once_uncommented(tmp_path: Path) -> None:
    text = EXAMPLE.read_text("utf-8")
    config = tmp_path / "config.toml"
    config.write_text(text.replace("# thresholds = ", "thresholds = "))

    (feed,) = load(config, VARIABLES).feeds

    assert feed.thresholds == {
        "all_expiry.hvl": Threshold(absolute=25.0, relative=0.001),
        "odte": Threshold(relative=0.0005),
    }


def test_the_example_shows_every_key() -> None:
    text = EXAMPLE.read_text("utf-8")
    tables = tomllib.loads(text)
    for name, struct in TABLES.items():
        table = tables[name]
        # Feeds are a list of tables; the example has one.
        if name == "feeds":
            (table,) = table
        for field in msgspec.structs.fields(struct):
            # An option may also be shown as a comment, with its default.
            is_set = field.name in table
            is_commented = f"# {field.name} = " in text
            assert is_set or is_commented, f"{name}.{field.name}"


def test_the_page_of_metrics_describes_every_metric() -> None:
    rows = {}
    for row in PAGES["metrics"]().splitlines():
        if row.startswith("| `"):
            rows[row.split(" | ")[0]] = row

    for metric in METRICS:
        row = rows[f"| `{metric.name}`"]
        assert metric.help in row
        assert metric.type in row
        for name in metric.labels + metric.values:
            assert f"`{name}`" in row
        for bound in metric.buckets:
            assert f"{bound:g}" in row


def test_every_row_of_the_metrics_table_has_the_same_number_of_cells() -> None:
    separators = set()
    for row in PAGES["metrics"]().splitlines():
        if row.startswith("|"):
            separators.add(row.count("|"))

    # A `|` in a help text would begin another cell.
    assert separators == {5}


def test_the_page_of_the_simulator_describes_every_setting_and_every_fault() -> None:
    rows = {}
    for row in PAGES["simulator"]().splitlines():
        if row.startswith("| `"):
            cells = row.strip("| ").split(" | ")
            rows[cells[0]] = cells
    names = [*Settings.__struct_fields__, *FAULTS]
    for name in names:
        description = rows[f"`{name}`"][-1]
        assert " " in description, name


def test_the_page_of_events_has_an_example_of_every_kind() -> None:
    kinds = set()
    for step, transition in play():
        event = transition.event
        kind = None if event is None else event.kind
        assert kind is step.kind, step.title
        kinds.add(kind)

    # None: the page also shows a refresh that is no event.
    assert kinds == {*Kind, None}


def test_an_example_on_the_page_of_events_is_what_a_consumer_decodes() -> None:
    codec = Codec(SingleObject())
    examples = re.findall(r"```json\n(.*?)```", PAGES["events"](), re.DOTALL)

    assert len(examples) > len(Kind)
    for example in examples:
        event = msgspec.json.decode(example, type=Event)
        value = codec.encode_event("any", event)
        assert codec.decode_event(value) == event


def test_the_page_of_schemas_describes_every_field() -> None:
    page = PAGES["schemas"]()
    for path in (ROOT / "schemas").glob("*.avsc"):
        for field in re.findall(r'"name": "([a-z]\w*)"', path.read_text("utf-8")):
            assert f"| `{field}` |" in page, f"{path.name}: {field}"


FIRE_DRILL = ROOT / "docs" / "how-to" / "fire-drill.md"
FIRE_DRILL_SCRIPT = ROOT / "examples" / "fire_drill.sh"


def test_the_orders_of_the_fire_drill_are_valid() -> None:
    text = FIRE_DRILL.read_text("utf-8")
    faults = []
    for body, path in re.findall(
        r"^curl -d '(.+)' \S+/_control/(\w+)$", text, re.MULTILINE
    ):
        if path == "faults":
            faults.append(parse_fault(json.loads(body), now=0).fault)

    # Every drill of the two tables with faults has an order.
    drills = re.findall(r"^\| (?!drill|---)[^|]+(?:\|[^|]+){4}\|$", text, re.MULTILINE)
    spent_minute = 1
    assert len(faults) + spent_minute == len(drills)


def test_the_fire_drill_quotes_messages_and_alerts_that_exist() -> None:
    text = FIRE_DRILL.read_text("utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    code = "".join(
        path.read_text("utf-8") for path in (ROOT / "connector").rglob("*.py")
    )
    operations = (ROOT / "docs" / "how-to" / "operations.md").read_text("utf-8")
    rules = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text("utf-8")

    for quoted in re.findall(r'"([^"`]+)"', re.sub(r"`[^`]*`", "", prose)):
        words = quoted.removesuffix("...").strip()
        assert words in code or words in operations or words.startswith("no response")
    for alert in re.findall(r"\*(Gex\w+)\*", prose):
        assert f"alert: {alert}\n" in rules


def test_the_fire_drill_arms_its_faults_and_leaves_none_behind() -> None:
    with start_simulator() as simulator:
        control = {**os.environ, "CONTROL": f"{simulator.url}/_control"}
        control |= {"PAUSE": "0", "SETTLE": "0"}
        done = subprocess.run(
            ["sh", str(FIRE_DRILL_SCRIPT)],
            env=control,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert simulator.ask("/_control/stats")["faults_active"] == []
        log = simulator.log()

    armed = re.findall(r'POST /_control/faults  200  \d+ ms  \{"fault": "(\w+)"', log)
    assert armed == re.findall(r"^== (\w+): ", done.stdout, re.MULTILINE)
    assert set(armed) <= set(FAULTS)
    assert len(armed) > 5


def test_an_unknown_drill_is_refused() -> None:
    with start_simulator() as simulator:
        control = {**os.environ, "CONTROL": f"{simulator.url}/_control"}
        command = ["sh", str(FIRE_DRILL_SCRIPT), "gremlins"]
        done = subprocess.run(
            command, env=control, capture_output=True, timeout=180, check=False
        )

    assert done.returncode == 2
    assert b"unknown: gremlins" in done.stderr
