"""Read the vendor's reports about its own service: `/health`, `/status` and `/changelog`.

The vendor does not document their exact shapes, and adds to them. These readers accept any
JSON: they take the facts they recognize and ignore everything else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from connector.core.model import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from connector.config.model import Feed

HEALTH_PATH: Final = "/health"
STATUS_PATH: Final = "/status"
CHANGELOG_PATH: Final = "/changelog"

# The contract this connector was written for. Later releases may break it.
KNOWN_CONTRACT: Final = (2, 10)

# The vendor calls levels older than 90 s for long a sign of a worker in trouble.
_MAX_FRESHNESS_SECONDS: Final = 90

# More than 300 years is no age, and integers may be too large to be formatted.
_MAX_AGE_SECONDS: Final = 1e10

# Texts from outside are cut before they reach logs, labels and reports.
_MAX_NAME_CHARACTERS: Final = 40
_MAX_SUMMARY_CHARACTERS: Final = 200
_MAX_RELEASES: Final = 1_000

_GOOD: Final = frozenset({"ok", "healthy"})
_BAD: Final = frozenset(
    {"degraded", "unhealthy", "unavailable", "stale", "down", "offline", "error"}
)
_OFF: Final = frozenset({"off", "down", "offline", "disabled"})
_VERSION: Final = re.compile(r"v?(\d{1,9})(?:\.(\d{1,9}))?", re.ASCII)


class Interest(Value, frozen=True):
    """The symbols and venues that somebody asks for. No venues means all of them."""

    symbols: frozenset[str]
    venues: frozenset[str] = frozenset()

    @classmethod
    def of(cls, feeds: Iterable[Feed]) -> Interest:
        """Return the symbols and venues of all feeds."""
        symbols: set[str] = set()
        venues: set[str] = set()
        uses_all_venues = False
        for feed in feeds:
            symbols.update(feed.symbols)
            venues.update(feed.exchanges)
            if not feed.exchanges:
                uses_all_venues = True
        if uses_all_venues:
            venues.clear()
        return cls(frozenset(symbols), frozenset(venues))


class ServiceStatus(Value, frozen=True):
    """The report of `/status`, in texts for people.

    `overall` is empty if the report does not say. `stale` describes symbols whose levels the
    vendor calls old, and `venues_off` venues without chain or tape.
    """

    overall: str = ""
    stale: tuple[str, ...] = ()
    venues_off: tuple[str, ...] = ()


class Release(Value, frozen=True):
    """A release of the vendor's contract."""

    version: str
    is_breaking: bool = False
    summary: str = ""


class Changelog(Value, frozen=True):
    """The report of `/changelog`. `current_version` is empty if the report does not say."""

    current_version: str = ""
    releases: tuple[Release, ...] = ()

    def breaking_releases(self) -> list[Release]:
        """Return the breaking releases after the contract that this connector knows.

        A new major version is breaking even if no release says so.
        """
        found = []
        for release in self.releases:
            if release.is_breaking and _is_after_known(release.version):
                found.append(release)
        names = {release.version for release in found}
        current = _parsed(self.current_version)
        is_new_major = current is not None and current[0] > KNOWN_CONTRACT[0]
        if is_new_major and self.current_version not in names:
            found.append(Release(self.current_version, True, "a new major version"))
        return found


def is_good(health: str) -> bool:
    """Return True if a text of `read_health` or `ServiceStatus.overall` reports no trouble."""
    return health in _GOOD


def read_health(document: object) -> str:
    """Return the `status` of `/health` in lower case: ok, degraded or unhealthy.

    Empty if the document has none.
    """
    return _name(_data(document).get("status")).lower()


