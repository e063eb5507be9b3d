"""What can be configured, and what is said of a configuration that cannot be used."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from connector.config.load import load as load_config
from connector.config.load import load_kafka, read_key_file
from connector.config.model import Config, Feed, Kafka, SchemaRegistry
from connector.config.secrets import ClientSettings, Secret
from connector.core.diff import Threshold
from connector.errors import EXIT_CONFIG, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "bq_live_0123456789abcdef0123456789abcdef"
TOKEN = "0123456789abcdef"
ENOUGH = {"GEX_UPSTREAM__API_KEY": KEY, "GEX_SYMBOLS": "BTCUSDT"}
FEED = '[[feeds]]\nname = "majors"\nsymbols = ["BTCUSDT"]\n'


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def of(**variables: str) -> Config:
    return load_config(None, {**ENOUGH, **variables})


def faults(path: Path | None = None, **variables: str) -> list[str]:
    """The faults of a file and an environment that has key and symbols."""
    with pytest.raises(ConfigError) as raised:
        load_config(path, {**ENOUGH, **variables})
    return raised.value.faults


def test_a_key_and_symbols_are_enough() -> None:
    config = load_config(None, ENOUGH)

    assert config.upstream.api_key.reveal() == KEY
    assert config.feeds == (Feed(name="all", symbols=("BTCUSDT",)),)
    assert (config.http.host, config.http.port) == ("127.0.0.1", 9464)


def test_without_key_and_symbols_both_are_asked_for() -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(None, {})

    assert raised.value.exit_code == EXIT_CONFIG
    assert raised.value.faults == [
        "upstream.api_key: not given; expected str, never shown (GEX_UPSTREAM__API_KEY); from default",
        "feeds.symbols: not given; expected list of str of length >= 1 (GEX_SYMBOLS); from default",
    ]


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    toml: Callable[[str], Path],
) -> None:
    path = toml('[kafka]\ntopic_prefix = "file"\ngroup_id = "file"\n')
    config = load_config(path, {**ENOUGH, "GEX_KAFKA__TOPIC_PREFIX": "environment"})

    assert config.kafka.topic_prefix == "environment"
    assert config.kafka.group_id == "file"
    assert config.kafka.shards == 1


def test_an_empty_variable_counts_as_not_set(toml: Callable[[str], Path]) -> None:
    path = toml(f'[upstream]\napi_key = "{KEY}"\n{FEED}')
    variables = (
        "GEX_UPSTREAM__API_KEY",
        "GEX_SYMBOLS",
        "GEX_KAFKA__CLIENT",
        "GEX_KAFKA__CLIENT__SASL_PASSWORD",
        "GEX_X",
    )
    config = load_config(path, dict.fromkeys(variables, ""))

    assert config.kafka.client == {}
    assert config.upstream.api_key.reveal() == KEY
    assert config.feeds[0].name == "majors"


def test_every_fault_is_reported_at_once_with_where_it_came_from(
    toml: Callable[[str], Path],
) -> None:
    path = toml(
        f'[upstream]\ntimeout_seconds = -1\n[kafka]\nshards = "two"\n{FEED}include = ["x"]\n'
    )
    found = faults(path, GEX_SYMBOLS="", GEX_HTTP__LISTEN="x")

    unknown = (
        "expected some of expected_move, max_pain, ranked, zones, each once, not 'x'"
    )
    assert found == [
        f"upstream.timeout_seconds: int -1; expected float > 0, <= 600; from {path}",
        f"kafka.shards: str of length 3 'two'; expected int > 0, <= 1000; from {path}",
        "http.listen: str of length 1 'x'; expected host:port, port 0 to 65535; from environment GEX_HTTP__LISTEN",
        f"feeds[0].include: list of length 1; {unknown}; from {path}",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[upstream]\ntimeout_seconds = nan", "upstream.timeout_seconds: float nan;"),
        ("[upstream]\ntimeout_seconds = inf", "upstream.timeout_seconds: float inf;"),
        ("[upstream]\ntimeout_seconds = true", "upstream.timeout_seconds: bool True;"),
        ("[upstream]\nmax_requests_per_minute = 0", "expected int > 0"),
        ("[upstream]\nmax_requests_per_minute = 1.5", "float 1.5"),
        (
            f"[kafka]\nretention_days = {'9' * 30}",
            "kafka.retention_days: int; expected",
        ),
        (
            "[kafka]\nreplication_factor = 0",
            "expected -1 (the broker's default) or more than 0",
        ),
        (
            '[kafka]\ntopic_prefix = "a/b"',
            "kafka.topic_prefix: str of length 3 'a/b'; expected A-Z, a-z, 0-9, '.', '_', '-'",
        ),
        ('[kafka]\nbootstrap_servers = "a, b"', "separated by commas, no blanks"),
        (
            "[schedule]\nmin_interval_seconds = 2\nmax_interval_seconds = 1",
            "min_interval_seconds: int 2; expected at most max_interval_seconds, 1.0; from",
        ),
        ("kafka = 1", "kafka': int; expected a table"),
        ("feeds = 1", "feeds': int; expected a table"),
        ("feeds = [1]", "feeds': list of length 1; expected a table"),
        (
            "[kafka]\nshard = 1",
            "'kafka.shard': int; unknown, did you mean kafka.shards?",
        ),
        (
            "[kafak]\nshards = 1",
            "'kafak.shards': int; unknown, did you mean kafka.shards?",
        ),
        ("a = [", "no TOML that can be read: Invalid value (at end of document)"),
        ("[kafka]\nshards = = 1", "(at line 2, column"),
        (f"a = {'[' * 100_000}", "no TOML that can be read: maximum recursion depth"),
        (f"a = {'1' * 5_000}", "no TOML that can be read: Exceeds the limit"),
    ],
)
def test_a_fault_in_the_file_is_named(
    toml: Callable[[str], Path], text: str, expected: str
) -> None:
    path = toml(text)
    found = faults(path, GEX_SYMBOLS="" if text.startswith("feeds") else "BTCUSDT")

    assert expected in found[0]
    assert str(path) in found[0]


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"a = '\xff'")

    assert faults(tmp_path / "none.toml") == [
        f"'{tmp_path}/none.toml': no TOML that can be read: No such file or directory"
    ]
    assert faults(tmp_path) == [
        f"'{tmp_path}': no TOML that can be read: Is a directory"
    ]
    assert faults(binary) == [
        f"'{binary}': no TOML that can be read: 'utf-8' codec can't decode byte 0xff in position 5: invalid start byte"
    ]
    assert faults(Path("a\0b")) == [
        "'a\\x00b': no TOML that can be read: embedded null byte"
    ]


def test_an_unknown_variable_is_a_fault_with_the_closest_name() -> None:
    (fault,) = faults(GEX_UPSTREAM_API_KEY="hunter2-hunter2")

    assert fault == (
        "'upstream_api_key': str of length 15; unknown, did you mean GEX_UPSTREAM__API_KEY?; "
        "from environment GEX_UPSTREAM_API_KEY"
    )


def test_what_kubernetes_sets_for_a_service_of_our_name_is_no_fault() -> None:
    of(
        GEX_CONNECTOR_SERVICE_HOST="10.0.0.1",
        GEX_CONNECTOR_SERVICE_PORT="9464",
        GEX_CONNECTOR_SERVICE_PORT_METRICS="9464",
        GEX_CONNECTOR_PORT="tcp://10.0.0.1:9464",
        GEX_CONNECTOR_PORT_9464_TCP_ADDR="10.0.0.1",
    )
    assert "from environment GEX_HTTP_PORT" in faults(GEX_HTTP_PORT="8080")[0]


class TestKey:
    def test_it_is_stripped_and_never_shown(self) -> None:
        config = of(GEX_UPSTREAM__API_KEY=f"  {KEY}\n")

        assert config.upstream.api_key.reveal() == KEY
        assert KEY not in f"{config!r} {config} {config.upstream.api_key:>20}"
        assert KEY in config.secrets()

    @pytest.mark.parametrize(
        "leak", [msgspec.json.encode, msgspec.to_builtins, pickle.dumps, copy.deepcopy]
    )
    def test_it_cannot_be_serialised_by_accident(
        self, leak: Callable[[object], object]
    ) -> None:
        with pytest.raises(TypeError):
            leak(load_config(None, ENOUGH))

    @pytest.mark.parametrize(
        "key",
        [
            "two words-of-it",
            "line\nfeed-in-it",
            "nul\0in-the-middle",
            "cléf-non-ascii",
            " ",
        ],
    )
    def test_one_that_cannot_be_a_key_is_a_fault_that_does_not_show_it(
        self, key: str
    ) -> None:
        (fault,) = faults(GEX_UPSTREAM__API_KEY=key)

        assert fault.startswith(f"upstream.api_key: str of length {len(key)}; expected")
        assert "\n" not in fault
        assert key.strip()[:4] not in fault.partition(";")[0] or not key.strip()

    def test_a_number_in_its_place_is_not_shown(
        self, toml: Callable[[str], Path]
    ) -> None:
        (fault,) = faults(
            toml("[upstream]\napi_key = 12345678\n"), GEX_UPSTREAM__API_KEY=""
        )

        assert "upstream.api_key: int; expected str, never shown" in fault

    def test_one_given_to_another_option_is_not_shown(self) -> None:
        found = faults(
            GEX_UPSTREAM__TIMEOUT_SECONDS=KEY,
            GEX_UPSTREAM__API_KEY="plain-test-key",
            GEX_HTTP__LISTEN="plain-test-key",
        )

        assert len(found) == 2
        assert KEY[8:] not in "".join(found)
        assert "plain-test-key" not in "".join(found)

    def test_it_comes_from_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "key"
        file.write_bytes(b"\xef\xbb\xbf" + KEY.encode() + b"\r\n")
        config = of(GEX_UPSTREAM__API_KEY="", GEX_UPSTREAM__API_KEY_FILE=f"{file}\n")

        assert config.upstream.api_key.reveal() == KEY
        assert config.upstream.api_key_file == str(file)

    def test_of_two_the_one_in_the_environment_is_taken(
        self, toml: Callable[[str], Path], tmp_path: Path
    ) -> None:
        path = toml(f'[upstream]\napi_key_file = "{tmp_path}/none"\n')
        upstream = load_config(path, ENOUGH).upstream

        assert (upstream.api_key.reveal(), upstream.api_key_file) == (KEY, None)

    def test_two_in_one_place_are_a_fault(self) -> None:
        (fault,) = faults(GEX_UPSTREAM__API_KEY_FILE="key")

        assert fault == (
            "upstream.api_key: str of length 40; expected either this or api_key_file; "
            "from environment GEX_UPSTREAM__API_KEY"
        )

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"", "expected 1 to 4096 visible ASCII characters"),
            (b" \n", "expected 1 to 4096 visible ASCII characters"),
            (b"x" * 4_097, "expected 1 to 4096 visible ASCII characters"),
            (b"secret one", "without blanks between them"),
            (b"secret\xffone", "can't decode byte 0xff in position 6"),
        ],
    )
    def test_a_file_without_a_key_is_a_fault(
        self, tmp_path: Path, content: bytes, expected: str
    ) -> None:
        file = tmp_path / "key"
        file.write_bytes(content)
        with pytest.raises(ConfigError) as raised:
            read_key_file(file)

        assert str(raised.value).startswith(f"upstream.api_key_file: '{file}': ")
        assert expected in str(raised.value)
        assert "secret" not in str(raised.value)

    def test_a_file_that_cannot_be_read_is_one_fault(self, tmp_path: Path) -> None:
        found = faults(
            GEX_UPSTREAM__API_KEY="", GEX_UPSTREAM__API_KEY_FILE=f"{tmp_path}/none"
        )

        reason = (
            "No such file or directory; from environment GEX_UPSTREAM__API_KEY_FILE"
        )
        assert found == [f"upstream.api_key_file: '{tmp_path}/none': {reason}"]

    def test_a_path_that_is_none_is_a_fault(self) -> None:
        with pytest.raises(ConfigError, match="embedded null byte"):
            read_key_file("a\0b")


class TestAddresses:
    @pytest.mark.parametrize(
        "url",
        [
            "https://api.example.com/v2/",
            "http://127.0.0.1:8080",
            "http://localhost",
            "http://[::1]:1/x",
        ],
    )
    def test_a_base_url_is_https_or_on_this_machine(self, url: str) -> None:
        assert of(GEX_UPSTREAM__BASE_URL=url).upstream.base_url == url

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("ftp://example.com", "expected http://host or https://host"),
            ("https://", "expected http://host or https://host"),
            ("https://[::1", "expected http://host or https://host"),
            ("https://example.com:99999", "a port from 1 to 65535"),
            ("https://example.com:0", "a port from 1 to 65535"),
            ("https://exa\nmple.com", "no user:password@, blanks,"),
            ("https://example.com?key=hunter22", "'?', '#'"),
            ("https://good.example\\@evil.example", "'\\'"),
            ("https://me:hunter22@example.com", "no user:password@"),
            ("http://example.com", "expected https"),
            ("HTTP://example.com", "expected http://host or https://host"),
            ("http://127.0.0.1.example.com", "expected https"),
        ],
    )
    def test_a_base_url_that_is_none_or_tells_the_key_is_a_fault(
        self, url: str, expected: str
    ) -> None:
        (fault,) = faults(GEX_UPSTREAM__BASE_URL=url)

        assert expected in fault
        assert "hunter22" not in fault

    def test_http_to_another_machine_is_for_those_who_say_so(self) -> None:
        url = "http://simulator:8080"

        assert "allow_plain_http" in faults(GEX_UPSTREAM__BASE_URL=url)[0]
        assert (
            of(
                GEX_UPSTREAM__BASE_URL=url, GEX_UPSTREAM__ALLOW_PLAIN_HTTP="true"
            ).upstream.base_url
            == url
        )

    @pytest.mark.parametrize(
        ("listen", "host", "port"),
        [
            ("0.0.0.0:0", "0.0.0.0", 0),
            ("localhost:65535", "localhost", 65535),
            ("[::1]:9464", "::1", 9464),
        ],
    )
    def test_listen_is_host_and_port(self, listen: str, host: str, port: int) -> None:
        http = of(GEX_HTTP__LISTEN=listen, GEX_HTTP__TOKEN=TOKEN).http

        assert (http.host, http.port) == (host, port)

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
            "a:\u0661",
            "[]:1",
        ],
    )
    def test_listen_that_is_not_is_a_fault(self, listen: str) -> None:
        assert "expected host:port" in faults(GEX_HTTP__LISTEN=listen)[0]

    @pytest.mark.parametrize(
        "listen",
        ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "gex.example.com:9464"],
    )
    def test_whoever_listens_beyond_this_machine_needs_a_token(
        self, listen: str, tmp_path: Path
    ) -> None:
        (fault,) = faults(GEX_HTTP__LISTEN=listen)
        file = tmp_path / "token"
        file.write_text(f"{TOKEN}\n")
        http = of(GEX_HTTP__LISTEN=listen, GEX_HTTP__TOKEN_FILE=str(file)).http

        assert (
            "expected an address of loopback, or a token: set http.token_file" in fault
        )
        assert (http.is_local, http.token.reveal()) == (False, TOKEN)

    @pytest.mark.parametrize(
        "listen", ["127.0.0.1:0", "127.9.9.9:1", "[::1]:9464", "localhost:9464"]
    )
    def test_on_loopback_none_is_needed(self, listen: str) -> None:
        http = of(GEX_HTTP__LISTEN=listen).http

        assert (http.is_local, bool(http.token)) == (True, False)

    @pytest.mark.parametrize(
        "token", ["0123456789abcde", "0123456789 abcdef", "0123456789\u00e4bcdef"]
    )
    def test_a_token_that_is_none_is_not_shown(
        self, token: str, tmp_path: Path
    ) -> None:
        file = tmp_path / "token"
        file.write_text(token)
        found = faults(GEX_HTTP__TOKEN=token) + faults(GEX_HTTP__TOKEN_FILE=str(file))

        assert all(
            "expected 16 to 4096 visible ASCII characters" in fault for fault in found
        )
        assert token not in "".join(found)

    def test_a_token_is_shown_nowhere(self) -> None:
        config = of(GEX_HTTP__TOKEN=TOKEN)

        assert TOKEN not in repr(config)
        assert TOKEN in config.secrets()

    def test_who_we_are_to_the_registry_is_not_in_its_url_but_where_nothing_is_shown(
        self,
    ) -> None:
        (fault,) = faults(GEX_SCHEMA_REGISTRY__URL="https://me:hunter22@example.com")
        config = of(GEX_SCHEMA_REGISTRY__CLIENT__BASIC_AUTH_USER_INFO="me:p@ss")

        assert "no user:password@" in fault
        assert "hunter22" not in fault
        assert {"me:p@ss", "p@ss"} < set(config.secrets())
        assert "p@ss" not in repr(config)


class TestFeeds:
    def test_the_environment_makes_one_feed_in_place_of_those_of_the_file(
        self, toml: Callable[[str], Path]
    ) -> None:
        variables = {
            **ENOUGH,
            "GEX_SYMBOLS": " btcusdt ,ETHUSDT",
            "GEX_INCLUDE": "zones",
            "GEX_EXCHANGES": "OKX",
        }
        config = load_config(toml(FEED), variables)

        assert config.feeds == (
            Feed(
                name="all",
                symbols=("BTCUSDT", "ETHUSDT"),
                include=("zones",),
                exchanges=("okx",),
            ),
        )

    def test_sections_or_exchanges_without_symbols_are_a_fault(
        self, toml: Callable[[str], Path]
    ) -> None:
        assert faults(toml(FEED), GEX_SYMBOLS="", GEX_INCLUDE="zones") == [
            "feeds.symbols: not given; expected list of str of length >= 1 (GEX_SYMBOLS); from default"
        ]

    @pytest.mark.parametrize(
        "symbols",
        [
            *(
                "BTC/USD",
                "BTC USD",
                "BTC\nUSD",
                "straße",
                "\u0131ce",
                "A,,B",
                "x" * 65,
                ".",
                "a,A",
            ),
            *(
                "BTC\r\nX-Forged: 1",
                "BTC\0",
                "BTC%0d%0aX",
                "BTC&include=zones",
                "BTC?a",
                "BTC#a",
                "BTC;a",
                "BTC=a",
                "BTC\u2028A",
            ),
        ],
    )
    def test_symbols_that_kafka_or_the_url_would_refuse_are_faults(
        self, symbols: str
    ) -> None:
        (fault,) = faults(GEX_SYMBOLS=symbols)

        assert fault.startswith("feeds.symbols: str of length ")
        assert fault.isprintable()

    @pytest.mark.parametrize(
        ("lines", "expected"),
        [
            ("symbols = []", "list of length 0; expected list of str of length >= 1"),
            ('ignore = ["odte.hvll"]', "expected some of all_expiry, odte, max_pain"),
            (
                "thresholds.zones = { absolute = 1 }",
                "'feeds[0].thresholds.zones.absolute': int; unknown, did you mean feeds.thresholds.odte",
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
                "'feeds[0].thresholds.odte': int; unknown, did you mean feeds.thresholds?",
            ),
            (
                "thresholds.odte = { absolut = 1 }",
                "odte.absolut': int; unknown, did you mean feeds.thresholds.odte.absolute?",
            ),
            ("symbols = ['A,B']", "not 'A,B'"),
            ('symbols = ["A\\r\\nB", "C\\u0000"]', r"not 'A\r\nB', 'C\x00'"),
            ("exchanges = ['okx', 'OKX']", "each once, not 'okx', 'OKX'"),
            ("exchanges = 'okx'", "expected list of str"),
            ("stale_after_seconds = 0", "expected float > 0"),
            ("name = 'Majors'", "expected a-z, 0-9"),
            (f"name = '{'x' * 231}'", "at most 120"),
        ],
    )
    def test_a_fault_in_a_feed_is_named(
        self, toml: Callable[[str], Path], lines: str, expected: str
    ) -> None:
        given = {"name": "name = 'majors'", "symbols": "symbols = ['BTCUSDT']"}
        given[lines.split(maxsplit=1)[0]] = lines

        assert (
            expected
            in faults(toml("[[feeds]]\n" + "\n".join(given.values())), GEX_SYMBOLS="")[
                0
            ]
        )

    def test_a_feed_without_a_name_is_a_fault(
        self, toml: Callable[[str], Path]
    ) -> None:
        assert (
            "feeds[0].name: not given"
            in faults(toml("[[feeds]]\nsymbols = ['A']"), GEX_SYMBOLS="")[0]
        )

    @pytest.mark.parametrize("other", ["a.b", "a_b"])
    def test_names_that_kafka_takes_for_the_same_are_a_fault(
        self, toml: Callable[[str], Path], other: str
    ) -> None:
        text = "".join(
            f'[[feeds]]\nname = "{name}"\nsymbols = ["A"]\n' for name in ("a_b", other)
        )

        assert "'.' and '_' being the same" in faults(toml(text), GEX_SYMBOLS="")[0]

    def test_thresholds_are_given_with_dots_or_in_quotes(
        self, toml: Callable[[str], Path]
    ) -> None:
        path = toml(
            f"{FEED}ignore = ['ranked', 'odte.hvl']\n[feeds.thresholds]\nodte.hvl = {{ absolute = 1 }}\n"
            "'all_expiry.hvl' = { relative = 0.5 }\nmax_pain = { absolute = 0, relative = 0 }\n"
        )
        (feed,) = load_config(path, {"GEX_UPSTREAM__API_KEY": KEY}).feeds

        assert feed.ignore == ("ranked", "odte.hvl")
        assert feed.thresholds == {
            "odte.hvl": Threshold(absolute=1.0),
            "all_expiry.hvl": Threshold(relative=0.5),
            "max_pain": Threshold(absolute=0.0, relative=0.0),
        }


class TestClientSettings:
    def test_they_are_merged_from_file_and_environment_and_shown_by_name(
        self, toml: Callable[[str], Path]
    ) -> None:
        path = toml(
            '[kafka.client]\nsasl.username = "me"\nsasl.password = "hunter22"\n"linger.ms" = 5\n'
        )
        config = load_config(
            path, {**ENOUGH, "GEX_KAFKA__CLIENT__SASL_PASSWORD": "hunter33"}
        )

        assert config.kafka.client == {
            "sasl.username": "me",
            "sasl.password": "hunter33",
            "linger.ms": 5,
        }
        assert (
            repr(config.kafka.client)
            == "ClientSettings(sasl.username=***, sasl.password=***, linger.ms=***)"
        )
        assert config.secrets() == (KEY, "hunter33")

    def test_several_are_given_as_json_in_one_variable(
        self, toml: Callable[[str], Path]
    ) -> None:
        path = toml('[kafka.client]\nsasl.username = "me"\n')
        variables = {
            "GEX_KAFKA__CLIENT": '{"linger.ms": 5, "sasl.username": "you"}',
            "GEX_KAFKA__CLIENT__CLIENT_ID": "x",
        }

        expected = {"linger.ms": 5, "client.id": "x", "sasl.username": "you"}
        assert load_config(path, {**ENOUGH, **variables}).kafka.client == expected

    @pytest.mark.parametrize("protocol", ["classic", "consumer"])
    def test_the_group_protocol_is_free(self, protocol: str) -> None:
        assert of(GEX_KAFKA__CLIENT__GROUP_PROTOCOL=protocol).kafka.client == {
            "group.protocol": protocol
        }

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
    def test_what_exactly_once_depends_on_is_refused_with_the_reason(
        self, name: str
    ) -> None:
        (fault,) = faults(GEX_KAFKA__CLIENT=f'{{"{name}": "x"}}')

        assert f"'{name}' is refused: " in fault

    @pytest.mark.parametrize(
        ("client", "expected"),
        [
            ("no json, hunter22", "expected table of str"),
            ("[]", "expected table of str"),
            ("[" * 100_000, "expected table of str"),
            (
                '{"sasl.password": ["hunter22"]}',
                "'kafka.client.sasl.password': list of length 1; expected table of str",
            ),
            ("\ud800", "expected table of str"),
        ],
    )
    def test_what_no_client_takes_is_a_fault_without_its_value(
        self, client: str, expected: str
    ) -> None:
        (fault,) = faults(GEX_KAFKA__CLIENT=client)

        assert expected in fault
        assert "hunter22" not in fault

    def test_one_bad_layer_does_not_hide_the_fault_of_another(self) -> None:
        found = faults(
            GEX_KAFKA__CLIENT="x",
            GEX_KAFKA__CLIENT__LINGER_MS="5",
            GEX_KAFKA__CLIENT__ACKS="1",
        )

        assert [fault.rpartition(" ")[2] for fault in found] == [
            "GEX_KAFKA__CLIENT",
            "GEX_KAFKA__CLIENT__ACKS",
        ]

    def test_the_registry_gets_numbers_as_numbers(self) -> None:
        client = of(
            GEX_SCHEMA_REGISTRY__CLIENT='{"max.retries": 5}'
        ).schema_registry.client

        assert client == {"max.retries": 5}

    def test_the_registry_is_not_told_its_address_twice(self) -> None:
        (fault,) = faults(
            GEX_SCHEMA_REGISTRY__CLIENT='{"url": "https://hunter22.example"}'
        )

        assert "'url' is refused: it is an option of [schema_registry]" in fault
        assert "hunter22" not in fault

    def test_they_cannot_be_serialised(self) -> None:
        with pytest.raises(TypeError):
            pickle.dumps(ClientSettings({"a": 1}))
        with pytest.raises(TypeError):
            msgspec.json.encode(ClientSettings({"a": 1}))


class TestKafkaAlone:
    def test_it_needs_no_key_and_no_symbols(self) -> None:
        variables = {
            "GEX_KAFKA__TOPIC_PREFIX": "test",
            "GEX_SCHEMA_REGISTRY__URL": "http://registry",
        }

        assert load_kafka(None, variables) == (
            Kafka(topic_prefix="test"),
            SchemaRegistry(url="http://registry"),
        )

    def test_its_faults_and_unknown_names_are_reported_at_once(self) -> None:
        variables = {
            "GEX_KAFKA__SHARDS": "0",
            "GEX_SCHEMA_REGISTRY__URL": "x",
            "GEX_UPSTREAM__KEY": KEY,
        }
        with pytest.raises(ConfigError) as raised:
            load_kafka(None, variables)

        assert [fault.partition(":")[0] for fault in raised.value.faults] == [
            "'upstream.key'",
            "kafka.shards",
            "schema_registry.url",
        ]
        assert KEY not in str(raised.value)


def test_secrets_are_compared_by_content() -> None:
    assert Secret(" a") == Secret("a")
    assert hash(Secret(" a")) == hash(Secret("a"))
    assert Secret("a") != "a"
