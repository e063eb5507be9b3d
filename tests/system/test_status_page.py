"""The status page in Chromium, driven by the system's chromedriver."""

from __future__ import annotations

import json
import os
import shutil
import signal
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from connector.core.model import AllExpiry
from connector.devkit.local_kafka import LocalKafka
from connector.devkit.loopback_ports import free_port
from connector.devkit.simulator.settings import EIGHT_SYMBOLS
from tests.support import checker
from tests.support.ownership import owner_and_standby
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Names
    from tests.support.processes import Program

TOKEN = "a-token-that-nobody-knows"
PATIENCE_SECONDS = 120
POLL_SECONDS = 0.1
STATUS_COLUMN = 1
AGE_COLUMN = 3
# Width and height in pixels.
DESKTOP = (1100, 720)
PHONE = (360, 800)
# All ladders fit on it.
TALL = (1100, 900)
BROWSER_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
)


# The texts of the table of symbols, row by row.
ROWS = (
    "return [...document.querySelectorAll('#symbols tbody tr:not([hidden])')]"
    ".filter(row => row.children.length > 1)"
    ".map(row => [...row.children].map(cell => cell.textContent))"
)


# The line at the top: an empty text while it is hidden.
VERDICT = (
    "return (line => line.hidden ? '' : line.textContent)"
    "(document.getElementById('verdict'))"
)


# The ladders: the status, the summary in words, the rungs row by row, and if they are greyed.
LADDERS = (
    "return [...document.querySelectorAll('#ladders > li:not([hidden])')].map(ladder => ({"
    "symbol: ladder.querySelector('h3').textContent,"
    "status: ladder.querySelector('.pill').textContent,"
    "summary: ladder.children[1].textContent,"
    "isPast: ladder.className === 'past',"
    "rungs: [...ladder.querySelectorAll('tr')]"
    ".map(row => [...row.children].map(cell => cell.textContent))}))"
)


