"""Check the parameters of a request against the service model.

AWS distinguishes two kinds of fault: a value of the wrong JSON type cannot be read at all
(SerializationException); values of the right types may break constraints
(ValidationException, which names several at once). What is too long ends the check at once,
and so costs no more than it must.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from .errors import ApiError, ErrorType
from .shapes import Boolean, Integer, Listing, Shape, Structure, Text

__all__ = ["read_parameters"]

_SHOWN: Final = 5
"""Broken constraints spelled out in one message; the rest is counted."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""What can be written in JSON, but alone is not text."""

_MOST_VALUES: Final = 10_000
"""Values in a request body; the largest valid request has a few thousand."""

_MOST_MEMBERS: Final = 1000
"""Members of a list for which the model has no limit."""


def read_parameters(body: bytes | bytearray, shape: Structure) -> dict[str, Any]:
    """Parse a request body and check it; members that are null or unknown are left out.

    Raises:
        ApiError: SerializationException or ValidationException.
    """
    # Each value but the first stands behind one of these; so do other characters, but few.
    if len(body) > _MOST_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise ApiError(ErrorType.SERIALIZATION, "The request body has too many values")
    try:
        document = json.loads(body or b"{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ApiError(ErrorType.SERIALIZATION, "The request body is not valid JSON") from None
    parameters = _convert(document, shape, "")
    if not isinstance(parameters, dict):
        raise _unreadable("", "an object")
    broken = list(_broken(parameters, shape, ""))
    if broken:
        raise _invalid(broken)
    return parameters


def _invalid(broken: list[str]) -> ApiError:
    count = f"{len(broken)} validation error{'s' if len(broken) > 1 else ''} detected: "
    return ApiError(ErrorType.VALIDATION, count + "; ".join(broken[:_SHOWN]))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unreadable(path: str, expected: str) -> ApiError:
    where = f"The value of {path}" if path else "The request body"
    return ApiError(ErrorType.SERIALIZATION, f"{where} must be {expected}")


def _convert(value: object, shape: Shape, path: str) -> object:
    """Return ``value`` without unknown and null members.

    Raises:
        ApiError: a JSON type is wrong, or something is too long.
    """
    match shape:
        case Text():
            if not isinstance(value, str):
                raise _unreadable(path, "a string")
            _check_length(value, shape.max, path)
            if _SURROGATE.search(value):
                raise _unreadable(path, "text")
        case Integer():
            if not isinstance(value, int) or isinstance(value, bool):
                raise _unreadable(path, "a whole number")
        case Boolean():
            if not isinstance(value, bool):
                raise _unreadable(path, "true or false")
        case Listing(member=member):
            if not isinstance(value, list):
                raise _unreadable(path, "a list")
            _check_length(value, shape.max or _MOST_MEMBERS, path)
            return [
                _convert(item, member, f"{path}.{index}.member")
                for index, item in enumerate(value, 1)
            ]
        case Structure(members=members):
            if not isinstance(value, dict):
                raise _unreadable(path, "an object")
            return {
                name: _convert(value[name], inner, f"{path}.{name}".lstrip("."))
                for name, inner in members.items()
                if value.get(name) is not None
            }
    return value


def _check_length(value: str | list[Any], most: int | None, path: str) -> None:
    if broken := list(_broken_range("length", len(value), None, most, path)):
        raise _invalid(broken)


def _broken(value: Any, shape: Shape, path: str) -> Iterator[str]:
    """Yield a sentence for each constraint that does not hold."""
    match shape:
        case Text():
            yield from _broken_text(value, shape, path)
        case Integer(min=low, max=high):
            yield from _broken_range("value", value, low, high, path)
        case Listing(member=member, min=low, max=high):
            yield from _broken_range("length", len(value), low, high, path)
            for index, item in enumerate(value, 1):
                yield from _broken(item, member, f"{path}.{index}.member")
        case Structure(members=members, required=required):
            for name in required:
                if name not in value:
                    yield _sentence(f"{path}.{name}".lstrip("."), "not be null")
            for name, item in value.items():
                yield from _broken(item, members[name], f"{path}.{name}".lstrip("."))


def _broken_text(value: str, shape: Text, path: str) -> Iterator[str]:
    yield from _broken_range("length", len(value), shape.min, shape.max, path)
    if shape.pattern is not None and not shape.pattern.matches(value):
        yield _sentence(path, f"satisfy regular expression pattern: {shape.pattern.text}")
    if shape.enum and value not in shape.enum:
        yield _sentence(path, f"satisfy enum value set: [{', '.join(shape.enum)}]")


def _broken_range(
    what: str, actual: int, low: int | None, high: int | None, path: str
) -> Iterator[str]:
    if low is not None and actual < low:
        yield _sentence(path, f"have {what} greater than or equal to {low}")
    if high is not None and actual > high:
        yield _sentence(path, f"have {what} less than or equal to {high}")


def _sentence(path: str, constraint: str) -> str:
    return f"Value at '{path}' failed to satisfy constraint: Member must {constraint}"
