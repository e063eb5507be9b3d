"""Requests to a Confluent Schema Registry, and checks of its answers.

Whatever answers at the registry's address may be a proxy, a login page, or a gateway
before a registry that is being replaced. An answer counts only if it has the registry's
form. Anything else is an outage: callers retry.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx2
from confluent_kafka.schema_registry import Schema as RegistrySchema
from confluent_kafka.schema_registry import SchemaRegistryClient, SchemaRegistryError
from confluent_kafka.schema_registry.error import OAuthTokenError

from connector.errors import AccessDenied, ConfigError, KafkaUnavailable, SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from connector.errors import KafkaError

_T = TypeVar("_T")

_TIMEOUT_SECONDS: Final = 10
# Confluent's wire format has four bytes for an id, and its registry uses signed integers.
_LARGEST_ID: Final = 2**31 - 1
_MAX_ERROR_CHARACTERS: Final = 300

INCOMPATIBLE: Final = (
    "our schema is incompatible with the registered one: another version or program wrote "
    "the topic; use another kafka.topic_prefix"
)
_NOT_A_REGISTRY: Final = "the schema registry does not answer as one"
_CHECK_ADDRESS: Final = "check schema_registry.url, and any proxy or gateway on the way"

_CONFLICT: Final = 409
_SERVER_ERROR: Final = 500
# Gateways that ask for a password themselves answer 401 without the registry's form.
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403

# The registry's own code for a subject that may only be read.
_READ_ONLY: Final = 42_205
# Statuses of a registry that has read the schema, and refuses it as invalid.
_INVALID: Final = (400, 422)
_NO_SCHEMA: Final = "gex-connector check: not a schema"

# The registry's own codes for a subject, version or schema that it does not have. A wrong
# path and a gateway without a backend answer 404 as well, but not with these.
_NOT_FOUND: Final = range(40_400, 40_500)

# Confluent's client decodes answers without checking their form.
_DECODING_ERRORS: Final = (
    AttributeError,
    KeyError,
    RecursionError,
    TypeError,
    ValueError,
)

_UNUSED_PROXY: Final = "http://proxy.invalid"


class RegistryClient:
    """Sends requests to the registry. No method retries.

    Every method raises:
        KafkaUnavailable: the registry does not answer, or not as a registry.
        AccessDenied: the registry refuses us.
    """

    def __init__(self, url: str, client: Mapping[str, Any], proxy: str | None) -> None:
        """`proxy` is the URL of a proxy, None to connect directly.

        Raises ConfigError if the client refuses a setting.
        """
        settings = {
            "timeout": _TIMEOUT_SECONDS,
            # Callers retry: the client's own retries would only hide an outage.
            "max.retries": 0,
            **client,
            "url": url,
            # Without a proxy it would look for one in the environment, by its own rules.
            "proxy": proxy or _UNUSED_PROXY,
        }
        try:
            self._client = SchemaRegistryClient(settings)
        except (ValueError, TypeError, OSError, httpx2.InvalidURL) as error:
            raise ConfigError([f"schema_registry.client: {error}"]) from None
        if proxy is None:
            self._connect_directly()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def find(self, subject: str, schema: object) -> int | None:
        """Return the id of a schema in a subject, None if it is not registered there."""
        with self._checked(subject):
            try:
                found = self._client.lookup_schema(subject, _avro(schema))
            except SchemaRegistryError as error:
                if not _is_not_found(error):
                    raise
                return None
            return _id(found.schema_id)

    def register(self, subject: str, schema: object) -> int:
        """Register a schema, and return its id. Raises SetupError if it does not fit."""
        with self._checked(subject):
            return _id(self._client.register_schema(subject, _avro(schema)))

    def require_right_to_register(self, subject: str) -> None:
        """Raise AccessDenied if we may not register a schema.

        The registry looks at our rights before it refuses a text that is no schema. If it
        takes the text, that version is deleted again, and SetupError is raised.
        """
        schema = RegistrySchema(_NO_SCHEMA, "AVRO")
        with self._checked(subject):
            try:
                _id(self._client.register_schema(subject, schema))
            except SchemaRegistryError as error:
                if not _is_invalid(error):
                    raise
                return
        outcome = f"the text {_NO_SCHEMA!r} was deleted again"
        try:
            self._delete(subject, schema)
        except KafkaUnavailable as error:
            outcome = f"the text {_NO_SCHEMA!r} is registered now, delete it ({error})"
        raise SetupError(
            f"{subject}: the schema registry accepts a text that is not a schema: use a "
            f"registry that validates schemas; {outcome}"
        )

    def _delete(self, subject: str, schema: RegistrySchema) -> None:
        with self._checked(f"deleting a version of {subject}"):
            version = self._client.lookup_schema(subject, schema).version
            self._client.delete_version(subject, _expect(version, int))

    def fits(self, subject: str, schema: object) -> bool:
        """Return True if a schema could be registered."""
        with self._checked(subject):
            try:
                fits = self._client.test_compatibility(subject, _avro(schema))
            except SchemaRegistryError as error:
                if not _is_not_found(error):
                    raise
                # A new subject takes any schema.
                return True
            return _expect(fits, bool)

    def versions(self, subject: str) -> list[int]:
        """Return the versions of a subject, none if it does not exist."""
        with self._checked(subject):
            try:
                versions = self._client.get_versions(subject)
            except SchemaRegistryError as error:
                if not _is_not_found(error):
                    raise
                return []
            return [_expect(version, int) for version in _expect(versions, list)]

    def version(self, subject: str, version: int) -> tuple[int, str]:
        """Return the id and the text of the schema in a version of a subject."""
        with self._checked(f"{subject}, version {version}"):
            found = self._client.get_version(subject, version)
            return _id(found.schema_id), _expect(found.schema.schema_str, str)

    def text(self, schema_id: int) -> str | None:
        """Return the text of a schema, None if the registry does not know the id."""
        with self._checked(f"schema {schema_id}"):
            try:
                found = self._client.get_schema(schema_id)
            except SchemaRegistryError as error:
                if not _is_not_found(error):
                    raise
                return None
            return _expect(found.schema_str, str)

    def compatibility(self) -> str | None:
        """Return the level of subjects without a level of their own, None if not set."""
        with self._checked("compatibility"):
            try:
                level = self._client.get_compatibility()
            except SchemaRegistryError as error:
                if not _is_not_found(error):
                    raise
                return None
            return _expect(level, str)

    def _connect_directly(self) -> None:
        """Replace the session, which has the proxy that is not used."""
        rest = self._client._rest_client  # noqa: SLF001 -- its settings have no "no proxy"
        rest.session.close()
        rest.session = httpx2.Client(
            verify=rest.verify, auth=rest.auth, timeout=rest.timeout, trust_env=False
        )

    @contextmanager
    def _checked(self, action: str) -> Iterator[None]:
        """Raise the connector's error for any other. `action` begins the message."""
        try:
            yield
        except SchemaRegistryError as error:
            raise _translate(error, action) from None
        except (httpx2.HTTPError, OSError) as error:
            raise KafkaUnavailable(
                f"{action}: the schema registry does not answer: {_short(error)}; "
                f"{_CHECK_ADDRESS}"
            ) from None
        except OAuthTokenError as error:
            raise KafkaUnavailable(
                f"{action}: no token for the schema registry: {_short(error)}; check "
                "bearer.auth.* in schema_registry.client"
            ) from None
        except _DECODING_ERRORS as error:
            # The client may have kept the answer, and must not repeat it.
            self._client.clear_caches()  # type: ignore[no-untyped-call] # the library has no type
            reason = f"{type(error).__name__}: {_short(error)}"
            raise KafkaUnavailable(
                f"{action}: {_NOT_A_REGISTRY}: {reason}; {_CHECK_ADDRESS}"
            ) from None


