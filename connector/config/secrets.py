"""Values that must never be shown, and safe ways to show the others."""

from __future__ import annotations

import json
import re
from collections import UserDict
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK: Final = "***"

# A value that a client library accepts.
Setting = str | int | float | bool

_MAX_SHOWN_CHARACTERS: Final = 64
# Larger values are not shown: they are mistakes, and may be secrets in the wrong place.
_MAX_SHOWN_BITS: Final = 64

# Shorter secrets are masked as whole words only: `k` is a part of "worker".
MIN_SECRET_CHARACTERS: Final = 8

# The start of every API key of the vendor.
_API_KEY_PREFIX: Final = "bq_"

# The start of a path. A secret in place of one, such as a key in PEM format, has none of them.
_PATH_STARTS: Final = ("/", "./", "../")

# Matches too much rather than too little: a mask in a log costs less than a secret in it.
_SENSITIVE_NAME: Final = re.compile(
    r"password|secret|token|user\.info|credential|oauthbearer\.config|jaas|pem|proxy"
)

_WORD_CHARACTER: Final = re.compile(r"\w")


class Secret:
    """A text that appears as `***` unless it is revealed. Serialising it raises TypeError."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value.strip()

    def reveal(self) -> str:
        """Return the text itself, without surrounding whitespace."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    # Called by pickle and copy. Encoders such as msgspec's reject the unknown type by themselves.
    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret cannot be serialised")


class ClientSettings(UserDict[str, Setting]):
    """Options that are passed to a client library unchanged.

    Only their names are shown, because any value may be a secret.
    """

    def __repr__(self) -> str:
        masked = ", ".join(f"{name}={MASK}" for name in self)
        return f"{type(self).__name__}({masked})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("client settings cannot be serialised: they hold secrets")

    def secrets(self) -> tuple[str, ...]:
        """Return the values of options such as `sasl.password`.

        A value `user:password` counts twice: complete, and as the password by itself.
        """
        found = []
        for name, value in self.items():
            if _SENSITIVE_NAME.search(name):
                found.append(str(value))
            if name.endswith("user.info"):
                _, _, password = str(value).partition(":")
                found.append(password)
        return tuple(secret for secret in found if secret)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace every secret in `text` with `***`, including its escaped forms.

    A short secret, such as the password `k`, is replaced where it is a whole word.
    """
    forms: dict[str, bool] = {}
    for secret in secrets:
        is_short = len(secret) < MIN_SECRET_CHARACTERS
        forms[secret] = is_short
        # The text may have been quoted before it came here; cut off the quotes.
        for quoted in (repr(secret), ascii(secret), json.dumps(secret)):
            forms[quoted[1:-1]] = is_short
    # Replacing the empty text would put a mask between all characters.
    forms.pop("", None)
    # The longest first: a secret may contain another one.
    for form in sorted(forms, key=len, reverse=True):
        if forms[form]:
            text = _whole_word(form).sub(MASK, text)
        else:
            text = text.replace(form, MASK)
    return text


@lru_cache(maxsize=100)
def _whole_word(form: str) -> re.Pattern[str]:
    """Return a pattern for a text that does not continue a word before or after it."""
    before = r"(?<!\w)" if _WORD_CHARACTER.match(form[0]) else ""
    after = r"(?!\w)" if _WORD_CHARACTER.match(form[-1]) else ""
    return re.compile(f"{before}{re.escape(form)}{after}")


def printable(text: str) -> str:
    """Escape everything in `text` that could break the line or control a terminal."""
    escaped = []
    for char in text:
        if char.isprintable():
            escaped.append(char)
        else:
            escaped.append(char.encode("unicode_escape").decode())
    return "".join(escaped)


def quote(value: object) -> str:
    """Return a short value quoted and escaped, or `***` if it is long or looks like an API key."""
    text = ascii(value)
    is_long = len(text) > _MAX_SHOWN_CHARACTERS
    # A user may have put the key in place of another option.
    may_be_key = _API_KEY_PREFIX in text
    return MASK if is_long or may_be_key else text


def quote_path(path: str) -> str:
    """Return the path of a secret file quoted, or masked if it may be the secret itself."""
    if path.startswith(_PATH_STARTS):
        return f"'{path}'"
    return f"{MASK} (begins neither with / nor with ./)"


def shape(value: object, *, hide: bool) -> str:
    """Describe a value by its type and size, and show it if it is short and need not be hidden."""
    description = type(value).__name__
    if isinstance(value, str | list | dict):
        description += f" of length {len(value)}"

    # An int includes bool, which is short.
    is_short_number = isinstance(value, int) and value.bit_length() < _MAX_SHOWN_BITS
    may_be_shown = isinstance(value, str | float) or is_short_number
    if may_be_shown and not hide:
        description += f" {quote(value)}"
    return description
