"""The AsyncAPI document is valid by the specification's own schema."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import tarfile
from typing import Any

import pytest
from jsonschema import (  # type: ignore[import-untyped]  # it has no stubs
    Draft7Validator,
)

from connector.devkit.reference.asyncapi import document
from tests.support.deployment import output

# The specification's schemas are published to npm only.
PACKAGE = "@asyncapi/specs@6.11.1"
SHA512 = "A3WBLqAKGoJ2+6FWFtpjBlCQ1oFCcs4GxF7zsIGvNqp/klGUHjlA3aAcZ9XMMpLGE8zPeYDz2x9FmO6DSuKraQ=="


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Draft7Validator:
    folder = tmp_path_factory.mktemp("asyncapi")
    output("npm", "pack", "--silent", PACKAGE, cwd=folder)
    (archive,) = folder.glob("*.tgz")
    digest = hashlib.sha512(archive.read_bytes()).digest()
    assert base64.b64encode(digest).decode() == SHA512
    with tarfile.open(archive) as files:
        content = files.extractfile("package/schemas/3.0.0.json")
        assert content is not None
        return Draft7Validator(json.load(content))


def faults(validator: Draft7Validator, candidate: Any) -> list[str]:
    return [error.json_path for error in validator.iter_errors(candidate)]


def test_the_document_is_valid(validator: Draft7Validator) -> None:
    assert faults(validator, document()) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("operations", "publish_changes", "action"), "publish"),
        (("channels", "current", "bindings", "kafka", "partitions"), "one"),
        (("components", "messages", "levelsEvent", "headers"), "none"),
    ],
)
def test_a_wrong_document_is_found(
    validator: Draft7Validator, path: tuple[str, ...], value: object
) -> None:
    wrong = copy.deepcopy(document())
    part = wrong
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value

    assert faults(validator, wrong)
