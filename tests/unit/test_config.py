"""Loading the configuration, and the faults that a bad one is rejected with."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from connector.config.load import load as load_config
from connector.config.load import load_feeds, load_kafka, read_key_file
from connector.config.model import Config, Feed, Kafka, SchemaRegistry
from connector.config.secrets import ClientSettings, Secret, redact
from connector.core.diff import Threshold
from connector.core.venues import unknown_venues
from connector.errors import EXIT_CONFIG, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    WriteToml = Callable[[str], Path]

# It has the form of the vendor's keys, so it is masked wherever it appears.
KEY = "bq_live_0123456789abcdef0123456789abcdef"
TOKEN = "0123456789abcdef"
# The two options without a default.
MINIMAL = {"GEX_UPSTREAM__API_KEY": KEY, "GEX_SYMBOLS": "BTCUSDT"}
FEED = '[[feeds]]\nname = "majors"\nsymbols = ["BTCUSDT"]\n'


@pytest.fixture
def write_toml(tmp_path: Path) -> WriteToml:
    """Return a function that writes the configuration file and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def load(path: Path | None = None, **variables: str) -> Config:
    """Load a file and an environment that has a key and symbols."""
    return load_config(path, {**MINIMAL, **variables})


def faults(path: Path | None = None, **variables: str) -> list[str]:
    """Return the faults of a file and an environment that has a key and symbols."""
    with pytest.raises(ConfigError) as raised:
        load(path, **variables)
    return raised.value.faults


def only_fault(path: Path | None = None, **variables: str) -> str:
    """Return the only fault of a file and an environment that has a key and symbols."""
    (fault,) = faults(path, **variables)
    return fault


# --- both sources ---


def test_a_key_and_symbols_are_enough() -> None:
    config = load()

    assert config.upstream.api_key.reveal() == KEY
    feed = Feed(name="all", symbols=("BTCUSDT",))
    assert config.feeds == (feed,)
    # By default no other machine can connect.
    assert config.http.addresses == (("127.0.0.1", 9464),)


def test_a_missing_key_and_missing_symbols_are_reported_together() -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(None, {})

    assert raised.value.exit_code == EXIT_CONFIG
    assert raised.value.faults == [
        (
            "upstream.api_key: not set; expected str;"
            " set it in the file of --config or by GEX_UPSTREAM__API_KEY,"
            " or set upstream.api_key_file"
        ),
        (
            "feeds.symbols: not set; expected list of str with at least 1 item;"
            " set it in the file of --config or by GEX_SYMBOLS"
        ),
    ]


def test_the_environment_overrides_the_file_and_the_file_the_defaults(
    write_toml: WriteToml,
) -> None:
    path = write_toml('[kafka]\ntopic_prefix = "file"\ngroup_id = "file"\n')

    config = load(path, GEX_KAFKA__TOPIC_PREFIX="environment")

    assert config.kafka.topic_prefix == "environment"
    assert config.kafka.group_id == "file"
    assert config.kafka.shards == 1


def test_an_unknown_key_is_a_fault_even_if_its_table_is_overridden(
    write_toml: WriteToml,
) -> None:
    path = write_toml(f"{FEED}includes = ['zones']\n")

    # The variable replaces the file's feeds. The misspelt key would show up much later.
    fault = only_fault(path, GEX_SYMBOLS="BTCUSDT")

    assert "'feeds[0].includes'" in fault


@pytest.mark.parametrize(
    ("fault", "variables"),
    [
        (
            "upstream.base_url: str of length 17; expected https",
            {"GEX_UPSTREAM__BASE_URL": "http://levels.xyz"},
        ),
        (
            "http.listen: str of length 12 '0.0.0.0:9464'; expected a loopback address",
            {"GEX_HTTP__LISTEN": "0.0.0.0:9464"},
        ),
        (
            "schedule.min_interval_seconds: str of length 2 '90'; expected at most",
            {"GEX_SCHEDULE__MIN_INTERVAL_SECONDS": "90"},
        ),
    ],
)
def test_a_fault_of_several_options_is_reported_beside_any_other_of_the_table(
    fault: str, variables: dict[str, str]
) -> None:
    others = {
        "GEX_UPSTREAM__API_KEY": "two words-of-it",
        "GEX_UPSTREAM__TIMEOUT_SECONDS": "soon",
        "GEX_HTTP__LEVEL_SYMBOLS": "many",
        "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "-1",
    }

    found = faults(None, **variables, **others)

    # One fault for each of the others, and this one.
    assert len(found) == len(others) + 1
    assert any(text.startswith(fault) for text in found), found


def test_a_token_with_a_fault_is_not_reported_as_missing(write_toml: WriteToml) -> None:
    path = write_toml('[http]\ntoken_file = "/does/not/exist"\n')

    fault = only_fault(path, GEX_HTTP__LISTEN="0.0.0.0:9464")

    assert fault.startswith("http.token_file: ")


def test_feeds_with_one_name_are_reported_beside_their_other_faults(
    write_toml: WriteToml,
) -> None:
    path = write_toml(f'{FEED}include = ["x"]\n{FEED}')

    found = faults(path, GEX_SYMBOLS="")

    assert len(found) == 2
    assert found[0].startswith("feeds[0].include: ")
    assert found[1].startswith("feeds[1].name: ")


def test_the_faults_of_the_environment_are_reported_beside_an_unreadable_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "none.toml"

    with pytest.raises(ConfigError) as raised:
        load_config(path, {"GEX_KAFKA__SHARDS": "many", "GEX_HTTP__LISTEN": "[::]:1"})

    # Neither the key and the symbols nor the token are missing: the file may have them.
    found = raised.value.faults
    assert len(found) == 2
    assert found[0] == f"'{path}': cannot be read: No such file or directory"
    assert found[1].startswith("kafka.shards: ")


