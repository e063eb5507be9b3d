"""The API key as it is now: read from its file again when that has changed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from connector.config.load import read_key_file
from connector.errors import ConfigError

if TYPE_CHECKING:
    from connector.config.model import Upstream
    from connector.config.secrets import Secret

_log = logging.getLogger(__name__)


class ApiKey:
    """Holds the key. Without a file it never changes."""

    def __init__(self, upstream: Upstream) -> None:
        self._secret = upstream.api_key
        self._path = (
            None if upstream.api_key_file is None else Path(upstream.api_key_file)
        )
        self._refused: tuple[int, int, int] | None = None
        self._seen: tuple[int, int, int] | None = (
            None  # the file may have changed since the configuration was read
        )

    @property
    def secret(self) -> Secret:
        """The key."""
        return self._secret

    def refresh(self) -> bool:
        """Look at the file. True where it brought another key; one that cannot be read changes nothing."""
        stamp = self._stamp()
        if self._path is None or stamp is None or stamp == self._seen:
            return False
        try:
            secret = read_key_file(self._path)
        except ConfigError as error:
            if stamp != self._refused:
                self._refused = stamp
                _log.warning(
                    "cannot read API key file; keeping the previous key",
                    extra={"error": str(error)},
                )
            return False
        self._seen = stamp
        changed = secret.reveal() != self._secret.reveal()
        self._secret = secret
        return changed

    def _stamp(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size
