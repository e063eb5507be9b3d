"""A registry that takes any text: what `check` has tried does not stay there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final

import pytest
from confluent_kafka.schema_registry import SchemaRegistryError

from connector.errors import SetupError
from connector.kafka.registry_client import RegistryClient

SUBJECT: Final = "gex.all.changes-value"


class TakesAnything:
    """The client of such a registry."""

    def __init__(self, *, may_delete: bool) -> None:
        self.versions: dict[int, str] = {}
        self._may_delete = may_delete

    def register_schema(self, _subject: str, schema: Any) -> int:
        self.versions[3] = schema.schema_str
        return 7

    def lookup_schema(self, _subject: str, _schema: Any) -> SimpleNamespace:
        return SimpleNamespace(version=3)

    def delete_version(self, _subject: str, version: int) -> None:
        if not self._may_delete:
            raise SchemaRegistryError(403, 40301, "no right to delete")
        del self.versions[version]


@pytest.mark.parametrize(
    ("may_delete", "outcome"),
    [(True, "was deleted again"), (False, "is registered now, delete it")],
)
def test_a_text_that_is_taken_is_deleted_again(
    monkeypatch: pytest.MonkeyPatch, *, may_delete: bool, outcome: str
) -> None:
    client = RegistryClient("http://127.0.0.1:1", {}, None)
    registry = TakesAnything(may_delete=may_delete)
    monkeypatch.setattr(client, "_client", registry)

    with pytest.raises(SetupError, match=outcome):
        client.require_right_to_register(SUBJECT)

    assert bool(registry.versions) is not may_delete