@pytest.mark.parametrize("load_part", [load_kafka, load_feeds])
def test_every_part_of_the_configuration_needs_the_file(
    load_part: Callable[[Path, dict[str, str]], object], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_part(tmp_path / "none.toml", {})


def test_an_empty_variable_counts_as_not_set(write_toml: WriteToml) -> None:
    path = write_toml(f'[upstream]\napi_key = "{KEY}"\n{FEED}')
    # Compose files and Helm charts set a variable to the empty text if it has no value.
    empty = (
        "GEX_UPSTREAM__API_KEY",
        "GEX_SYMBOLS",
        "GEX_KAFKA__CLIENT",
        "GEX_KAFKA__CLIENT__SASL_PASSWORD",
        "GEX_X",
    )

    config = load_config(path, dict.fromkeys(empty, ""))

    assert config.kafka.client == {}
    assert config.upstream.api_key.reveal() == KEY
    assert config.feeds[0].name == "majors"


def test_all_faults_are_reported_at_once_with_their_origins(
    write_toml: WriteToml,
) -> None:
    path = write_toml(
        "[upstream]\ntimeout_seconds = -1\n"
        '[kafka]\nshards = "two"\n'
        f'{FEED}include = ["x"]\n'
    )

    found = faults(path, GEX_SYMBOLS="", GEX_HTTP__LISTEN="x")

    # In the order of the tables, whatever the source.
    known = "expected_move, max_pain, ranked, zones"
    assert found == [
        f"upstream.timeout_seconds: int -1; expected float > 0, <= 600; from {path}",
        f"kafka.shards: str of length 3 'two'; expected int > 0, <= 1000; from {path}",
        (
            "http.listen: str of length 1 'x'; expected host:port or [address]:port,"
            " several separated by commas, port 0 to 65535;"
            " from environment GEX_HTTP__LISTEN"
        ),
        (
            "feeds[0].include: list of length 1;"
            f" expected some of {known}, each once, not 'x'; from {path}"
        ),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Numbers that are legal in TOML, but are not a duration or a count.
        ("[upstream]\ntimeout_seconds = nan", "upstream.timeout_seconds: float nan;"),
        ("[upstream]\ntimeout_seconds = inf", "upstream.timeout_seconds: float inf;"),
        ("[upstream]\ntimeout_seconds = true", "upstream.timeout_seconds: bool True;"),
        ("[upstream]\nmax_requests_per_minute = 0", "expected int > 0"),
        ("[upstream]\nmax_requests_per_minute = 1.5", "float 1.5"),
        # A huge number is not shown: it may be a secret.
        (
            f"[kafka]\nretention_days = {'9' * 30}",
            "kafka.retention_days: int; expected",
        ),
        (
            "[kafka]\nreplication_factor = 0",
            "expected -1 (the broker's default) or more than 0",
        ),
        # Texts that Kafka would reject later, with a message that is harder to read.
        (
            '[kafka]\ntopic_prefix = "a/b"',
            (
                "kafka.topic_prefix: str of length 3 'a/b';"
                " expected A-Z, a-z, 0-9, '.', '_', '-'"
            ),
        ),
        ('[kafka]\nbootstrap_servers = "a, b"', "separated by commas, no blanks"),
        # Two options that contradict each other.
        (
            "[schedule]\nmin_interval_seconds = 2\nmax_interval_seconds = 1",
            (
                "min_interval_seconds: int 2;"
                " expected at most max_interval_seconds, 1.0; from"
            ),
        ),
        (
            "[schedule]\nmin_interval_seconds = { a = 1 }",
            "min_interval_seconds: dict of length 1; expected float > 0, <= 3600; from",
        ),
        # A value in place of a table.
        ("kafka = 1", "kafka': int; expected a table"),
        ("feeds = 1", "feeds': int; expected a table"),
        ("feeds = [1]", "feeds': list of length 1; expected a table"),
        # Misspelt names.
        (
            "[kafka]\nshard = 1",
            "'kafka.shard': int; unknown, did you mean kafka.shards?",
        ),
        (
            "[kafak]\nshards = 1",
            "'kafak.shards': int; unknown, did you mean kafka.shards?",
        ),
        # Files that are not TOML, or that exceed a limit of the parser.
        ("a = [", "cannot be read as TOML: Invalid value (at end of document)"),
        ("[kafka]\nshards = = 1", "(at line 2, column"),
        (f"a = {'[' * 100_000}", "cannot be read as TOML: maximum recursion depth"),
        (f"a = {'1' * 5_000}", "cannot be read as TOML: Exceeds the limit"),
    ],
)
def test_a_fault_in_the_file_is_named(
    write_toml: WriteToml, text: str, expected: str
) -> None:
    path = write_toml(text)
    symbols = "BTCUSDT"
    if text.startswith("feeds"):
        # The variable would replace the feeds that the case is about.
        symbols = ""

    first, *_ = faults(path, GEX_SYMBOLS=symbols)

    assert expected in first
    assert str(path) in first


def test_an_unreadable_file_is_a_fault(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"a = '\xff'")

    assert only_fault(tmp_path / "none.toml") == (
        f"'{tmp_path}/none.toml': cannot be read: No such file or directory"
    )
    assert only_fault(tmp_path) == (f"'{tmp_path}': cannot be read: Is a directory")
    assert only_fault(binary) == (
        f"'{binary}': cannot be read as TOML:"
        " 'utf-8' codec can't decode byte 0xff in position 5: invalid start byte"
    )
    assert only_fault(Path("a\0b")) == (
        "'a\\x00b': cannot be read as TOML: embedded null byte"
    )


def test_an_unknown_variable_is_a_fault_that_suggests_the_closest_name() -> None:
    # A single underscore in place of two: the value may be a real key, and is not shown.
    fault = only_fault(GEX_UPSTREAM_API_KEY="hunter2-hunter2")

    assert fault == (
        "'upstream_api_key': str of length 15;"
        " unknown, did you mean GEX_UPSTREAM__API_KEY?;"
        " from environment GEX_UPSTREAM_API_KEY"
    )


