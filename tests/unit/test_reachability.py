"""One line about an outage of Kafka, of the many errors that clients report."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from confluent_kafka import KafkaError

from connector.core.model import MICROS
from connector.kafka.clients import _logger
from connector.kafka.reachability import KafkaOutage, Reachability

ALL_DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")
REFUSED = KafkaError(KafkaError._TRANSPORT, "localhost:9092/1: Connection refused")
FENCED = KafkaError(KafkaError._FENCED, "fenced", fatal=True)
# 2026-11-27T01:09:41Z
START = 1_795_741_781.0
SINCE = round(START * MICROS)
SILENCE_SECONDS = 3.0
TIMED_OUT = "Local: Timed out"


class FakeClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = START

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def reachability(clock: FakeClock) -> Reachability:
    return Reachability(clock)


def tick_for(reachability: Reachability, clock: FakeClock, seconds: int) -> None:
    for _ in range(seconds):
        clock.seconds += 1
        reachability.tick()


def fields_of(line: logging.LogRecord) -> dict[str, Any]:
    return vars(line)


def test_an_outage_is_one_line_with_its_begin_and_cause(
    reachability: Reachability, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    reachability.failed(REFUSED)
    clock.seconds += 2
    # Each client says so, again and again.
    for _ in range(5):
        reachability.failed(ALL_DOWN)
        reachability.failed(REFUSED)
    tick_for(reachability, clock, 30)

    (line,) = caplog.records
    assert line.getMessage() == "Kafka is unreachable"
    assert fields_of(line)["since"] == "2026-11-27T01:09:41Z"
    assert fields_of(line)["error"] == REFUSED.str()
    assert reachability.outage == KafkaOutage(SINCE, REFUSED.str())


def test_an_outage_that_lasts_is_named_once_a_minute(
    reachability: Reachability, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    reachability.failed(REFUSED)
    reachability.failed(ALL_DOWN)

    tick_for(reachability, clock, 150)

    assert caplog.messages == [
        "Kafka is unreachable",
        "Kafka is still unreachable",
        "Kafka is still unreachable",
    ]


def test_the_end_of_an_outage_is_one_line_with_its_length(
    reachability: Reachability, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    reachability.failed(REFUSED)
    reachability.failed(ALL_DOWN)
    clock.seconds += 36

    reachability.reached()
    reachability.reached()
    tick_for(reachability, clock, 100)

    _, line = caplog.records
    assert line.getMessage() == "Kafka is reachable again"
    assert fields_of(line)["unreachable_seconds"] == 36
    assert reachability.outage is None


def test_a_broker_that_others_stand_in_for_is_named_once_a_minute(
    reachability: Reachability, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(45):
        reachability.failed(REFUSED)
        # Commits go on.
        reachability.reached()
        tick_for(reachability, clock, 2)

    assert caplog.messages == ["a connection to Kafka failed"] * 2
    assert reachability.outage is None


def test_brokers_that_hang_are_an_outage_after_two_questions(
    reachability: Reachability, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.seconds = START + SILENCE_SECONDS
    reachability.silent(TIMED_OUT, SILENCE_SECONDS)
    # A loaded broker may be slow to answer once.
    assert caplog.messages == []

    clock.seconds += 5
    reachability.silent(TIMED_OUT, SILENCE_SECONDS)

    assert reachability.outage == KafkaOutage(SINCE, TIMED_OUT)
    assert caplog.messages == ["Kafka is unreachable"]


def test_an_answer_between_two_silences_means_that_there_is_no_outage(
    reachability: Reachability,
) -> None:
    for _ in range(5):
        reachability.silent(TIMED_OUT, SILENCE_SECONDS)
        reachability.reached()

    assert reachability.outage is None


def test_silences_after_an_error_are_an_outage_with_that_cause(
    reachability: Reachability,
) -> None:
    reachability.failed(REFUSED)
    for _ in range(2):
        reachability.silent(TIMED_OUT, SILENCE_SECONDS)

    assert reachability.outage == KafkaOutage(SINCE, REFUSED.str())


def test_an_error_before_the_last_answer_explains_nothing(
    reachability: Reachability,
) -> None:
    reachability.failed(REFUSED)
    reachability.failed(ALL_DOWN)
    assert reachability.last_error is REFUSED

    reachability.reached()

    assert reachability.last_error is None


def test_a_fenced_producer_is_no_outage(
    reachability: Reachability, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    reachability.failed(FENCED)
    tick_for(reachability, clock, 100)

    assert caplog.records == []


def test_lines_of_librdkafka_about_connections_need_the_level_debug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = _logger()

    def log_failures() -> None:
        # As confluent-kafka calls it: facility, client and text.
        logger.error("%s [%s] %s", "FAIL", "gex#producer-1", "[thrd:a]: refused")

    log_failures()
    assert caplog.records == []

    with caplog.at_level(logging.DEBUG, "connector"):
        log_failures()
    assert len(caplog.records) == 1


def test_other_lines_of_librdkafka_appear_once_for_all_clients(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = _logger()
    text = "[thrd:main]: unlike any line of another test, timed out after %d ms"

    for number in range(5):
        client = f"gex#producer-{number}"
        logger.warning("%s [%s] %s", "REQTMOUT", client, text % number)

    assert len(caplog.records) == 1


PASSWORD_REFUSED = KafkaError(
    KafkaError._AUTHENTICATION,
    "sasl_ssl://127.0.0.1:9093/bootstrap: SASL authentication error: Authentication failed "
    "during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512",
)
TOKEN_REFUSED = KafkaError(
    KafkaError._AUTHENTICATION,
    "sasl_plaintext://127.0.0.1:9093/1: SASL authentication error: "
    '{"status":"invalid_token"} (after 3ms in state AUTH_REQ), OAUTHBEARER',
)
# Java's answer to an expired certificate.
CERTIFICATE_REFUSED = KafkaError(
    KafkaError._TRANSPORT,
    "ssl://127.0.0.1:9093/bootstrap: Receive failed: error:0A000416:SSL routines::ssl/tls "
    "alert certificate unknown: SSL alert number 46 (after 45ms in state APIVERSION_QUERY)",
)
BROKER_UNTRUSTED = KafkaError(
    KafkaError._SSL,
    "ssl://127.0.0.1:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::"
    "certificate verify failed: broker certificate could not be verified",
)
CREDENTIALS = "Kafka refuses the credentials"


@pytest.mark.parametrize(
    ("error", "summary", "remedy"),
    [
        (PASSWORD_REFUSED, CREDENTIALS, "sasl.password"),
        (TOKEN_REFUSED, CREDENTIALS, "kafka.oauth_cb"),
        (CERTIFICATE_REFUSED, CREDENTIALS, "ssl.certificate.location"),
        (
            BROKER_UNTRUSTED,
            "the certificate of Kafka is not trusted",
            "ssl.ca.location",
        ),
    ],
)
def test_a_failed_authentication_is_not_called_unreachable(
    reachability: Reachability,
    caplog: pytest.LogCaptureFixture,
    error: KafkaError,
    summary: str,
    remedy: str,
) -> None:
    reachability.failed(error)
    reachability.failed(ALL_DOWN)

    (line,) = caplog.records
    assert line.getMessage() == summary
    assert remedy in fields_of(line)["remedy"]
    outage = reachability.outage
    assert outage is not None
    assert outage.summary == summary
    assert outage.error == error.str()


def test_an_outage_that_turns_into_a_refusal_is_named_at_once_and_once_a_minute(
    reachability: Reachability, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    # The brokers restart, and do not accept the credentials any more.
    reachability.failed(REFUSED)
    reachability.failed(ALL_DOWN)
    clock.seconds += 5
    for _ in range(3):
        reachability.failed(PASSWORD_REFUSED)

    assert caplog.messages == ["Kafka is unreachable", CREDENTIALS]
    tick_for(reachability, clock, 70)
    assert caplog.messages[2:] == [CREDENTIALS]


def test_the_next_refusal_is_named_again(
    reachability: Reachability, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        reachability.failed(REFUSED)
        reachability.failed(ALL_DOWN)
        reachability.failed(PASSWORD_REFUSED)
        reachability.reached()

    assert caplog.messages.count(CREDENTIALS) == 2


def test_a_refused_connection_beside_others_is_an_error_with_the_remedy(
    reachability: Reachability, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    reachability.failed(PASSWORD_REFUSED)
    reachability.reached()
    tick_for(reachability, clock, 30)

    (line,) = caplog.records
    assert line.getMessage() == f"a new connection failed: {CREDENTIALS}"
    assert line.levelno == logging.ERROR
    assert "sasl.password" in fields_of(line)["remedy"]
    assert reachability.outage is None


def test_the_line_about_an_outage_waits_for_its_cause(
    reachability: Reachability, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    reachability.failed(ALL_DOWN)
    assert reachability.outage is not None
    assert caplog.messages == []

    clock.seconds += 1
    reachability.failed(REFUSED)
    (line,) = caplog.records
    assert line.getMessage() == "Kafka is unreachable"
    assert fields_of(line)["error"] == REFUSED.str()
    tick_for(reachability, clock, 30)
    assert len(caplog.records) == 1


def test_an_outage_without_a_cause_is_named_a_moment_later(
    reachability: Reachability, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    reachability.failed(ALL_DOWN)
    tick_for(reachability, clock, 3)

    assert caplog.messages == ["Kafka is unreachable"]


def test_an_outage_that_was_over_before_it_was_named_is_not_named(
    reachability: Reachability, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    reachability.failed(ALL_DOWN)
    reachability.reached()
    tick_for(reachability, clock, 3)

    assert caplog.messages == []
