"""Reads the events that `history --json` has printed."""

from __future__ import annotations

import gzip
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from connector.config.secrets import printable
from connector.core.model import Event
from connector.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_GZIP: Final = b"\x1f\x8b"
_PARQUET: Final = b"PAR1"


def read_event_file(path: Path) -> Iterator[Event]:
    """Yield the events of a file of JSON lines, which may be compressed by gzip.

    Raises UsageError if the file cannot be read, or if a line is no event.
    """
    decoder = msgspec.json.Decoder(Event)
    name = printable(str(path))
    number = 0
    try:
        with _open(path) as file:
            for line in file:
                number += 1
                yield decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{name}, line {number}: {printable(str(error))[:200]}; expected an event as "
            "`history --json` prints it"
        ) from None
    # Damaged data within a gzip file raises zlib.error, which is no OSError.
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"cannot read {name}: {_reason(error)}") from None


@contextmanager
def _open(path: Path) -> Iterator[Iterable[bytes]]:
    with path.open("rb") as file:
        start = file.read(len(_PARQUET))
        file.seek(0)
        if start == _PARQUET:
            raise UsageError(
                f"{printable(str(path))} is a Parquet file, which does not hold all of an "
                "event; write the file with `history --json`"
            )
        if start.startswith(_GZIP):
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked
        else:
            yield file


def _reason(error: OSError | EOFError | zlib.error) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