def test_variables_that_kubernetes_sets_for_our_service_are_ignored() -> None:
    # They begin with GEX_ if the service is called gex-connector.
    load(
        GEX_CONNECTOR_SERVICE_HOST="10.0.0.1",
        GEX_CONNECTOR_SERVICE_PORT="9464",
        GEX_CONNECTOR_SERVICE_PORT_METRICS="9464",
        GEX_CONNECTOR_PORT="tcp://10.0.0.1:9464",
        GEX_CONNECTOR_PORT_9464_TCP_ADDR="10.0.0.1",
    )

    # A variable of ours that only resembles one of theirs is still a fault.
    fault = only_fault(GEX_HTTP_PORT="8080")
    assert "from environment GEX_HTTP_PORT" in fault


# --- the API key ---


def test_a_key_is_stripped_and_never_shown() -> None:
    config = load(GEX_UPSTREAM__API_KEY=f"  {KEY}\n")

    assert config.upstream.api_key.reveal() == KEY
    # As a logger or an f-string would show it.
    assert KEY not in repr(config)
    assert KEY not in str(config)
    assert KEY not in f"{config.upstream.api_key:>20}"
    assert KEY in config.secrets()


@pytest.mark.parametrize(
    "serialise",
    [msgspec.json.encode, msgspec.to_builtins, pickle.dumps, copy.deepcopy],
)
def test_a_configuration_with_a_key_cannot_be_serialised(
    serialise: Callable[[object], object],
) -> None:
    config = load()

    with pytest.raises(TypeError):
        serialise(config)


@pytest.mark.parametrize(
    "key",
    [
        # Each would break the header that carries the key, or the header after it.
        "two words-of-it",
        "line\nfeed-in-it",
        "nul\0in-the-middle",
        "cléf-non-ascii",
        " ",
    ],
)
def test_a_malformed_key_is_a_fault_that_does_not_show_it(key: str) -> None:
    fault = only_fault(GEX_UPSTREAM__API_KEY=key)

    assert fault.startswith(f"upstream.api_key: str of length {len(key)}; expected")
    assert "\n" not in fault
    value_part, _, _ = fault.partition(";")
    start = key.strip()[:4]
    if start:
        # Not even the start of the key is shown.
        assert start not in value_part


@pytest.mark.parametrize("key", ["k", "letter7"])
def test_a_key_that_is_too_short_is_refused(key: str) -> None:
    # Masking the key "k" would make "wor***er" of "worker".
    fault = only_fault(GEX_UPSTREAM__API_KEY=key)

    expected = "expected 8 to 4096 visible ASCII characters"
    assert fault.startswith(f"upstream.api_key: str of length {len(key)}; {expected}")


def test_a_key_that_is_a_number_is_not_shown(write_toml: WriteToml) -> None:
    path = write_toml("[upstream]\napi_key = 12345678\n")

    fault = only_fault(path, GEX_UPSTREAM__API_KEY="")

    assert "upstream.api_key: int; expected str;" in fault


def test_a_key_in_the_place_of_another_option_is_not_shown() -> None:
    # The vendor's form is recognized, and any text that is the key in this configuration.
    found = faults(
        GEX_UPSTREAM__TIMEOUT_SECONDS=KEY,
        GEX_UPSTREAM__API_KEY="plain-test-key",
        GEX_HTTP__LISTEN="plain-test-key",
    )

    assert len(found) == 2
    assert KEY[8:] not in "".join(found)
    assert "plain-test-key" not in "".join(found)


def test_a_key_can_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    # An editor on Windows adds a byte order mark and a line end.
    file.write_bytes(b"\xef\xbb\xbf" + KEY.encode() + b"\r\n")

    config = load(GEX_UPSTREAM__API_KEY="", GEX_UPSTREAM__API_KEY_FILE=f"{file}\n")

    assert config.upstream.api_key.reveal() == KEY
    assert config.upstream.api_key_file == str(file)


def test_a_key_in_the_environment_overrides_a_key_file_in_the_file(
    write_toml: WriteToml, tmp_path: Path
) -> None:
    path = write_toml(f'[upstream]\napi_key_file = "{tmp_path}/none"\n')

    upstream = load(path).upstream

    # The overridden file is not read: it need not exist.
    assert upstream.api_key.reveal() == KEY
    assert upstream.api_key_file is None


def test_a_key_file_in_the_environment_overrides_a_key_in_the_file(
    write_toml: WriteToml, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    path = write_toml('[upstream]\napi_key = "overridden-key"\n')

    config = load(
        path,
        GEX_UPSTREAM__API_KEY="",
        GEX_UPSTREAM__API_KEY_FILE=str(file),
    )

    assert config.upstream.api_key.reveal() == KEY


def test_a_key_and_a_key_file_in_the_same_place_are_a_fault() -> None:
    # Nobody could say which of them is meant.
    fault = only_fault(GEX_UPSTREAM__API_KEY_FILE="key")

    assert fault == (
        "upstream.api_key: str of length 40;"
        " expected either this or api_key_file;"
        " from environment GEX_UPSTREAM__API_KEY"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "expected 8 to 4096 visible ASCII characters"),
        (b" \n", "expected 8 to 4096 visible ASCII characters"),
        (b"x" * 4_097, "expected 8 to 4096 visible ASCII characters"),
        (b"secret one", "without blanks between them"),
        (b"secret\xffone", "can't decode byte 0xff in position 6"),
    ],
)
def test_a_key_file_without_a_key_is_a_fault(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)

    with pytest.raises(ConfigError) as raised:
        read_key_file(file)

    message = str(raised.value)
    assert message.startswith(f"upstream.api_key_file: '{file}': ")
    assert expected in message
    assert "secret" not in message


def test_a_key_file_that_cannot_be_read_is_one_fault(tmp_path: Path) -> None:
    file = f"{tmp_path}/none"

    fault = only_fault(GEX_UPSTREAM__API_KEY="", GEX_UPSTREAM__API_KEY_FILE=file)

    # There is no second fault because of the missing key.
    assert fault == (
        f"upstream.api_key_file: '{file}': No such file or directory;"
        " from environment GEX_UPSTREAM__API_KEY_FILE"
    )


