"""The vendor's reports about its service, in the shapes that are documented and in others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.config.model import Feed
from connector.upstream.service import (
    KNOWN_CONTRACT,
    Changelog,
    Interest,
    Release,
    is_good,
    read_changelog,
    read_health,
    read_status,
)
from tests.support.profiles import cases

SYMBOLS = ("BTCUSDT", "ETHUSDT")
ALL_VENUES = Interest(frozenset(SYMBOLS))
HEALTHY = {"status": "healthy", "freshness_seconds": 12.5}
UNHEALTHY = {"status": "unhealthy", "freshness_seconds": 412.3}


def status_of(symbols: Any = None, venues: Any = None) -> Any:
    data = {"overall_status": "Degraded", "symbols": symbols, "venues": venues}
    return {"success": True, "data": data}


# --- health ---


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"status": "ok"}, "ok"),
        ({"status": "Degraded", "success": True}, "degraded"),
        ({"success": True, "data": {"status": "unhealthy"}}, "unhealthy"),
        ({"status": 1}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_the_status_of_the_service_is_read(document: Any, expected: str) -> None:
    assert read_health(document) == expected


def test_only_ok_and_healthy_are_good() -> None:
    assert is_good("ok")
    assert is_good("healthy")
    assert not is_good("degraded")
    assert not is_good("")


# --- status ---


@pytest.mark.parametrize(
    "symbols",
    [
        {
            "BTCUSDT": {"gex": UNHEALTHY, "options": HEALTHY},
            "ETHUSDT": {"gex": HEALTHY},
        },
        {"BTCUSDT": {"categories": {"gex": UNHEALTHY}}},
        # Contract 2.0 has no categories.
        {"BTCUSDT": UNHEALTHY, "ETHUSDT": HEALTHY},
        [{"symbol": "BTCUSDT", **UNHEALTHY}, {"symbol": "ETHUSDT", **HEALTHY}],
        # A symbol that nobody asked for is not our concern.
        {"BTCUSDT": UNHEALTHY, "XRPUSDT": UNHEALTHY},
    ],
)
def test_symbols_whose_levels_are_old_are_named(symbols: Any) -> None:
    status = read_status(status_of(symbols), ALL_VENUES)

    assert status.overall == "degraded"
    assert status.stale == ("BTCUSDT unhealthy, 412 s",)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"gex": "degraded"}, "degraded"),
        ("stale", "stale"),
        # The vendor still calls it healthy, but 91 s mean that its worker is in trouble.
        ({"freshness_seconds": 91}, "old, 91 s"),
        ({"gex": {"status": "unavailable", "freshness_seconds": None}}, "unavailable"),
    ],
)
def test_the_trouble_of_a_symbol_is_told(row: Any, expected: str) -> None:
    status = read_status(status_of({"BTCUSDT": row}), ALL_VENUES)

    assert status.stale == (f"BTCUSDT {expected}",)


@pytest.mark.parametrize(
    "row",
    [
        HEALTHY,
        {"freshness_seconds": 90},
        {"freshness_seconds": 10**400},
        {"freshness_seconds": True, "status": 7},
        # Only the levels matter here.
        {"gex": HEALTHY, "liquidation": UNHEALTHY},
        None,
    ],
)
def test_a_symbol_without_trouble_is_not_named(row: Any) -> None:
    assert read_status(status_of({"BTCUSDT": row}), ALL_VENUES).stale == ()


VENUES = {
    "okx": {"chain": "on", "tape": "off"},
    "derive": {"chain": "off", "tape": "OFF"},
    "bybit": {"chain": "on", "tape": "unknown"},
}


@pytest.mark.parametrize(
    ("venues", "wanted", "expected"),
    [
        (VENUES, (), ("okx (tape off)", "derive (chain, tape off)")),
        (VENUES, ("okx", "bybit"), ("okx (tape off)",)),
        ([{"name": "okx", "tape": False}], (), ("okx (tape off)",)),
        ({"okx": "off"}, (), ("okx (all off)",)),
        (["okx"], (), ()),
    ],
)
def test_venues_that_are_off_are_named(
    venues: Any, wanted: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    interest = Interest(frozenset(SYMBOLS), frozenset(wanted))

    assert read_status(status_of(None, venues), interest).venues_off == expected


def feed(name: str, symbols: tuple[str, ...], *exchanges: str) -> Feed:
    return Feed(name=name, symbols=symbols, exchanges=exchanges)


def test_the_interest_of_feeds_is_that_of_all_of_them() -> None:
    okx = feed("a", ("BTCUSDT",), "okx")
    bybit = feed("b", ("ETHUSDT",), "bybit", "okx")
    every = feed("c", ("BTCUSDT",))

    both = Interest.of([okx, bybit])
    assert both.symbols == {"BTCUSDT", "ETHUSDT"}
    assert both.venues == {"okx", "bybit"}
    # A feed without a filter uses all venues.
    assert Interest.of([okx, every]).venues == frozenset()


# --- changelog ---


def test_the_changelog_is_read_as_documented() -> None:
    breaking_entry = {
        "version": "2.11",
        "breaking": True,
        "summary": "Other walls",
        "changes": [],
    }
    releases = [breaking_entry, {"version": "2.10", "breaking": False}]
    document = {"data": {"current_version": "2.11", "releases": releases}}

    changelog = read_changelog(document)

    breaking = Release("2.11", is_breaking=True, summary="Other walls")
    assert changelog == Changelog("2.11", (breaking, Release("2.10")))
    assert changelog.breaking_releases() == [breaking]


@pytest.mark.parametrize(
    "releases",
    [
        {"2.11": {"breaking": True, "summary": "Other walls"}},
        [{"version": "2.11", "breaking": "true", "summary": "Other walls"}],
    ],
)
def test_other_shapes_of_the_changelog_are_understood(releases: Any) -> None:
    changelog = read_changelog({"releases": releases})

    (found,) = changelog.breaking_releases()
    assert found.summary == "Other walls"


def test_breaking_releases_that_the_connector_knows_are_no_news() -> None:
    changelog = Changelog(
        "2.10",
        (Release("2.10", is_breaking=True), Release("2.2", is_breaking=True)),
    )

    assert KNOWN_CONTRACT == (2, 10)
    assert changelog.breaking_releases() == []


def test_minor_versions_are_compared_as_numbers() -> None:
    # As texts, "2.9" would be later than "2.10".
    earlier = Changelog("2.10", (Release("2.9", is_breaking=True),))
    later = Changelog("2.100", (Release("2.100.3", is_breaking=True),))

    assert earlier.breaking_releases() == []
    assert len(later.breaking_releases()) == 1


def test_a_new_major_version_is_breaking_whether_or_not_it_says_so() -> None:
    assert len(Changelog("3.0", (Release("3.0"),)).breaking_releases()) == 1
    assert Changelog("2.99", (Release("2.99"),)).breaking_releases() == []


def test_a_breaking_release_with_an_unreadable_version_counts() -> None:
    assert Changelog("", (Release("next", is_breaking=True),)).breaking_releases()


# --- any JSON ---

WORDS = st.sampled_from(
    [
        *("data", "symbols", "venues", "status", "overall_status", "gex", "categories"),
        *("releases", "version", "breaking", "current_version", "freshness_seconds"),
        *("BTCUSDT", "okx", "name", "off", "unhealthy", "2.11"),
    ]
)
NUMBERS = st.integers() | st.floats()
TEXTS = WORDS | st.text()
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS

Documents = st.SearchStrategy[Any]


def containers(inner: Documents) -> Documents:
    lists = st.lists(inner, max_size=3)
    dictionaries = st.dictionaries(WORDS, inner)
    return lists | dictionaries


DOCUMENTS = st.recursive(LEAVES, containers, max_leaves=20)


@cases(100)
@given(DOCUMENTS)
def test_any_json_is_read_into_short_texts(document: Any) -> None:
    status = read_status(document, ALL_VENUES)
    changelog = read_changelog(document)
    changelog.breaking_releases()

    texts = [read_health(document), status.overall, changelog.current_version]
    assert max(map(len, texts)) <= 40


def test_texts_from_outside_are_cut() -> None:
    long = "x" * 10_000
    document = {
        "current_version": long,
        "releases": [{"version": long, "summary": long}] * 5_000,
    }

    changelog = read_changelog(document)

    assert len(changelog.current_version) == 40
    assert len(changelog.releases) == 1_000
    assert len(changelog.releases[0].version) == 40
    assert len(changelog.releases[0].summary) == 200
