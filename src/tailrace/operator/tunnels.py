"""Tunnels as a person has them: found by the beginning of an id, and told apart by what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

from ..errors import ConfigurationError, ControlThrottled, CredentialsRefused, TunnelNotFound

if TYPE_CHECKING:
    from ..aws import Client, SideState, TunnelDescription, TunnelSummary

__all__ = [
    "MOST_DESCRIBED",
    "Details",
    "Order",
    "call_with_tunnel",
    "describe_tunnels",
    "is_open",
    "latest_tunnels",
    "local_time",
    "short_ids",
    "sort_tunnels",
    "time_left",
    "tunnel_rows",
]

R = TypeVar("R")

MOST_DESCRIBED: Final = 100
"""Tunnels whose details are asked for, newest first, a call each: AWS allows ten a second."""
_SHORTEST: Final = 8
"""Characters of an id that are shown at least."""
_MOST_CANDIDATES: Final = 5
_WHOLE_ID: Final = 36
"""Characters of an id, which is a UUID at AWS and at ``tailrace serve``."""
_UNKNOWN: Final = "?"
_NONE: Final = "-"


def is_open(tunnel: TunnelSummary) -> bool:
    """Return whether a tunnel is open."""
    return tunnel.state.value == "OPEN"


# Ids


async def call_with_tunnel(
    client: Client, text: str, call: Callable[[str], Awaitable[R]], *, only_open: bool = False
) -> R:
    """Call ``call`` with the tunnel id ``text``, or the id of the one tunnel that begins so.

    Tunnels are listed only if the service has none whose id is ``text`` as it stands.

    Args:
        only_open: closed tunnels do not matter as long as there is an open one.

    Raises:
        TunnelNotFound: no tunnel begins so.
        ConfigurationError: more than one does.
        TailraceError: a call failed.
    """
    try:
        return await call(text)
    except TunnelNotFound as error:
        if len(text) >= _WHOLE_ID:
            raise
        refusal = error
    found = await _tunnels_that_begin(client, text, refusal, only_open=only_open)
    return await call(found)


async def _tunnels_that_begin(
    client: Client, text: str, refusal: TunnelNotFound, *, only_open: bool
) -> str:
    """Return the id of the one tunnel that begins with ``text``."""
    listed = [each async for each in client.list()]
    matching = [each for each in listed if each.tunnel_id.startswith(text)]
    if only_open and any(map(is_open, matching)):
        matching = [each for each in matching if is_open(each)]
    if len(matching) == 1:
        return matching[0].tunnel_id
    if matching:
        raise ConfigurationError(
            f"{text!r} is the beginning of {len(matching)} tunnels; write more of the id: "
            f"{_candidates(matching, listed)}"
        )
    opened = [each for each in listed if is_open(each)]
    known = f"open are {_candidates(opened, listed)}" if opened else "no tunnel is open"
    raise TunnelNotFound("", f"{refusal}; none begins so, {known}")


def _candidates(tunnels: Sequence[TunnelSummary], listed: Iterable[TunnelSummary]) -> str:
    """Return tunnels in a few words, so that the one that was meant is known."""
    short = short_ids(each.tunnel_id for each in listed)
    now = datetime.now().astimezone()
    said = [
        f"{short[each.tunnel_id]} ({each.state.value}, opened {local_time(each.opened, now)}"
        + (f", {each.description})" if each.description else ")")
        for each in tunnels[:_MOST_CANDIDATES]
    ]
    more = len(tunnels) - len(said)
    return ", ".join(said) + (f" and {more} more" if more else "")


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Return for each id its shortest beginning, of 8 characters or more, that no other has."""
    ordered = sorted(set(ids))
    short = {}
    for before, each, after in zip(["", *ordered], ordered, [*ordered[1:], ""], strict=False):
        length = max(_SHORTEST, _common(before, each) + 1, _common(each, after) + 1)
        short[each] = each[:length]
    return short