def test_an_empty_table_in_place_of_the_key_file_counts_as_not_set(
    write_toml: WriteToml,
) -> None:
    path = write_toml("[upstream.api_key_file]\n")

    fault = only_fault(path, GEX_UPSTREAM__API_KEY="")

    assert fault.startswith("upstream.api_key: not set; ")


def test_a_key_file_with_an_impossible_path_is_a_fault() -> None:
    with pytest.raises(ConfigError, match="embedded null byte"):
        read_key_file("a\0b")


# --- addresses and the token ---


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v2/",
        "http://127.0.0.1:8080",
        "http://localhost",
        "http://[::1]:1/x[y]",
    ],
)
def test_a_base_url_may_be_https_or_on_this_machine(url: str) -> None:
    config = load(GEX_UPSTREAM__BASE_URL=url)

    assert config.upstream.base_url == url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ftp://example.com", "expected http://host or https://host"),
        ("https://", "expected http://host or https://host"),
        ("https://[::1", "expected http://host or https://host"),
        ("https://[:::]", "expected http://host or https://host"),
        ("https://[1.2.3.4]", "expected http://host or https://host"),
        ("https://example.com:99999", "a port from 1 to 65535"),
        ("https://example.com:0", "a port from 1 to 65535"),
        ("https://exa\nmple.com", "no user:password@, blanks,"),
        # The fault must not show such a URL: it holds a secret.
        ("https://example.com?key=hunter22", "'?', '#'"),
        # Parsers disagree on the host of such a URL.
        ("https://good.example\\@evil.example", "'\\'"),
        ("https://me:hunter22@example.com", "no user:password@"),
        # Over plain HTTP to another machine the key could be read on the way.
        ("http://example.com", "expected https"),
        ("HTTP://example.com", "expected http://host or https://host"),
        ("http://127.0.0.1.example.com", "expected https"),
    ],
)
def test_a_base_url_that_is_malformed_or_exposes_the_key_is_a_fault(
    url: str, expected: str
) -> None:
    fault = only_fault(GEX_UPSTREAM__BASE_URL=url)

    assert expected in fault
    assert "hunter22" not in fault


def test_http_to_another_machine_must_be_allowed_explicitly() -> None:
    url = "http://simulator:8080"

    fault = only_fault(GEX_UPSTREAM__BASE_URL=url)
    assert "allow_plain_http" in fault

    config = load(GEX_UPSTREAM__BASE_URL=url, GEX_UPSTREAM__ALLOW_PLAIN_HTTP="true")
    assert config.upstream.base_url == url


@pytest.mark.parametrize(
    ("listen", "addresses"),
    [
        ("0.0.0.0:0", [("0.0.0.0", 0)]),
        ("localhost:65535", [("localhost", 65535)]),
        ("[::1]:9464", [("::1", 9464)]),
        ("127.0.0.1:1, [::1]:1", [("127.0.0.1", 1), ("::1", 1)]),
    ],
)
def test_listen_has_one_or_several_addresses(
    listen: str, addresses: list[tuple[str, int]]
) -> None:
    # With a token any address is allowed.
    http = load(GEX_HTTP__LISTEN=listen, GEX_HTTP__TOKEN=TOKEN).http

    assert list(http.addresses) == addresses


@pytest.mark.parametrize(
    "listen",
    [
        ":1",
        "a:",
        "a",
        "a:b",
        "a:65536",
        "a:-1",
        "::1:1",
        "a b:1",
        # An Arabic one, which Python counts as a digit.
        "a:\u0661",
        "[]:1",
        "[:::]:1",
        "a:1,",
        "a:1,a:1",
    ],
)
def test_a_malformed_listen_is_a_fault(listen: str) -> None:
    first, *_ = faults(GEX_HTTP__LISTEN=listen)

    assert "expected host:port" in first


@pytest.mark.parametrize(
    "listen",
    [
        "0.0.0.0:9464",
        "[::]:9464",
        "192.0.2.1:9464",
        "gex.example.com:9464",
        "127.0.0.1:9464,192.0.2.1:9464",
    ],
)
def test_listen_beyond_this_machine_needs_a_token(listen: str, tmp_path: Path) -> None:
    fault = only_fault(GEX_HTTP__LISTEN=listen)
    assert "expected a loopback address, or a token: set http.token_file" in fault

    # A final line end is not part of the token.
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    http = load(GEX_HTTP__LISTEN=listen, GEX_HTTP__TOKEN_FILE=str(file)).http
    assert not http.is_local
    assert http.token.reveal() == TOKEN


@pytest.mark.parametrize(
    "listen",
    [
        "127.0.0.1:0",
        "127.9.9.9:1",
        "[::1]:9464",
        "localhost:9464",
        "127.0.0.1:9464,[::1]:9464",
    ],
)
def test_listen_on_loopback_needs_no_token(listen: str) -> None:
    http = load(GEX_HTTP__LISTEN=listen).http

    assert http.is_local
    assert not http.token


