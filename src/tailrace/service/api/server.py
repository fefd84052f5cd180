"""Limits on HTTP connections, before there is a request to look at."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from ...flow.token_bucket import Buckets
from ..limits import Limits, network
from ..telemetry.throttled_log import ThrottledLog

__all__ = ["ConnectionGuard", "GuardedProtocol"]

_log = logging.getLogger(__name__)

_BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Retry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)
"""What SDKs take for "try again"."""


class ConnectionGuard:
    """What the connections of one listener have in common; ``clock`` runs steadily."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.head_seconds = limits.handshake_seconds
        self._limits = limits
        self._clock = clock
        self._connections = Buckets(limits.connection_rate, limits.connection_rate)
        self._refusals = ThrottledLog(_log, clock)

    def lets_in(self, host: str) -> bool:
        """Say whether one more connection from ``host`` is within the limit."""
        if self._connections.try_take(network(host), self._clock()):
            return True
        self._refusals.add(
            "API connections per second",
            "API connection from %s refused: more than %g in a second",
            host,
            self._limits.connection_rate,
        )
        return False

    def say_silent(self, host: str) -> None:
        """Log that ``host`` did not bring a request."""
        self._refusals.add(
            "no API request in time", "API connection from %s dropped: no request in time", host
        )


class GuardedProtocol(H11Protocol):
    """One HTTP connection: not too many of them, and none that never asks for anything.

    Use :meth:`guarded_by`; its ``guard`` is shared by all connections of a listener.
    """

    guard: ClassVar[ConnectionGuard]
    _watchdog: asyncio.TimerHandle | None = None

    @classmethod
    def guarded_by(cls, guard: ConnectionGuard) -> type[GuardedProtocol]:
        """Return this class with a guard."""
        guarded: type[GuardedProtocol] = type(cls.__name__, (cls,), {"guard": guard})
        return guarded

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.guard.lets_in(self._host):
            self._watch()
        else:
            transport.write(_BUSY)
            transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    @property
    def _host(self) -> str:
        return self.client[0] if self.client else ""

    def _watch(self) -> None:
        self._stop_watching()
        self._watchdog = self.loop.call_later(self.guard.head_seconds, self._look)

    def _stop_watching(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _look(self) -> None:
        """Drop a connection on which no request is being answered."""
        if self.cycle is None or self.cycle.response_complete:
            self.guard.say_silent(self._host)
            self.transport.abort()
