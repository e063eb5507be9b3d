"""Response bodies that are nearly valid: a valid one, mutated by a short program of bytes.

Hypothesis draws and shrinks the program; an empty program changes nothing. A program first
changes values, keys and blanks of the JSON tree, then bytes of the text. Saved programs
(tests/property/corpus) depend on the order of every table and choice in this module.
"""

from __future__ import annotations

import gzip
import json
from typing import Any, Final

from tests.support.levels import FIELDS

SYMBOLS: Final = ("AAA", "BBB")

# The changes of each node, by its number in depth-first order.
Changes = dict[int, list[int]]

# Keys and values of an object, as JSON.
Pairs = list[tuple[bytes, bytes]]


class Program:
    """Bytes that are consumed as choices, one after another; zeros after the last."""

    # Zeros mean "the first choice", so a shorter program makes a simpler body.
    def __init__(self, code: bytes) -> None:
        self._code = code
        self._next = 0

    def below(self, limit: int) -> int:
        """Return a number from 0 to below `limit`; consume two bytes if one is too few."""
        number = self._byte()
        if limit > 256:
            number = number * 256 + self._byte()
        return number % max(limit, 1)

    def one_of(self, choices: Any) -> Any:
        return choices[self.below(len(choices))]

    @property
    def ended(self) -> bool:
        return self._next >= len(self._code)

    def _byte(self) -> int:
        position = self._next
        self._next += 1
        if position < len(self._code):
            return self._code[position]
        return 0


def _sections() -> dict[str, dict[str, float]]:
    """Return the sections of an entry with a value in every field."""
    sections = {}
    for section, fields in FIELDS.items():
        sections[section] = dict.fromkeys(fields, 60000.0)
    return sections


ENTRY: Final = {
    "spot_price": 64_250.5,
    "computed_at": "2027-01-15T08:00:00Z",
    **_sections(),
    "ranked": {
        "all_expiry_top_10": [{"strike": 60_000, "gex": 1.5}],
        "odte_top_10": [61_000.5],
    },
    "zones": [{"from": 61_000, "to": 62_000.5}],
}
META: Final = {
    "version": "2",
    "timestamp": "2027-01-15T08:00:00.25Z",
    "request_id": "abc",
    "exchanges_filtered": ["okx"],
    "rate_limit": {"limit": 60, "remaining": 7, "reset": 1_800_000_060},
}
DATA: Final = {
    "requested": ["AAA", "BBB"],
    "served": ["AAA"],
    "missing": ["BBB"],
    "invalid": [],
    "results": {"AAA": ENTRY, "BBB": None},
}
ERROR: Final = {
    "code": "VALIDATION_ERROR",
    "message": "no",
    "details": {"errors": ["x"], "retry_after_seconds": 3},
}
# Valid bodies: levels in both forms that the API has used, a refusal, and a minimal one.
TEMPLATES: Final = (
    {"success": True, "data": DATA, "meta": META},
    {"success": True, **DATA, "meta": META},
    {"success": False, "error": ERROR, "meta": META},
    {
        "data": {
            "results": {
                "AAA": {"spot_price": 1},
                "BBB": {"odte": {"hvl": 2}, "zones": [3]},
            }
        }
    },
)

# The first and the last years, sub-microseconds, and forms of ISO 8601 that are rarely used.
_MOMENTS: Final = (
    b'"0001-01-01T00:00:00+14:00"',
    b'"9999-12-31T23:59:59.999999-14:00"',
    b'"1969-12-31T23:59:59.9999999Z"',
    b'"2027-W02-5"',
    b'"20270115T080000,5+00:00:00.000001"',
    b'"2027-01-15"',
)


def _integers_around_limits() -> list[bytes]:
    """Return the limits of exact doubles and of 64-bit integers, and their neighbours."""
    found = []
    for power in (53, 63, 64):
        for more in (-1, 0, 1):
            number = 2**power + more
            found.append(str(number).encode())
    return found


