"""Documents of the control API, and what is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.aws.results import (
    OpenedTunnel,
    RotatedTokens,
    SideState,
    TunnelDescription,
    TunnelState,
    TunnelSummary,
    opened_tunnel,
    rotated_tokens,
    tags_of,
    tunnel_description,
    tunnel_summary,
)
from tailrace.common.secret import Secret

OPENED = {
    "tunnelId": "t",
    "tunnelArn": "arn:t",
    "sourceAccessToken": "hidden-s",
    "destinationAccessToken": "hidden-d",
}
SUMMARY = {
    "tunnelId": "t",
    "tunnelArn": "arn:t",
    "status": "OPEN",
    "createdAt": 1_700_000_000.5,
    "lastUpdatedAt": 1_700_000_060,
}
TUNNEL = SUMMARY | {
    "description": "a lamp",
    "sourceConnectionState": {"status": "CONNECTED", "lastUpdatedAt": 1_700_000_060},
    "destinationConnectionState": {"status": "DISCONNECTED"},
    "destinationConfig": {"thingName": "lamp", "services": ["SSH", "VNC"]},
    "timeoutConfig": {"maxLifetimeTimeoutMinutes": 5},
    "tags": [{"key": "a", "value": "b"}, {"key": "c", "value": ""}],
    "of the future": {},
}
OPENED_AT = datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC)
CHANGED_AT = datetime(2023, 11, 14, 22, 14, 20, tzinfo=UTC)


def test_opened() -> None:
    found = opened_tunnel(OPENED)
    assert found == OpenedTunnel("t", "arn:t", Secret("hidden-s"), Secret("hidden-d"))
    assert "hidden" not in repr(found)


def test_rotated() -> None:
    one = {"tunnelArn": "arn:t", "sourceAccessToken": "hidden"}
    assert rotated_tokens(one) == RotatedTokens("arn:t", Secret("hidden"), None)
    both = RotatedTokens("arn:t", Secret("hidden-s"), Secret("hidden-d"))
    assert rotated_tokens(OPENED) == both
    assert "hidden" not in repr(both)


def test_summary() -> None:
    expected = TunnelSummary("t", "arn:t", TunnelState.OPEN, "", OPENED_AT, CHANGED_AT)
    assert tunnel_summary(SUMMARY) == expected


def test_description() -> None:
    assert tunnel_description({"tunnel": TUNNEL}) == TunnelDescription(
        "t",
        "arn:t",
        TunnelState.OPEN,
        "a lamp",
        OPENED_AT,
        CHANGED_AT,
        source=SideState(True, CHANGED_AT),
        destination=SideState(False),
        thing="lamp",
        services=("SSH", "VNC"),
        lifetime=timedelta(minutes=5),
        tags={"a": "b", "c": ""},
    )


def test_as_little_as_there_may_be() -> None:
    found = tunnel_description({"tunnel": SUMMARY | {"status": "CLOSED"}})
    assert (found.thing, found.services, found.tags) == (None, (), {})
    assert found.state is TunnelState.CLOSED
    assert found.source == found.destination == SideState(False)
    assert found.lifetime == timedelta(hours=12)


Parser = Callable[[Mapping[str, Any]], object]


@pytest.mark.parametrize(
    ("parse", "document", "said"),
    [
        (opened_tunnel, {}, "tunnelId is missing"),
        (opened_tunnel, OPENED | {"sourceAccessToken": 7}, "sourceAccessToken is of another type"),
        (tunnel_summary, [], "a tunnel is not an object"),
        (tunnel_summary, SUMMARY | {"status": "AJAR"}, "'AJAR' is not a valid TunnelState"),
        (tunnel_summary, SUMMARY | {"createdAt": None}, "createdAt is not a time"),
        (tunnel_summary, SUMMARY | {"createdAt": True}, "createdAt is not a time"),
        (tunnel_summary, SUMMARY | {"createdAt": 1e300}, "createdAt is not a time"),
        (tunnel_summary, SUMMARY | {"createdAt": float("nan")}, "createdAt is not a time"),
        (tunnel_description, {}, "tunnel is missing"),
        (
            tunnel_description,
            {"tunnel": SUMMARY | {"sourceConnectionState": {"status": "HALF"}}},
            "'HALF' is not the status of a connection",
        ),
        (tags_of, {"tags": ["a"]}, "a tag is not an object"),
        (tags_of, {"tags": [{"value": "b"}]}, "key is missing"),
    ],
)
def test_what_makes_no_sense(parse: Parser, document: Any, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(document)
    assert str(caught.value) == said


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from([*TUNNEL, *OPENED]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    parse=st.sampled_from(
        [opened_tunnel, rotated_tokens, tunnel_summary, tunnel_description, tags_of]
    ),
    base=st.sampled_from([{}, OPENED, TUNNEL]),
    name=st.sampled_from([*TUNNEL, *OPENED, "tunnel"]),
    value=ANYTHING,
)
def test_anything_parses_or_raises_the_documented_error(
    parse: Parser, base: dict[str, Any], name: str, value: Any
) -> None:
    document = base | {name: value}
    with suppress(ValueError):
        parse(document)
    with suppress(ValueError):
        parse({"tunnel": document})
