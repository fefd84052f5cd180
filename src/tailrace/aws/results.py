"""What calls of the control API return, with types: parsed from its documents. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

from ..common.secret import Secret

__all__ = [
    "OpenedTunnel",
    "RotatedTokens",
    "SideState",
    "TunnelDescription",
    "TunnelState",
    "TunnelSummary",
    "opened_tunnel",
    "rotated_tokens",
    "tags_of",
    "tunnel_description",
    "tunnel_summary",
]

T = TypeVar("T")


class TunnelState(Enum):
    """Whether a tunnel is open.

    Example::

        open_ones = [each async for each in client.list() if each.state is TunnelState.OPEN]
    """

    OPEN = "OPEN"
    CLOSED = "CLOSED"
    """Closed by a call, or its lifetime is over."""


@dataclass(frozen=True, slots=True)
class SideState:
    """Whether the local proxy of one side is connected to the service, and since when (UTC).

    ``since`` is ``None`` where the service does not say.

    Example::

        destination = (await client.describe(tunnel_id)).destination
        print("connected" if destination.is_connected else "gone", destination.since)
    """

    is_connected: bool
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class TunnelSummary:
    """A tunnel in a list. Times are in UTC; ``description`` is "" where there is none.

    Example::

        async for tunnel in client.list():
            print(tunnel.tunnel_id, tunnel.state.value, tunnel.opened.isoformat())
    """

    tunnel_id: str
    arn: str
    state: TunnelState
    description: str
    opened: datetime
    changed: datetime


@dataclass(frozen=True, slots=True)
class TunnelDescription(TunnelSummary):
    """All about one tunnel but its tokens.

    ``thing`` is ``None`` and ``services`` is empty where the tunnel was opened without.

    Example::

        tunnel = await client.describe(tunnel_id)
        print(tunnel.thing, tunnel.services, tunnel.opened + tunnel.lifetime)
    """

    source: SideState
    destination: SideState
    thing: str | None
    services: tuple[str, ...]
    lifetime: timedelta
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class OpenedTunnel:
    """A new tunnel and its tokens, which are returned this once. ``repr`` does not show them.

    Example::

        opened = await client.open(services=["SSH"])
        token = opened.source_token.reveal()
    """

    tunnel_id: str
    arn: str
    source_token: Secret
    destination_token: Secret


@dataclass(frozen=True, slots=True)
class RotatedTokens:
    """New tokens of a tunnel; ``None`` for a side that keeps its own.

    Example::

        rotated = await client.rotate(tunnel_id, Side.SOURCE)
        assert rotated.destination_token is None
    """

    arn: str
    source_token: Secret | None
    destination_token: Secret | None


# Parsers; they raise ValueError, which says what is wrong with a document


def opened_tunnel(document: Mapping[str, Any]) -> OpenedTunnel:
    """Parse the response of OpenTunnel."""
    return OpenedTunnel(
        _get(document, "tunnelId", str),
        _get(document, "tunnelArn", str),
        Secret(_get(document, "sourceAccessToken", str)),
        Secret(_get(document, "destinationAccessToken", str)),
    )


def rotated_tokens(document: Mapping[str, Any]) -> RotatedTokens:
    """Parse the response of RotateTunnelAccessToken."""
    return RotatedTokens(
        _get(document, "tunnelArn", str, ""),
        _token(document, "sourceAccessToken"),
        _token(document, "destinationAccessToken"),
    )


def tunnel_summary(document: Mapping[str, Any]) -> TunnelSummary:
    """Parse an element of the response of ListTunnels."""
    if not isinstance(document, Mapping):
        raise ValueError("a tunnel is not an object")
    return TunnelSummary(
        _get(document, "tunnelId", str),
        _get(document, "tunnelArn", str, ""),
        TunnelState(_get(document, "status", str)),
        _get(document, "description", str, ""),
        _time(document, "createdAt"),
        _time(document, "lastUpdatedAt"),
    )


def tunnel_description(document: Mapping[str, Any]) -> TunnelDescription:
    """Parse the response of DescribeTunnel."""
    tunnel = _get(document, "tunnel", dict)
    summary = tunnel_summary(tunnel)
    destination = _get(tunnel, "destinationConfig", dict, {})
    minutes = _get(_get(tunnel, "timeoutConfig", dict, {}), "maxLifetimeTimeoutMinutes", int, 720)
    return TunnelDescription(
        summary.tunnel_id,
        summary.arn,
        summary.state,
        summary.description,
        summary.opened,
        summary.changed,
        source=_side(tunnel, "sourceConnectionState"),
        destination=_side(tunnel, "destinationConnectionState"),
        thing=_get(destination, "thingName", str, "") or None,
        services=tuple(str(each) for each in _get(destination, "services", list, [])),
        lifetime=timedelta(minutes=min(minutes, 10**9)),
        tags=tags_of(tunnel),
    )


def tags_of(document: Mapping[str, Any]) -> dict[str, str]:
    """Parse the tags in a response, key -> value."""
    tags = _get(document, "tags", list, [])
    if not all(isinstance(tag, Mapping) for tag in tags):
        raise ValueError("a tag is not an object")
    return {_get(tag, "key", str): _get(tag, "value", str, "") for tag in tags}


def _get(document: Mapping[str, Any], name: str, kind: type[T], default: T | None = None) -> T:
    value = document.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind):
        raise ValueError(f"{name} is missing" if value is None else f"{name} is of another type")
    return value


def _token(document: Mapping[str, Any], name: str) -> Secret | None:
    text = _get(document, name, str, "")
    return Secret(text) if text else None


def _side(tunnel: Mapping[str, Any], name: str) -> SideState:
    state = _get(tunnel, name, dict, {})
    status = _get(state, "status", str, "DISCONNECTED")
    if status not in ("CONNECTED", "DISCONNECTED"):
        raise ValueError(f"{status!r} is not the status of a connection")
    return SideState(
        status == "CONNECTED",
        _time(state, "lastUpdatedAt") if state.get("lastUpdatedAt") is not None else None,
    )


def _time(document: Mapping[str, Any], name: str) -> datetime:
    seconds = document.get(name)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ValueError(f"{name} is not a time")
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        raise ValueError(f"{name} is not a time") from None
