"""What operations of the control API do, and whose tunnels they concern.

:mod:`~tailrace.service.api.model` says which functions belong to which operation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from ...wire import Side
from ..control import ControlPlane
from ..errors import InvalidCursor
from ..identity.policy import AccessKey
from ..tunnels.records import ConnectionState, TunnelRecord, TunnelSummary
from ..tunnels.rules import DEFAULT_LIFETIME_MINUTES, Destination, Owner, TunnelSpec
from ..tunnels.store import Things
from .errors import ApiError, ErrorType

__all__ = [
    "Call",
    "Document",
    "Handler",
    "ThingNames",
    "acknowledge",
    "close_tunnel",
    "describe_tunnel",
    "list_tags",
    "list_tunnels",
    "list_waiting",
    "open_tunnel",
    "rotate_tokens",
    "send_test",
    "tag",
    "thing_of_list",
    "thing_of_new_tunnel",
    "thing_of_resource",
    "thing_of_tunnel",
    "things_of_rotation",
    "untag",
]

Document: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its parameters, which have been checked, and the key of its signer."""

    control: ControlPlane
    parameters: Document
    key: AccessKey


Handler: TypeAlias = Callable[[Call], Awaitable[Document]]
ThingNames: TypeAlias = Callable[[Call], Sequence[str | None]]

_MODES: Final[Mapping[str, tuple[Side, ...]]] = {
    "SOURCE": (Side.SOURCE,),
    "DESTINATION": (Side.DESTINATION,),
    "ALL": tuple(Side),
}

_PAGE: Final = 100
"""Tunnels per page when the request does not say."""


# Handlers


async def open_tunnel(call: Call) -> Document:
    """Open a tunnel."""
    parameters = call.parameters
    destination = _read_destination(parameters.get("destinationConfig", {}))
    timeout = parameters.get("timeoutConfig", {})
    opened = call.control.open_tunnel(
        TunnelSpec(
            description=parameters.get("description"),
            thing_name=destination.thing_name,
            services=destination.services,
            lifetime_minutes=timeout.get("maxLifetimeTimeoutMinutes", DEFAULT_LIFETIME_MINUTES),
            tags=_read_tags(parameters.get("tags", [])),
            owner=_signer(call),
        )
    )
    return {
        "tunnelId": opened.tunnel.tunnel_id,
        "tunnelArn": call.control.queries.arn(opened.tunnel.tunnel_id),
        "sourceAccessToken": opened.source_token.reveal(),
        "destinationAccessToken": opened.destination_token.reveal(),
    }


async def describe_tunnel(call: Call) -> Document:
    """Describe one tunnel."""
    tunnel = call.control.queries.describe(call.parameters["tunnelId"])
    document = _summary(call, tunnel)
    for side in Side:
        document[f"{side}ConnectionState"] = _connection(tunnel.connection(side))
    document["timeoutConfig"] = {"maxLifetimeTimeoutMinutes": tunnel.lifetime_minutes}
    if tunnel.services:
        document["destinationConfig"] = {"services": list(tunnel.services)}
        if tunnel.thing_name is not None:
            document["destinationConfig"]["thingName"] = tunnel.thing_name
    tags = call.control.queries.tags(tunnel.tunnel_id)
    if tags:
        document["tags"] = _write_tags(tags)
    return {"tunnel": document}


async def list_tunnels(call: Call) -> Document:
    """List tunnels, but for those that the policy hides."""
    parameters = call.parameters
    name = parameters.get("thingName")
    # One thing has been authorized.
    patterns = call.key.policy.things if name is None else None
    try:
        page = await call.control.queries.page(
            Things(name, patterns),
            parameters.get("nextToken"),
            parameters.get("maxResults", _PAGE),
            call.key.access_key_id,
        )
    except InvalidCursor:
        raise ApiError(
            ErrorType.VALIDATION, "nextToken is not one that was returned by ListTunnels"
        ) from None
    document: Document = {"tunnelSummaries": [_summary(call, tunnel) for tunnel in page.tunnels]}
    if page.cursor is not None:
        document["nextToken"] = page.cursor
    return document


async def close_tunnel(call: Call) -> Document:
    """Close a tunnel."""
    delete = call.parameters.get("delete", False)
    call.control.close_tunnel(call.parameters["tunnelId"], delete=delete)
    return {}


async def rotate_tokens(call: Call) -> Document:
    """Replace access tokens of a tunnel."""
    mode, config = call.parameters["clientMode"], call.parameters.get("destinationConfig")
    if config is not None and mode == "SOURCE":
        raise ApiError(
            ErrorType.VALIDATION, "destinationConfig cannot be used with clientMode SOURCE"
        )
    rotated = call.control.rotate(
        call.parameters["tunnelId"],
        _MODES[mode],
        _read_destination(config) if config is not None else None,
        _signer(call),
    )
    document = {"tunnelArn": call.control.queries.arn(rotated.tunnel.tunnel_id)}
    for side, token in rotated.tokens.items():
        document[f"{side}AccessToken"] = token.reveal()
    return document


