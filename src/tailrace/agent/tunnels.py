"""The tunnels that the agent serves: how many, which ones, and for how long.

A service that tells no tunnel ids, as AWS' does not, announces a rotation like a new tunnel, and
ends the link of the old token soon afterwards. So a rotation may come when there are as many
tunnels as there may be, and must not wait: beyond the cap, a tunnel may start for each one that has
been connected and may be about to end. If none does, in a time that is long for a rotation, the cap
holds again, and the latest tunnel ends. Where the service tells the id, a rotation is known as
such.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ..common.log_floods import flood_kind
from ..errors import NotificationIgnored, TailraceError
from ..library import TunnelStatus
from .notification import Notification
from .served_tunnel import DestinationSettings, ServedTunnel
from .state import AgentState, KeptTunnel

__all__ = ["MAX_TUNNELS", "ServedStatus", "Tunnels"]

MAX_TUNNELS: Final = 20
"""Tunnels that are served at once, unless told otherwise."""

_ROTATION: Final = 30.0
"""Seconds in which a rotation has ended the link of the old token."""

_log = logging.getLogger("tailrace.agent")


@dataclass(frozen=True, slots=True)
class ServedStatus:
    """One tunnel that is served.

    Example: ``for tunnel in agent.status().tunnels: print(tunnel.name, tunnel.phase)``
    """

    name: str
    """Its id, or ``#`` and the beginning of its token's SHA-256 where the service does not tell."""
    phase: str
    """``connecting``, ``up`` or ``waiting`` for another attempt."""
    services: tuple[str, ...]
    """Service ids of its notification."""
    connections: int
    """Connections that are open now."""
    since: float
    """When its notification came, in seconds since the epoch."""


class Tunnels:
    """Tasks that serve tunnels, one each.

    ``changed`` is called when one has started or ended, or is doing something else.
    """

    def __init__(
        self,
        settings: DestinationSettings,
        most: int,
        state: AgentState,
        now: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._most = most
        self._state = state
        self._now = now
        self._changed = changed
        self._tasks: dict[ServedTunnel, asyncio.Task[None]] = {}
        """In the order in which they have started."""
        self._forgetting: set[asyncio.Task[None]] = set()
        self._keeping = False
        """Whether what ends from now on is to be found by the next agent."""

    def status(self) -> tuple[ServedStatus, ...]:
        """Return the tunnels that are served."""
        return tuple(
            ServedStatus(
                name=each.label,
                phase=each.phase.value,
                services=each.kept.notification.services,
                connections=each.connections,
                since=each.kept.received_at,
            )
            for each in self._tasks
        )

    def destinations(self) -> dict[str, TunnelStatus]:
        """Return the status of each destination, by the name of its tunnel."""
        found = ((each.label, each.status()) for each in self._tasks)
        return {name: status for name, status in found if status is not None}

    def admit(self, kept: KeptTunnel) -> KeptTunnel:
        """Return a tunnel as it is to be stored and started, if there is room for it.

        Raises:
            NotificationIgnored: there is none.
        """
        served = self._find(kept.notification)
        if served is not None:
            # It goes on with the client token that it has.
            return replace(kept, client_token=served.kept.client_token)
        if len(self._tasks) < self._most:
            return kept
        connected = sum(each.was_up for each in self._tasks)
        may_be_rotation = kept.notification.tunnel_id is None
        if may_be_rotation and len(self._tasks) - self._most < connected:
            return kept
        raise NotificationIgnored(f"{self._most} tunnels are served, and no more may be")

    def start(self, kept: KeptTunnel, *, again: bool = False) -> None:
        """Serve a tunnel, or hand its new token to the one that is served.

        ``again`` says that it was served before this agent was started.
        """
        served = self._find(kept.notification)
        if served is not None:
            _log.info("tunnel %s: goes on with a new token", served.label)
            served.renew(kept)
            return
        lifetime = kept.lifetime_left(self._now())
        served = ServedTunnel(kept, self._settings, lifetime, self._release, self._changed)
        loop = asyncio.get_running_loop()
        task = self._tasks[served] = loop.create_task(self._serve(served))
        # Not in the task: one that is cancelled at once never runs.
        task.add_done_callback(lambda _: self._ended(served))
        _log.info(
            "tunnel %s: %s, services %s; %d of %d tunnels",
            served.label,
            "served again" if again else "notified",
            ", ".join(kept.notification.services) or "of the default rule",
            len(self._tasks),
            self._most,
        )
        if len(self._tasks) > self._most:
            loop.call_later(_ROTATION, self._hold_cap, served)
        self._changed()

    def end_all(self, reason: str) -> None:
        """End all tunnels, and forget them."""
        if self._tasks:
            _log.warning("%d tunnels are ended: %s", len(self._tasks), reason)
        for task in self._tasks.values():
            task.cancel()

    async def close(self) -> None:
        """End all destinations in order; the tunnels stay stored, for the next agent."""
        self._keeping = True
        for task in self._tasks.values():
            task.cancel()
        while ending := [*self._tasks.values(), *self._forgetting]:
            await asyncio.wait(ending)
            await asyncio.sleep(0)  # those that wait for the same are told one after the other

    async def wait_idle(self) -> None:
        """Wait until no tunnel is served."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
            await asyncio.sleep(0)  # those that wait for the same are told one after the other

    def _find(self, notification: Notification) -> ServedTunnel | None:
        tunnel_id = notification.tunnel_id
        if tunnel_id is None:
            return None
        same = (each for each in self._tasks if each.kept.notification.tunnel_id == tunnel_id)
        return next(same, None)

    async def _serve(self, served: ServedTunnel) -> None:
        try:
            reason = await served.run()
        except TailraceError as error:
            kind = flood_kind(type(error).__name__)
            _log.warning(
                "tunnel %s: cannot be served: %s", served.label, error.explain(), extra=kind
            )
        except Exception as error:
            _log.error("tunnel %s: failed", served.label, exc_info=error)
        else:
            _log.info("tunnel %s: ended: %s", served.label, reason)

    def _ended(self, served: ServedTunnel) -> None:
        del self._tasks[served]
        for kept in served.notifications:
            self._release(kept)
        self._changed()

    def _hold_cap(self, served: ServedTunnel) -> None:
        """End a tunnel that started beyond the cap, if none has ended for it."""
        if served in self._tasks and len(self._tasks) > self._most:
            _log.warning(
                "tunnel %s: ended: %d tunnels are served, and no more may be",
                served.label,
                self._most,
            )
            self._tasks[served].cancel()

    def _release(self, kept: KeptTunnel) -> None:
        if self._keeping:
            return
        task = asyncio.get_running_loop().create_task(self._state.forget(kept))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)