@pytest.mark.parametrize(
    "token", ["0123456789abcde", "0123456789 abcdef", "0123456789\u00e4bcdef"]
)
def test_a_malformed_token_is_a_fault_that_does_not_show_it(
    token: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(token)

    direct = only_fault(GEX_HTTP__TOKEN=token)
    from_file = only_fault(GEX_HTTP__TOKEN_FILE=str(file))

    for fault in (direct, from_file):
        assert "expected 16 to 4096 visible ASCII characters" in fault
        assert token not in fault


def test_a_token_is_never_shown() -> None:
    config = load(GEX_HTTP__TOKEN=TOKEN)

    assert TOKEN not in repr(config)
    assert TOKEN in config.secrets()


def test_registry_credentials_belong_in_client_settings_and_not_in_the_url() -> None:
    fault = only_fault(GEX_SCHEMA_REGISTRY__URL="https://me:hunter22@example.com")
    assert "no user:password@" in fault
    assert "hunter22" not in fault

    # The password counts as a secret by itself, too: a log may show only that part.
    config = load(GEX_SCHEMA_REGISTRY__CLIENT__BASIC_AUTH_USER_INFO="me:p@ss")
    assert {"me:p@ss", "p@ss"} < set(config.secrets())
    assert "p@ss" not in repr(config)


# --- feeds ---


def test_variables_make_one_feed_that_replaces_those_of_the_file(
    write_toml: WriteToml,
) -> None:
    config = load(
        write_toml(FEED),
        GEX_SYMBOLS=" btcusdt ,ETHUSDT",
        GEX_INCLUDE="zones",
        GEX_EXCHANGES="OKX",
        GEX_POSITIONING=" STD",
    )

    # The upstream's symbols are upper case, and its exchanges lower case.
    expected = Feed(
        name="all",
        symbols=("BTCUSDT", "ETHUSDT"),
        include=("zones",),
        exchanges=("okx",),
        positioning="std",
    )
    assert config.feeds == (expected,)


def test_venues_that_the_vendor_may_add_later_are_accepted() -> None:
    config = load(None, GEX_SYMBOLS="BTCUSDT", GEX_EXCHANGES="thalex, New_Venue-2")

    assert config.feeds[0].exchanges == ("thalex", "new_venue-2")
    assert unknown_venues(config.feeds[0].exchanges) == ["new_venue-2"]


def test_a_symbol_keeps_its_case_unless_it_is_all_lower_case(
    write_toml: WriteToml,
) -> None:
    config = load(write_toml(FEED), GEX_SYMBOLS="kPEPEUSDT,ethusdt,btc-Usdt")

    (feed,) = config.feeds
    assert feed.symbols == ("kPEPEUSDT", "ETHUSDT", "btc-Usdt")


def test_a_feed_keeps_symbols_in_lower_case_if_it_is_told_to(
    write_toml: WriteToml,
) -> None:
    symbols = "kPEPEUSDT,ethusdt"
    config = load(write_toml(FEED), GEX_SYMBOLS=symbols, GEX_KEEP_LOWER_CASE="true")
    assert config.feeds[0].symbols == ("kPEPEUSDT", "ethusdt")

    # For each feed of a file on its own.
    lines = '[[feeds]]\nname = "{}"\nsymbols = ["btcusdt"]\nkeep_lower_case = {}\n'
    text = lines.format("lower", "true") + lines.format("upper", "false")
    lower, upper = load(write_toml(text), GEX_SYMBOLS="").feeds
    assert lower.symbols == ("btcusdt",)
    assert upper.symbols == ("BTCUSDT",)


def test_the_model_is_the_apis_choice_unless_it_is_set(write_toml: WriteToml) -> None:
    (feed,) = load(write_toml(FEED)).feeds

    assert feed.positioning is None


def test_an_unknown_model_is_a_fault() -> None:
    fault = only_fault(GEX_SYMBOLS="BTCUSDT", GEX_POSITIONING="both")

    assert fault == (
        "feeds.positioning: str of length 4 'both'; expected flow or std;"
        " from environment GEX_POSITIONING"
    )


def test_include_without_symbols_is_a_fault(write_toml: WriteToml) -> None:
    # The variable makes a feed of its own. It does not change the feeds of the file.
    path = write_toml(FEED)

    fault = only_fault(path, GEX_SYMBOLS="", GEX_INCLUDE="zones")

    assert fault == (
        "feeds.symbols: not set; expected list of str with at least 1 item;"
        " set it in the file of --config or by GEX_SYMBOLS"
    )


@pytest.mark.parametrize(
    "symbols",
    [
        "BTC/USD",
        "BTC USD",
        "BTC\nUSD",
        # The upper case of these is plain ASCII, which must not make them pass.
        "straße",
        "\u0131ce",
        "A,,B",
        "x" * 65,
        ".",
        # The same symbol twice.
        "a,A",
        "kPEPEUSDT,KPEPEUSDT",
        # Texts that would change the request's header or URL, or a log line.
        "BTC\r\nX-Forged: 1",
        "BTC\0",
        "BTC%0d%0aX",
        "BTC&include=zones",
        "BTC?a",
        "BTC#a",
        "BTC;a",
        "BTC=a",
        "BTC\u2028A",
    ],
)
def test_symbols_that_kafka_or_a_url_would_reject_are_a_fault(symbols: str) -> None:
    fault = only_fault(GEX_SYMBOLS=symbols)

    assert fault.startswith("feeds.symbols: str of length ")
    assert fault.isprintable()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("symbols = []", "list of length 0; expected list of str with at least 1 item"),
        ('ignore = ["odte.hvll"]', "expected some of all_expiry, odte, max_pain"),
        ('ignore = ["odte.hvll"]', "not 'odte.hvll'; did you mean odte.hvl?"),
        # Most people mean the level over all expiries.
        (
            'ignore = ["spot_price", "hvl"]',
            "each once, not 'hvl'; did you mean all_expiry.hvl?",
        ),
        (
            "thresholds.hvl = { absolute = 5 }",
            (
                "'feeds[0].thresholds.hvl.absolute': int;"
                " unknown, did you mean feeds.thresholds.all_expiry.hvl.absolute?"
            ),
        ),
        (
            "thresholds = { absolute = 5 }",
            (
                "'feeds[0].thresholds.absolute': int;"
                " unknown, did you mean feeds.thresholds.all_expiry.absolute?"
            ),
        ),
        # Only numbers can have a threshold.
        (
            "thresholds.zones = { absolute = 1 }",
            (
                "'feeds[0].thresholds.zones.absolute': int;"
                " unknown, did you mean feeds.thresholds.odte"
            ),
        ),
        (
            "thresholds.odte = { absolute = -1 }",
            "thresholds.odte.absolute: int -1; expected float >= 0",
        ),
        (
            "thresholds.odte = { absolute = nan }",
            "thresholds.odte.absolute: float nan; expected float >= 0",
        ),
        (
            "thresholds.odte = { relative = inf }",
            "thresholds.odte.relative: float inf; expected float >= 0",
        ),
        (
            "thresholds.odte = 1",
            (
                "'feeds[0].thresholds.odte': int;"
                " unknown, did you mean feeds.thresholds.odte.absolute?"
            ),
        ),
        (
            "thresholds.odte = { absolut = 1 }",
            (
                "odte.absolut': int;"
                " unknown, did you mean feeds.thresholds.odte.absolute?"
            ),
        ),
        ("thresholds = 1", "feeds[0].thresholds: int 1; expected table of numbers"),
        ("symbols = ['A,B']", "not 'A,B'"),
        ('symbols = ["A\\r\\nB", "C\\u0000"]', r"not 'A\r\nB', 'C\x00'"),
        ("exchanges = ['okx,bybit']", "not 'okx,bybit'"),
        (f"exchanges = {[f'x{n}' for n in range(17)]}", "not 17 items"),
        ("exchanges = ['okx', 'OKX']", "each once, not 'okx', 'OKX'"),
        ("exchanges = 'okx'", "expected list of str"),
        ("stale_after_seconds = 0", "expected float > 0"),
        ("name = 'Majors'", "expected a-z, 0-9"),
        # Kafka limits the name of a topic to 249 characters.
        (f"name = '{'x' * 231}'", "at most 120"),
    ],
)
def test_a_fault_in_a_feed_is_named(
    write_toml: WriteToml, lines: str, expected: str
) -> None:
    # The case replaces the option that it sets, since TOML does not allow it twice.
    feed = {"name": "name = 'majors'", "symbols": "symbols = ['BTCUSDT']"}
    option, *_ = lines.split()
    feed[option] = lines
    path = write_toml("[[feeds]]\n" + "\n".join(feed.values()))

    fault = only_fault(path, GEX_SYMBOLS="")

    assert expected in fault


