"""The operations of the control API, version 2018-10-05, each in one entry of one table.

An entry tells the shape of the parameters, whether the operation writes, which things it
concerns, and what carries it out. Validation, policies, the audit log, metrics and
``tailrace keys`` use the table, so that one entry is all that a new operation needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..identity.policy import ACKNOWLEDGE, SEND_TEST
from . import operations
from .shapes import Boolean, Integer, Listing, Pattern, Structure, Text

__all__ = ["CALLS", "EXTENSIONS", "OPERATIONS", "SIGNING_NAME", "Operation", "is_thing_name"]

SIGNING_NAME: Final = "IoTSecuredTunneling"
"""Name of the service in signatures and in ``X-Amz-Target``."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the control API."""

    input: Structure
    """Shape of its parameters."""
    writes: bool
    """Whether it changes something. Then it is audited, and forbidden to read-only keys."""
    things: operations.ThingNames
    """Called for the things that a request concerns, if the key is limited to some."""
    handler: operations.Handler
    """Called to carry it out."""


_NAME: Final = Pattern("[a-zA-Z0-9:_-]+")
_LONGEST_NAME: Final = 128
_TAG: Final = Pattern(r"^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$")

_TUNNEL_ID: Final = Text(pattern=Pattern(r"[a-zA-Z0-9_\-+=:]{1,128}"))
_ARN: Final = Text(1, 1011)
_THING_NAME: Final = Text(1, _LONGEST_NAME, _NAME)
_TAG_KEY: Final = Text(1, 128, _TAG)
_TAGS: Final = Listing(
    Structure({"key": _TAG_KEY, "value": Text(0, 256, _TAG)}, ("key", "value")), 1, 200
)
_DESTINATION_CONFIG: Final = Structure(
    {"thingName": _THING_NAME, "services": Listing(Text(1, 128, _NAME), 1)}, ("services",)
)

OPERATIONS: Final[Mapping[str, Operation]] = {
    "CloseTunnel": Operation(
        Structure({"tunnelId": _TUNNEL_ID, "delete": Boolean()}, ("tunnelId",)),
        writes=True,
        things=operations.thing_of_tunnel,
        handler=operations.close_tunnel,
    ),
    "DescribeTunnel": Operation(
        Structure({"tunnelId": _TUNNEL_ID}, ("tunnelId",)),
        writes=False,
        things=operations.thing_of_tunnel,
        handler=operations.describe_tunnel,
    ),
    "ListTagsForResource": Operation(
        Structure({"resourceArn": _ARN}, ("resourceArn",)),
        writes=False,
        things=operations.thing_of_resource,
        handler=operations.list_tags,
    ),
    "ListTunnels": Operation(
        Structure(
            {
                "thingName": _THING_NAME,
                "maxResults": Integer(1, 100),
                "nextToken": Text(pattern=Pattern("[a-zA-Z0-9_=-]{1,4096}")),
            }
        ),
        writes=False,
        things=operations.thing_of_list,
        handler=operations.list_tunnels,
    ),
    "OpenTunnel": Operation(
        Structure(
            {
                "description": Text(pattern=Pattern(r"[^\p{C}]{1,2048}")),
                "tags": _TAGS,
                "destinationConfig": _DESTINATION_CONFIG,
                "timeoutConfig": Structure({"maxLifetimeTimeoutMinutes": Integer(1, 720)}),
            }
        ),
        writes=True,
        things=operations.thing_of_new_tunnel,
        handler=operations.open_tunnel,
    ),
    "RotateTunnelAccessToken": Operation(
        Structure(
            {
                "tunnelId": _TUNNEL_ID,
                "clientMode": Text(enum=("SOURCE", "DESTINATION", "ALL")),
                "destinationConfig": _DESTINATION_CONFIG,
            },
            ("tunnelId", "clientMode"),
        ),
        writes=True,
        things=operations.things_of_rotation,
        handler=operations.rotate_tokens,
    ),
    "TagResource": Operation(
        Structure({"resourceArn": _ARN, "tags": _TAGS}, ("resourceArn", "tags")),
        writes=True,
        things=operations.thing_of_resource,
        handler=operations.tag,
    ),
    "UntagResource": Operation(
        Structure(
            {"resourceArn": _ARN, "tagKeys": Listing(_TAG_KEY, 0, 200)},
            ("resourceArn", "tagKeys"),
        ),
        writes=True,
        things=operations.thing_of_resource,
        handler=operations.untag,
    ),
}

EXTENSIONS: Final[Mapping[str, Operation]] = {
    ACKNOWLEDGE: Operation(
        Structure(
            {"thingName": _THING_NAME, "tokenIds": Listing(Text(1, 128, _NAME), 1, 100)},
            ("thingName", "tokenIds"),
        ),
        writes=True,
        things=operations.thing_of_list,
        handler=operations.acknowledge,
    ),
    SEND_TEST: Operation(
        Structure({"thingName": _THING_NAME}, ("thingName",)),
        writes=True,
        things=operations.thing_of_list,
        handler=operations.send_test,
    ),
    "ListWaitingThings": Operation(
        Structure({"thingName": _THING_NAME}),
        writes=False,
        things=operations.thing_of_list,
        handler=operations.list_waiting,
    ),
}
"""Operations that AWS does not have."""

CALLS: Final[Mapping[str, Operation]] = {**OPERATIONS, **EXTENSIONS}
"""All that a client may call."""


def is_thing_name(text: str) -> bool:
    """Return whether a thing can have this name."""
    return len(text) <= _LONGEST_NAME and _NAME.matches(text)
