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
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ..common.event_loop import LoopChoice, loop_factory, raise_descriptor_limit
from ..common.file_lock import locked
from ..control.documents import tunnel_document
from ..control.server import told
from ..errors import (
    ConfigurationError,
    OpenFailed,
    TailraceError,
    TimedOut,
    TunnelClosed,
)
from ..library import SourceTunnel
from .messages import MessageReader, encode_message
from .opening import Opening
from .state import HolderState
from .wish import Wish

__all__ = ["Holder", "hold"]

_RETRY: Final = 0.05
"""Seconds until the lock, or a command that comes, is tried again."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_RECEIVED: Final = 65_536


def hold(wish: Wish, listening: socket.socket, path: Path, lock: Path) -> None:
    """Hold a tunnel in an event loop of its own; returns when nobody uses it any more.

    The arguments are those of :class:`Holder`.
    """

    async def run() -> None:
        holder = Holder(wish, listening, path, lock)
        async with told("holder", holder.details, os.environ):
            await holder.run()

    raise_descriptor_limit()
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


class Holder:
    """Holds one tunnel as long as there are commands at its socket.

    Args:
        listening: a listening unix socket; closed by this.
        path: the name of the socket, which is removed in the end.
        lock: the file that commands lock while they connect to ``path``.
    """

    def __init__(self, wish: Wish, listening: socket.socket, path: Path, lock: Path) -> None:
        self._wish = wish
        self._listening = listening
        self._path = path
        self._lock = lock
        self._opening = Opening(self._tell)
        self._clients: set[_Client] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._tunnel: SourceTunnel | None = None
        self._left = asyncio.Event()
        """Set when no command uses the tunnel any more."""
        self._terminated = False

    def details(self) -> dict[str, Any]:
        """Return what ``tailrace status`` shows of this process."""
        if self._tunnel is None:
            return {"tunnels": []}
        return {"tunnels": [tunnel_document(self._wish.tunnel.thing, self._tunnel.status())]}

    async def run(self) -> None:
        """Serve until no command uses the tunnel any more, or it has ended."""
        loop = asyncio.get_running_loop()
        self._listening.setblocking(False)
        # Once more, so that systems name this process where they are asked who listens.
        self._listening.listen()
        accepting = loop.create_task(self._accept())
        for number in _SIGNALS:
            with suppress(RuntimeError, ValueError):  # not in the main thread
                loop.add_signal_handler(number, self._terminate)
        holding = loop.create_task(self._hold())
        leaving = loop.create_task(self._until_left())
        try:
            await asyncio.wait([holding, leaving], return_when=asyncio.FIRST_COMPLETED)
            failure = await self._finish(holding, leaving)
        finally:
            tasks = [accepting, leaving, *self._serving]
            for number in _SIGNALS:
                with suppress(RuntimeError, ValueError):
                    loop.remove_signal_handler(number)
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
            self._opening.closing()
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
            if isinstance(failure, TimedOut) and self._opening.state.hint:
                text += f" ({self._opening.state.hint})"
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
        wish = self._wish
        async with (
            wish.make_client() as client,
            self._opening.tunnel(client, wish.tunnel) as self._tunnel,
        ):
            await self._tunnel.wait_closed()
            raise TunnelClosed("the tunnel was closed, or its lifetime is over")

    # -- the commands -----------------------------------------------------------------------

    def _tell(self, state: HolderState) -> None:
        message = encode_message("state", state.to_document())
        for client in self._clients:
            client.send(message)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listening)
            except OSError:  # as without descriptors: some of them will be closed
                await asyncio.sleep(_RETRY)
            else:
                self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        client = _Client(sock)
        self._clients.add(client)
        client.send(encode_message("state", self._opening.state.to_document()))
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
        # Where this is cancelled, the command is still to be told how the tunnel has ended.
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

        A command holds the lock while it connects: so none finds a socket where nobody accepts.
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