def test_a_feed_without_a_name_is_a_fault(write_toml: WriteToml) -> None:
    path = write_toml("[[feeds]]\nsymbols = ['A']")

    fault = only_fault(path, GEX_SYMBOLS="")

    # No variable can set it.
    assert fault == "feeds[0].name: not set; expected str; set it in the file"


@pytest.mark.parametrize("other", ["a.b", "a_b"])
def test_feeds_whose_names_collide_in_kafkas_metrics_are_a_fault(
    write_toml: WriteToml, other: str
) -> None:
    # Kafka's metrics replace dots by underscores.
    text = ""
    for name in ("a_b", other):
        text += f'[[feeds]]\nname = "{name}"\nsymbols = ["A"]\n'
    path = write_toml(text)

    fault = only_fault(path, GEX_SYMBOLS="")

    assert fault.startswith(f"feeds[1].name: str of length 3 '{other}'; expected")
    assert "'.' equals '_'" in fault


def test_thresholds_may_be_written_with_dots_or_in_quotes(
    write_toml: WriteToml,
) -> None:
    path = write_toml(
        f"{FEED}ignore = ['ranked', 'odte.hvl']\n"
        "[feeds.thresholds]\n"
        "odte.hvl = { absolute = 1 }\n"
        "'all_expiry.hvl' = { relative = 0.5 }\n"
        "max_pain = { absolute = 0, relative = 0 }\n"
    )

    (feed,) = load(path, GEX_SYMBOLS="").feeds

    assert feed.ignore == ("ranked", "odte.hvl")
    assert feed.thresholds == {
        "odte.hvl": Threshold(absolute=1.0),
        "all_expiry.hvl": Threshold(relative=0.5),
        "max_pain": Threshold(absolute=0.0, relative=0.0),
    }


def test_feeds_alone_can_be_loaded_without_a_key(write_toml: WriteToml) -> None:
    # Programs that only read the topics have no API key.
    path = write_toml(FEED)

    (feed,) = load_feeds(path, {})

    assert feed.name == "majors"
    assert load_feeds(None, {}) == ()


# --- client settings ---


def test_client_settings_are_merged_from_both_sources_and_shown_by_name(
    write_toml: WriteToml,
) -> None:
    path = write_toml(
        "[kafka.client]\n"
        'sasl.username = "me"\nsasl.password = "hunter22"\n"linger.ms" = 5\n'
    )

    config = load(path, GEX_KAFKA__CLIENT__SASL_PASSWORD="hunter33")

    client = config.kafka.client
    assert client == {
        "sasl.username": "me",
        "sasl.password": "hunter33",
        "linger.ms": 5,
    }
    # All values are masked: any of them may be a secret.
    masked = "sasl.username=***, sasl.password=***, linger.ms=***"
    assert repr(client) == f"ClientSettings({masked})"
    assert config.secrets() == (KEY, "hunter33")


def test_client_settings_can_be_one_variable_in_json(write_toml: WriteToml) -> None:
    path = write_toml('[kafka.client]\nsasl.username = "me"\n')

    # JSON keeps a number a number. A variable for one setting is a text.
    config = load(
        path,
        GEX_KAFKA__CLIENT='{"linger.ms": 5, "sasl.username": "you"}',
        GEX_KAFKA__CLIENT__CLIENT_ID="x",
    )

    assert config.kafka.client == {
        "linger.ms": 5,
        "client.id": "x",
        "sasl.username": "you",
    }


def test_settings_of_topics_are_a_table_that_variables_override(
    write_toml: WriteToml,
) -> None:
    path = write_toml(
        '[kafka.topic]\n"segment.ms" = 3600000\nmax.message.bytes = 2000000\n'
    )

    config = load(path, GEX_KAFKA__TOPIC__SEGMENT_MS="60000")

    assert config.kafka.topic == {"segment.ms": "60000", "max.message.bytes": 2_000_000}
    # The prefix is another option, although its variable begins alike.
    assert load(GEX_KAFKA__TOPIC_PREFIX="other").kafka.topic == {}


