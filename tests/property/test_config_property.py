"""Loading any configuration returns one or raises ConfigError, and never shows a secret."""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from connector.config.load import load
from connector.config.model import TABLES
from connector.config.option import declared_options
from connector.errors import ConfigError
from connector.logs import MAX_MESSAGE_CHARACTERS
from tests.support.profiles import cases

# The value of every option that is a secret, or can hold one.
SECRET = "s3cr3t-of-the-test"


def keys_of_sections() -> dict[str, list[str]]:
    keys = {}
    for name, struct in TABLES.items():
        keys[name] = list(declared_options(name, struct))
    return keys


def variables_of_options() -> list[str]:
    """Return the environment variable of every option."""
    found = []
    for name, struct in TABLES.items():
        for option in declared_options(name, struct).values():
            by_rule = f"GEX_{option.key.replace('.', '__', 1)}".upper()
            found.append(option.variable or by_rule)
    return found


KEYS = keys_of_sections()
VARIABLES = variables_of_options()

# A file is valid UTF-8, so it holds no surrogates (category Cs).
any_characters = st.characters(exclude_categories=["Cs"])
any_texts = st.text(any_characters, max_size=60)
# Texts that some option, parser or library may take for something else.
suspicious_texts = st.sampled_from(
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
texts = any_texts | suspicious_texts
utc_or_local = st.none() | st.just(dt.UTC)
# All types that TOML has.
scalars = (
    texts
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.dates()
    | st.datetimes(timezones=utc_or_local)
    | st.times()
)

Values = st.SearchStrategy[Any]


def containers(inner: Values) -> Values:
    lists = st.lists(inner, max_size=3)
    dictionaries = st.dictionaries(texts, inner, max_size=3)
    return lists | dictionaries


values: Values = st.recursive(scalars, containers, max_leaves=6)


def tables(keys: list[str]) -> Values:
    """Draw a table with some of these keys and some unknown ones."""
    known_or_unknown = st.sampled_from(keys) | texts
    return st.dictionaries(known_or_unknown, values, max_size=4)


def sections() -> dict[str, Values]:
    """Return a strategy for each section: a table, or a value of the wrong type."""
    found = {}
    for name, keys in KEYS.items():
        found[name] = tables(keys) | values
    # Feeds are a list of tables.
    feeds = st.lists(tables(KEYS["feeds"]), max_size=3)
    found["feeds"] = feeds | values
    # A section that does not exist.
    found["other"] = values
    return found


def option_variable(text: str) -> str:
    return f"GEX_{text}"


def client_variable(text: str) -> str:
    return f"GEX_KAFKA__CLIENT__{text}"


documents = st.fixed_dictionaries({}, optional=sections())

# Known variables, unknown ones, and settings of librdkafka, which the loader cannot know.
variables = (
    st.sampled_from(VARIABLES) | texts.map(option_variable) | texts.map(client_variable)
)
# The system may put any bytes into the environment; Python reads them as surrogates.
surrogates = st.text(max_size=20)
environments = st.dictionaries(variables, texts | surrogates, max_size=5)

Document = dict[str, Any]
Environ = dict[str, str]


def load_and_show(content: bytes, environ: Environ) -> str:
    """Return everything that a user sees of a configuration: the faults, or its repr."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_bytes(content)
        try:
            config = load(path, environ)
        except ConfigError as error:
            faults = error.faults
        else:
            return f"{config} {config.kafka.client}"

    # Each fault becomes one line of the log.
    assert faults
    for fault in faults:
        assert fault.isprintable()
        assert len(fault) < MAX_MESSAGE_CHARACTERS
    return f"{ConfigError(faults)} {ConfigError(faults)!r}"


def to_toml(document: Document) -> bytes:
    """Encode plain values as TOML 1.0, with inline tables and every key quoted."""
    return "\n".join(assignments(document)).encode()


def assignments(table: Document) -> list[str]:
    """Return a line, or a part of an inline table, for each key."""
    found = []
    for key, value in table.items():
        found.append(f"{quoted(key)} = {inline(value)}")
    return found


def inline(value: Any) -> str:
    """Return a value in TOML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(assignments(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    # A bool is an int to Python, but written differently.
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, str):
        return quoted(value)
    return repr(value)


def quoted(text: str) -> str:
    """Return a TOML string in which everything but letters and digits is escaped."""
    escaped = ""
    for char in text:
        if char.isalnum():
            escaped += char
        else:
            escaped += f"\\U{ord(char):08x}"
    return f'"{escaped}"'


@given(documents, environments)
# An empty table, which counts as not set, in place of the file of a secret.
@example({"upstream": {"api_key_file": {}}}, {})
@cases(100)
def test_any_table_and_environment_load_or_raise_config_error(
    document: Document, environ: Environ
) -> None:
    load_and_show(to_toml(document), environ)


# Deep enough for a RecursionError in a parser, or in our own walk through the tables.
DEEP_KEY = b".".join([b"a"] * 5_000)


@given(st.binary(max_size=200), environments)
# A value that is then used as a table.
@example(b"a.b.c = 1\na.b = 2", {})
@example(DEEP_KEY + b" = 1", {})
@example(b"[kafka.client]\n" + DEEP_KEY + b" = 1", {})
@example(b"[[feeds]]\nthresholds." + DEEP_KEY + b" = {}", {})
@cases(100)
def test_any_file_loads_or_raises_config_error(
    content: bytes, environ: Environ
) -> None:
    load_and_show(content, environ)


# Characters that make a key invalid in some way; the empty text leaves it valid.
spoilers = st.sampled_from(["", " ", "\n", "\0", "é"])


@given(documents, environments, spoilers, st.booleans())
@cases(100)
def test_no_secret_is_shown_whatever_else_is_wrong(
    document: Document, environ: Environ, spoilt: str, from_file: bool
) -> None:
    # Put the secret wherever a user may have it, also where no secret is expected.
    key = f"{SECRET[:8]}{spoilt}{SECRET[8:]}"
    client = {
        "sasl.password": key,
        "group.id": key,
        "deep": {"secret": [key]},
    }
    url = f"https://me:{SECRET}@example.com{spoilt}"
    if from_file:
        document |= {
            "upstream": {"api_key": key, "base_url": url},
            "kafka": {"client": client},
            "schema_registry": {
                "url": url,
                "client": {"basic.auth.user.info": [key]},
            },
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

    shown = load_and_show(to_toml(document), environ)

    # Half of a key is a leak too.
    assert SECRET[:8] not in shown
    assert SECRET[8:] not in shown


def has_no_null(text: str) -> bool:
    # The system's environment cannot hold a null character.
    return "\0" not in text


@given(texts.filter(has_no_null))
@cases(100)
def test_a_valid_configuration_shows_no_secret(text: str) -> None:
    client = {"sasl.password": f"{SECRET}{text}"}
    environ = {
        "GEX_UPSTREAM__API_KEY": SECRET,
        "GEX_SYMBOLS": "BTCUSDT",
        "GEX_KAFKA__CLIENT": msgspec.json.encode(client).decode(),
    }

    config = load(None, environ)

    shown = f"{config} {config!r} {config.upstream} {config.kafka}"
    assert SECRET not in shown
    # The log hides these, even in the messages of libraries.
    assert SECRET in config.secrets()
