"""Checks our settings: by librdkafka's rules, and against the brokers' limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import confluent_kafka as ck

from connector.errors import ConfigError, UnusableFile
from connector.kafka.errors import new_client

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.kafka.clients import Clients, Settings

# The producers of all shards have the same settings, except for their ids.
_ANY_ID: Final = "settings"

# A setting of ours, the brokers' limit for it, and Kafka's default of that limit.
_LIMITS: Final = (
    ("transaction.timeout.ms", "transaction.max.timeout.ms", 900_000),
    ("session.timeout.ms", "group.min.session.timeout.ms", 6_000),
    ("session.timeout.ms", "group.max.session.timeout.ms", 1_800_000),
)
_PROTOCOLS: Final = "group.coordinator.rebalance.protocols"


def require_valid_settings(clients: Clients) -> None:
    """Raise ConfigError if librdkafka refuses a setting, or a file that it names.

    Some are refused only together: `message.timeout.ms` may not exceed
    `transaction.timeout.ms`. Without this, a standby would find out at its first take-over.
    """
    # Nothing is sent: a producer waits for `init_transactions`, and a consumer for
    # `subscribe`.
    producer, group = clients.producer(_ANY_ID), clients.group()
    for settings in (producer, group):
        # A client waits for its first token.
        settings.pop("oauth_cb", None)
    try:
        new_client(ck.Producer, producer)
        new_client(ck.Consumer, group)
    except UnusableFile as error:
        # At the start nobody is replacing it.
        raise ConfigError([str(error)]) from None


def limit_faults(clients: Clients, broker: Mapping[str, str]) -> list[str]:
    """Return each of our settings that the brokers would refuse, with the remedy.

    `broker` has the settings of a broker. Limits that it does not name are not compared:
    managed brokers hide some.
    """
    settings = _limited(clients)
    faults = []
    for name, limit_name, _ in _LIMITS:
        fault = _fault(settings, name, broker, limit_name)
        if fault is not None:
            faults.append(fault)

    protocol = settings.get("group.protocol", "classic")
    protocols = broker.get(_PROTOCOLS)
    known = [] if protocols is None else [name.strip() for name in protocols.split(",")]
    if known and protocol not in known:
        faults.append(
            f"group.protocol is {protocol}, but the brokers have {protocols} only "
            f"({_PROTOCOLS}); set another one in [kafka.client], or change theirs"
        )
    return faults


def group_limit(clients: Clients, broker: Mapping[str, str]) -> int | None:
    """Return the number of members that a group may have, None if it is not known."""
    return _number(broker, group_limit_name(clients))


def group_limit_name(clients: Clients) -> str:
    """Return the brokers' setting that limits the members of a group."""
    protocol = clients.group().get("group.protocol", "classic")
    return "group.consumer.max.size" if protocol == "consumer" else "group.max.size"


def unknown_limits(clients: Clients) -> list[str]:
    """Return the settings to compare by hand if the brokers' limits cannot be read."""
    settings = _limited(clients)
    found = []
    for name, limit_name, default in _LIMITS:
        if name in settings:
            found.append(
                f"{name} is {settings[name]}, {limit_name} by default {default}"
            )
    return found


def _limited(clients: Clients) -> Settings:
    """Return the settings of ours that brokers limit, besides others."""
    # With `group.protocol=consumer` the brokers decide about sessions, so that ours are
    # absent, and nothing is compared.
    producer = clients.producer(_ANY_ID)
    timeout = "transaction.timeout.ms"
    return clients.group() | {timeout: producer[timeout]}


def _fault(
    settings: Settings, name: str, broker: Mapping[str, str], limit_name: str
) -> str | None:
    """Return the fault if a setting of ours is beyond a limit of the brokers."""
    ours, limit = _number(settings, name), _number(broker, limit_name)
    if ours is None or limit is None:
        return None
    is_minimum = ".min." in limit_name
    is_beyond = ours < limit if is_minimum else ours > limit
    if not is_beyond:
        return None
    demand = "demand at least" if is_minimum else "allow at most"
    return (
        f"{name} is {ours}, but the brokers {demand} {limit} ({limit_name}); set "
        f"{name} = {limit} in [kafka.client], or change the brokers' limit"
    )


def _number(settings: Mapping[str, Any], name: str) -> int | None:
    """Return a setting, or None if it is absent or not a plain number."""
    try:
        return int(settings[name])
    except (KeyError, ValueError):
        return None