def read_status(document: object, interest: Interest) -> ServiceStatus:
    """Return the parts of `/status` that somebody is interested in."""
    data = _data(document)
    stale = []
    for symbol, row in _rows(data.get("symbols"), "symbol"):
        if symbol in interest.symbols:
            trouble = _trouble_of_symbol(row)
            if trouble:
                stale.append(f"{symbol} {trouble}")

    venues_off = []
    for venue, row in _rows(data.get("venues"), "venue"):
        is_wanted = not interest.venues or venue.lower() in interest.venues
        parts = _parts_off(row)
        if is_wanted and parts:
            venues_off.append(f"{venue} ({', '.join(parts)} off)")
    return ServiceStatus(
        _name(data.get("overall_status") or data.get("status")).lower(),
        tuple(stale),
        tuple(venues_off),
    )


def read_changelog(document: object) -> Changelog:
    """Return the releases in `/changelog`."""
    data = _data(document)
    rows = document if isinstance(document, list) else data.get("releases")
    releases = []
    for version, row in _rows(rows, "version"):
        fields = row if isinstance(row, dict) else {}
        is_breaking = fields.get("breaking") in (True, 1, "true", "yes")
        summary = fields.get("summary")
        text = summary if isinstance(summary, str) else ""
        releases.append(Release(version, is_breaking, text[:_MAX_SUMMARY_CHARACTERS]))
    return Changelog(
        _name(data.get("current_version")), tuple(releases[:_MAX_RELEASES])
    )


def _data(document: object) -> dict[str, Any]:
    """Return the fields of a document, at its top level or in `data`."""
    if not isinstance(document, dict):
        return {}
    inner = document.get("data")
    return {**document, **inner} if isinstance(inner, dict) else document


def _rows(table: object, name_field: str) -> Iterator[tuple[str, Any]]:
    """Yield name and content of each row: an object by name, or a list of named objects."""
    if isinstance(table, dict):
        for name, row in table.items():
            yield _name(name), row
    elif isinstance(table, list):
        for row in table:
            fields = row if isinstance(row, dict) else {"name": row}
            name = _name(fields.get(name_field) or fields.get("name"))
            if name:
                yield name, row


def _trouble_of_symbol(row: object) -> str:
    """Return the trouble with the levels of a symbol, or an empty text.

    The levels are in the category `gex`; a report without categories is about them, too.
    """
    if not isinstance(row, dict):
        status = _name(row).lower()
        return status if status in _BAD else ""

    categories = row.get("categories", row)
    if isinstance(categories, dict) and "gex" in categories:
        gex = categories["gex"]
        row = gex if isinstance(gex, dict) else {"status": gex}
    status = _name(row.get("status")).lower()
    age = row.get("freshness_seconds")
    is_old = _is_old(age)
    if status not in _BAD and not is_old:
        return ""
    trouble = status if status in _BAD else "old"
    return f"{trouble}, {age:.0f} s" if is_old else trouble


def _is_old(age: Any) -> bool:
    # True counts as 1 for Python, and is not old either way.
    if not isinstance(age, int | float):
        return False
    return _MAX_FRESHNESS_SECONDS < age < _MAX_AGE_SECONDS


def _parts_off(row: object) -> list[str]:
    """Return the parts of a venue that are off: chain, tape, or the venue itself."""
    if not isinstance(row, dict):
        return ["all"] if _is_off(row) else []
    parts = []
    for part, state in row.items():
        if _is_off(state):
            parts.append(_name(part))
    return parts


def _is_off(state: object) -> bool:
    if isinstance(state, str):
        return state.lower() in _OFF
    return state is False


def _name(value: object) -> str:
    """Return a short text, or an empty one if the value is no text."""
    return value[:_MAX_NAME_CHARACTERS] if isinstance(value, str) else ""


def _parsed(version: str) -> tuple[int, int] | None:
    """Return major and minor version, or None if the text is no version."""
    match = _VERSION.match(version)
    if match is None:
        return None
    return int(match[1]), int(match[2] or 0)


def _is_after_known(version: str) -> bool:
    parsed = _parsed(version)
    # Better a warning too much than a breaking change that nobody reads about.
    return parsed is None or parsed > KNOWN_CONTRACT
