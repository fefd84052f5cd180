"""The process that holds a tunnel for the commands of one user: opens it, serves, closes it.

::

    ssh ── socket ──┐                        ┌── tailrace ssh    (waits, shows, ends)
    scp ── socket ──┤ holder ── the tunnel   ├── tailrace proxy  (copies stdin and stdout)
                    └── unix socket, 0600 ───┘

The first command of a thing and service forks it, others find its socket; each asks for
connections, and gets sockets that end in the holder. So no command is more than the others, none of
them has to outlive its own connection, and what one of them suffers (Ctrl-C, SIGKILL) is nothing to
the others. When the last one has gone, however it went, the holder closes the tunnel and ends. It
is in a session of its own, so that no terminal ends it; when it dies, all sockets do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..aws import Client
from ..common.escaping import cut
from ..common.event_loop import LoopChoice, loop_factory
from ..common.file_lock import locked
from ..control.documents import tunnel_document
from ..control.server import told
from ..errors import (
    AccessRefused,
    ConfigurationError,
    CredentialsRefused,
    OpenFailed,
    TailraceError,
    TimedOut,
    TokenRotated,
    TunnelClosed,
)
from ..library import PeerJoined, PeerLeft, Reconnecting, SourceTunnel
from ..library.connector import ConnectObserver, connect_observed
from .hints import absence_hint
from .ledger import LedgerEntry, close_orphans
from .messages import MessageReader, encode_message
from .state import HolderState, Origin, Phase
from .wish import Wish

__all__ = ["Holder", "hold"]

_RETRY: Final = 0.05
"""Seconds until the lock is tried again."""
_HINT_AFTER: Final = 3.0
"""Seconds for which a device may take to come before anybody is asked about it."""
_RECEIVED: Final = 65_536
_MOST_NOTES: Final = 50
_LONGEST_NOTE: Final = 1_000
_TAKEN_FROM_US: Final = (AccessRefused, TokenRotated)


def hold(wish: Wish, listening: socket.socket, path: Path, lock: Path) -> None:
    """Hold a tunnel in an event loop of its own; returns when nobody uses it any more.

    The arguments are those of :class:`Holder`.
    """

    async def run() -> None:
        holder = Holder(wish, listening, path, lock)
        async with told("holder", holder.details, os.environ):
            await holder.run()

    with asyncio.Runner(loop_factory=loop_factory(LoopChoice.AUTO)) as runner:
        runner.run(run())


class _Client:
    """A command; its socket does not block."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.is_leaving = False

    def send(self, data: bytes, *descriptors: int) -> None:
        """Send a line. A command that does not read, 200 KiB of them behind, is cut off."""
        try:
            sent = socket.send_fds(self.sock, [data], descriptors)
        except OSError:
            sent = 0
        if sent < len(data):
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


