"""Writes records whose header names are no UTF-8, as programs in C and Go can."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

import confluent_kafka as ck

NAME: Final = b"\xff\xfe"

_PRODUCER: Final = 0
_FLUSH_MS: Final = 60_000
# The tags of `rd_kafka_producev`, by the library's header rdkafka.h.
_END: Final = 0
_TOPIC: Final = 1
_PARTITION: Final = 3
_VALUE: Final = 4
_KEY: Final = 5
_MESSAGE_FLAGS: Final = 7
_HEADER: Final = 9
_COPY: Final = 2


def write(bootstrap: str, topic: str, partition: int, key: bytes) -> None:
    """Write a record by the C library itself: the package takes names as `str` only."""
    folder = Path(ck.__file__).parents[1] / "confluent_kafka.libs"
    (path,) = folder.glob("librdkafka*")
    library = ctypes.CDLL(str(path))
    pointer, size = ctypes.c_void_p, ctypes.c_ssize_t
    library.rd_kafka_conf_new.restype = pointer
    library.rd_kafka_new.restype = pointer

    error = ctypes.create_string_buffer(512)
    conf = pointer(library.rd_kafka_conf_new())
    setting = (b"bootstrap.servers", bootstrap.encode())
    library.rd_kafka_conf_set(conf, *setting, error, size(len(error)))
    producer = pointer(library.rd_kafka_new(_PRODUCER, conf, error, size(len(error))))
    assert producer.value, error.value
    code = library.rd_kafka_producev(
        producer,
        *(_TOPIC, topic.encode()),
        *(_PARTITION, ctypes.c_int32(partition)),
        *(_KEY, key, size(len(key))),
        *(_VALUE, b"not avro", size(8)),
        *(_HEADER, NAME, b"value", size(5)),
        *(_MESSAGE_FLAGS, _COPY),
        _END,
    )
    assert code == 0
    assert library.rd_kafka_flush(producer, _FLUSH_MS) == 0
    library.rd_kafka_destroy(producer)
