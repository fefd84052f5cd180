"""Capabilities as header fields carry them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.wire import OFFER, PASSED_ON, Capability, format_capabilities, parse_capabilities


def test_the_field_to_the_byte() -> None:
    """Both ends and the service may be of different versions: the names stay."""
    assert format_capabilities(OFFER) == "flow, pings"
    assert format_capabilities(PASSED_ON) == "flow, resume"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], set()),
        ([""], set()),
        ([", ,"], set()),
        (["flow"], {"flow"}),
        (["flow,pings"], {"flow", "pings"}),
        ([" pings\t,flow "], {"flow", "pings"}),
        (["flow, flow", "pings"], {"flow", "pings"}),
        (["Flow, flow;q=1, flows, nothing"], set()),
        (["later, flow"], {"flow"}),
    ],
)
def test_what_is_read(values: list[str], expected: set[str]) -> None:
    assert parse_capabilities(values) == expected


@given(st.frozensets(st.sampled_from(Capability)))
def test_what_is_written_is_read(capabilities: frozenset[Capability]) -> None:
    assert parse_capabilities([format_capabilities(capabilities)]) == capabilities


def test_they_are_looked_up_by_name_too() -> None:
    assert "flow" in OFFER
    assert hash(Capability.FLOW) == hash("flow")