def _nested(opening: bytes, inner: bytes, closing: bytes) -> list[bytes]:
    """Return values that are deep enough to exhaust a recursive decoder."""
    # Hypothesis runs on a deeper stack than the product, so 900 alone would not do.
    found = []
    for depth in (900, 4_000):
        found.append(opening * depth + inner + closing * depth)
    return found


VALUES: Final = (
    # Ordinary values, of another type than the field's.
    *(
        b"null",
        b"true",
        b"false",
        b"0",
        b"-0",
        b"-0.0",
        b"1",
        b'""',
        b"[]",
        b"{}",
        b'"AAA"',
        b'"1"',
        b"[null]",
    ),
    # Numbers that JSON forbids, or that a double cannot hold.
    *(
        b"NaN",
        b"-Infinity",
        b"1e400",
        b"-1e400",
        b"1e-400",
        b"5e-324",
        b"1.7976931348623157e308",
        b"01",
        b"1.",
        b".5",
    ),
    *_integers_around_limits(),
    *(
        b"-9223372036854775809",
        b"1" + b"0" * 400,
        b"1" + b"0" * 5_000,
        b"0." + b"3" * 5_000,
        b"1e" + b"9" * 30,
    ),
    # Surrogates without a partner, bytes that are not UTF-8, and characters out of place.
    *(
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\\u0000"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\x"',
        b'"\n"',
        b'"a\\"}]{[:,"',
    ),
    *(
        b'"\xe2\x80\xa8\\r\\n"',
        b'"' + b"x" * 3_000 + b'"',
        b'"' + b"\\u0022:" * 50 + b'"',
        b'"' + b"9" * 400 + b'"',
    ),
    *_nested(b"[", b"", b"]"),
    *_nested(b'{"a":', b"1", b"}"),
    # Keys twice, also by another spelling, and keys of other places.
    *(
        b'{"a":1,"a":2}',
        b'{"":{"":1}}',
        b'{"\\u0061":1,"a":1}',
        b'{"\xff":1}',
        b'{"results":{"AAA":1}}',
        b'{"strike":true}',
    ),
    *_MOMENTS,
)
KEYS: Final = (
    *(
        b'"results"',
        b'"data"',
        b'"meta"',
        b'"AAA"',
        b'"CCC"',
        b'"success"',
        b'"strike"',
        b'"gamma_flip_zones"',
        b'""',
    ),
    *(
        b'"\\u0041AA"',
        b'"a:b"',
        b'"\\":"',
        b'"\xff"',
        b'"\\ud800"',
        b'"' + b"k" * 500 + b'"',
    ),
)
HEADERS: Final = {
    "retry-after": (
        "17",
        "-1",
        "9" * 12,
        "9" * 400,
        "nan",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "soon",
    ),
    "date": (
        "Fri, 15 Jan 2027 08:00:00 GMT",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "31 Dec 9999 23:59 -2359",
        "\0",
    ),
    "x-ratelimit-limit": ("60", "0", "-1", "9" * 12, "1e9", "\u00b2"),
    "x-ratelimit-remaining": ("60", "0", "-1", "9" * 12, "9" * 13),
    "x-ratelimit-reset": ("1800000020", "0", "9" * 12, "nan"),
    "x-request-id": ("abc", "x" * 9_000, "a\r\nb: c", "\udcff", "\0", "\u2028"),
    "content-encoding": ("gzip", "br"),
}
TOKENS: Final = (
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b'"',
    b"\\",
    b" ",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"null",
    b"1e5",
)


def spoilt(code: bytes) -> bytes:
    """Return the body that a program makes."""
    program = Program(code)
    template = program.one_of(TEMPLATES)
    changes = program.below(4)
    body = _changed(template, program, changes)

    # Half of the bodies are not cut, so that the decoder gets further.
    cuts = program.one_of((0, 0, 0, 1, 2, 3))
    for _ in range(cuts):
        body = _cut(body, program)
    return body


def spoilt_entry(code: bytes) -> bytes:
    """Return the entry that a program makes; its brackets and quotes are balanced."""
    program = Program(code)
    return _changed(ENTRY, program, 1 + program.below(3))


