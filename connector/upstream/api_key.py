"""The current API key, which may be rotated in its file."""

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

# Modification time, inode and size: together they change whenever the file does.
_FileVersion = tuple[int, int, int]


class ApiKey:
    """Holds the API key, and reads it again when its file has changed.

    Without `upstream.api_key_file` the key never changes.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._secret = upstream.api_key
        self._path: Path | None = None
        if upstream.api_key_file is not None:
            self._path = Path(upstream.api_key_file)

        # The file may have changed since the configuration was read: read it once more.
        self._read_version: _FileVersion | None = None
        self._logged_version: _FileVersion | None = None

    @property
    def secret(self) -> Secret:
        """The current key."""
        return self._secret

    def refresh(self) -> bool:
        """Read the file if it has changed. Return True if it holds another key.

        A file that cannot be read changes nothing: it may be in the middle of a rotation.
        """
        if self._path is None:
            return False
        version = _version_of(self._path)
        if version is None or version == self._read_version:
            return False
        try:
            secret = read_key_file(self._path)
        except ConfigError as error:
            self._log_once(version, error)
            return False
        self._read_version = version
        changed = secret.reveal() != self._secret.reveal()
        self._secret = secret
        return changed

    def _log_once(self, version: _FileVersion, error: ConfigError) -> None:
        if version != self._logged_version:
            self._logged_version = version
            _log.warning(
                "cannot read API key file; keeping the previous key",
                extra={"error": str(error)},
            )


def _version_of(path: Path) -> _FileVersion | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