def _common(one: str, other: str) -> int:
    """Return how many characters two ids begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


# Lists


@dataclass(slots=True)
class Details:
    """What DescribeTunnel has told of several tunnels."""

    found: dict[str, TunnelDescription] = field(default_factory=dict)
    """Tunnel id -> all about it."""
    refusal: CredentialsRefused | ControlThrottled | None = None
    """Why no more were asked for."""


async def describe_tunnels(
    clients: Sequence[Client], ids: Iterable[str], tell: Callable[[int], None] = lambda count: None
) -> Details:
    """Ask for the details of tunnels, as many at a time as there are clients.

    When the service refuses, or is still asked too often after a few pauses, no more is asked for.

    Args:
        tell: called with the number of those that are known.

    Raises:
        ControlError, LinkError: a call failed for another reason.
    """
    details = Details()
    waiting = iter(ids)

    async def ask(client: Client) -> None:
        for tunnel_id in waiting:
            try:
                details.found[tunnel_id] = await client.describe(tunnel_id)
            except TunnelNotFound:
                continue  # closed and deleted meanwhile
            except (CredentialsRefused, ControlThrottled) as error:
                details.refusal = error
            tell(len(details.found))
            if details.refusal is not None:
                return

    asking = [asyncio.get_running_loop().create_task(ask(client)) for client in clients]
    try:
        await asyncio.gather(*asking)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
    return details


async def latest_tunnels(client: Client, thing: str | None, most: int) -> list[TunnelDescription]:
    """Return all about the newest tunnels, those of a thing unless it is ``None``.

    Raises:
        TailraceError: a call failed.
    """
    ids = [each.tunnel_id async for each in client.list(thing=thing, limit=most)]
    details = await describe_tunnels([client], ids)
    if details.refusal is not None:
        raise details.refusal
    return list(details.found.values())


class Order(Enum):
    """What a table of tunnels is sorted by; open ones come first in any case."""

    OPENED = "opened"
    """The newest comes first."""
    THING = "thing"
    LEFT = "left"
    """The one that will be closed next comes first."""


def sort_tunnels(
    tunnels: Iterable[TunnelSummary], details: Details | None, order: Order
) -> list[TunnelSummary]:
    """Return tunnels in an order, and as they are according to the latest that is known."""
    found = {} if details is None else details.found

    def key(each: TunnelSummary) -> tuple[bool, str, float]:
        known = found.get(each.tunnel_id)
        opened = each.opened.timestamp()
        if order is Order.OPENED or known is None:
            return not is_open(each), "", -opened
        if order is Order.THING:
            return not is_open(each), known.thing or "", -opened
        return not is_open(each), "", (known.opened + known.lifetime).timestamp()

    return sorted((found.get(each.tunnel_id, each) for each in tunnels), key=key)


_HEADINGS: Final = (
    *("TUNNEL", "STATUS", "THING", "SERVICES", "SOURCE", "DESTINATION", "LEFT", "OPENED"),
    "DESCRIPTION",
)
_FEW_HEADINGS: Final = ("TUNNEL", "STATUS", "OPENED", "DESCRIPTION")


def tunnel_rows(
    tunnels: Iterable[TunnelSummary], details: Details | None, now: datetime
) -> list[tuple[str, ...]]:
    """Return headings and rows of a table of tunnels; fewer columns where details are ``None``.

    Args:
        now: aware; its zone is the one of the times in the table.
    """
    tunnels = list(tunnels)
    short = short_ids(each.tunnel_id for each in tunnels)
    rows = []
    for each in tunnels:
        known = () if details is None else _details(each, details, now)
        opened = local_time(each.opened, now)
        rows.append((short[each.tunnel_id], each.state.value, *known, opened, each.description))
    return [_FEW_HEADINGS if details is None else _HEADINGS, *rows]


def _details(tunnel: TunnelSummary, details: Details, now: datetime) -> tuple[str, ...]:
    known = details.found.get(tunnel.tunnel_id)
    if known is None:
        return (_UNKNOWN if is_open(tunnel) else _NONE,) * 5
    return (
        known.thing or _NONE,
        ",".join(known.services) or _NONE,
        _connection(known.source, now),
        _connection(known.destination, now),
        time_left(known, now) or _NONE,
    )


def _connection(side: SideState, now: datetime) -> str:
    if not side.is_connected:
        return _NONE
    return "connected" if side.since is None else f"since {local_time(side.since, now)}"


# Times


def local_time(moment: datetime, now: datetime) -> str:
    """Return a time in the zone of ``now``, with its date unless that is today."""
    local = moment.astimezone(now.tzinfo)
    return f"{local:%H:%M}" if local.date() == now.date() else f"{local:%Y-%m-%d %H:%M}"


def time_left(tunnel: TunnelDescription, now: datetime) -> str:
    """Return how long a tunnel will stay open, "" if it is closed."""
    if not is_open(tunnel):
        return ""
    seconds = max(timedelta(), tunnel.opened + tunnel.lifetime - now) // timedelta(seconds=1)
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