class Page:
    """The status page of a worker, open in the browser."""

    def __init__(self, browser: webdriver.Chrome, worker: Program) -> None:
        self.browser = browser
        browser.get(f"{worker.url}/status")

    def script(self, text: str) -> Any:
        return self.browser.execute_script(text)

    def wait(self, condition: Callable[[], Any], description: str) -> Any:
        """Return the condition's value once it is true."""
        patience = WebDriverWait(self.browser, PATIENCE_SECONDS, POLL_SECONDS)

        def is_true(_: webdriver.Chrome) -> Any:
            return condition()

        return patience.until(is_true, description)

    def wait_for_text(self, element: str, text: str) -> None:
        """Wait until an element's text contains a text."""

        def is_shown() -> bool:
            return text in self.text(element)

        self.wait(is_shown, f"{text!r} in #{element}")

    def wait_for_status(self, symbol: str, status: str) -> None:
        """Wait until the table shows a symbol with a status."""

        def is_shown() -> bool:
            return self.statuses()[symbol] == status

        self.wait(is_shown, f"{symbol} {status}")

    def wait_for_event(self, *words: str) -> None:
        """Wait for an event whose text contains all the words."""

        def is_shown() -> bool:
            return self.has_event(*words)

        self.wait(is_shown, f"an event with {words}")

    def wait_for_count(self, variable: str, count: int) -> None:
        """Wait until a counter in the page's script has reached a number."""

        def has_reached() -> bool:
            return bool(self.script(f"return {variable}") >= count)

        self.wait(has_reached, f"{variable} >= {count}")

    def look(self, size: tuple[int, int], colour_scheme: str) -> None:
        """Emulate a screen of this size with a light or dark colour scheme."""
        width, height = size
        metrics = {
            "width": width,
            "height": height,
            "deviceScaleFactor": 1,
            "mobile": size == PHONE,
        }
        feature = {"name": "prefers-color-scheme", "value": colour_scheme}
        media = {"features": [feature]}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def cells(self) -> list[list[str]]:
        """Return the texts of the table of symbols, row by row."""
        found: list[list[str]] = self.script(ROWS)
        return found

    def statuses(self) -> dict[str, str]:
        return {row[0]: row[1] for row in self.cells()}

    def all_live(self) -> bool:
        return set(self.statuses().values()) == {"● LIVE"}

    def troubles(self) -> list[str]:
        """Return the causes that the page shows, without their details."""
        found: list[str] = self.script(
            "return [...document.querySelectorAll('#troubles:not([hidden]) .pill')]"
            ".map(line => line.textContent)"
        )
        return found

    def wait_for_trouble(self, *words: str) -> None:
        """Wait until the page shows one cause, and its line contains all the words."""

        def is_shown() -> bool:
            found = self.troubles()
            return len(found) == 1 and all(word in found[0] for word in words)

        self.wait(is_shown, f"one trouble with {words}")

    def wait_for_no_trouble(self) -> None:
        def is_over() -> bool:
            return not self.troubles() and self.text("ready") == "● ready"

        self.wait(is_over, "no trouble")

    def classes(self, column: int) -> set[str]:
        """Return the classes of the cells in a column of the table of symbols."""
        found: list[str] = self.script(
            "return [...document.querySelectorAll('#symbols tbody tr:not([hidden])')]"
            ".filter(row => row.children.length > 1)"
            f".map(row => row.children[{column}].className)"
        )
        return set(found)

    def ages_in_seconds(self) -> set[str]:
        # Ages of minutes tick too rarely for a test.
        ages = {row[3] for row in self.cells()}
        return {age for age in ages if age.endswith(" s")}

    def events(self) -> list[str]:
        """Return the texts of the list of events, newest first."""
        found: list[str] = self.script(
            "return [...document.querySelectorAll('#events li')]"
            ".map(item => item.textContent)"
        )
        return found

    def has_event(self, *words: str) -> bool:
        """Return True if one event's text contains all the words."""
        texts = self.events()
        for word in words:
            texts = [text for text in texts if word in text]
        return bool(texts)

    def ladders(self) -> dict[str, Any]:
        """Return what the ladders show, by symbol."""
        return {ladder["symbol"]: ladder for ladder in self.script(LADDERS)}

    def has_ladders(self) -> bool:
        found = self.ladders()
        return len(found) == len(EIGHT_SYMBOLS) and all(
            ladder["status"] == "● LIVE" and not ladder["isPast"]
            for ladder in found.values()
        )

    def wait_for_past_ladder(self, symbol: str, summary: str) -> list[list[str]]:
        """Wait until a symbol's ladder is greyed, and return its rungs."""

        def is_past() -> bool:
            ladder = self.ladders()[symbol]
            return bool(ladder["isPast"] and ladder["summary"] == summary)

        self.wait(is_past, f"the past ladder of {symbol}")
        rungs: list[list[str]] = self.ladders()[symbol]["rungs"]
        return rungs

    def text(self, element: str) -> str:
        found = self.script(f"return document.getElementById('{element}').textContent")
        return str(found)

    def background(self) -> str:
        found = self.script("return getComputedStyle(document.body).backgroundColor")
        return str(found)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return the folder for screenshots. PICTURES=docs/images renews the documentation's."""
    return Path(os.environ.get("PICTURES", tmp_path))


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    chromium = shutil.which("chromium")
    driver = shutil.which("chromedriver")
    assert chromium, "apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in BROWSER_OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield chrome
        log = chrome.get_log("browser")  # type: ignore[no-untyped-call]  # selenium's
    finally:
        chrome.quit()
    # Neither shows on the page, so look at the console.
    faults = []
    for line in log:
        message = line["message"]
        if "Content Security Policy" in message or "Uncaught" in message:
            faults.append(message)
    assert faults == []


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--period", "8", "--limit", "120") as program:
        yield program


