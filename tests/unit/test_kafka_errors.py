"""librdkafka's errors as the connector's, and the calls around them."""

from __future__ import annotations

import itertools

import confluent_kafka as ck
import pytest

from connector.config.model import REFUSED, Kafka
from connector.config.secrets import ClientSettings
from connector.config.values import InvalidValue, refusing
from connector.errors import (
    AccessDenied,
    ConfigError,
    KafkaError,
    KafkaUnavailable,
    SetupError,
    ShardFenced,
    TimeRefused,
    Unpublishable,
)
from connector.kafka.clients import Clients
from connector.kafka.errors import (
    new_client,
    retry_retriable,
    serve_callbacks,
    translate,
    translating,
)
from connector.kafka.limits import limit_faults, require_valid_settings

TIMED_OUT = ck.KafkaError(ck.KafkaError._TIMED_OUT, "no answer")
WRONG_PASSWORD = ck.KafkaError(ck.KafkaError._AUTHENTICATION, "Authentication failed")
BROKEN_HANDSHAKE = ck.KafkaError(
    ck.KafkaError._TRANSPORT, "Disconnected (after 2ms in state SSL_HANDSHAKE)"
)
BROKERS_DOWN = ck.KafkaError(ck.KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")
RETRIABLE = ck.KafkaError(ck.KafkaError._TIMED_OUT, "no answer", retriable=True)


def clients_with(**settings: str | bool) -> Clients:
    """Return clients with these settings; a name has underscores in place of dots."""
    client = ClientSettings()
    for name, value in settings.items():
        client[name.replace("_", ".")] = value
    return Clients(Kafka(client=client))


# --- errors ---


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (ck.KafkaError._FENCED, ShardFenced),
        (ck.KafkaError.INVALID_PRODUCER_EPOCH, ShardFenced),
        (ck.KafkaError.PRODUCER_FENCED, ShardFenced),
        (ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, AccessDenied),
        (ck.KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, AccessDenied),
        (ck.KafkaError.MSG_SIZE_TOO_LARGE, Unpublishable),
        (ck.KafkaError.INVALID_TIMESTAMP, TimeRefused),
        (ck.KafkaError._TIMED_OUT, KafkaUnavailable),
        # A topic that was just created is unknown to some brokers for a while.
        (ck.KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaUnavailable),
    ],
)
def test_each_code_has_its_kind_of_error(code: int, kind: type[KafkaError]) -> None:
    error = translate(ck.KafkaError(code, "reason"), "opening shard all-0")

    # Not isinstance: a subclass would be handled in another way.
    assert type(error) is kind
    assert str(error).startswith("opening shard all-0: ")
    assert "reason" in str(error)


def test_the_reported_error_names_the_remedy_of_a_timed_out_call() -> None:
    # The call itself only knows that nobody answered.
    error = translate(TIMED_OUT, "listing topics", WRONG_PASSWORD)

    assert "no answer; Authentication failed; check sasl.mechanism" in str(error)


def test_a_broken_tls_handshake_asks_for_the_listener() -> None:
    # librdkafka reports a plain disconnection: only the state names the handshake.
    error = translate(TIMED_OUT, "listing topics", BROKEN_HANDSHAKE)

    message = str(error)
    assert "connecting to a PLAINTEXT broker listener?" in message
    assert "security.protocol" in message


def test_a_missing_right_needs_no_other_explanation() -> None:
    denied = ck.KafkaError(ck.KafkaError.GROUP_AUTHORIZATION_FAILED, "denied")

    error = translate(denied, "joining", TIMED_OUT)

    assert "grant READ on the group" in str(error)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (ck.KafkaError.MSG_SIZE_TOO_LARGE, "raise max.message.bytes of the topic"),
        (ck.KafkaError.INCONSISTENT_GROUP_PROTOCOL, "another program is in the group"),
        (ck.KafkaError.GROUP_MAX_SIZE_REACHED, "raise the brokers' group.max.size"),
        (ck.KafkaError._AUTO_OFFSET_RESET, "run the command again"),
    ],
)
def test_a_refusal_names_its_remedy(code: int, remedy: str) -> None:
    assert remedy in str(translate(ck.KafkaError(code, "reason"), "working"))


def test_translating_adds_the_error_that_the_clients_reported() -> None:
    clients = Clients(Kafka())
    clients._report(WRONG_PASSWORD)

    expected = "listing topics: .*Authentication failed"
    with (
        pytest.raises(KafkaUnavailable, match=expected),
        translating("listing topics", clients),
    ):
        raise ck.KafkaException(TIMED_OUT)


def test_that_all_brokers_are_down_does_not_hide_the_reason() -> None:
    reported: list[str] = []
    clients = Clients(Kafka(), reported.append)

    # librdkafka reports "all brokers are down" again after the error that explains it.
    for error in (BROKERS_DOWN, WRONG_PASSWORD, BROKERS_DOWN):
        clients._report(error)

    assert clients.last_error is WRONG_PASSWORD
    assert reported == ["_ALL_BROKERS_DOWN", "_AUTHENTICATION", "_ALL_BROKERS_DOWN"]


