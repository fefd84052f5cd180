"""One tunnel that the agent serves, from its notification to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from random import Random
from typing import Final

from ..common.log_floods import flood_kind
from ..control.summary import paused_text, resumed_text
from ..errors import (
    AccessRefused,
    RemoteProtocolError,
    ServiceIdMismatch,
    TailraceError,
    TokenRotated,
)
from ..library import (
    Connected,
    ConnectionRefused,
    DestinationTunnel,
    Reconnecting,
    ServiceMap,
    ServicesMapped,
    Tunnel,
    TunnelEvent,
    TunnelPaused,
    TunnelResumed,
    TunnelStatus,
)
from ..library.settings import RESUME_TIMEOUT
from .state import KeptTunnel

__all__ = ["DestinationSettings", "ServedTunnel", "TunnelPhase", "destination"]

_RENEWAL_TIMEOUT: Final = 300.0
"""Seconds in which the notification of a rotation follows the end of the link, or comes never."""
_FIRST_DELAY: Final = 5.0
_LONGEST_DELAY: Final = 120.0
"""Bounds of the delay before a destination that failed is made anew, in seconds."""
_FINAL: Final = (AccessRefused, TokenRotated, ServiceIdMismatch, RemoteProtocolError)
"""Failures that another attempt would only repeat. All others may pass: a clock that is not set
yet, an authority that is being renewed, a network that wants a login."""

_log = logging.getLogger("tailrace.agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationSettings:
    """What the destinations of all tunnels have in common."""

    services: ServiceMap
    region: str | None = None
    """Used where a notification names none."""
    endpoint: str | None = None
    """Data endpoint of all tunnels; ``None``: that of the tunnel's region."""
    ca: Path | None = None
    resume_timeout: float = RESUME_TIMEOUT
    """Seconds for which open connections wait for a lost link, or a source that has left."""


class TunnelPhase(Enum):
    """What a tunnel that is served is doing."""

    CONNECTING = "connecting"
    UP = "up"
    WAITING = "waiting"
    """Its link was lost, or could not be set up; there will be another attempt."""


def destination(
    kept: KeptTunnel, settings: DestinationSettings, renewal_timeout: float = 0.0
) -> DestinationTunnel:
    """Return the destination of a tunnel, not entered.

    Raises:
        ConfigurationError: the settings do not make sense.
    """
    notification = kept.notification
    region = notification.region or settings.region
    return Tunnel.destination(
        notification.access_token,
        settings.services,
        region=region if settings.endpoint is None else None,
        endpoint=settings.endpoint,
        ca=settings.ca,
        client_token=kept.client_token,
        timeout=None,
        renewal_timeout=renewal_timeout,
        resume_timeout=settings.resume_timeout,
    )


