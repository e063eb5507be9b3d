"""The status page in a real browser (Chromium, driven by the system's chromedriver, so that nothing is fetched)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from connector.devkit.java import free_port
from connector.devkit.simulator.settings import DEFAULT_SYMBOLS
from tests.support import checker
from tests.support.processes import start_simulator, start_worker, variables_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program

TOKEN = "a-token-that-nobody-knows"
PATIENCE_SECONDS = 30
DESKTOP, PHONE = (1100, 720), (360, 800)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: PICTURES=docs renews those of the documentation."""
    return Path(os.environ.get("PICTURES", tmp_path))


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    found, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert found, "apt-get install chromium chromium-driver"
    options.binary_location = found
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    said = [line["message"] for line in chrome.get_log("browser")]  # type: ignore[no-untyped-call]  # selenium's
    chrome.quit()
    assert [
        line for line in said if "Content Security Policy" in line or "Uncaught" in line
    ] == []


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--period", "8", "--limit", "120") as program:
        yield program


@pytest.fixture
def variables(kafka: LocalKafka, names: Names, simulator: Program) -> dict[str, str]:
    """Without a limit of ours, so that the server's is shown."""
    given = variables_for(kafka, names, simulator)
    return {
        name: value
        for name, value in given.items()
        if name != "GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE"
    }


def look(browser: webdriver.Chrome, size: tuple[int, int], scheme: str) -> None:
    metrics = {
        "width": size[0],
        "height": size[1],
        "deviceScaleFactor": 1,
        "mobile": size == PHONE,
    }
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def script(browser: webdriver.Chrome, text: str) -> Any:
    return browser.execute_script(text)


def until(browser: webdriver.Chrome, true: Callable[[], Any], what: str) -> Any:
    return WebDriverWait(browser, PATIENCE_SECONDS, 0.1).until(lambda _: true(), what)


def cells(browser: webdriver.Chrome) -> list[list[str]]:
    rows = "[...document.querySelectorAll('#symbols tbody tr:not([hidden])')]"
    found: list[list[str]] = script(
        browser,
        f"return {rows}.filter(r => r.children.length > 1).map(r => [...r.children].map(c => c.textContent))",
    )
    return found


def events(browser: webdriver.Chrome) -> list[str]:
    found: list[str] = script(
        browser,
        "return [...document.querySelectorAll('#events li')].map(e => e.textContent)",
    )
    return found


def text(browser: webdriver.Chrome, element: str) -> str:
    return str(
        script(browser, f"return document.getElementById('{element}').textContent")
    )


def test_the_page_shows_symbols_budget_group_and_events_as_they_come(
    kafka: LocalKafka,
    names: Names,
    simulator: Program,
    variables: dict[str, str],
    browser: webdriver.Chrome,
    pictures: Path,
) -> None:
    look(browser, DESKTOP, "dark")
    with start_worker(variables) as worker, start_worker(variables) as other:
        owner = next(
            one for one in (worker, other) if one.ask("/api/status")["worker"]["shards"]
        )
        browser.get(f"{owner.url}/status")
        until(
            browser,
            lambda: (
                all(row[1] == "● LIVE" for row in cells(browser)) and cells(browser)
            ),
            "the table",
        )
        assert sorted(row[0] for row in cells(browser)) == sorted(DEFAULT_SYMBOLS)
        assert text(browser, "ready") == "● ready"
        until(browser, lambda: "(this one)" in text(browser, "members"), "the group")
        assert "stands by" in text(browser, "members")
        ages = until(
            browser,
            lambda: {row[2] for row in cells(browser) if row[2].endswith(" s")},
            "ages",
        )
        until(browser, lambda: {row[2] for row in cells(browser)} != ages, "ages tick")
        until(
            browser,
            lambda: any("CHANGED" in one for one in events(browser)),
            "an event",
        )
        published = {
            (e.symbol, e.sequence) for e in checker.events(kafka, names.topic_prefix)
        }
        newest = events(browser)[-1]
        assert any(
            newest.startswith(f"{symbol} #{sequence} ")
            for symbol, sequence in published
        )
        browser.save_screenshot(str(pictures / "status-dark.png"))
        dark = script(browser, "return getComputedStyle(document.body).backgroundColor")
        look(browser, PHONE, "light")
        assert (
            script(browser, "return getComputedStyle(document.body).backgroundColor")
            != dark
        )
        assert script(
            browser, "return [document.documentElement.scrollWidth, innerWidth]"
        ) == [360, 360]
        wide = "return [...document.querySelectorAll('#symbols th[scope=row]')].every(h => h.offsetHeight < 40)"
        assert script(browser, wide), "a symbol is broken into lines"
        browser.save_screenshot(str(pictures / "status-phone.png"))
        simulator.ask("/_control/faults", {"fault": "missing", "symbols": ["BTCUSDT"]})
        until(
            browser,
            lambda: ["BTCUSDT", "○ MISSING"] in [row[:2] for row in cells(browser)],
            "what is missing",
        )
        until(
            browser,
            lambda: any(
                "BTCUSDT" in one and "MISSING" in one for one in events(browser)
            ),
            "its event",
        )
        owner.terminate()
        until(
            browser,
            lambda: "does not answer" in text(browser, "trouble"),
            "that it is gone",
        )


