"""What one value of the configuration must be, beyond its type and bounds. Pure: a value in, a clean value out.

A check raises `Bad` with one line for each thing that is wrong. No line holds the value of a hidden option.
"""

from __future__ import annotations

import difflib
import math
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from connector.core.diff import NUMBERS, SECTIONS, Threshold
from connector.hidden import ClientSettings, Secret, Setting, quote, shape

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

EXCHANGES: Final = ("deribit", "bybit", "okx", "binance")
INCLUDES: Final = ("expected_move", "max_pain", "ranked", "zones")

_NUMBER_SECTIONS: Final = tuple(dict.fromkeys(path.partition(".")[0] for path in NUMBERS if "." in path))
THRESHOLD_PATHS: Final = (*_NUMBER_SECTIONS, *NUMBERS)
"""What a threshold can be given for: one number, or all the numbers of a section."""

IGNORE_PATHS: Final = (*THRESHOLD_PATHS, "ranked", *SECTIONS)
"""What can be ignored: one number, one list, or a section."""

MAX_TOPIC_CHARACTERS: Final = 249
MAX_PORT: Final = 65_535

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_SYMBOL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UNUSABLE: Final = re.compile(r"[\x00\ud800-\udfff]")

_OURS: Final = "exactly-once depends on it"
_MEMBERSHIP: Final = "shards are assigned by it"
REFUSED: Final = {
    "acks": _OURS,
    "request.required.acks": _OURS,
    "allow.auto.create.topics": "a topic made by accident has the wrong settings",
    "auto.offset.reset": "a restore reads its shard from the beginning",
    "bootstrap.servers": "set kafka.bootstrap_servers",
    "metadata.broker.list": "set kafka.bootstrap_servers",
    "default.topic.config": "set its options themselves",
    "enable.auto.commit": "offsets are not what we restore from",
    "enable.auto.offset.store": "offsets are not what we restore from",
    "enable.gapless.guarantee": _OURS,
    "enable.idempotence": _OURS,
    "enable.partition.eof": "a restore ends by it",
    "group.id": "set kafka.group_id",
    "group.instance.id": _MEMBERSHIP,
    "group.protocol": _MEMBERSHIP,
    "group.remote.assignor": _MEMBERSHIP,
    "isolation.level": "a restore must not see what was aborted",
    "logger": "it takes a function",
    "on_commit": "it takes a function",
    "on_delivery": "it takes a function",
    "partition.assignment.strategy": _MEMBERSHIP,
    "partitioner": "it decides which shard a symbol is in",
    "test.mock.num.brokers": "events would go to a broker made of nothing",
    "transactional.id": "it is made from the shard, and fences it",
}
"""Options of librdkafka that cannot be set, and why. Nor can those that take a function, `*_cb`."""

_REGISTRY_NUMBERS: Final = frozenset(
    {"cache.capacity", "cache.latest.ttl.sec", "max.retries", "retries.max.wait.ms", "retries.wait.ms", "timeout"}
)