class ServedTunnel:
    """Runs the destination of one tunnel, and makes it anew while that may help.

    After :meth:`renew`, the token before is kept until a link has worked with the new one: anybody
    who may publish at the broker can bring a wrong one. ``released`` is called with each
    notification that another one has replaced, ``changed`` when the phase is another one.
    """

    def __init__(
        self,
        kept: KeptTunnel,
        settings: DestinationSettings,
        lifetime: float,
        released: Callable[[KeptTunnel], None],
        changed: Callable[[], None],
    ) -> None:
        self._tokens = [kept]
        """The notification in use is the last one; one before it has worked."""
        self._settings = settings
        self._lifetime = lifetime
        self._released = released
        self._changed = changed
        self._tunnel: DestinationTunnel | None = None
        self._told = ""
        """The cause that was logged last, so that it is not logged at every attempt."""
        # Not a secret: it spreads the load of many devices over time.
        self._jitter = Random()  # noqa: S311
        self._delay = _FIRST_DELAY
        """Seconds before a destination that fails now is made anew, at most."""
        self.phase = TunnelPhase.CONNECTING
        self.was_up = False
        """Whether it has been connected."""

    @property
    def kept(self) -> KeptTunnel:
        """The notification in use."""
        return self._tokens[-1]

    @property
    def notifications(self) -> tuple[KeptTunnel, ...]:
        """The notifications that were not released, the one in use last."""
        return tuple(self._tokens)

    @property
    def label(self) -> str:
        """Name of the tunnel in logs."""
        return self._tokens[0].label

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        status = self.status()
        return 0 if status is None else len(status.connections)

    def status(self) -> TunnelStatus | None:
        """Return the status of the destination, ``None`` while there is none."""
        return None if self._tunnel is None else self._tunnel.status()

    def renew(self, kept: KeptTunnel) -> None:
        """Go on with the token of a rotation; the link is not touched."""
        if len(self._tokens) > 1:
            self._released(self._tokens.pop())
        self._tokens.append(kept)
        if self._tunnel is not None:
            # One that has ended cannot be renewed; the next destination has the token.
            with suppress(TailraceError):
                self._tunnel.renew(kept.notification.access_token)

    async def run(self) -> str:
        """Serve until the tunnel ends; return why it ended.

        Raises:
            TailraceError: it cannot be served.
        """
        try:
            async with asyncio.timeout(self._lifetime) as lifetime:
                return await self._serve()
        except TimeoutError:
            if not lifetime.expired():
                raise
            return "its lifetime is over"

    async def _serve(self) -> str:
        while True:
            kept = self.kept
            try:
                return await self._serve_once(kept)
            except _FINAL as error:
                if not self._has_another(kept, error):
                    raise
                continue
            except TailraceError as error:
                self._tell(str(error), error.advice)
            self._enter(TunnelPhase.WAITING)
            delay, self._delay = self._delay, min(2 * self._delay, _LONGEST_DELAY)
            await asyncio.sleep(self._jitter.uniform(delay / 2, delay))

    def _has_another(self, kept: KeptTunnel, error: TailraceError) -> bool:
        """Return whether there is another token to try after one has failed."""
        if self.kept is kept and len(self._tokens) > 1:
            _log.warning("tunnel %s: a new token was of no use: %s", self.label, error)
            self._released(self._tokens.pop())
            return True
        return self.kept is not kept

    async def _serve_once(self, kept: KeptTunnel) -> str:
        renewal_timeout = _RENEWAL_TIMEOUT if kept.notification.tunnel_id else 0.0
        self._tunnel = tunnel = destination(kept, self._settings, renewal_timeout)
        watching = asyncio.get_running_loop().create_task(self._watch(tunnel.events()))
        try:
            async with tunnel:
                await tunnel.wait_closed()
            return "closed, or expired"
        finally:
            self._tunnel = None
            watching.cancel()
            await asyncio.wait([watching])

    async def _watch(self, events: AsyncIterator[TunnelEvent]) -> None:
        async for event in events:
            match event:
                case Connected(endpoint=endpoint):
                    self._told = ""
                    _log.info("tunnel %s: connected to %s", self.label, endpoint)
                case ServicesMapped():
                    self._is_up()
                case Reconnecting(cause=cause):
                    self._enter(TunnelPhase.WAITING)
                    self._tell(str(cause), cause.advice)
                case ConnectionRefused(service_id=service, reason=reason):
                    # How often is decided by who uses the tunnel.
                    kind = flood_kind(per=f"{self.label} {service}")
                    _log.warning("tunnel %s: %s", self.label, reason, extra=kind)
                case TunnelPaused():
                    _log.info("tunnel %s: %s", self.label, paused_text(event))
                case TunnelResumed():
                    _log.info("tunnel %s: %s", self.label, resumed_text(event))

    def _enter(self, phase: TunnelPhase) -> None:
        if phase is not self.phase:
            self.phase = phase
            self._changed()

    def _is_up(self) -> None:
        self.was_up = True
        self._delay = _FIRST_DELAY
        self._enter(TunnelPhase.UP)
        while len(self._tokens) > 1:
            self._released(self._tokens.pop(0))

    def _tell(self, cause: str, advice: str) -> None:
        """Log why there will be another attempt, unless that was the last cause logged, too."""
        if cause != self._told:
            self._told = cause
            hint = f". {advice}" if advice else ""
            _log.warning("tunnel %s: %s%s", self.label, cause, hint)
