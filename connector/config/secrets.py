"""What must never be shown, and how to speak of a value without showing it."""

from __future__ import annotations

import re
from collections import UserDict
from json import dumps
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK: Final = "***"

Setting = str | int | float | bool
"""A value that a client library takes."""

_SHOWN: Final = 64
"""In characters, and of a number in bits."""

_SENSITIVE: Final = re.compile(
    r"password|secret|token|user\.info|credential|oauthbearer\.config|jaas|pem|proxy"
)


class Secret:
    """A text that shows itself only when asked to: otherwise `***`, and a TypeError where it would be serialised."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value.strip()

    def reveal(self) -> str:
        """The text itself, without blanks around it."""
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

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not serialised")


class ClientSettings(UserDict[str, Setting]):
    """Options passed to a client library as they are. Shown by name only, since any of them may be a secret."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={MASK}' for name in self)})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("client settings are not serialised: they hold secrets")

    def secrets(self) -> tuple[str, ...]:
        """Values under names such as `sasl.password`; of `user:password` the password by itself too."""
        found = [str(value) for name, value in self.items() if _SENSITIVE.search(name)]
        passwords = [
            str(value).partition(":")[2]
            for name, value in self.items()
            if name.endswith("user.info")
        ]
        return tuple(filter(None, (*found, *passwords)))


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` with every secret in it replaced by `***`, also where it stands escaped; the longest first."""
    forms = {
        form
        for one in secrets
        for form in (one, repr(one)[1:-1], ascii(one)[1:-1], dumps(one)[1:-1])
    }
    for form in sorted(filter(None, forms), key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def printable(text: str) -> str:
    """`text` on one line: line breaks, control and format characters and lone surrogates as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def quote(value: object) -> str:
    """A short value, escaped. `***` for a long one, no half of which is shown, and for a key of the vendor's."""
    text = ascii(value)
    return MASK if len(text) > _SHOWN or "bq_" in text else text


def shape(value: object, *, hide: bool) -> str:
    """Type and size of a value, and a short one itself unless it is to be hidden."""
    size = f" of length {len(value)}" if isinstance(value, str | list | dict) else ""
    shown = isinstance(value, str | float) or (
        isinstance(value, int) and value.bit_length() < _SHOWN
    )
    return f"{type(value).__name__}{size}" + (
        f" {quote(value)}" if shown and not hide else ""
    )
