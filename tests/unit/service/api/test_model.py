"""The constraint table against the service model that botocore ships."""

from typing import Any

import botocore.loaders
import pytest

from tailrace.service.api.errors import ErrorType
from tailrace.service.api.model import (
    OPERATIONS,
    Boolean,
    Integer,
    Listing,
    Pattern,
    Shape,
    Structure,
    Text,
)

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


def test_modelled_errors_are_known() -> None:
    """By the names that SDKs make exceptions of."""
    errors = {
        error["shape"]
        for operation in MODEL["operations"].values()
        for error in operation.get("errors", [])
    }
    assert errors == {ErrorType.LIMIT_EXCEEDED[0], ErrorType.RESOURCE_NOT_FOUND[0]}


@pytest.mark.parametrize("name", sorted(MODEL["operations"]))
def test_constraints_are_those_of_the_model(name: str) -> None:
    expected = from_botocore(MODEL["operations"][name]["input"]["shape"])
    assert from_table(OPERATIONS[name]) == expected


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("[a-zA-Z0-9:_-]+", ["a", "a:b_c-9", "Z" * 500], ["", "a b", "caf\u00e9", "a\n", "a/b"]),
        (r"[a-zA-Z0-9_\-+=:]{1,128}", ["a+b=c:-", "x" * 128], ["", "x" * 129, "a,b"]),
        ("[a-zA-Z0-9_=-]{1,4096}", ["abc=", "-"], ["", "a+b", "\u0661"]),
        (
            r"[^\p{C}]{1,2048}",
            ["caf\u00e9 \U0001f600 [x]\\ -", "\u2028", "\u00a0"],
            ["", "tab\t", "\u200b", "\x7f", "\ue000", "\U000e0001", "x" * 2049, "\u0378"],
        ),
        (
            r"^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$",
            ["", "\u540d\u524d", "a b", "1\u00bd\u2167", "a.b:c/d=e+f-g@h_i", "\u00a0"],
            ["a\n", "#", "\u20ac", "e\u0301", "\\", "^", "(", "a*"],
        ),
    ],
)
def test_patterns(pattern: str, good: list[str], bad: list[str]) -> None:
    compiled = Pattern(pattern)
    assert [value for value in good if not compiled.matches(value)] == []
    assert [value for value in bad if compiled.matches(value)] == []


@pytest.mark.parametrize("pattern", ["abc", "[a]", "[a]+[b]+", "(a|b)"])
def test_patterns_of_another_form_are_not_guessed_at(pattern: str) -> None:
    with pytest.raises(ValueError, match="repeated character class"):
        Pattern(pattern).matches("[a]+[b")
