"""What must never be shown, and how to speak of a value without showing it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from json import dumps
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK: Final = "***"

Setting = str | int | float | bool
"""A value that a client library takes."""

SHOWN_CHARACTERS: Final = 40
_SHOWN_BITS: Final = 64

_KEY_LIKE: Final = re.compile(r"bq_[a-z]+_")
"""What the vendor's keys begin with: such a text is never shown, whichever option it was given to."""

_SENSITIVE: Final = re.compile(
    r"password|passphrase|secret|token|user\.info|credential|oauthbearer\.config|jaas|pem|ssl_key|proxy"
)
_HARMLESS: Final = (".source", ".url", ".location", ".file", ".id", ".name")


class Secret:
    """A text that shows itself only when asked to. Blanks around it are stripped.

    `repr`, `str` and `format` give `***`; pickling, copying and encoding raise TypeError.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value.strip()

    def reveal(self) -> str:
        """The text itself."""
        return self._value

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


class ClientSettings(Mapping[str, Setting]):
    """Options passed to a client library as they are. Shown by name only, since any of them may be a secret."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Setting] | None = None) -> None:
        self._values = dict(values or {})

    def __getitem__(self, name: str) -> Setting:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={MASK}' for name in self)})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("client settings are not serialised: they hold secrets")

    def secrets(self) -> tuple[str, ...]:
        """Values under names such as `sasl.password`; of `user:password` the password by itself too."""
        found = [str(value) for name, value in self.items() if is_sensitive(name)]
        passwords = [str(value).partition(":")[2] for name, value in self.items() if name.endswith("user.info")]
        return tuple(filter(None, (*found, *passwords)))


def is_sensitive(name: str) -> bool:
    """Whether a client option of this name holds a secret, as far as its name says."""
    name = name.lower()
    return _SENSITIVE.search(name) is not None and not name.endswith(_HARMLESS)


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` with every secret in it replaced by `***`, also where it stands escaped; the longest first."""
    forms = {
        form for secret in secrets for form in (secret, repr(secret)[1:-1], ascii(secret)[1:-1], dumps(secret)[1:-1])
    }
    for form in sorted(filter(None, forms), key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def printable(text: str) -> str:
    """`text` on one line: line breaks, control and format characters and lone surrogates as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def quote(text: str, *, limit: int = SHOWN_CHARACTERS) -> str:
    """A text that may be shown, quoted, escaped and cut; `***` where it looks like a key of the vendor's."""
    if _KEY_LIKE.search(text):
        return MASK
    return f"{text[:limit]!a}{'...' if len(text) > limit else ''}"


def shape(value: object, *, hide: bool = False) -> str:
    """Type and length or number of a value, and a short text itself, unless it is to be hidden."""
    if isinstance(value, bool | int | float):
        kind = type(value).__name__
        long = isinstance(value, int) and value.bit_length() > _SHOWN_BITS
        return kind if hide or long else f"{kind} {value}"
    if isinstance(value, str):
        kind = f"str of {len(value)} characters"
        return kind if hide else f"{kind} {quote(value)}"
    if isinstance(value, Mapping):
        return f"table of {len(value)} keys"
    if isinstance(value, list | tuple):
        return f"list of {len(value)}"
    return type(value).__name__