async def tag(call: Call) -> Document:
    """Add tags to a tunnel."""
    call.control.tag(_resource(call), dict(_read_tags(call.parameters["tags"])), _signer(call))
    return {}


async def untag(call: Call) -> Document:
    """Remove tags from a tunnel."""
    call.control.untag(_resource(call), call.parameters["tagKeys"])
    return {}


async def list_tags(call: Call) -> Document:
    """List the tags of a tunnel."""
    return {"tags": _write_tags(call.control.queries.tags(_resource(call)))}


async def acknowledge(call: Call) -> Document:
    """Drop notifications that a thing has stored."""
    call.control.mailbox.acknowledge(
        call.parameters["thingName"], frozenset(call.parameters["tokenIds"])
    )
    return {}


async def send_test(call: Call) -> Document:
    """Send a thing a notification that only shows that it arrives."""
    thing_name, key_id = call.parameters["thingName"], call.key.access_key_id
    return {"tokenId": call.control.send_test(thing_name, key_id)}


async def list_waiting(call: Call) -> Document:
    """List the things that wait at the service, but for those that the policy hides."""
    mailbox = call.control.mailbox
    found = sorted(
        (
            waiter
            for waiter in mailbox.waiters(call.parameters.get("thingName"))
            if call.key.policy.allows_thing(waiter.thing_name)
        ),
        key=lambda waiter: (waiter.thing_name, waiter.since),
    )
    return {
        "waitingThings": [
            {
                "thingName": waiter.thing_name,
                "since": round(waiter.since, 3),
                "address": waiter.address,
                "accessKeyId": waiter.key_id,
                "notifications": mailbox.pending(waiter.thing_name),
            }
            for waiter in found
        ]
    }


# Thing names that a call concerns, before and after it; None for a tunnel without a thing


def thing_of_new_tunnel(call: Call) -> Sequence[str | None]:
    """Return the thing that a tunnel is opened for."""
    return [_read_destination(call.parameters.get("destinationConfig", {})).thing_name]


def thing_of_tunnel(call: Call) -> Sequence[str | None]:
    """Return the thing of the tunnel with a given id."""
    return [call.control.queries.describe(call.parameters["tunnelId"]).thing_name]


def thing_of_resource(call: Call) -> Sequence[str | None]:
    """Return the thing of the tunnel with a given ARN."""
    return [call.control.queries.describe(_resource(call)).thing_name]


def things_of_rotation(call: Call) -> Sequence[str | None]:
    """Return the thing of a tunnel, and the one that it is given to."""
    now = thing_of_tunnel(call)
    return [*now, *thing_of_new_tunnel(call)] if "destinationConfig" in call.parameters else now


def thing_of_list(call: Call) -> Sequence[str | None]:
    """Return the thing that a list is asked for; a list of all is filtered instead."""
    return [call.parameters["thingName"]] if "thingName" in call.parameters else []


# Parts of documents


def _signer(call: Call) -> Owner:
    """Return the key of a call as the owner of what it stores."""
    return Owner(call.key.access_key_id, call.key.quotas, call.key.is_privileged)


def _resource(call: Call) -> str:
    """Return the tunnel id in a resource's ARN."""
    return call.control.queries.tunnel_id(call.parameters["resourceArn"])


def _summary(call: Call, tunnel: TunnelRecord | TunnelSummary) -> Document:
    document: Document = {
        "tunnelId": tunnel.tunnel_id,
        "tunnelArn": call.control.queries.arn(tunnel.tunnel_id),
        "status": tunnel.status.value,
        "createdAt": round(tunnel.created_at, 3),
        "lastUpdatedAt": round(tunnel.last_updated_at, 3),
    }
    if tunnel.description is not None:
        document["description"] = tunnel.description
    return document


def _connection(state: ConnectionState) -> Document:
    return {"status": state.status.value, "lastUpdatedAt": round(state.last_updated_at, 3)}


def _read_destination(config: Document) -> Destination:
    return Destination(tuple(dict.fromkeys(config.get("services", ()))), config.get("thingName"))


def _write_tags(tags: Sequence[tuple[str, str]]) -> list[Document]:
    return [{"key": key, "value": value} for key, value in tags]


def _read_tags(tags: list[dict[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return tags as pairs; the last value of a repeated key wins."""
    return tuple({tag["key"]: tag["value"] for tag in tags}.items())
