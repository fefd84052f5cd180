"""What the control API says of a tunnel: whether it is open, its services, who is connected."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Final

from ...aws import Client, SideState, TunnelDescription, TunnelState, TunnelSummary
from ...checks.findings import Finding, failed, ok, skipped, warning
from ...common.suggestions import closest_name
from ...errors import AccessRefused, ServiceIdMismatch
from ...library import Side
from ..hints import ago

__all__ = ["TokenUseless", "TunnelChecks"]

_MOST: Final = 100
"""Tunnels of a thing that are looked at, newest first."""
_MOST_DESCRIBED: Final = 5
"""Open tunnels of a thing that are looked at for the services that are asked for."""
_SOON: Final = timedelta(minutes=10)
"""Time before a tunnel ends in which that is worth a warning."""


class TokenUseless(AccessRefused):
    """The service would refuse the access token, as is known without asking it."""

    def __init__(self, text: str) -> None:
        super().__init__(HTTPStatus.BAD_REQUEST, HTTPStatus.BAD_REQUEST.phrase, text)


class TunnelChecks:
    """Checks of one tunnel; :meth:`check_tunnel` has to be the first."""

    def __init__(
        self, client: Client, thing: str | None, tunnel_id: str | None, asked: Sequence[str]
    ) -> None:
        """Check the tunnel ``tunnel_id``, or the newest open one of ``thing``.

        ``asked`` are service ids that it is to have.
        """
        self._client = client
        self._thing = thing
        self._tunnel_id = tunnel_id
        self._asked = asked
        self._is_settled = asyncio.Event()
        self.found: TunnelDescription | None = None
        """The tunnel, open or closed, if there is one."""

    async def check_tunnel(self) -> Finding:
        """Find the tunnel."""
        try:
            if self._tunnel_id is not None:
                self.found = await self._client.describe(self._tunnel_id)
                return self._judge(self.found, "")
            tunnels = [each async for each in self._client.list(thing=self._thing, limit=_MOST)]
            open_ones = [each for each in tunnels if each.state is TunnelState.OPEN]
            if not open_ones:
                return self._none(tunnels)
            self.found = await self._choose(open_ones)
            more = f"; one of {len(open_ones)} that are open" if len(open_ones) > 1 else ""
            return self._judge(self.found, more)
        finally:
            self._is_settled.set()

    async def settled(self) -> TunnelDescription | None:
        """Wait for the end of :meth:`check_tunnel`, and return what it has found."""
        await self._is_settled.wait()
        return self.found

    async def _choose(self, tunnels: list[TunnelSummary]) -> TunnelDescription:
        """Return the newest tunnel with the services that are asked for, or just the newest."""
        newest = await self._client.describe(tunnels[0].tunnel_id)
        if set(self._asked) <= set(newest.services):
            return newest
        for each in tunnels[1:_MOST_DESCRIBED]:
            tunnel = await self._client.describe(each.tunnel_id)
            if set(self._asked) <= set(tunnel.services):
                return tunnel
        return newest

    def _judge(self, tunnel: TunnelDescription, more: str) -> Finding:
        now = datetime.now(UTC)
        of_thing = f" of {tunnel.thing}" if tunnel.thing else ""
        text = f"{tunnel.tunnel_id}{of_thing} was opened {ago(now - tunnel.opened)} ago"
        if tunnel.state is not TunnelState.OPEN:
            text += f" and closed, or expired, {ago(now - tunnel.changed)} ago"
            fix = f"open another one: tailrace tunnel open{self._options(tunnel)}"
            return failed(text, fix, cause=TokenUseless(text))
        left = tunnel.opened + tunnel.lifetime - now
        text += f", {ago(left)} left{more}"
        if left < _SOON:
            return warning(text, "open another one before it ends: a rotation does not extend it")
        return ok(text)

    async def check_services(self) -> Finding:
        """Check that the tunnel has the services that are asked for."""
        tunnel = self.found
        if tunnel is None:
            return skipped("no tunnel")
        shown = ", ".join(tunnel.services)
        missing = [each for each in self._asked if each not in tunnel.services]
        if not missing:
            return ok(shown or "none: one service without a name")
        text = f"the tunnel has {shown or 'no service ids'}, and not {', '.join(missing)}"
        fix = f"use what it has; or open another one: tailrace tunnel open{self._options(tunnel)}"
        guesses = [closest_name(each, tunnel.services) for each in missing]
        if any(guesses):
            meant = ", ".join(filter(None, guesses))
            fix = f"write {meant}, if that is meant: upper and lower case differ"
        return failed(text, fix, cause=ServiceIdMismatch(text, service_ids=tunnel.services))

    async def check_side(self, side: Side) -> Finding:
        """Check who is connected."""
        tunnel = self.found
        if tunnel is None or tunnel.state is not TunnelState.OPEN:
            return skipped("no open tunnel")
        state = tunnel.source if side is Side.SOURCE else tunnel.destination
        if state.is_connected:
            return ok(f"connected{_since(state)}")
        text = f"not connected{_since(state)}"
        if side is Side.SOURCE:
            return ok(f"{text}: the place is free")
        return warning(
            text,
            "see whether the device is online and its agent runs (tailrace agent check); to tell it"
            f" again: tailrace tunnel rotate {tunnel.tunnel_id} --mode destination",
        )

    def _none(self, tunnels: list[TunnelSummary]) -> Finding:
        services = "".join(f" --service {each}" for each in self._asked) or " --service ID"
        fix = f"open one: tailrace tunnel open --thing {self._thing}{services}"
        if not tunnels:
            text = f"no tunnel to {self._thing} is known, nor one that was closed lately"
            return skipped(text, f"check the name of the thing; {fix}")
        last = ago(datetime.now(UTC) - tunnels[0].changed)
        return skipped(f"{self._thing} has no open tunnel; the last one ended {last} ago", fix)

    def _options(self, tunnel: TunnelDescription) -> str:
        thing = f" --thing {tunnel.thing}" if tunnel.thing else ""
        return thing + "".join(
            f" --service {each}" for each in dict.fromkeys((*tunnel.services, *self._asked))
        )


def _since(state: SideState) -> str:
    return "" if state.since is None else f", for {ago(datetime.now(UTC) - state.since)}"