class Bad(ValueError):
    """What is wrong with a value, one line each."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__(*problems)


def closest(name: str, known: Collection[str]) -> str:
    """The known name most like `name`."""
    return next(iter(difflib.get_close_matches(name[:100], known, n=1, cutoff=0.0)), "")


def api_key(text: str) -> Secret:
    """A key that can stand in a header. What is wrong with one is said without showing it."""
    key = Secret(text)
    length = len(key.reveal())
    if not length:
        raise Bad("expected the API key, it is empty")
    if not _VISIBLE.fullmatch(key.reveal()):
        raise Bad(f"expected no blanks, control or non-ASCII characters inside the key ({length} characters)")
    return key


def base_url(text: str) -> str:
    """Where the API is; https, or http on this machine. Without a slash at the end."""
    parts = _http_url(text)
    if "@" in parts.netloc:
        raise Bad("expected no user:password@ in the URL")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise Bad("expected https: http to another machine shows the key to everybody between")
    return text.rstrip("/")


def registry_url(text: str) -> str:
    """One URL of the registry or several, separated by commas; only the first may have `user:password@`."""
    urls = [one.strip() for one in text.split(",")]
    for index, url in enumerate(urls):
        if "@" in _http_url(url).netloc and index:
            raise Bad("expected user:password@ in the first URL only")
    return ",".join(urls)


def endpoint(text: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[address]:port`; port 0 is any that is free."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    valid = colon and _HOST.fullmatch(bare) and (":" not in bare or bare != host)
    if not valid or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > MAX_PORT:
        raise Bad(f"expected host:port, port 0 to {MAX_PORT}")
    return bare, int(port)


def listen(text: str) -> str:
    """An `endpoint`, as it was given."""
    endpoint(text)
    return text


def replication_factor(given: int) -> int:
    """A number of replicas, or -1."""
    if given == 0:
        raise Bad("expected -1 (the broker's default) or more than 0")
    return given


def symbols(given: Iterable[str]) -> tuple[str, ...]:
    """At least one symbol, stripped and upper-cased, none twice."""
    stripped = [symbol.strip() for symbol in given]
    problems = [
        f"expected symbols of A-Z, 0-9, '.', '_', '-', at most 64 characters, not {quote(symbol)}"
        for symbol in stripped
        if not _SYMBOL.fullmatch(symbol)
    ]
    if not stripped:
        problems.append("expected at least one symbol")
    return _unique([symbol.upper() for symbol in stripped], problems)


def ignored(given: Iterable[str]) -> tuple[str, ...]:
    """Paths and sections that do not count."""
    paths = tuple(dict.fromkeys(path.strip() for path in given))
    problems = [_unknown_path(path, IGNORE_PATHS) for path in paths if path not in IGNORE_PATHS]
    if problems:
        raise Bad(*problems)
    return paths


def thresholds(given: Mapping[str, Any]) -> dict[str, Threshold]:
    """Thresholds by path or section; `a.b = {…}` and `"a.b" = {…}` are the same."""
    problems: list[str] = []
    clean: dict[str, Threshold] = {}
    for path, raw in _flat(given, lambda value: any(isinstance(inner, dict) for inner in value.values())):
        if path not in THRESHOLD_PATHS:
            problems.append(_unknown_path(path, THRESHOLD_PATHS))
            continue
        try:
            clean[path] = msgspec.convert(raw, Threshold)
        except msgspec.ValidationError:
            problems.append(f"expected absolute, relative or both at {path}, numbers, not {shape(raw)}")
            continue
        limits = [limit for limit in (clean[path].absolute, clean[path].relative) if limit is not None]
        if not limits or not all(math.isfinite(limit) and limit >= 0 for limit in limits):
            problems.append(f"expected absolute, relative or both at {path}, finite and not below 0")
    if problems:
        raise Bad(*problems)
    return clean


def client(given: Mapping[str, Any]) -> ClientSettings:
    """Options of a client library; `a.b = 1` and `"a.b" = 1` are the same."""
    flat = _flat(given, bool)
    names = [name for name, _ in flat]
    problems = [f"{quote(name)} is given twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    problems += [
        f"expected str, int, finite float or bool for {quote(name)}, not {shape(value, hide=True)}"
        for name, value in flat
        if not _is_setting(value)
    ]
    if problems:
        raise Bad(*problems)
    return ClientSettings(dict(flat))


def kafka_client(given: Mapping[str, Any]) -> ClientSettings:
    """Options of librdkafka, less those that are ours."""
    settings = client(given)
    reasons = {name: REFUSED.get(name.strip().lower()) for name in settings}
    reasons |= {name: "it takes a function" for name in settings if name.endswith("_cb")}
    problems = [f"{quote(name)} is refused: {reason}" for name, reason in reasons.items() if reason]
    if problems:
        raise Bad(*problems)
    return settings


def registry_client(given: Mapping[str, Any]) -> ClientSettings:
    """Options of the registry client, less its address; numbers as numbers, which that client insists on."""
    settings = dict(client(given))
    problems = ["'url' is refused: set schema_registry.url"] if "url" in settings else []
    for name in _REGISTRY_NUMBERS & settings.keys():
        try:
            settings[name] = msgspec.convert(settings[name], int | float, strict=False)
        except msgspec.ValidationError:
            problems.append(f"expected a number for {name}")
    if problems:
        raise Bad(*problems)
    return ClientSettings(settings)


def matching(pattern: str, expected: str) -> Callable[[str], str]:
    """A check for a text that matches from end to end; `expected` says it in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise Bad(f"expected {expected}")
        return text

    return check


def among(known: tuple[str, ...]) -> Callable[[Iterable[str]], tuple[str, ...]]:
    """A check for names that are known, each once; in lower case."""

    def check(given: Iterable[str]) -> tuple[str, ...]:
        names = [name.strip().lower() for name in given]
        problems = [f"expected some of {', '.join(known)}, not {quote(name)}" for name in names if name not in known]
        return _unique(names, problems)

    return check


def _is_setting(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, Setting) and not (isinstance(value, str) and _UNUSABLE.search(value))


def _http_url(text: str) -> SplitResult:
    if not _VISIBLE.fullmatch(text) or any(char in text for char in "?#\\"):
        raise Bad("expected a URL without blanks, control characters, '?', '#' and '\\'")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and _HOST.fullmatch(parts.hostname or "") and parts.port != 0
    except ValueError:
        usable = None
    if not usable:
        raise Bad("expected http://host or https://host, with a port from 1 to 65535 or none")
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _unique(names: list[str], problems: list[str]) -> tuple[str, ...]:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    problems = [*problems, *(f"expected each once, {quote(name)} stands there twice" for name in twice)]
    if problems:
        raise Bad(*problems)
    return tuple(names)


def _unknown_path(path: str, known: tuple[str, ...]) -> str:
    return f"unknown path {quote(path)}, closest {closest(path, known)}; known: {', '.join(known)}"


def _flat(table: Mapping[str, Any], is_table: Callable[[dict[str, Any]], bool]) -> list[tuple[str, Any]]:
    """Nested tables as dotted names: what TOML makes of an unquoted dotted key is what was meant by it."""
    flat: list[tuple[str, Any]] = []
    waiting = list(table.items())
    while waiting:
        name, value = waiting.pop(0)
        if isinstance(value, dict) and is_table(value) and len(name) < MAX_TOPIC_CHARACTERS:
            waiting += [(f"{name}.{inner}", below) for inner, below in value.items()]
        else:
            flat.append((name, value))
    return flat