def test_what_came_from_outside_is_text(
    variables: dict[str, str], browser: webdriver.Chrome
) -> None:
    with start_worker(variables) as worker:
        browser.get(f"{worker.url}/status")
        until(browser, lambda: cells(browser), "the table")
        evil = "<img src=x onerror=document.title='taken'><script>document.title='taken'</script>"
        event = {
            "event_id": "a/b/1",
            "feed": evil,
            "symbol": evil,
            "sequence": 1,
            "kind": evil,
            "status": evil,
        }
        more = {
            "reason": evil,
            "computed_at": 1,
            "observed_at": 1,
            "changed_sections": [evil],
        }
        levels = [{"path": evil, "before": 1, "after": None}]
        script(
            browser,
            f"happened({json.dumps({**event, **more, 'changed_levels': levels})})",
        )
        assert evil in "".join(events(browser))
        script(
            browser,
            f"told.symbols.push({json.dumps(row(evil))}); told.group.error = {json.dumps(evil)}; show()",
        )
        assert evil in [cell for found in cells(browser) for cell in found]
        assert browser.find_elements(By.CSS_SELECTOR, "img, main script") == []
        assert browser.title == "GEX levels connector"
        worker.terminate()


def row(evil: str) -> dict[str, Any]:
    moments = dict.fromkeys(
        ("computed_at", "observed_at", "changed_at", "next_check_at"), 1
    )
    return {
        "feed": evil,
        "symbol": evil,
        "shard": evil,
        "owned": True,
        "status": evil,
        "sequence": 1,
        **moments,
    }


def test_beyond_this_machine_the_page_asks_for_the_token(
    variables: dict[str, str], browser: webdriver.Chrome
) -> None:
    more = {"GEX_HTTP__LISTEN": f"0.0.0.0:{free_port()}", "GEX_HTTP__TOKEN": TOKEN}
    with start_worker({**variables, **more}) as worker:
        browser.get(f"{worker.url}/status")
        field = browser.find_element(By.ID, "token")
        until(browser, field.is_displayed, "the field")
        field.send_keys("x" * 20 + "\n")
        until(
            browser,
            lambda: text(browser, "trouble") == "That was not the token.",
            "that it was wrong",
        )
        assert cells(browser) == []
        field.send_keys(TOKEN + "\n")
        until(browser, lambda: len(cells(browser)) == len(DEFAULT_SYMBOLS), "the table")
        until(browser, lambda: events(browser), "events")
        assert not field.is_displayed()
        assert TOKEN not in browser.current_url
        browser.refresh()
        until(
            browser,
            lambda: len(cells(browser)) == len(DEFAULT_SYMBOLS),
            "the table without asking again",
        )
        worker.terminate()


def test_a_page_that_nobody_sees_asks_for_nothing(
    variables: dict[str, str], browser: webdriver.Chrome
) -> None:
    with start_worker(variables) as worker:
        browser.get(f"{worker.url}/status")
        until(browser, lambda: cells(browser), "the table")
        script(
            browser,
            "window.asked = 0; const before = fetch; fetch = (...a) => { asked += 1; return before(...a); };"
            "Object.defineProperty(document, 'hidden', {get: () => window.unseen ?? false, configurable: true});",
        )
        until(
            browser,
            lambda: script(browser, "return asked") >= 1,
            "it asks while it is seen",
        )
        script(
            browser,
            "unseen = true; document.dispatchEvent(new Event('visibilitychange'))",
        )
        until(
            browser,
            lambda: script(browser, "return !asking && !reader"),
            "its requests have ended",
        )
        asked = script(browser, "return asked")
        script(browser, "window.turns = 0; setInterval(() => { turns += 1; }, 1000)")
        until(browser, lambda: script(browser, "return turns") >= 3, "three turns")
        assert script(browser, "return asked") == asked
        script(
            browser,
            "unseen = false; document.dispatchEvent(new Event('visibilitychange'))",
        )
        until(
            browser,
            lambda: script(browser, "return asked") >= asked + 2,
            "status and events",
        )
        worker.terminate()
