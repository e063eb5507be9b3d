"""Files that TLS needs: they are missed before anything is created, and by their names.

OpenSSL ignores a missing file of `SSL_CERT_FILE` and then trusts nobody. Client libraries
say "no such file" without the path.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from connector.config.secrets import quote_path
from connector.config.sources import reason_of
from connector.config.values import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Mapping

# Client settings that name a file or a folder, such as `ssl.ca.location`.
_FILE_SETTINGS: Final = (".location", ".file")
# librdkafka then looks for the system's certificates by itself.
_PROBE: Final = "probe"

# OpenSSL knows three names. A private key alone is no certificate.
_PEM_CERTIFICATE: Final = re.compile(rb"-----BEGIN (X509 |TRUSTED )?CERTIFICATE-----")


def file_of(name: str, value: object) -> str | None:
    """Return the file or folder that a client setting names, None if it names none."""
    is_file_setting = name.endswith(_FILE_SETTINGS)
    if not is_file_setting or not isinstance(value, str) or value == _PROBE:
        return None
    return value


def check_client_file(name: str, value: object) -> None:
    """Raise InvalidValue if a client setting names a file that cannot be read."""
    file = file_of(name, value)
    if file is None:
        return
    try:
        is_readable = os.access(Path(file).resolve(strict=True), os.R_OK)
    except (OSError, ValueError) as error:
        raise InvalidValue(f"{quote_path(file)}: {reason_of(error)}") from None
    if not is_readable:
        raise InvalidValue(f"{quote_path(file)}: Permission denied")


def faults_of_environment(environ: Mapping[str, str]) -> list[str]:
    """Return the faults of the variables that name the trusted certificates."""
    faults = []
    file = environ.get("SSL_CERT_FILE", "")
    if file:
        problem = _problem_of(file)
        if problem is not None:
            faults.append(
                f"SSL_CERT_FILE: '{file}': {problem}; expected a file with the "
                "certificates of trusted authorities, or no such variable"
            )
    folders = environ.get("SSL_CERT_DIR", "")
    if folders and not any(map(os.path.isdir, folders.split(os.pathsep))):
        faults.append(
            f"SSL_CERT_DIR: '{folders}': no such folder; expected a folder with the "
            "certificates of trusted authorities, or no such variable"
        )
    return faults


def _problem_of(file: str) -> str | None:
    """Return the reason why a file holds no certificates, or None."""
    try:
        content = Path(file).read_bytes()
    except (OSError, ValueError) as error:
        return reason_of(error)
    # Parsing all of them would take 30 ms of every start.
    if _PEM_CERTIFICATE.search(content) is None:
        return "holds no certificate in PEM format"
    return None
