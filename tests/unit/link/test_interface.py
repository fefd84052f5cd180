"""Values of the interface of a link."""

from __future__ import annotations

import dataclasses

import pytest

from tailrace.link.interface import CloseCode, ClosedBy, LinkClosed, LinkInfo


def test_close_codes_are_those_of_rfc_6455() -> None:
    # RFC 6455 section 7.4.1.
    codes = {name: code for name, code in vars(CloseCode).items() if name.isupper()}
    assert codes == {
        "OK": 1000,
        "GOING_AWAY": 1001,
        "PROTOCOL_ERROR": 1002,
        "UNSUPPORTED_DATA": 1003,
        "NO_STATUS": 1005,
        "ABNORMAL": 1006,
        "POLICY_VIOLATION": 1008,
        "MESSAGE_TOO_BIG": 1009,
        "INTERNAL_ERROR": 1011,
    }


@pytest.mark.parametrize(
    "value",
    [
        LinkClosed(ClosedBy.PEER, CloseCode.OK, "tunnel closed"),
        LinkInfo("aws.iot.securetunneling-3.0", "abc", "picows"),
    ],
)
def test_what_a_link_reports_cannot_be_changed(value: LinkClosed | LinkInfo) -> None:
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)
    assert not hasattr(value, "__dict__")