@pytest.mark.parametrize(
    "name", ["cleanup.policy", "message.timestamp.type", "retention.ms"]
)
def test_settings_that_the_topics_depend_on_are_refused(name: str) -> None:
    fault = only_fault(GEX_KAFKA__TOPIC=f'{{"{name}": "x"}}')

    assert f"'{name}' is refused: " in fault


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_client_settings_may_choose_the_group_protocol(protocol: str) -> None:
    config = load(GEX_KAFKA__CLIENT__GROUP_PROTOCOL=protocol)

    assert config.kafka.client == {"group.protocol": protocol}


@pytest.mark.parametrize(
    "name",
    [
        "transactional.id",
        "enable.idempotence",
        "isolation.level",
        "enable.auto.commit",
        "partitioner",
        "group.id",
        "bootstrap.servers",
        "group.instance.id",
        "acks",
        "auto.offset.reset",
        "enable.partition.eof",
        "partition.assignment.strategy",
        "error_cb",
        "logger",
    ],
)
def test_settings_that_exactly_once_depends_on_are_refused_with_the_reason(
    name: str,
) -> None:
    client = f'{{"{name}": "x"}}'

    fault = only_fault(GEX_KAFKA__CLIENT=client)

    assert f"'{name}' is refused: " in fault


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("no json, hunter22", "expected table of str"),
        ("[]", "expected table of str"),
        ("[" * 100_000, "expected table of str"),
        (
            '{"sasl.password": ["hunter22"]}',
            (
                "'kafka.client.sasl.password': list of length 1;"
                " expected str, int, float or bool"
            ),
        ),
        # Python's form of a variable that is not UTF-8.
        ("\ud800", "expected table of str"),
    ],
)
def test_client_settings_of_the_wrong_type_are_a_fault_that_hides_them(
    client: str, expected: str
) -> None:
    fault = only_fault(GEX_KAFKA__CLIENT=client)

    assert expected in fault
    assert "hunter22" not in fault


def test_a_bad_variable_does_not_hide_the_fault_of_another() -> None:
    found = faults(
        GEX_KAFKA__CLIENT="x",
        GEX_KAFKA__CLIENT__LINGER_MS="5",
        GEX_KAFKA__CLIENT__ACKS="1",
    )

    origins = []
    for fault in found:
        _, _, variable = fault.rpartition(" ")
        origins.append(variable)
    # The second variable has no fault.
    assert origins == ["GEX_KAFKA__CLIENT", "GEX_KAFKA__CLIENT__ACKS"]


def test_settings_of_the_registry_keep_numbers_as_numbers() -> None:
    # The registry's client takes no text in place of a number, unlike librdkafka.
    config = load(GEX_SCHEMA_REGISTRY__CLIENT='{"max.retries": 5}')

    assert config.schema_registry.client == {"max.retries": 5}


def test_settings_of_the_registry_cannot_hold_its_url() -> None:
    fault = only_fault(
        GEX_SCHEMA_REGISTRY__CLIENT='{"url": "https://hunter22.example"}'
    )

    assert "'url' is refused: it is an option of [schema_registry]" in fault
    assert "hunter22" not in fault


def test_client_settings_cannot_be_serialised() -> None:
    settings = ClientSettings({"a": 1})

    with pytest.raises(TypeError):
        pickle.dumps(settings)
    with pytest.raises(TypeError):
        msgspec.json.encode(settings)


# --- Kafka's part alone ---


def test_kafkas_part_needs_no_key_and_no_symbols() -> None:
    variables = {
        "GEX_KAFKA__TOPIC_PREFIX": "test",
        "GEX_SCHEMA_REGISTRY__URL": "http://registry",
    }

    # Programs that only read the topics have no API key.
    kafka, registry = load_kafka(None, variables)

    assert kafka == Kafka(topic_prefix="test")
    assert registry == SchemaRegistry(url="http://registry")


def test_kafkas_part_reports_its_faults_and_unknown_names_at_once() -> None:
    variables = {
        "GEX_KAFKA__SHARDS": "0",
        "GEX_SCHEMA_REGISTRY__URL": "x",
        "GEX_UPSTREAM__KEY": KEY,
    }

    with pytest.raises(ConfigError) as raised:
        load_kafka(None, variables)

    keys = []
    for fault in raised.value.faults:
        key, _, _ = fault.partition(":")
        keys.append(key)
    assert keys == ["'upstream.key'", "kafka.shards", "schema_registry.url"]
    assert KEY not in str(raised.value)


# --- secrets ---


def test_secrets_are_compared_by_content() -> None:
    # Surrounding whitespace, such as a file's last line end, makes no difference.
    assert Secret(" a") == Secret("a")
    assert hash(Secret(" a")) == hash(Secret("a"))
    assert Secret("a") != "a"


# --- the proxy, from the options or the usual variables ---


def test_a_proxy_comes_from_the_usual_variables() -> None:
    config = load(
        HTTPS_PROXY="http://secure:3128",
        HTTP_PROXY="plain:3128",
        GEX_SCHEMA_REGISTRY__URL="http://registry:8081",
    )

    assert config.upstream.proxy.reveal() == "http://secure:3128"
    assert config.schema_registry.proxy.reveal() == "http://plain:3128"


def test_an_option_comes_before_the_variables(write_toml: WriteToml) -> None:
    path = write_toml('[upstream]\nproxy = "none"\n')

    config = load(path, HTTPS_PROXY="http://secure:3128")

    assert config.upstream.proxy.reveal() == "none"


def test_a_faulty_proxy_is_reported_with_its_variable_and_without_its_value() -> None:
    fault = only_fault(https_proxy="socks5://me:hunter22@proxy:1080")

    assert fault.startswith("upstream.proxy: str of length")
    assert fault.endswith("from environment https_proxy")
    assert "hunter22" not in fault


