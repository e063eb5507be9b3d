"""Whatever is given, `load` returns a configuration or raises ConfigError, and shows no secret."""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from connector.config.load import load
from connector.config.model import SECTIONS, Feed
from connector.config.options import SHORT, variable
from connector.errors import ConfigError
from connector.logs import MAX_MESSAGE_CHARACTERS

SECRET = "s3cr3t-of-the-test"
"""RawOption to every option that is a secret, or can hold one."""

FIELDS = {
    name: [field.name for field in msgspec.structs.fields(struct)]
    for name, struct in SECTIONS.items()
}
FEED_KEYS = [field.name for field in msgspec.structs.fields(Feed)]
VARIABLES = [
    variable(f"{section}.{key}") for section, keys in FIELDS.items() for key in keys
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
        **{name: tables(keys) | values for name, keys in FIELDS.items()},
        "feeds": st.lists(tables(FEED_KEYS), max_size=3) | values,
        "other": values,
    },
)
surrogates = st.text(max_size=20)
environments = st.dictionaries(
    st.sampled_from([*VARIABLES, *SHORT.values()])
    | texts.map(lambda text: f"GEX_{text}")
    | texts.map(lambda text: f"GEX_KAFKA__CLIENT__{text}"),
    texts | surrogates,
    max_size=5,
)


def loaded(document: dict[str, Any] | bytes, environ: dict[str, str]) -> str:
    """All that can be seen of what `load` makes of it: the faults or the configuration."""
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
    assert all(fault.isprintable() for fault in faults)
    assert all(len(fault) < MAX_MESSAGE_CHARACTERS for fault in faults)
    return f"{ConfigError(faults)} {ConfigError(faults)!r}"


def to_toml(document: dict[str, Any]) -> bytes:
    """TOML 1.0 of plain values: inline tables, every key quoted."""
    return "\n".join(
        f"{quoted(key)} = {inline(value)}" for key, value in document.items()
    ).encode()


def inline(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(
                f"{quoted(key)} = {inline(inner)}" for key, inner in value.items()
            )
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return quoted(value) if isinstance(value, str) else repr(value)


def quoted(text: str) -> str:
    """A TOML string with everything escaped that may have to be."""
    escaped = (char if char.isalnum() else f"\\U{ord(char):08x}" for char in text)
    return f'"{"".join(escaped)}"'


@given(documents, environments)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_nothing_but_a_config_error_comes_of_any_table_and_environment(
    document: dict[str, Any], environ: dict[str, str]
) -> None:
    loaded(document, environ)


@given(st.binary(max_size=200), environments)
@example(b"a.b.c = 1\na.b = 2", {})
@example(b".".join([b"a"] * 5_000) + b" = 1", {})
@example(b"[kafka.client]\n" + b".".join([b"a"] * 5_000) + b" = 1", {})
@example(b"[[feeds]]\nthresholds." + b".".join([b"a"] * 5_000) + b" = {}", {})
@settings(deadline=None)
def test_nothing_but_a_config_error_comes_of_any_file(
    content: bytes, environ: dict[str, str]
) -> None:
    loaded(content, environ)


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

    seen = loaded(document, environ)

    assert SECRET[:8] not in seen
    assert SECRET[8:] not in seen


@given(texts.filter(lambda text: "\0" not in text))
def test_a_configuration_with_secrets_shows_none(text: str) -> None:
    environ = {
        "GEX_UPSTREAM__API_KEY": SECRET,
        "GEX_SYMBOLS": "BTCUSDT",
        "GEX_KAFKA__CLIENT": msgspec.json.encode(
            {"sasl.password": f"{SECRET}{text}"}
        ).decode(),
    }
    config = load(None, environ)

    assert SECRET not in f"{config} {config!r} {config.upstream} {config.kafka}"
    assert SECRET in config.secrets()