@pytest.fixture
def variables(kafka: LocalKafka, names: Names, simulator: Program) -> dict[str, str]:
    """Return a worker's variables without a request limit, so that the server's shows."""
    found = variables_for(kafka, names, simulator)
    found.pop("GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE", None)
    return found


def test_the_page_shows_symbols_budget_group_and_events_as_they_come(
    kafka: LocalKafka,
    names: Names,
    simulator: Program,
    variables: dict[str, str],
    browser: webdriver.Chrome,
    pictures: Path,
) -> None:
    with start_worker(variables) as first, start_worker(variables) as second:
        owner, standby = owner_and_standby(first, second)
        page = Page(browser, standby)
        page.wait(page.has_ladders, "the levels of another worker's symbols")

        page = Page(browser, owner)
        page.look(DESKTOP, "dark")
        page.wait(page.all_live, "the table")
        assert sorted(page.statuses()) == sorted(EIGHT_SYMBOLS)
        assert page.text("ready") == "● ready"

        page.wait_for_text("members", "(this worker)")
        assert "standby" in page.text("members")

        # Ages grow between two answers of the server.
        ages = page.wait(page.ages_in_seconds, "ages")

        def ages_have_ticked() -> bool:
            return bool(page.ages_in_seconds() != ages)

        page.wait(ages_have_ticked, "ages that tick")

        page.wait_for_event("CHANGED")
        expect_published(page.events()[-1], kafka, names)
        browser.save_screenshot(str(pictures / "status-dark.png"))
        page.wait(page.has_ladders, "the ladders")
        page.wait_for_text("verdict", "All levels are current")
        expect_a_ladder(page.ladders()["ETHUSDT"])
        expect_no_request_for_all_levels(page)
        expect_a_phone_shows_all(page, pictures / "status-phone.png")
        photograph_ladders(page, "light", PHONE, pictures / "status-levels-phone.png")

        simulator.ask("/_control/faults", {"fault": "missing", "symbols": ["BTCUSDT"]})
        page.wait_for_status("BTCUSDT", "○ MISSING")
        page.wait_for_text("ready", "▲ ready, 7 of 8 symbols LIVE")
        page.wait_for_event("BTCUSDT", "MISSING")
        rungs = page.wait_for_past_ladder(
            "BTCUSDT", "Not valid now. These were its last:"
        )
        page.wait_for_text("verdict", "Do not rely on the levels of BTCUSDT")
        expect_verdicts_of_the_levels_that_are_shown(page)
        # Without spot there are no distances from it.
        assert {row[2] for row in rungs} == {""}
        assert "Spot" not in {row[0] for row in rungs}
        photograph_ladders(page, "dark", TALL, pictures / "status-levels.png")

        # Old figures must not look like present ones.
        owner.terminate()
        page.wait_for_text("error", "No answer")
        page.wait_for_text("ready", "? no answer")
        assert page.classes(STATUS_COLUMN) == {"status warn"}

        def are_past() -> bool:
            return all(ladder["isPast"] for ladder in page.ladders().values())

        page.wait(are_past, "ladders that are greyed")
        page.wait_for_text("verdict", "Do not rely on the levels of any symbol")


def expect_a_ladder(ladder: Any) -> None:
    """Check that a ladder has the levels from the highest to the lowest, with spot among them."""
    names = [row[0] for row in ladder["rungs"]]
    assert {"Spot", "Call resistance", "Gamma flip", "Put support"} <= set(names)
    prices = [float(row[1].replace(",", "")) for row in ladder["rungs"]]
    assert prices == sorted(prices, reverse=True)

    spot = prices[names.index("Spot")]
    for name, price, distance in ladder["rungs"]:
        if name == "Spot":
            assert distance == ""
            continue
        share = float(price.replace(",", "")) / spot - 1
        assert float(distance.removesuffix("%")) == pytest.approx(100 * share, abs=0.06)
    # The drawing says nothing to a screen reader; these words do.
    assert ladder["summary"].endswith((" flip", "resistance", "support"))