def test_the_password_of_a_proxy_is_a_secret() -> None:
    config = load(
        GEX_UPSTREAM__PROXY="http://me:hunter22@proxy:3128",
        GEX_SCHEMA_REGISTRY__PROXY="http://me:hunter%2333@proxy:3128",
    )

    assert {"hunter22", "hunter%2333", "hunter#33"} <= set(config.secrets())
    assert "hunter" not in repr(config)


def test_the_proxy_of_the_registry_is_no_client_setting() -> None:
    fault = only_fault(GEX_SCHEMA_REGISTRY__CLIENT='{"proxy": "http://proxy:3128"}')

    assert "'proxy' is refused: it is an option of [schema_registry]" in fault


# --- files that TLS needs ---


@pytest.mark.parametrize(
    "variable",
    [
        "GEX_KAFKA__CLIENT__SSL_CA_LOCATION",
        "GEX_KAFKA__CLIENT__SSL_CERTIFICATE_LOCATION",
        "GEX_KAFKA__CLIENT__SSL_KEY_LOCATION",
        "GEX_SCHEMA_REGISTRY__CLIENT__SSL_CA_LOCATION",
        "GEX_SCHEMA_REGISTRY__CLIENT__SSL_KEY_LOCATION",
    ],
)
def test_a_missing_file_of_a_client_is_named_with_variable_and_path(
    variable: str, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.pem"

    fault = only_fault(None, **{variable: str(missing)})

    assert (
        f"'{missing}': No such file or directory; from environment {variable}" in fault
    )


@pytest.mark.parametrize(
    "variable",
    [
        "GEX_KAFKA__CLIENT__SSL_KEY_LOCATION",
        "GEX_UPSTREAM__API_KEY_FILE",
        "GEX_HTTP__TOKEN_FILE",
    ],
)
@pytest.mark.parametrize(
    "secret",
    [
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----",
        "bq_live_0123456789abcdef",
        "a0b1c2d3e4f5a6b7c8d9",
    ],
)
def test_a_secret_in_place_of_a_path_is_not_shown(variable: str, secret: str) -> None:
    variables = {"GEX_UPSTREAM__API_KEY": "", variable: secret}
    if variable != "GEX_UPSTREAM__API_KEY_FILE":
        del variables["GEX_UPSTREAM__API_KEY"]

    fault = only_fault(None, **variables)

    reason = "*** (begins neither with / nor with ./): No such file or directory"
    assert f"{reason}; from environment {variable}" in fault
    assert secret not in fault
    assert "MIIEvQ" not in fault


def test_existing_files_of_a_client_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.touch()
    # librdkafka and OpenSSL take folders too, and librdkafka can look by itself.
    for place in (str(file), str(tmp_path), "probe"):
        config = load(GEX_KAFKA__CLIENT__SSL_CA_LOCATION=place)
        assert config.kafka.client["ssl.ca.location"] == place


def test_a_missing_file_of_certificates_is_named_with_variable_and_path(
    tmp_path: Path,
) -> None:
    missing = tmp_path / "missing.pem"

    fault = only_fault(SSL_CERT_FILE=str(missing))

    assert fault.startswith(f"SSL_CERT_FILE: '{missing}': No such file or directory; ")


def test_a_file_without_certificates_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()

    fault = only_fault(SSL_CERT_FILE=str(empty))

    assert f"'{empty}': holds no certificate in PEM format" in fault
    empty.write_text("-----BEGIN PRIVATE KEY-----\n")
    assert "holds no certificate" in only_fault(SSL_CERT_FILE=str(empty))
    # A folder cannot be read as a file.
    assert f"'{tmp_path}': Is a directory" in only_fault(SSL_CERT_FILE=str(tmp_path))


def test_one_of_the_folders_of_certificates_must_exist(tmp_path: Path) -> None:
    missing = tmp_path / "missing"

    fault = only_fault(SSL_CERT_DIR=f"{missing}:{missing}")

    assert fault.startswith(f"SSL_CERT_DIR: '{missing}:{missing}': no such folder")
    load(SSL_CERT_DIR=f"{missing}:{tmp_path}")


def test_commands_that_only_read_need_the_files_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
        load_kafka(None, {"SSL_CERT_FILE": str(tmp_path / "missing.pem")})


# --- masking ---


@pytest.mark.parametrize(
    ("text", "secret", "masked"),
    [
        # A short password is a part of many words.
        ("worker k of kafka", "k", "worker *** of kafka"),
        ("sasl.password=k, next", "k", "sasl.password=***, next"),
        ("'k' \"k\" k", "k", "'***' \"***\" ***"),
        ("a\\nb a\nb", "a\nb", "*** ***"),
        ("x-$1-y and $1", "$1", "x-***-y and ***"),
        ("hunter7 hunter77", "hunter7", "*** hunter77"),
        # A long one is masked wherever it is: part of a URL, for example.
        ("https://x/?key=hunter-22x", "hunter-22", "https://x/?key=***x"),
        ("abchunter-22def", "hunter-22", "abc***def"),
    ],
)
def test_a_short_secret_is_masked_as_a_whole_word_and_a_long_one_everywhere(
    text: str, secret: str, masked: str
) -> None:
    assert redact(text, [secret]) == masked


def test_the_password_of_kafka_can_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hunter22\n")
    config = load(GEX_KAFKA__SASL_PASSWORD_FILE=str(file))

    assert config.kafka.sasl_password.reveal() == "hunter22"
    assert config.kafka.sasl_password_file == str(file)
    assert "hunter22" in config.secrets()
    assert "hunter22" not in repr(config)


def test_a_file_without_a_password_is_named(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("\n")
    fault = only_fault(GEX_KAFKA__SASL_PASSWORD_FILE=str(file))

    assert fault.startswith(f"kafka.sasl_password_file: '{file}': expected a text")


def test_the_password_of_kafka_is_set_once() -> None:
    fault = only_fault(
        GEX_KAFKA__SASL_PASSWORD="hunter22", GEX_KAFKA__CLIENT__SASL_PASSWORD="hunter33"
    )

    assert "expected either this or sasl.password in kafka.client" in fault
    assert "hunter" not in fault