class Holder(ConnectObserver):
    """Holds one tunnel as long as there are commands at its socket.

    Args:
        listening: a listening unix socket; closed by this.
        path: the name of the socket, which is removed in the end; ``None`` if it has none.
        lock: the file whose lock those hold who connect to ``path``.
    """

    def __init__(self, wish: Wish, listening: socket.socket, path: Path, lock: Path) -> None:
        self._wish = wish
        self._listening = listening
        self._path = path
        self._lock = lock
        self._state = HolderState(waiting_since=time.monotonic())
        self._clients: set[_Client] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._tunnel: SourceTunnel | None = None
        self._api: Client | None = None
        self._entry: LedgerEntry | None = None
        self._left = asyncio.Event()
        """Set when no command is there that still uses the tunnel."""
        self._watching: asyncio.Task[None] | None = None
        self._terminated = False

    def details(self) -> dict[str, Any]:
        """Return what ``tailrace status`` shows of this process."""
        if self._tunnel is None:
            return {"tunnels": []}
        return {"tunnels": [tunnel_document(self._wish.thing, self._tunnel.status())]}

    async def run(self) -> None:
        """Serve until nobody is there any more, or the tunnel has ended."""
        loop = asyncio.get_running_loop()
        self._listening.setblocking(False)
        # Once more, so that systems name this process where they are asked who listens.
        self._listening.listen()
        accepting = loop.create_task(self._accept())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with suppress(RuntimeError, ValueError):  # not in the main thread
                loop.add_signal_handler(number, self._terminate)
        handler = _NoteHandler(self._note)
        logging.getLogger("tailrace").addHandler(handler)
        holding = loop.create_task(self._hold())
        leaving = loop.create_task(self._until_left())
        try:
            await asyncio.wait([holding, leaving], return_when=asyncio.FIRST_COMPLETED)
            failure = await self._finish(holding, leaving)
        finally:
            logging.getLogger("tailrace").removeHandler(handler)
            tasks = [accepting, leaving, *self._serving]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._listening.close()
        self._say_goodbye(failure)

    async def _finish(
        self, holding: asyncio.Task[None], leaving: asyncio.Task[None]
    ) -> TailraceError | None:
        """Let nobody in any more, close the tunnel; return what has gone wrong."""
        if not leaving.done():
            await self._shut_out(even_if_used=True)
        if not holding.done():
            if self._state.origin is Origin.OPENED:
                self._become(phase=Phase.CLOSING)
            holding.cancel()
        try:
            await holding
        except asyncio.CancelledError as error:
            notes = getattr(error, "__notes__", [])
            if notes:  # by the library: the tunnel may still be open
                return TailraceError(f"{notes[-1]}; the next command tries again")
            return TailraceError("the tunnel was ended") if self._terminated else None
        except TailraceError as error:
            return error
        return None

    def _say_goodbye(self, failure: TailraceError | None) -> None:
        if failure is None:
            message = encode_message("ended", True)
        else:
            text = _words(failure)
            if isinstance(failure, TimedOut) and self._state.hint:
                text += f" ({self._state.hint})"
            message = encode_message("failed", text, status=self._wish.exit_status(failure))
        for client in self._clients:
            client.send(message)
            client.sock.close()

    def _terminate(self) -> None:
        self._terminated = True
        self._left.set()

    # -- the tunnel -------------------------------------------------------------------------

    async def _hold(self) -> None:
        """Have the tunnel until this is cancelled.

        Raises:
            TailraceError: it cannot be had, or has ended.
        """
        async with self._wish.make_client() as self._api:
            for note in await close_orphans(self._wish.ledger, self._api):
                self._note(note)
            reuse = self._wish.tunnel_id is None and not self._wish.new
            try:
                await self._connect(reuse=reuse)
            except (*_TAKEN_FROM_US, CredentialsRefused) as error:
                if not (reuse and self._may_open_instead(error)):
                    raise
                await self._connect(reuse=False)

    def _may_open_instead(self, error: TailraceError) -> bool:
        """Return whether only the search for an open tunnel has failed."""
        if isinstance(error, CredentialsRefused):
            return self._state.origin is None  # they may open tunnels, and not list them
        # Another command has found the same free tunnel, and was later.
        return self._state.origin is Origin.TAKEN and self._tunnel is None

    async def _connect(self, *, reuse: bool) -> None:
        wish = self._wish
        one = wish.tunnel_id is not None
        try:
            async with connect_observed(
                self,
                None if one else wish.thing,
                tunnel_id=wish.tunnel_id,
                services=() if one else (wish.service,),
                reuse=reuse,
                keep=wish.keep,
                lifetime=wish.lifetime,
                timeout=wish.timeout,
                client=self._api,
            ) as tunnel:
                self._tunnel = tunnel
                self._become(phase=Phase.READY, cause="", hint="")
                if wish.keep and self._entry is not None:
                    self._entry.remove()
                    self._entry = None
                await tunnel.wait_closed()
                raise TunnelClosed("the tunnel was closed, or its lifetime is over")
        finally:
            if self._watching is not None:
                self._watching.cancel()
                await asyncio.wait([self._watching])
            if self._entry is not None:
                self._entry.leave()
                self._entry = None

    def opening(self, description: str) -> None:
        assert self._api is not None
        self._entry = LedgerEntry(self._wish.ledger, self._api, self._wish.thing, description)

    def opened(self, tunnel_id: str) -> None:
        assert self._entry is not None
        self._entry.opened(tunnel_id)
        self._found(Origin.OPENED, tunnel_id)

    def taken(self, tunnel_id: str) -> None:
        self._found(Origin.TAKEN, tunnel_id)

    def closed(self, tunnel_id: str) -> None:
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

    async def _watch(self, tunnel: SourceTunnel) -> None:
        """Follow the link and the device; ask about a device that does not come."""
        asking = asyncio.get_running_loop().create_task(self._ask())
        try:
            async for event in tunnel.events():
                now = time.monotonic()
                match event:
                    case Reconnecting(cause, delay):
                        self._become(
                            phase=Phase.RECONNECTING, cause=str(cause), retry_at=now + delay
                        )
                    case PeerLeft() if self._tunnel is not None:
                        self._become(
                            phase=Phase.WAITING,
                            cause="the device has disconnected",
                            waiting_since=now,
                        )
                    case PeerJoined() if self._tunnel is not None:
                        self._become(phase=Phase.READY)
                    case _ if self._state.phase is Phase.RECONNECTING:
                        if tunnel.status().link.phase.value == "connected":
                            ready = self._tunnel is not None
                            self._become(phase=Phase.READY if ready else Phase.WAITING)
                    case _:
                        pass
        finally:
            asking.cancel()
            await asyncio.wait([asking])

    async def _ask(self) -> None:
        """Say what is known of a device that takes its time."""
        wish, state = self._wish, self._state
        while state.phase is not Phase.WAITING and self._tunnel is None:
            await asyncio.sleep(_HINT_AFTER)
            state = self._state
        if self._api is not None and self._tunnel is None:
            hint = await absence_hint(self._api, wish.thing, wish.service, state.tunnel_id)
            self._become(hint=hint)

    # -- the commands -----------------------------------------------------------------------

    def _become(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        message = encode_message("state", self._state.to_document())
        for client in self._clients:
            client.send(message)

    def _note(self, text: str) -> None:
        if len(self._state.notes) < _MOST_NOTES:
            self._become(notes=(*self._state.notes, cut(text, _LONGEST_NOTE)))

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listening)
            self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        client = _Client(sock)
        self._clients.add(client)
        client.send(encode_message("state", self._state.to_document()))
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, client: _Client) -> None:
        """Do what a command asks for, until it has gone."""
        loop = asyncio.get_running_loop()
        reader = MessageReader()
        try:
            while data := await loop.sock_recv(client.sock, _RECEIVED):
                for message in reader.feed(data):
                    await self._obey(client, message)
        except (OSError, ValueError):
            pass
        # Cancelled is only who is to be told how it ends.
        self._clients.discard(client)
        client.sock.close()
        self._check_left()

    async def _obey(self, client: _Client, message: dict[str, Any]) -> None:
        match message:
            case {"open": str(service)}:
                await self._open(client, service)
            case {"leave": _}:
                client.is_leaving = True
                if not self._check_left():
                    client.send(encode_message("ended", True))
            case _:
                raise ValueError("not a message of a command")

    async def _open(self, client: _Client, service: str) -> None:
        try:
            if self._tunnel is None:
                raise OpenFailed("the tunnel is not ready")
            sock = await self._tunnel.open_socket(service)
        except TailraceError as error:
            text = _words(error)
            client.send(encode_message("refused", text, status=self._wish.exit_status(error)))
            return
        with sock:
            client.send(encode_message("connection", service), sock.fileno())

    # -- the end ----------------------------------------------------------------------------

    def _check_left(self) -> bool:
        """Return whether no command uses the tunnel any more."""
        if not all(client.is_leaving for client in self._clients):
            return False
        self._left.set()
        return True

    async def _until_left(self) -> None:
        """Wait until no command uses the tunnel, and none can come any more."""
        while True:
            await self._left.wait()
            if await self._shut_out(even_if_used=self._terminated):
                return
            self._left.clear()

    async def _shut_out(self, *, even_if_used: bool) -> bool:
        """Remove the socket; return ``False`` if a command has come meanwhile.

        Who connects holds the lock: so none of them finds a socket that nobody will accept from.
        """
        while True:
            try:
                with locked(self._lock, wait=False):
                    with suppress(BlockingIOError):
                        while True:
                            self._welcome(self._listening.accept()[0])
                    if not even_if_used and not self._check_left():
                        return False
                    self._path.unlink(missing_ok=True)
                    return True
            except BlockingIOError:
                await asyncio.sleep(_RETRY)
            except ConfigurationError:  # the directory has been removed
                return True


def _words(error: TailraceError) -> str:
    """Return an error with its advice, unless that is about arguments of functions."""
    advice = error.advice
    if not advice or "=" in advice:
        return str(error)
    return f"{error}. {advice[0].upper()}{advice[1:]}"


class _NoteHandler(logging.Handler):
    """Brings warnings of the library to the commands."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._bring = note

    def emit(self, record: logging.LogRecord) -> None:
        self._bring(record.getMessage())
