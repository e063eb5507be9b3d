"""Checks of configuration values, beyond type and bounds.

A check takes a value and returns it cleaned, or raises InvalidValue.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, TypeVar

from connector.config.secrets import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

T = TypeVar("T", str, int)

# All patterns are matched with re.ASCII: `\d` and `\w` mean no digits and letters of other scripts.
HOST: Final = r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
_BRACKETED_HOST: Final = re.compile(r"(?:\w+://)?(?:[^/@]*@)?\[([^\]]*)\]")
PORT: Final = r"(6553[0-5]|655[0-2]\d|65[0-4]\d{2}|6[0-4]\d{3}|[0-5]?\d{1,4})"

# Longer texts are cut before the search for a similar one.
_MAX_COMPARED_CHARACTERS: Final = 100

# The most items of a list that an error names, so that it stays one readable line.
_MAX_ITEMS_SHOWN: Final = 10


class InvalidValue(ValueError):
    """A value is not acceptable. The message is one line and shows no secret."""


def is_loopback(host: str) -> bool:
    """Return True if a host (an IPv6 address without brackets) can only be this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # Any other name may resolve to an address that others can reach.
        return host == "localhost"


def matching(pattern: str, expected: str) -> Callable[[T], T]:
    """Accept values that match the pattern as a whole; `expected` describes them."""

    def check(value: T) -> T:
        if not re.fullmatch(pattern, str(value), re.ASCII):
            raise InvalidValue(f"expected {expected}")
        return value

    return check


def matching_address(pattern: str, expected: str) -> Callable[[str], str]:
    """Accept texts as `matching` does. An address in brackets must be an IPv6 address."""
    check_form = matching(pattern, expected)

    def check(value: str) -> str:
        check_form(value)
        bracketed = _BRACKETED_HOST.match(value)
        if bracketed is not None:
            try:
                ipaddress.IPv6Address(bracketed[1])
            except ValueError:
                # Parsers of URLs raise errors of their own for it.
                raise InvalidValue(f"expected {expected}") from None
        return value

    return check


def each(
    pattern: str,
    expected: str,
    clean: Callable[[str], str] = str,
    max_items: int | None = None,
    known: tuple[str, ...] = (),
) -> Callable[[Iterable[str]], tuple[str, ...]]:
    """Accept lists of texts that match the pattern, ignoring case and outer blanks.

    Two texts must differ in more than case. `max_items` limits the length of the list, and
    `known` has the texts to suggest for a misspelt one.
    """

    def is_valid(text: str) -> bool:
        return re.fullmatch(pattern, text, re.ASCII | re.IGNORECASE) is not None

    def check(values: Iterable[str]) -> tuple[str, ...]:
        # Items of a variable may have blanks after the commas.
        texts = [text.strip() for text in values]
        cleaned = [clean(text) for text in texts]
        folded = [text.casefold() for text in texts]
        if max_items is not None and len(texts) > max_items:
            raise InvalidValue(f"expected {expected}, not {len(texts)} items")

        rejected = []
        for text in texts:
            # `btc` and `BTC` are the same symbol.
            is_repeated = folded.count(text.casefold()) > 1
            if is_repeated or not is_valid(text):
                rejected.append(text)
        if rejected:
            shown = rejected[:_MAX_ITEMS_SHOWN]
            names = ", ".join(quote(text) for text in shown)
            problem = f"expected {expected}, each once, not {names}"
            raise InvalidValue(f"{problem}{_suggestion(shown, texts, known)}")
        return tuple(cleaned)

    return check


def _suggestion(
    rejected: Sequence[str], texts: Sequence[str], known: Sequence[str]
) -> str:
    """Return the known names that the rejected texts may mean, less those in `texts`."""
    suggested = []
    for text in rejected:
        similar = closest(text, known)
        if similar is not None and similar not in texts:
            suggested.append(similar)
    if not suggested:
        return ""
    return f"; did you mean {', '.join(suggested)}?"


def closest(text: str, known: Sequence[str]) -> str | None:
    """Return the known name that was probably meant, or None.

    The end of a name comes first: `hvl` means `all_expiry.hvl`, however long that is.
    """
    # The search takes quadratic time.
    name = text[:_MAX_COMPARED_CHARACTERS].lower()
    for candidate in known:
        if candidate.endswith(f".{name}"):
            return candidate
    similar = difflib.get_close_matches(name, known, n=1)
    return similar[0] if similar else None


def clean_symbol(text: str) -> str:
    """Return a symbol with its own case, or in upper case if it is all lower case.

    Nearly all symbols are upper case, and people type them in lower case. A few are mixed:
    `kPEPEUSDT`.
    """
    return text.upper() if text.islower() else text


def symbols_typed(text: str) -> tuple[str, ...]:
    """Return the symbols that a person may mean: the text, and what configuration makes of it."""
    # An argument's bytes that the terminal's encoding does not have are lone surrogates,
    # which cannot be encoded. Symbols are UTF-8.
    typed = text.encode(errors="surrogateescape").decode(errors="replace")
    return tuple(dict.fromkeys((typed, clean_symbol(typed))))


def among(known: tuple[str, ...]) -> Callable[[Iterable[str]], tuple[str, ...]]:
    """Accept lists of different known names, and return them in lower case."""
    pattern = "|".join(re.escape(name) for name in known)
    expected = f"some of {', '.join(known)}"
    return each(pattern, expected, clean=str.lower, known=known)


def one_of(known: tuple[str, ...]) -> Callable[[str], str]:
    """Accept a known name, ignoring case and outer blanks, and return it in lower case."""

    def check(value: str) -> str:
        name = value.strip().lower()
        if name not in known:
            raise InvalidValue(f"expected {' or '.join(known)}")
        return name

    return check


def refusing(reasons: Mapping[str, tuple[str, ...]]) -> Callable[[str], str]:
    """Accept names of client options, unless they match one of the patterns of a reason."""

    def check(name: str) -> str:
        for reason, patterns in reasons.items():
            for pattern in patterns:
                if fnmatchcase(name, pattern):
                    raise InvalidValue(f"{quote(name)} is refused: {reason}")
        return name

    return check