# Brokers, load balancers and NAT close idle connections, which looks the same to a client.
def test_only_clients_that_are_always_in_use_tell_of_an_outage() -> None:
    clients = Clients(Kafka())
    may_be_idle = [
        clients.admin(),
        clients.reader("read_committed"),
        clients.producer("id"),
        clients.quarantine_producer(),
    ]
    for settings in may_be_idle:
        settings["error_cb"](BROKERS_DOWN)
        assert clients.reachability.outage is None

    for settings in (clients.group(), clients.probe(), clients.follower()):
        settings["error_cb"](BROKERS_DOWN)
        assert clients.reachability.outage is not None
        clients.reachability.reached()


def test_a_refused_setting_is_a_fault_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"kafka\.client: .*no\.such\.setting"):
        new_client(ck.Producer, {"no.such.setting": "1"})


# --- callbacks ---


class Client:
    """A client whose poll raises, as that of a fenced producer does."""

    def __init__(self, error: ck.KafkaError | None) -> None:
        self.error = error
        self.polled = 0

    def poll(self, timeout: float, /) -> None:
        # Callbacks are served in between: nothing may wait for them.
        assert timeout == 0
        self.polled += 1
        if self.error is not None:
            raise ck.KafkaException(self.error)


def test_a_failed_client_keeps_no_other_from_its_callbacks() -> None:
    failed = Client(TIMED_OUT)
    sound = Client(None)

    serve_callbacks(failed, sound)

    assert failed.polled == 1
    assert sound.polled == 1


# --- retries ---


class Calls:
    """Fails with each of `errors` in turn, then succeeds."""

    def __init__(self, *errors: ck.KafkaError) -> None:
        self._errors = list(errors)
        self.made = 0

    def __call__(self) -> None:
        self.made += 1
        if self._errors:
            error = self._errors.pop(0)
            raise ck.KafkaException(error)


def never() -> bool:
    """Return False: the call is not abandoned."""
    return False


def test_a_retriable_error_is_retried() -> None:
    call = Calls(RETRIABLE, RETRIABLE)

    retry_retriable(call, 10, never)

    assert call.made == 3


def test_another_error_is_raised_at_once() -> None:
    # librdkafka marks the errors that a retry may help against. This one has no mark.
    call = Calls(TIMED_OUT)

    with pytest.raises(ck.KafkaException):
        retry_retriable(call, 10, never)

    assert call.made == 1


def test_retries_end_after_their_time() -> None:
    call = Calls(*itertools.repeat(RETRIABLE, 5))

    with pytest.raises(ck.KafkaException):
        retry_retriable(call, 0, never)

    assert call.made == 1


def test_an_abandoned_call_is_not_retried() -> None:
    call = Calls(RETRIABLE, RETRIABLE)

    def abandoned_after_the_second() -> bool:
        return call.made == 2

    with pytest.raises(ck.KafkaException):
        retry_retriable(call, 10, abandoned_after_the_second)

    assert call.made == 2


# --- settings ---

# Everything that exactly-once publishing rests on, set to something else. The loader
# refuses these settings; a bug in it must not be enough to lose or repeat events.
WEAKENED = Kafka(
    client=ClientSettings(
        {
            "acks": "1",
            "enable.idempotence": False,
            "transactional.id": "other",
            "partitioner": "random",
            "isolation.level": "read_uncommitted",
            "enable.auto.commit": True,
            "enable.partition.eof": False,
        }
    )
)


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
def test_no_configured_setting_weakens_a_reader(isolation: str) -> None:
    settings = Clients(WEAKENED).reader(isolation)

    assert settings["isolation.level"] == isolation
    assert settings["enable.auto.commit"] is False
    # Restoring a shard ends at the end of its partition.
    assert settings["enable.partition.eof"] is True


def test_no_configured_setting_weakens_a_producer() -> None:
    settings = Clients(WEAKENED).producer("levels.all.current-0")

    # The transactional id fences the shard's previous owner.
    assert settings["transactional.id"] == "levels.all.current-0"
    assert settings["enable.idempotence"] is True
    assert settings["acks"] == "all"
    # Java's clients choose the same partition for a key.
    assert settings["partitioner"] == "murmur2_random"


def test_the_group_has_the_classic_protocols_settings_by_default() -> None:
    settings = Clients(Kafka()).group()

    assert settings["session.timeout.ms"] == 6_000
    assert settings["heartbeat.interval.ms"] == 1_000
    assert settings["partition.assignment.strategy"] == "cooperative-sticky"