def photograph_ladders(
    page: Page, colour_scheme: str, size: tuple[int, int], picture: Path
) -> None:
    """Take a picture of the levels, and check that they stay within their cards."""
    page.look(size, colour_scheme)
    overflowing = page.script(
        "return [...document.querySelectorAll('#ladders > li')].filter(ladder =>"
        " ladder.querySelector('table')?.getBoundingClientRect().right"
        " > ladder.getBoundingClientRect().right).map(ladder => ladder.id)"
    )
    assert overflowing == []
    page.browser.find_element(By.ID, "levels").screenshot(str(picture))


def expect_no_request_for_all_levels(page: Page) -> None:
    """Check that a filter that matches no symbol does not ask for the levels of all."""
    requested = page.script(
        "document.getElementById('filter').value = 'NOSUCH';"
        "isRequestingLevels = false;"
        "return refreshLevels().then(() => {"
        " document.getElementById('filter').value = '';"
        " return performance.getEntriesByType('resource').map(entry => entry.name)"
        "})"
    )
    assert any("/api/levels?symbol=" in url for url in requested)
    assert not [url for url in requested if url.endswith("/api/levels?")]


def expect_verdicts_of_the_levels_that_are_shown(page: Page) -> None:
    """Check the line at the top under filters, while BTCUSDT alone is MISSING."""
    one_missing = (
        "latestLevels.symbols.forEach(row => {"
        " row.status = row.symbol === 'BTCUSDT' ? 'MISSING' : 'LIVE'; })"
    )
    no_ethusdt = (
        "latestLevels.symbols = "
        "latestLevels.symbols.filter(row => row.symbol !== 'ETHUSDT')"
    )
    btcusdt_is_past = "✕ Do not rely on the levels of BTCUSDT"

    assert verdict_of(page, "BTC", one_missing) == btcusdt_is_past
    assert verdict_of(page, "ETH", one_missing) == "● The levels below are current"
    # Levels that have not been read yet are neither current nor past.
    assert verdict_of(page, "ETH", no_ethusdt) == ""
    assert verdict_of(page, "", f"{one_missing}; {no_ethusdt}") == btcusdt_is_past


def verdict_of(page: Page, text: str, change: str) -> str:
    """Return the line at the top under a filter, after a change of the answers.

    It is one script, so that no answer of the worker comes between. It ends with the answers
    as they were.
    """
    found: str = page.script(
        "const answers = [latest, latestLevels, isSilent];"
        "const field = document.getElementById('filter');"
        "try {"
        " [latest, latestLevels] = structuredClone([latest, latestLevels]);"
        " isSilent = false; latest.troubles = []; latestLevels.error = null;"
        f" {change};"
        f" field.value = '{text}'; show(); {VERDICT}"
        "} finally {"
        " [latest, latestLevels, isSilent] = answers;"
        " field.value = ''; show();"
        "}"
    )
    return found


def expect_published(event: str, kafka: LocalKafka, names: Names) -> None:
    """Check that the event's text names one that is in the topic."""
    heads = []
    for published in checker.events(kafka, names.topic_prefix):
        heads.append(f"{published.symbol} #{published.sequence} ")
    assert event.startswith(tuple(heads))


