"""Live levels for Python programs downstream.

::

    from connector.client import LiveLevels

    with LiveLevels("127.0.0.1:9092", feed="all") as levels:
        print(levels["BTCUSDT"].levels.all_expiry.hvl, levels["BTCUSDT"].status)

This package needs confluent-kafka, fastavro and msgspec only: see docs/how-to/client.md.
"""

from connector.client.errors import (
    AccessDenied,
    ClientError,
    ClientStopped,
    EventsMissing,
    KafkaUnreachable,
    NotFresh,
    RegistryError,
    SchemaError,
    SettingsError,
    TopicMissing,
    TopicReplaced,
    UnknownSymbol,
)
from connector.client.events import EventStream
from connector.client.listeners import Change
from connector.client.live import LiveLevels
from connector.client.registry import Registry
from connector.client.views import SymbolView
from connector.core.model import Event, Kind, LevelChange, Levels, Status

__all__ = [
    "AccessDenied",
    "Change",
    "ClientError",
    "ClientStopped",
    "Event",
    "EventStream",
    "EventsMissing",
    "KafkaUnreachable",
    "Kind",
    "LevelChange",
    "Levels",
    "LiveLevels",
    "NotFresh",
    "Registry",
    "RegistryError",
    "SchemaError",
    "SettingsError",
    "Status",
    "SymbolView",
    "TopicMissing",
    "TopicReplaced",
    "UnknownSymbol",
]
