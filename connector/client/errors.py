"""The errors of the client, in one tree. Each message ends with the remedy.

::

    exception               meaning
    ----------------------  -------------------------------------------------------------
    ClientError
    ├── SettingsError       librdkafka refuses a setting, or an argument is not valid
    ├── KafkaUnreachable    no broker answers, or it refuses the credentials
    ├── AccessDenied        the right to read a topic or to name the group is missing
    ├── TopicMissing        there is no such topic: a wrong feed, prefix or cluster
    ├── TopicReplaced       a topic was deleted, or deleted and created again
    ├── EventsMissing       events were deleted before they were read, or do not come
    ├── SchemaError         a value's schema is unknown, of a newer major, or does not fit
    ├── RegistryError       the schema registry does not answer, or refuses the request
    ├── NotFresh            levels did not become fresh in time (also a TimeoutError)
    ├── UnknownSymbol       the feed has no such symbol (also a KeyError)
    └── ClientStopped       the client is not started, is closed, or a callback raised
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of the tree. The message says what failed, and what to do."""


class SettingsError(ClientError):
    """An argument is not valid, or librdkafka refuses a setting."""


class KafkaUnreachable(ClientError):
    """No broker answers in time, or Kafka and the client do not accept each other."""


class AccessDenied(ClientError):
    """A right is missing. The message names the topic or the group."""


class TopicMissing(ClientError):
    """There is no such topic. The message names the feeds that there are."""


class TopicReplaced(ClientError):
    """A topic was deleted while it was followed, and perhaps created again."""


class EventsMissing(ClientError):
    """Events cannot be delivered without a gap.

    `next_sequences` has the first missing sequence of each symbol, as far as it is known.
    """

    def __init__(
        self, message: str, next_sequences: dict[str, int] | None = None
    ) -> None:
        self.next_sequences = next_sequences or {}
        super().__init__(message)


class SchemaError(ClientError):
    """A record of a connector cannot be decoded. Mostly, this client is too old."""


class RegistryError(ClientError):
    """The schema registry does not answer, refuses us, or has no such schema."""


class NotFresh(ClientError, TimeoutError):
    """Levels did not become fresh in time. The message has the reason."""


class UnknownSymbol(ClientError, KeyError):
    """The feed has no such symbol."""

    # KeyError would show the message in quotes.
    __str__ = ClientError.__str__


class ClientStopped(ClientError):
    """The client does not run: not started, closed, or stopped by a callback's error."""
