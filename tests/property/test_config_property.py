"""Loading any configuration returns one or raises ConfigError, and never shows a secret."""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from connector.config.load import load
from connector.config.model import TABLES
from connector.config.option import declared_options
from connector.errors import ConfigError
from connector.logs import MAX_MESSAGE_CHARACTERS

# The value of every option that is a secret, or can hold one.
SECRET = "s3cr3t-of-the-test"

OPTIONS = {name: declared_options(name, struct) for name, struct in TABLES.items()}
VARIABLES = [
    option.variable or f"GEX_{option.key.replace('.', '__', 1)}".upper()
    for options in OPTIONS.values()
    for option in options.values()
]

texts = st.text(
    st.characters(exclude_categories=["Cs"]), max_size=60
) | st.sampled_from(
    [
        "",
        "A,B",
        "1",
        "-1",
        "nan",
        "1e999",
        "null",
        "true",
        "[]",
        "{}",
        '{"a":1}',
        "http://[",
        "x:1",
        "é",
        "\0",
        "9" * 400,
    ]
)
scalars = (
    texts
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(dt.UTC))
    | st.times()
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=6,
)


def tables(keys: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(keys) | texts, values, max_size=4)


documents = st.fixed_dictionaries(
    {},
    optional={
        **{name: tables(list(options)) | values for name, options in OPTIONS.items()},
        "feeds": st.lists(tables(list(OPTIONS["feeds"])), max_size=3) | values,
        "other": values,
    },
)
surrogates = st.text(max_size=20)
environments = st.dictionaries(
    st.sampled_from(VARIABLES)
    | texts.map(lambda text: f"GEX_{text}")
    | texts.map(lambda text: f"GEX_KAFKA__CLIENT__{text}"),
    texts | surrogates,
    max_size=5,
)


def load_and_show(document: dict[str, Any] | bytes, environ: dict[str, str]) -> str:
    """Return everything that a user sees of a configuration: the faults, or its repr."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_bytes(document if isinstance(document, bytes) else to_toml(document))
        try:
            config = load(path, environ)
        except ConfigError as error:
            faults = error.faults
        else:
            return f"{config} {config.kafka.client}"

    assert faults
    for fault in faults:
        assert fault.isprintable()
        assert len(fault) < MAX_MESSAGE_CHARACTERS
    return f"{ConfigError(faults)} {ConfigError(faults)!r}"


def to_toml(document: dict[str, Any]) -> bytes:
    """Encode plain values as TOML 1.0, with inline tables and every key quoted."""
    lines = [f"{quoted(key)} = {inline(value)}" for key, value in document.items()]
    return "\n".join(lines).encode()


def inline(value: Any) -> str:
    if isinstance(value, dict):
        pairs = [f"{quoted(key)} = {inline(inner)}" for key, inner in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, str):
        return quoted(value)
    return repr(value)


def quoted(text: str) -> str:
    """Return a TOML string in which everything but letters and digits is escaped."""
    escaped = [char if char.isalnum() else f"\\U{ord(char):08x}" for char in text]
    return f'"{"".join(escaped)}"'


@given(documents, environments)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_table_and_environment_load_or_raise_config_error(
    document: dict[str, Any], environ: dict[str, str]
) -> None:
    load_and_show(document, environ)


@given(st.binary(max_size=200), environments)
@example(b"a.b.c = 1\na.b = 2", {})
@example(b".".join([b"a"] * 5_000) + b" = 1", {})
@example(b"[kafka.client]\n" + b".".join([b"a"] * 5_000) + b" = 1", {})
@example(b"[[feeds]]\nthresholds." + b".".join([b"a"] * 5_000) + b" = {}", {})
@settings(deadline=None)
def test_any_file_loads_or_raises_config_error(
    content: bytes, environ: dict[str, str]
) -> None:
    load_and_show(content, environ)


@given(
    documents, environments, st.sampled_from(["", " ", "\n", "\0", "é"]), st.booleans()
)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_secret_is_shown_whatever_else_is_wrong(
    document: dict[str, Any], environ: dict[str, str], spoilt: str, from_file: bool
) -> None:
    key = f"{SECRET[:8]}{spoilt}{SECRET[8:]}"
    client = {"sasl.password": key, "group.id": key, "deep": {"secret": [key]}}
    url = f"https://me:{SECRET}@example.com{spoilt}"
    if from_file:
        document |= {
            "upstream": {"api_key": key, "base_url": url},
            "kafka": {"client": client},
            "schema_registry": {"url": url, "client": {"basic.auth.user.info": [key]}},
        }
    else:
        environ |= {
            "GEX_UPSTREAM__API_KEY": key,
            "GEX_UPSTREAM__BASE_URL": url,
            "GEX_KAFKA__CLIENT": f"{client}",
            "GEX_KAFKA__CLIENT__SASL_PASSWORD": key,
            "GEX_SCHEMA_REGISTRY__URL": url,
            "GEX_SCHEMA_REGISTRY__CLIENT__TIMEOUT": key,
            "GEX_HTTP__LISTEN": key,
        }

    shown = load_and_show(document, environ)

    assert SECRET[:8] not in shown
    assert SECRET[8:] not in shown


@given(texts.filter(lambda text: "\0" not in text))
def test_a_valid_configuration_shows_no_secret(text: str) -> None:
    client = {"sasl.password": f"{SECRET}{text}"}
    environ = {
        "GEX_UPSTREAM__API_KEY": SECRET,
        "GEX_SYMBOLS": "BTCUSDT",
        "GEX_KAFKA__CLIENT": msgspec.json.encode(client).decode(),
    }
    config = load(None, environ)

    assert SECRET not in f"{config} {config!r} {config.upstream} {config.kafka}"
    assert SECRET in config.secrets()