def headers(code: bytes) -> dict[str, str]:
    """Return the headers that a program makes."""
    program = Program(code)
    found = {}
    while not program.ended:
        name = program.one_of(list(HEADERS))
        found[name] = program.one_of(HEADERS[name])
    return found


def packed(body: bytes, code: bytes) -> bytes:
    """Compress a body, then mutate the compressed bytes."""
    program = Program(code)
    found = gzip.compress(body, 1, mtime=0)
    while not program.ended:
        found = _cut(found, program)
    return found


def _changed(tree: Any, program: Program, count: int) -> bytes:
    """Return a tree as JSON, with `count` changes."""
    changes: Changes = {}
    nodes = _count(tree)
    for _ in range(count):
        node = program.below(nodes)
        kind = program.below(256)
        changes.setdefault(node, []).append(kind)
    return _written(tree, changes, program, [0])


def _count(node: Any) -> int:
    """Count the nodes of a tree, the root among them."""
    children: Any = ()
    if isinstance(node, dict):
        children = node.values()
    elif isinstance(node, list):
        children = node
    return 1 + sum(map(_count, children))


def _written(node: Any, changes: Changes, program: Program, at: list[int]) -> bytes:
    """Return a node as JSON, with the changes of this node and of those below it.

    `at` holds the number of the next node.
    """
    mine = changes.get(at[0], ())
    at[0] += 1
    if isinstance(node, dict):
        pairs = []
        for key, value in node.items():
            text = _written(value, changes, program, at)
            pairs.append((json.dumps(key).encode(), text))
        for kind in mine:
            _shuffle(pairs, kind % 4, program)
        text = b"{%b}" % b",".join(b"%b:%b" % pair for pair in pairs)
    elif isinstance(node, list):
        items = [_written(item, changes, program, at) for item in node]
        if any(kind % 4 == 0 for kind in mine):
            items *= 300
        text = b"[%b]" % b",".join(items)
    else:
        text = json.dumps(node).encode()
    for kind in mine:
        if _replaces(kind, node):
            text = _replaced(text, kind, program)
    return text


def _replaces(kind: int, node: Any) -> bool:
    """Return whether a change replaces the whole node, not something inside it."""
    if isinstance(node, list):
        return kind % 4 != 0
    if isinstance(node, dict):
        return kind % 8 > 5
    return True


def _replaced(text: bytes, kind: int, program: Program) -> bytes:
    """Replace a value by another, or by a longer, nested or padded form of itself."""
    # Drawn in every case: saved programs count on it.
    other: bytes = program.one_of(VALUES)
    longer = b'"%b"' % (text.replace(b'"', b"") * 500)
    nested = b"[%b]" % text
    padded = b" %b\n" % text
    return (other, longer, nested, padded)[kind // 64]


def _shuffle(pairs: Pairs, kind: int, program: Program) -> None:
    """Remove, double or rename one field of an object, or give it another value."""
    if not pairs:
        return
    which = program.below(len(pairs))
    key, value = pairs[which]
    if kind == 0:
        del pairs[which]
    elif kind == 1:
        # The same key twice, with the same value or with another one.
        position = program.below(len(pairs))
        second = program.one_of((value, *VALUES))
        pairs.insert(position, (key, second))
    elif kind == 2:
        pairs[which] = (program.one_of(KEYS), value)
    else:
        # A blank before the colon is allowed.
        pairs[which] = (key + b" ", program.one_of(VALUES))


def _cut(body: bytes, program: Program) -> bytes:
    """Insert, delete or double a piece of the text, change one byte, or truncate."""
    # All three are drawn in every case: saved programs count on it.
    start = program.below(len(body) + 1)
    kind = program.below(5)
    end = start + program.below(40)
    if kind == 0:
        token: bytes = program.one_of(TOKENS)
        return body[:start] + token + body[start:]
    if kind == 1:
        return body[:start] + body[end:]
    if kind == 2:
        return body[:end] + body[start:]
    if kind == 3:
        other = bytes([program.below(256)])
        return body[:start] + other + body[start + 1 :]
    return body[:start]
