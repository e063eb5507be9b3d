"""Looks up a schema in a schema registry, with the standard library only."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Final

from connector.client.errors import RegistryError, SettingsError

_TIMEOUT_SECONDS: Final = 10
# A registry that restarts is back within seconds.
_PAUSES_SECONDS: Final = (0.5, 1.0, 2.0, 4.0)
_NOT_FOUND: Final = 404
_REFUSED: Final = frozenset({401, 403})
_FIRST_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Registry:
    """A schema registry with Confluent's API.

    Give `user` and `password` for HTTP Basic, or `token` for a bearer token. `ca_file` has
    the certificates to trust instead of the system's. A proxy follows `HTTPS_PROXY`,
    `HTTP_PROXY` and `NO_PROXY`.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca_file: str | None = None

    def __post_init__(self) -> None:
        """Check the URL and the certificates. Raises SettingsError."""
        # Errors show the URL, so a password in it would reach logs.
        if "@" in self.url:
            raise SettingsError(
                "the registry's URL must not hold user and password (or any @): pass "
                "Registry(url, user=..., password=...)"
            )
        if not self.url.startswith(("http://", "https://")):
            raise SettingsError(
                f"registry {self.url!r} is no URL; expected http://... or https://..."
            )
        try:
            self._context()
        except OSError as error:
            raise SettingsError(
                f"ca_file {self.ca_file!r}: {error}; expected a file of certificates (PEM)"
            ) from None

    def schema(self, schema_id: int) -> str:
        """Return the text of a schema. Tries again for a few seconds.

        Raises RegistryError.
        """
        request = urllib.request.Request(self._address(schema_id))  # noqa: S310 -- checked above
        authorization = self._authorization()
        if authorization is not None:
            # A redirect may lead to another host.
            request.add_unredirected_header("Authorization", authorization)
        for pause in _PAUSES_SECONDS:
            try:
                return self._ask(request, schema_id)
            except _TryAgain:
                time.sleep(pause)
        try:
            return self._ask(request, schema_id)
        except _TryAgain as error:
            raise RegistryError(
                f"schema registry {self.url}: {error}; check that it runs, and its URL"
            ) from None

    def _address(self, schema_id: int) -> str:
        return f"{self.url.rstrip('/')}/schemas/ids/{schema_id}"

    def _context(self) -> ssl.SSLContext | None:
        if self.ca_file is None:
            return None
        return ssl.create_default_context(cafile=self.ca_file)

    def _authorization(self) -> str | None:
        if self.token is not None:
            return f"Bearer {self.token}"
        if self.user is None:
            return None
        pair = f"{self.user}:{self.password or ''}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"

    def _ask(self, request: urllib.request.Request, schema_id: int) -> str:
        """Raises RegistryError, and _TryAgain if a retry may help."""
        try:
            with urllib.request.urlopen(  # noqa: S310 -- checked above
                request, timeout=_TIMEOUT_SECONDS, context=self._context()
            ) as response:
                return str(json.load(response)["schema"])
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error, schema_id) from None
        except (OSError, http.client.HTTPException) as error:
            raise _TryAgain(f"no answer ({error})") from None
        except (ValueError, KeyError, TypeError):
            raise RegistryError(
                f"schema registry {self.url}: the answer for schema {schema_id} is not "
                "one of Confluent's API; check the URL, such as "
                "http://registry:8080/apis/ccompat/v7 for Apicurio"
            ) from None

    def _refusal(
        self, error: urllib.error.HTTPError, schema_id: int
    ) -> RegistryError | _TryAgain:
        if error.code >= _FIRST_SERVER_ERROR:
            return _TryAgain(f"HTTP status {error.code}")
        if error.code == _NOT_FOUND:
            return RegistryError(
                f"schema registry {self.url} has no schema {schema_id}; is it the "
                "registry that the connector uses (its schema_registry.url)?"
            )
        remedy = "check its URL"
        if error.code in _REFUSED:
            remedy = "check user and password, or token"
        return RegistryError(
            f"schema registry {self.url} refuses schema {schema_id} with HTTP status "
            f"{error.code}; {remedy}"
        )


class _TryAgain(Exception):
    """The registry has not answered. The message is the reason."""
