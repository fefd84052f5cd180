"""A tunnel for a command that is its only user: opened or taken, followed, closed at the end.

What happens is told as a :class:`~.state.HolderState`; what was opened stands in the ledger until
it is closed again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, Final

from ..aws import Client
from ..common.escaping import cut
from ..common.file_lock import HAS_LOCKS
from ..errors import AccessRefused, CredentialsRefused, TailraceError, TokenRotated
from ..library import (
    ConnectionCut,
    ConnectionOpened,
    LinkPhase,
    PeerJoined,
    PeerLeft,
    PeerPresence,
    Reconnecting,
    SourceTunnel,
    TunnelEvent,
    TunnelPaused,
)
from ..library.connector import ConnectObserver, connect_observed
from .hints import absence_hint
from .ledger import LedgerEntry, close_orphans
from .progress import short_id
from .state import HolderState, Origin, Phase
from .wish import WantedTunnel

__all__ = ["Opening"]

_HINT_AFTER: Final = 3.0
"""Seconds for which a device may take to come before anybody is asked about it."""
_MOST_NOTES: Final = 50
_LONGEST_NOTE: Final = 1_000
_TAKEN_FROM_US: Final = (AccessRefused, TokenRotated)


class Opening(ConnectObserver):
    """The way to a device.

    Args:
        changed: called with the state whenever it has changed.
        heard: called with each event of the tunnel.
    """

    def __init__(
        self,
        changed: Callable[[HolderState], None],
        heard: Callable[[TunnelEvent], None] = lambda event: None,
    ) -> None:
        self.state = HolderState(waiting_since=time.monotonic())
        self._changed = changed
        self._heard = heard
        self._wanted: WantedTunnel
        self._client: Client
        self._is_ready = False
        self._was_closed = False
        self._entry: LedgerEntry | None = None
        self._watching: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def tunnel(self, client: Client, wanted: WantedTunnel) -> AsyncIterator[SourceTunnel]:
        """Have the tunnel for a block, whose device is connected.

        Raises:
            TailraceError: it cannot be had, or not be closed.
        """
        self._client, self._wanted = client, wanted
        async with AsyncExitStack() as stack:
            stack.enter_context(_warnings_brought(self.note))
            for note in await close_orphans(wanted.ledger, client):
                self.note(note)
            may_reuse = wanted.tunnel_id is None and not wanted.new
            try:
                tunnel = await stack.enter_async_context(self._connected(reuse=may_reuse))
            except (*_TAKEN_FROM_US, CredentialsRefused) as error:
                if not (may_reuse and self._may_open_instead(error)):
                    raise
                tunnel = await stack.enter_async_context(self._connected(reuse=False))
            self._become_ready()
            yield tunnel

    def _may_open_instead(self, error: TailraceError) -> bool:
        """Return whether only the search for an open tunnel has failed."""
        if isinstance(error, CredentialsRefused):
            return self.state.origin is None  # they may open tunnels, and not list them
        # Another command has found the same free tunnel, and was later.
        return self.state.origin is Origin.TAKEN

    @asynccontextmanager
    async def tunnel_of_token(
        self, tunnel: SourceTunnel, timeout: float | None
    ) -> AsyncIterator[SourceTunnel]:
        """Have a tunnel, made of its source token, for a block, whose device is connected.

        Args:
            timeout: seconds to wait for the device at most; ``None``: for ever.

        Raises:
            TailraceError: it cannot be used, or the device did not come.
        """
        with _warnings_brought(self.note):
            self._become(phase=Phase.CONNECTING, origin=Origin.GIVEN)
            self.entering(tunnel)
            try:
                async with tunnel:
                    self._become(phase=Phase.WAITING, waiting_since=time.monotonic())
                    await tunnel.wait_peer(timeout)
                    self._become_ready()
                    yield tunnel
            finally:
                await self._stop_watching()

    def outcome(self) -> str:
        """Return what has become of the tunnel, now that it was left."""
        tunnel = short_id(self.state.tunnel_id)
        if self._was_closed:
            return f"tunnel {tunnel} closed"
        return f"tunnel {tunnel} stays open" if tunnel else "ended; the tunnel stays open"

    def note(self, text: str) -> None:
        """Add what else a person should know."""
        if len(self.state.notes) < _MOST_NOTES:
            self._become(notes=(*self.state.notes, cut(text, _LONGEST_NOTE)))

    def closing(self) -> None:
        """Note that the tunnel is about to be left."""
        if self.state.origin is Origin.OPENED and self._entry is not None:
            self._become(phase=Phase.CLOSING)

    @asynccontextmanager
    async def _connected(self, *, reuse: bool) -> AsyncIterator[SourceTunnel]:
        wanted = self._wanted
        is_one = wanted.tunnel_id is not None
        try:
            async with connect_observed(
                self,
                None if is_one else wanted.thing,
                tunnel_id=wanted.tunnel_id,
                services=() if is_one else wanted.services,
                reuse=reuse,
                keep=wanted.keep,
                lifetime=wanted.lifetime,
                timeout=wanted.timeout,
                client=self._client,
                resume_timeout=wanted.resume_timeout,
            ) as tunnel:
                if wanted.keep and self._entry is not None:
                    self._entry.remove()
                    self._entry = None
                yield tunnel
        finally:
            await self._stop_watching()
            if self._entry is not None:
                self._entry.leave()
                self._entry = None

    # What the library tells

    def opening(self, description: str) -> None:
        wanted = self._wanted
        if HAS_LOCKS:
            self._entry = LedgerEntry(wanted.ledger, self._client, wanted.thing, description)

    def opened(self, tunnel_id: str) -> None:
        if self._entry is not None:
            self._entry.opened(tunnel_id)
        self._found(Origin.OPENED, tunnel_id)

    def taken(self, tunnel_id: str) -> None:
        self._found(Origin.TAKEN, tunnel_id)

    def closed(self, tunnel_id: str) -> None:
        self._was_closed = True
        if self._entry is not None:
            self._entry.remove()
            self._entry = None

    def entering(self, tunnel: SourceTunnel) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._watch(tunnel))

    def waiting(self) -> None:
        self._become(phase=Phase.WAITING)

    def _found(self, origin: Origin, tunnel_id: str) -> None:
        self._become(
            phase=Phase.CONNECTING,
            origin=origin,
            tunnel_id=tunnel_id,
            waiting_since=time.monotonic(),
        )

    # What the tunnel tells

    async def _watch(self, tunnel: SourceTunnel) -> None:
        """Follow the link and the device; ask about a device that does not come."""
        asking = asyncio.get_running_loop().create_task(self._ask())
        try:
            async for event in tunnel.events():
                self._heard(event)
                self._follow(event, tunnel)
                if self.state.waiting or isinstance(event, TunnelPaused):
                    self._become(waiting=tunnel.status().waiting)
        finally:
            asking.cancel()
            await asyncio.wait([asking])

    def _follow(self, event: TunnelEvent, tunnel: SourceTunnel) -> None:
        now = time.monotonic()
        match event:
            case Reconnecting(cause, delay):
                self._become(phase=Phase.RECONNECTING, cause=str(cause), retry_at=now + delay)
            case PeerLeft() if self._is_ready:
                self._become(
                    phase=Phase.WAITING, cause="the device has disconnected", waiting_since=now
                )
            case PeerJoined() if self._is_ready:
                self._become_ready()
            case ConnectionOpened() if self.state.refusal:
                self._become(refusal="")
            case ConnectionCut(received=0, reason=reason):
                self._become(refusal=reason)
            case _ if self.state.phase is Phase.RECONNECTING:
                status = tunnel.status()
                if status.link.phase is not LinkPhase.CONNECTED:
                    return
                if not self._is_ready:
                    self._become(phase=Phase.WAITING, cause="")
                elif status.peer is PeerPresence.ABSENT:
                    self._become(
                        phase=Phase.WAITING, cause="the device was lost", waiting_since=now
                    )
                else:
                    self._become_ready()
            case _:
                pass

    async def _ask(self) -> None:
        """Say what is known of a device that takes its time."""
        if self.state.origin is Origin.GIVEN:
            return
        phase = self.state.phase
        while phase is not Phase.WAITING and not self._is_ready:
            await asyncio.sleep(_HINT_AFTER)
            phase = self.state.phase
        if not self._is_ready:
            wanted = self._wanted
            service = wanted.services[0] if wanted.services else ""
            hint = await absence_hint(self._client, wanted.thing, service, self.state.tunnel_id)
            self._become(hint=hint)

    def _become_ready(self) -> None:
        self._is_ready = True
        self._become(phase=Phase.READY, cause="", hint="")

    def _become(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
        self._changed(self.state)

    async def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None


class _NoteHandler(logging.Handler):
    """Brings warnings of the library to a person."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._bring = note

    def emit(self, record: logging.LogRecord) -> None:
        self._bring(record.getMessage())


@contextmanager
def _warnings_brought(note: Callable[[str], None]) -> Iterator[None]:
    handler = _NoteHandler(note)
    logger = logging.getLogger("tailrace")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
