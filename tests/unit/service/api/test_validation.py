"""Request bodies: read, or refused with the right kind of error."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.service.api.errors import ApiError
from tailrace.service.api.model import OPERATIONS
from tailrace.service.api.validation import read_parameters

OPEN = OPERATIONS["OpenTunnel"].input


def refused(document: object, operation: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read_parameters(json.dumps(document).encode(), OPERATIONS[operation].input)
    return caught.value


@pytest.mark.parametrize("body", [b"", b"{}", b'{"unknown": 1, "description": null}'])
def test_members_that_do_not_count(body: bytes) -> None:
    assert read_parameters(body, OPEN) == {}


def test_everything_allowed() -> None:
    document = {
        "description": "text",
        "tags": [{"key": "k", "value": ""}],
        "destinationConfig": {"thingName": "t", "services": ["SSH", "a:b"]},
        "timeoutConfig": {"maxLifetimeTimeoutMinutes": 720},
    }
    assert read_parameters(json.dumps(document).encode(), OPEN) == document


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b"[]",
        b'"text"',
        b"null",
        b'{"description": NaN}',
        b'{"description": "\\ud800"}',
        b'{"description": "\xed\xa0\x80"}',
        b"[" * 100_000,
        b'{"description": 5}',
        b'{"tags": {}}',
        b'{"tags": [5]}',
        b'{"destinationConfig": []}',
        b'{"timeoutConfig": {"maxLifetimeTimeoutMinutes": "5"}}',
        b'{"timeoutConfig": {"maxLifetimeTimeoutMinutes": true}}',
        b'{"timeoutConfig": {"maxLifetimeTimeoutMinutes": 5.5}}',
    ],
)
def test_what_cannot_be_read(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        read_parameters(body, OPEN)
    assert caught.value.type == "SerializationException"


def test_a_boolean_of_the_wrong_type() -> None:
    assert refused({"tunnelId": "x", "delete": 1}, "CloseTunnel").type == "SerializationException"


@pytest.mark.parametrize(
    ("document", "operation", "parts"),
    [
        ({}, "DescribeTunnel", ["'tunnelId'", "not be null"]),
        ({"tunnelId": ""}, "DescribeTunnel", ["'tunnelId'", "pattern"]),
        ({"maxResults": 0}, "ListTunnels", ["'maxResults'", "greater than or equal to 1"]),
        ({"maxResults": 101}, "ListTunnels", ["'maxResults'", "less than or equal to 100"]),
        ({"thingName": "x" * 129}, "ListTunnels", ["'thingName'", "length less than"]),
        (
            {"tunnelId": "x", "clientMode": "BOTH"},
            "RotateTunnelAccessToken",
            ["'clientMode'", "[SOURCE, DESTINATION, ALL]"],
        ),
        ({"destinationConfig": {}}, "OpenTunnel", ["'destinationConfig.services'", "not be null"]),
        (
            {"destinationConfig": {"services": []}},
            "OpenTunnel",
            ["'destinationConfig.services'", "length greater"],
        ),
        (
            {"destinationConfig": {"services": ["ok", "not ok"]}},
            "OpenTunnel",
            ["'destinationConfig.services.2.member'", "pattern"],
        ),
        ({"tags": [{"key": "k"}]}, "OpenTunnel", ["'tags.1.member.value'", "not be null"]),
        (
            {"timeoutConfig": {"maxLifetimeTimeoutMinutes": 721}},
            "OpenTunnel",
            ["'timeoutConfig.maxLifetimeTimeoutMinutes'", "720"],
        ),
    ],
)
def test_broken_constraints(document: object, operation: str, parts: list[str]) -> None:
    error = refused(document, operation)
    assert error.type == "ValidationException"
    assert error.message.startswith("1 validation error detected: ")
    for part in parts:
        assert part in error.message


def test_what_is_too_long_ends_the_check() -> None:
    """Nothing behind it is looked at, and the list has nothing in common with its text."""
    many = {"destinationConfig": {"services": [*["ok"] * 1000, 5]}}
    error = refused(many, "OpenTunnel")
    assert error.message == (
        "1 validation error detected: Value at 'destinationConfig.services' failed to satisfy "
        "constraint: Member must have length less than or equal to 1000"
    )
    error = refused({"thingName": "#" * 129, "maxResults": 0}, "ListTunnels")
    assert error.message.startswith("1 validation error detected: Value at 'thingName'")
    error = refused({"resourceArn": "x", "tags": [5] * 201}, "TagResource")
    assert error.message.endswith("length less than or equal to 200")


@pytest.mark.parametrize("values", [["x"], [[]], [{}]])
def test_values_are_counted_before_they_are_read(values: list[object]) -> None:
    assert read_parameters(json.dumps({"x": values * 3000}).encode(), OPEN) == {}
    error = refused({"x": values * 10_001}, "OpenTunnel")
    assert error.type == "SerializationException"
    assert error.message == "The request body has too many values"


def test_all_broken_constraints_are_counted() -> None:
    error = refused({"maxResults": 0, "thingName": "a b", "nextToken": ""}, "ListTunnels")
    assert error.message.startswith("3 validation errors detected: ")
    tags = [{"key": "#", "value": "#"}] * 50
    assert refused({"tags": tags}, "OpenTunnel").message.startswith("100 validation errors")


OUTCOMES = ("read", "ValidationException", "SerializationException")
MEMBERS = ["description", "tags", "key", "services", "timeoutConfig", "tunnelId"]


def outcome(body: bytes, operation: str) -> str:
    """Return the type of the refusal, if it is one."""
    try:
        read_parameters(body, OPERATIONS[operation].input)
    except ApiError as error:
        return error.type
    return "read"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["description", "tags", "key", "services", "timeoutConfig", "tunnelId"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(document=JSON, operation=st.sampled_from(sorted(OPERATIONS)))
def test_any_document_is_read_or_refused(document: object, operation: str) -> None:
    assert outcome(json.dumps(document).encode(), operation) in OUTCOMES


@given(body=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    assert outcome(body, "OpenTunnel") in OUTCOMES
