"""What the control API knows of a device that does not come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from ..aws import Client, TunnelDescription, TunnelState
from ..common.suggestions import closest_name
from ..errors import TailraceError
from .tunnels import latest_tunnels

__all__ = ["absence_hint", "ago"]

_MOST: Final = 10
"""Tunnels that are asked about, a call each, newest first."""
_AT_ONCE: Final = timedelta(seconds=1)
"""A side that has changed no later than this after the opening has never connected."""


async def absence_hint(client: Client, thing: str, service: str, tunnel_id: str) -> str:
    """Return what earlier tunnels tell about a device that does not connect to this one; or "".

    That is when it was last connected, and names that may have been meant.
    """
    try:
        latest = await latest_tunnels(client, thing, _MOST)
        earlier = [each for each in latest if each.tunnel_id != tunnel_id]
        if earlier:
            return "; ".join(filter(None, (_last_seen(earlier), _other_service(earlier, service))))
        latest = await latest_tunnels(client, None, _MOST)
        others = {each.thing for each in latest if each.thing} - {thing}
    except TailraceError:
        return ""
    guess = closest_name(thing, others)
    return f"no earlier tunnel to it; did you mean {guess}?" if guess else ""


def _last_seen(earlier: list[TunnelDescription]) -> str:
    if any(each.state is TunnelState.OPEN and each.destination.is_connected for each in earlier):
        return "connected to another tunnel now"
    seen = [
        each.destination.since
        for each in earlier
        if each.destination.since is not None and each.destination.since - each.opened > _AT_ONCE
    ]
    return f"last seen {ago(datetime.now(UTC) - max(seen))} ago" if seen else ""


def _other_service(earlier: list[TunnelDescription], service: str) -> str:
    known = {each for tunnel in earlier for each in tunnel.services}
    if service in known:
        return ""
    guess = closest_name(service, known)
    return f"did you mean service {guess}?" if guess else ""


def ago(passed: timedelta) -> str:
    """Return a time in the largest unit that it has one of, as in "3 days"."""
    seconds = int(passed.total_seconds())
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}{'s' if seconds >= 2 * size else ''}"
    return f"{max(0, seconds)} s"
