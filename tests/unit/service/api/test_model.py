"""The constraint table against the service model that botocore ships."""

from typing import Any

import botocore.loaders
import pytest

from tailrace.service.api.errors import ErrorType
from tailrace.service.api.model import CALLS, EXTENSIONS, OPERATIONS
from tailrace.service.api.shapes import Boolean, Integer, Listing, Shape, Structure, Text

MODEL: dict[str, Any] = botocore.loaders.Loader().load_service_model(
    "iotsecuretunneling", "service-2"
)


def from_botocore(name: str) -> object:
    """Describe a shape of botocore's model in plain values."""
    shape = MODEL["shapes"][name]
    match shape["type"]:
        case "string":
            return {key: shape[key] for key in ("min", "max", "pattern", "enum") if key in shape}
        case "integer":
            return ("integer", shape.get("min"), shape.get("max"))
        case "boolean":
            return "boolean"
        case "list":
            member = from_botocore(shape["member"]["shape"])
            return ("list", shape.get("min"), shape.get("max"), member)
        case "structure":
            members = {key: from_botocore(m["shape"]) for key, m in shape["members"].items()}
            return ("structure", sorted(shape.get("required", [])), members)
        case other:
            raise AssertionError(other)


def from_table(shape: Shape) -> object:
    """Describe a shape of our table in the same plain values."""
    match shape:
        case Text():
            values = {
                "min": shape.min,
                "max": shape.max,
                "pattern": shape.pattern.text if shape.pattern else None,
                "enum": list(shape.enum) or None,
            }
            return {key: value for key, value in values.items() if value is not None}
        case Integer():
            return ("integer", shape.min, shape.max)
        case Boolean():
            return "boolean"
        case Listing():
            return ("list", shape.min, shape.max, from_table(shape.member))
        case Structure():
            members = {name: from_table(member) for name, member in shape.members.items()}
            return ("structure", sorted(shape.required), members)


def test_all_operations_are_there() -> None:
    assert sorted(OPERATIONS) == sorted(MODEL["operations"])


def test_what_is_added_bears_other_names() -> None:
    assert not OPERATIONS.keys() & EXTENSIONS.keys()
    assert CALLS.keys() == OPERATIONS.keys() | EXTENSIONS.keys()


def test_modelled_errors_are_known() -> None:
    """By the names that SDKs make exceptions of."""
    errors = {
        error["shape"]
        for operation in MODEL["operations"].values()
        for error in operation.get("errors", [])
    }
    assert errors == {ErrorType.LIMIT_EXCEEDED.code, ErrorType.RESOURCE_NOT_FOUND.code}


@pytest.mark.parametrize("name", sorted(MODEL["operations"]))
def test_constraints_are_those_of_the_model(name: str) -> None:
    expected = from_botocore(MODEL["operations"][name]["input"]["shape"])
    assert from_table(OPERATIONS[name].input) == expected


def test_what_only_reads() -> None:
    """Everything else is forbidden to read-only keys, and audited."""
    reading = {name for name, operation in OPERATIONS.items() if not operation.writes}
    assert reading == {"DescribeTunnel", "ListTagsForResource", "ListTunnels"}
