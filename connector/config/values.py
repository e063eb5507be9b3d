"""Checks of configuration values beyond type and bounds: each takes a value and returns a clean one.

A check raises InvalidValue if the value is not acceptable.
"""

from __future__ import annotations

import ipaddress
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, TypeVar

from connector.config.secrets import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from connector.config.secrets import Setting

T = TypeVar("T", str, int)

HOST: Final = r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
PORT: Final = r"(6553[0-5]|655[0-2]\d|65[0-4]\d{2}|6[0-4]\d{3}|[0-5]?\d{1,4})"


def is_loopback(host: str) -> bool:
    """Whether a host, an IPv6 address without its brackets, is this machine and can be no other."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class InvalidValue(ValueError):
    """What is wrong with a value, on one line that does not show a hidden one."""


def matching(pattern: str, expected: str) -> Callable[[T], T]:
    """A check for a value that matches from end to end; `expected` says it in words."""

    def check(value: T) -> T:
        if not re.fullmatch(pattern, str(value), re.ASCII):
            raise InvalidValue(f"expected {expected}")
        return value

    return check


def each(
    pattern: str, expected: str, clean: Callable[[str], str]
) -> Callable[[Iterable[str]], tuple[str, ...]]:
    """A check for texts that match, whatever their case and the blanks around them, each there once."""

    def check(given: Iterable[str]) -> tuple[str, ...]:
        texts = [text.strip() for text in given]
        cleaned = tuple(map(clean, texts))
        valid = [
            re.fullmatch(pattern, text, re.ASCII | re.IGNORECASE) is not None
            for text in texts
        ]
        bad = [
            quote(text)
            for text, good in zip(texts, valid, strict=True)
            if not good or cleaned.count(clean(text)) > 1
        ]
        if bad:
            raise InvalidValue(
                f"expected {expected}, each once, not {', '.join(bad[:10])}"
            )
        return cleaned

    return check


def among(known: tuple[str, ...]) -> Callable[[Iterable[str]], tuple[str, ...]]:
    """A check for names that are known, each there once; in lower case."""
    return each(
        "|".join(map(re.escape, known)), f"some of {', '.join(known)}", str.lower
    )


def refusing(
    reasons: Mapping[str, tuple[str, ...]],
) -> Callable[[str, Setting], Setting]:
    """A check for one option of a client: none of those that stand under the reason why."""

    def check(name: str, value: Setting) -> Setting:
        for reason, patterns in reasons.items():
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                raise InvalidValue(f"{quote(name)} is refused: {reason}")
        return value

    return check