def expect_a_phone_shows_all(page: Page, picture: Path) -> None:
    """Check the page on a small screen in light colours."""
    dark = page.background()
    page.look(PHONE, "light")
    assert page.background() != dark
    widths = page.script("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths == [360, 360], "the page scrolls sideways"
    on_one_line = page.script(
        "return [...document.querySelectorAll('#symbols th[scope=row]')]"
        ".every(head => head.offsetHeight < 40)"
    )
    assert on_one_line, "a symbol is broken into lines"
    expect_the_table_fits(page)
    expect_help_where_it_is_touched(page)
    page.browser.save_screenshot(str(picture))


def expect_help_where_it_is_touched(page: Page) -> None:
    """Check that a touch shows the explanation of an underlined word, and another hides it."""
    word = page.browser.find_element(By.CSS_SELECTOR, "#symbols thead [title]")
    word.click()
    assert page.text("help") == word.get_attribute("title")
    page.browser.find_element(By.TAG_NAME, "h1").click()
    assert page.script("return document.getElementById('help').hidden")


def expect_the_table_fits(page: Page) -> None:
    """Check that the table of symbols ends within its card."""
    table, card = page.script(
        "const table = document.getElementById('symbols');"
        "return [table, table.parentElement].map(it => it.getBoundingClientRect().right)"
    )
    assert table <= card


def test_data_is_shown_as_text(
    variables: dict[str, str], browser: webdriver.Chrome
) -> None:
    # Texts of the upstream and of Kafka reach the page: none may become markup.
    attack = "document.title='taken'"
    evil = f"<img src=x onerror={attack}><script>{attack}</script>"
    with start_worker(variables) as worker:
        page = Page(browser, worker)
        page.wait(page.has_ladders, "the ladders")
        page.script(f"addEvent({json.dumps(event_of(evil))})")
        assert evil in "".join(page.events())

        # In one script: the page's next look at the worker would replace the row.
        rows, ladders, verdict = page.script(
            f"latest.symbols.push({json.dumps(row_of(evil))});"
            f"latest.group.error = {json.dumps(evil)};"
            f"latest.troubles.push({json.dumps(trouble_of(evil))});"
            f"latestLevels.symbols.push({json.dumps(levels_of(evil))}); show();"
            f"return [(() => {{ {ROWS} }})(), (() => {{ {LADDERS} }})(),"
            f" (() => {{ {VERDICT} }})()]"
        )
        rows_with_evil = [row for row in rows if evil in row]
        assert rows_with_evil
        # Symbol and model: the status has a sign before it.
        assert rows_with_evil[0].count(evil) == 2
        ladders_with_evil = [it for it in ladders if it["symbol"] == f"{evil} · {evil}"]
        assert ladders_with_evil[0]["rungs"]
        # A status that nobody keeps true any more must not look like one of the present.
        assert ladders_with_evil[0]["isPast"]
        assert verdict == f"✕ Do not rely on the levels of {evil} · {evil}"
        [old] = page.script(
            "Object.assign(latestLevels.symbols[0], {owned: false, computed_at: 1});"
            f"show(); {LADDERS}"
        )[:1]
        assert old["status"] == "● LIVE"
        assert old["isPast"]
        assert browser.find_elements(By.CSS_SELECTOR, "img, main script") == []
        assert browser.title == "GEX levels connector"
        worker.terminate()


def event_of(text: str) -> dict[str, Any]:
    return {
        "event_id": "a/b/1",
        "feed": text,
        "symbol": text,
        "sequence": 1,
        "kind": text,
        "status": text,
        "reason": text,
        "computed_at": 1,
        "observed_at": 1,
        "changed_levels": [{"path": text, "before": 1, "after": None}],
        "changed_sections": [text],
    }


def row_of(text: str) -> dict[str, Any]:
    return {
        "feed": text,
        "symbol": text,
        "shard": text,
        "owned": True,
        "status": text,
        "positioning": text,
        "positioning_fallback_reason": text,
        "sequence": 1,
        "computed_at": 1,
        "observed_at": 1,
        "changed_at": 1,
        "period_seconds": 1,
        "next_check_at": 1,
    }


def levels_of(text: str) -> dict[str, Any]:
    numbers = dict.fromkeys(AllExpiry.__struct_fields__, 1)
    levels = {
        "positioning": text,
        "positioning_fallback_reason": text,
        "all_expiry": numbers,
        "odte": numbers,
    }
    return {
        "feed": text,
        "symbol": text,
        "owned": False,
        "status": text,
        "computed_at": 1,
        "spot_price": 1,
        "levels": levels,
    }


def trouble_of(text: str) -> dict[str, Any]:
    return {
        "service": text,
        "summary": text,
        "detail": text,
        "since": 1,
        "failures": 1,
        "next_try_at": 1,
        "is_waiting": False,
        "stops_feeds": [text],
    }


@pytest.mark.parametrize("is_frozen", [False, True], ids=["ended", "frozen"])
def test_an_outage_of_kafka_is_named_and_what_was_known_before_is_marked(
    is_frozen: bool,
    tmp_path: Path,
    names: Names,
    simulator: Program,
    browser: webdriver.Chrome,
    pictures: Path,
) -> None:
    with LocalKafka(tmp_path / "kafka") as kafka:
        variables = variables_for(kafka, names, simulator)
        with start_worker(variables) as first, start_worker(variables) as second:
            owner, standby = owner_and_standby(first, second)
            page = Page(browser, owner)
            page.look(DESKTOP, "dark")
            page.wait(page.all_live, "the table")
            page.wait_for_text("members", "(this worker)")
            page.wait_for_text("as-of", "As of ")
            page.wait(page.has_ladders, "the ladders")

            if is_frozen:
                os.kill(kafka.pid, signal.SIGSTOP)
            else:
                kafka.stop()
            page.wait_for_trouble("Kafka unreachable since ", " UTC")
            page.wait_for_text("ready", "not ready")
            # The group as it was, and a LIVE of the past.
            page.wait_for_text("as-of", "Kafka has not answered since: ")
            assert "(this worker)" in page.text("members")
            assert page.classes(STATUS_COLUMN) == {"status warn"}
            browser.save_screenshot(str(pictures / "status-kafka-away.png"))

            # The levels stay, in grey, also when the worker has lost its shards.
            def levels_stay() -> bool:
                return all(
                    ladder["isPast"] and ladder["rungs"]
                    for ladder in page.ladders().values()
                )

            page.wait(levels_stay, "levels of the past")
            page.wait_for_text("verdict", "Do not rely on the levels of any symbol")

            # It asks Kafka by itself, so that it may notice a little later.
            def standby_has_the_one_reason() -> bool:
                reasons = standby.ask("/api/status")["worker"]["reasons"]
                return len(reasons) == 1 and reasons[0].startswith(
                    "Kafka unreachable since "
                )

            wait_until(standby_has_the_one_reason, "the reason", standby)
            assert not standby.ready()

            if is_frozen:
                os.kill(kafka.pid, signal.SIGCONT)
            else:
                kafka.start()
            wait_until(standby.ready, "the standby is ready again", standby)
            wait_until(owner.ready, "the owner is ready again", owner)
            page.wait_for_no_trouble()


def test_an_outage_of_the_api_is_named_with_the_next_try(
    simulator: Program,
    variables: dict[str, str],
    browser: webdriver.Chrome,
    pictures: Path,
) -> None:
    def arm(fault: str, **parameters: Any) -> None:
        simulator.ask("/_control/faults", {"fault": fault, **parameters})

    with start_worker(variables) as worker:
        page = Page(browser, worker)
        page.look(DESKTOP, "light")
        page.wait(page.all_live, "the table")

        def periods_are_learnt() -> bool:
            symbols = worker.ask("/api/status")["symbols"]
            return all(symbol["period_seconds"] for symbol in symbols)

        wait_until(periods_are_learnt, "the periods", worker)

        arm("503", for_seconds=3600)
        page.wait_for_trouble("API: HTTP 503: UPSTREAM_ERROR", " since ", " in a row")
        # Kafka and the shards are well, so the worker is ready: but not just "ready".
        page.wait_for_text("ready", "with trouble")

        def ages_are_amber() -> bool:
            return page.classes(AGE_COLUMN) == {"warn"}

        page.wait_for_trouble("next try in ")
        page.wait(ages_are_amber, "late levels")
        browser.save_screenshot(str(pictures / "status-api-503.png"))
        # Ages have more digits now, and the status may be a longer word.
        page.look(PHONE, "light")
        expect_the_table_fits(page)
        clear_faults(simulator)
        page.wait_for_no_trouble()

        # Until it was seen: after one of them the trouble would be over in seconds.
        arm("429", retry_after_seconds=5, for_seconds=3600)
        page.wait_for_trouble("API: HTTP 429", " waiting until ", " UTC")
        clear_faults(simulator)
        page.wait_for_no_trouble()

        arm("401", for_seconds=3600)
        page.wait_for_trouble("API: API key refused since ", "next try in ")
        page.wait_for_text("ready", "not ready")
        worker.terminate()


def test_quarantined_entries_are_counted_with_the_last_reason(
    simulator: Program, variables: dict[str, str], browser: webdriver.Chrome
) -> None:
    with start_worker(variables) as worker:
        page = Page(browser, worker)
        page.wait(page.all_live, "the table")
        page.wait_for_text("worker", "Quarantined entries0")

        fault = {"fault": "wrong_types", "symbols": ["BTCUSDT"], "variant": "entry"}
        simulator.ask("/_control/faults", fault)
        page.wait_for_text("worker", "Last quarantinedBTCUSDT, ")
        worker.terminate()


def clear_faults(simulator: Program) -> None:
    request = urllib.request.Request(
        simulator.url + "/_control/faults", method="DELETE"
    )
    urllib.request.urlopen(request).close()


def test_off_loopback_the_page_asks_for_the_token(
    variables: dict[str, str], browser: webdriver.Chrome
) -> None:
    variables["GEX_HTTP__LISTEN"] = f"0.0.0.0:{free_port()}"
    variables["GEX_HTTP__TOKEN"] = TOKEN
    with start_worker(variables) as worker:
        page = Page(browser, worker)

        def all_symbols() -> bool:
            return len(page.cells()) == len(EIGHT_SYMBOLS)

        def is_refused() -> bool:
            return page.text("error") == "Wrong token."

        field = browser.find_element(By.ID, "token")
        page.wait(field.is_displayed, "the field for the token")
        field.send_keys("x" * 20 + "\n")
        page.wait(is_refused, "the refusal")
        assert page.cells() == []

        field.send_keys(TOKEN + "\n")
        page.wait(all_symbols, "the table")
        page.wait(page.events, "events")
        assert not field.is_displayed()
        # Addresses end up in histories and logs.
        assert TOKEN not in browser.current_url

        browser.refresh()
        page.wait(all_symbols, "the table, without the token's being entered again")
        worker.terminate()


def test_a_hidden_page_sends_no_requests(
    variables: dict[str, str], browser: webdriver.Chrome
) -> None:
    with start_worker(variables) as worker:
        page = Page(browser, worker)
        page.wait(page.cells, "the table")
        # Count the page's requests, and let the test decide if the page is hidden.
        page.script(
            "window.requests = 0;"
            "const realFetch = fetch;"
            "fetch = (...args) => { requests += 1; return realFetch(...args); };"
            "Object.defineProperty(document, 'hidden',"
            " {get: () => window.isHidden ?? false, configurable: true});"
        )
        page.wait_for_count("requests", 1)

        toggle = "document.dispatchEvent(new Event('visibilitychange'))"

        def is_quiet() -> Any:
            return page.script("return !isRequesting && !stream")

        page.script(f"isHidden = true; {toggle}")
        page.wait(is_quiet, "the end of its requests")
        requests = page.script("return requests")

        # Three seconds by the page's own clock: a visible page would have asked again.
        page.script("window.turns = 0; setInterval(() => { turns += 1; }, 1000)")
        page.wait_for_count("turns", 3)
        assert page.script("return requests") == requests

        page.script(f"isHidden = false; {toggle}")
        # One for the status, and one for the events.
        page.wait_for_count("requests", requests + 2)
        worker.terminate()