# With KIP-848 the broker decides, and librdkafka refuses to start with these settings.
@pytest.mark.parametrize(
    "name",
    [
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "partition.assignment.strategy",
    ],
)
def test_the_consumer_protocol_leaves_the_session_to_the_broker(name: str) -> None:
    settings = clients_with(group_protocol="consumer").group()

    assert settings["group.protocol"] == "consumer"
    assert name not in settings


# The broker decides, and librdkafka says so instead of the setting being ignored.
def test_a_configured_session_is_refused_with_the_consumer_protocol() -> None:
    clients = clients_with(group_protocol="consumer", session_timeout_ms="9000")

    with pytest.raises(ConfigError, match=r"kafka\.client: .*session\.timeout\.ms"):
        require_valid_settings(clients)


def test_settings_that_are_refused_only_together_are_found_before_the_first_shard() -> (
    None
):
    clients = clients_with(transaction_timeout_ms="30000", message_timeout_ms="40000")

    with pytest.raises(ConfigError, match=r"message\.timeout\.ms.*must be set"):
        require_valid_settings(clients)


def settings_of_every_client(clients: Clients) -> list[dict[str, object]]:
    return [
        clients.admin(),
        clients.group(),
        clients.reader("read_committed"),
        clients.producer("id"),
    ]


def names_of_our_settings() -> set[str]:
    clients = Clients(Kafka(), on_statistics=lambda _: None)
    return set().union(*settings_of_every_client(clients))


@pytest.mark.parametrize("name", sorted(names_of_our_settings()))
def test_a_configured_setting_counts_or_is_refused(name: str) -> None:
    check = refusing(REFUSED)
    try:
        check(name)
    except InvalidValue:
        return

    kafka = Kafka(client=ClientSettings({name: "configured"}))
    clients = Clients(kafka, on_statistics=lambda _: None)
    values = [settings.get(name) for settings in settings_of_every_client(clients)]
    assert "configured" in values


BROKER = {
    "transaction.max.timeout.ms": "30000",
    "group.min.session.timeout.ms": "10000",
    "group.max.session.timeout.ms": "20000",
}


def test_each_time_out_beyond_a_limit_is_named_with_the_limit() -> None:
    transaction, session = limit_faults(Clients(Kafka()), BROKER)

    assert transaction.startswith(
        "transaction.timeout.ms is 60000, but the brokers allow at most 30000 "
        "(transaction.max.timeout.ms); set transaction.timeout.ms = 30000"
    )
    assert session.startswith(
        "session.timeout.ms is 6000, but the brokers demand at least 10000 "
        "(group.min.session.timeout.ms); set session.timeout.ms = 10000"
    )


@pytest.mark.parametrize(
    ("session_ms", "fault"),
    [("10000", None), ("20000", None), ("20001", "allow at most 20000")],
)
def test_a_session_between_the_limits_fits(session_ms: str, fault: str | None) -> None:
    clients = clients_with(
        transaction_timeout_ms="30000", session_timeout_ms=session_ms
    )

    faults = limit_faults(clients, BROKER)

    if fault is None:
        assert faults == []
    else:
        (found,) = faults
        assert fault in found


def test_limits_that_are_not_known_are_no_fault() -> None:
    assert limit_faults(Clients(Kafka()), {}) == []
    # librdkafka reads the digits at the start; we compare plain numbers only.
    assert limit_faults(clients_with(session_timeout_ms="1 s"), BROKER)[1:] == []


def test_the_brokers_decide_about_sessions_of_the_consumer_protocol() -> None:
    clients = clients_with(group_protocol="consumer", transaction_timeout_ms="30000")
    assert limit_faults(clients, BROKER) == []


def test_only_producers_have_the_time_out_of_transactions() -> None:
    clients = clients_with(transaction_timeout_ms="9000")

    assert clients.producer("id")["transaction.timeout.ms"] == "9000"
    # Consumers would log a warning about it.
    for settings in (clients.group(), clients.reader("read_committed")):
        assert "transaction.timeout.ms" not in settings


@pytest.mark.parametrize(
    "code",
    [
        ck.KafkaError.INVALID_SESSION_TIMEOUT,
        ck.KafkaError.INVALID_TRANSACTION_TIMEOUT,
    ],
)
def test_a_limit_of_the_brokers_is_a_fault_of_the_setup(code: int) -> None:
    error = translate(ck.KafkaError(code, "refused"), "starting", WRONG_PASSWORD)

    assert isinstance(error, SetupError)
    assert "timeout.ms in kafka.client" in str(error)
    # An earlier error of the connection does not replace the remedy.
    assert "sasl.password" not in str(error)


def test_only_the_group_has_the_settings_of_a_member() -> None:
    clients = clients_with(session_timeout_ms="9000")

    assert clients.group()["session.timeout.ms"] == "9000"
    # The others join no group, and librdkafka warns about such settings of a producer.
    others = (
        clients.admin(),
        clients.reader("read_committed"),
        clients.producer("id"),
    )
    for settings in others:
        assert "session.timeout.ms" not in settings