def _avro(schema: object) -> RegistrySchema:
    return RegistrySchema(json.dumps(schema), "AVRO")


def _expect(value: Any, kind: type[_T]) -> _T:
    """Return the value. Raises TypeError if it has another type."""
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, not {type(value).__name__}")
    return value


def _id(value: Any) -> int:
    schema_id = _expect(value, int)
    if not 0 <= schema_id <= _LARGEST_ID:
        raise ValueError(f"{schema_id} is no id of a schema")
    return schema_id


def _is_not_found(error: SchemaRegistryError) -> bool:
    return error.error_code in _NOT_FOUND


def _is_invalid(error: SchemaRegistryError) -> bool:
    """Return True if the registry would take a schema, but not this one."""
    is_read_only = error.error_code == _READ_ONLY
    return error.http_status_code in _INVALID and not is_read_only


def _translate(error: SchemaRegistryError, action: str) -> KafkaError:
    status = error.http_status_code
    reason = _short(error.error_message)
    # -1 or None: the answer does not have the registry's form.
    code: Any = error.error_code
    is_from_the_registry = isinstance(code, int) and code > 0
    is_refusal = status == _UNAUTHORIZED or (
        status == _FORBIDDEN and is_from_the_registry
    )
    if is_refusal:
        return AccessDenied(
            f"{action}: the schema registry refuses us ({status}): {reason}; "
            "check schema_registry.client, and our rights in the registry"
        )
    if code == _READ_ONLY:
        return AccessDenied(
            f"{action}: the schema registry can only be read: {reason}; set its mode, or "
            "that of the subject, to READWRITE"
        )
    if status == _CONFLICT and is_from_the_registry:
        return SetupError(f"{action}: {INCOMPATIBLE} (registry: {reason})")
    if is_from_the_registry or status >= _SERVER_ERROR:
        return KafkaUnavailable(
            f"{action}: the schema registry answers {status}: {reason}; {_CHECK_ADDRESS}"
        )
    return KafkaUnavailable(
        f"{action}: {_NOT_A_REGISTRY} (status {status}): {reason}; {_CHECK_ADDRESS}"
    )


def _short(reason: object) -> str:
    return str(reason)[:_MAX_ERROR_CHARACTERS]
