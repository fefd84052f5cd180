"""``tailrace connect``: services of a device at local addresses, for as long as a person wants."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, TextIO

from ..common.addresses import format_host_port
from ..common.loop_signals import ending_signals, loop_signals
from ..common.suggestions import closest_name
from ..control.documents import Document, tunnel_document
from ..control.server import told
from ..errors import ConfigurationError, ListenError, TailraceError
from ..library import SourceTunnel, TunnelListener
from .connect_view import Picture, Place, View
from .failures import Terminated
from .opening import Opening
from .traffic import TrafficMeter

__all__ = ["Connecting", "ServiceWish", "browsable", "check_ports"]

_TICK: Final = 0.5
"""Seconds between two pictures of the tunnel."""
_SCHEMES: Final = (("HTTPS", "https"), ("HTTP", "http"), ("WEB", "http"))
"""How names of services begin that are for browsers -> the scheme of their URLs."""
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""Addresses that are all of this machine's -> one that a browser can go to."""
_BROWSE: Final = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))"


@dataclass(frozen=True, slots=True)
class ServiceWish:
    """A service, and the local port where it is to be reached; 0 picks one."""

    service: str
    port: int = 0


def browsable(service: str) -> str:
    """Return the scheme of a service that is named as one for browsers, "" for another."""
    name = service.upper()
    return next((scheme for begin, scheme in _SCHEMES if name.startswith(begin)), "")


def check_ports(host: str, wishes: Sequence[ServiceWish]) -> None:
    """Check that ports are free, before a tunnel is opened for them: it costs money.

    Raises:
        ListenError: one is not.
    """
    for wish in wishes:
        try:
            with ExitStack() as stack:
                for family, kind, _, _, address in socket.getaddrinfo(
                    host, wish.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                ):
                    sock = stack.enter_context(socket.socket(family, kind))
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind(address)
        except OSError as error:
            place = format_host_port(host, wish.port)
            other = f"; choose another port, as {wish.service}={wish.port + 1}" if wish.port else ""
            raise ListenError(
                f"cannot listen on {place} for {wish.service}: {error.strerror or error}{other}",
                service_id=wish.service,
                port=wish.port,
                errno=error.errno or 0,
            ) from None


class Connecting:
    """A tunnel in use: listens for its services and shows what happens.

    Args:
        label: what a person calls the other side.
        wishes: the services; none for all that the tunnel has.
        host: the local address to listen on.
        view: shows what happens.
        out: gets a line for each address, for programs.
        browse: start the browser for what is for browsers; for the only service in any case.
    """

    def __init__(
        self,
        label: str,
        wishes: Sequence[ServiceWish],
        host: str,
        *,
        view: View,
        out: TextIO | None,
        browse: bool = False,
    ) -> None:
        self._label = label
        self._wishes = wishes
        self._host = host
        self._view = view
        self._out = out
        self._browse = browse
        self._started = time.monotonic()
        self._meter = TrafficMeter(())
        self._tunnel: SourceTunnel | None = None
        self._places: tuple[Place, ...] = ()
        self._noted = 0
        self._ended = asyncio.Event()
        self._ending = ""
        """Why the tunnel has ended by itself."""
        self._number = 0
        """Of the signal that ends this."""
        self.opening = Opening(lambda state: self._draw(), lambda event: self._meter.take(event))

    async def run(self, tunnel: AbstractAsyncContextManager[SourceTunnel]) -> None:
        """Enter the tunnel and use it until it ends, or a signal ends this.

        Raises:
            TailraceError: the tunnel cannot be had, used or closed.
            Terminated: a signal has ended this before the tunnel could be used.
        """
        loop = asyncio.get_running_loop()
        using = loop.create_task(self._use(tunnel))
        drawing = loop.create_task(self._keep_drawing())
        with _signals(lambda number: self._end(using, number)):
            try:
                await using
            except asyncio.CancelledError as error:
                self._interrupted(error)
            finally:
                drawing.cancel()
                await asyncio.wait([drawing])
                if self._places:
                    self._draw(self._ending or self.opening.outcome())
                self._view.close()

    async def _use(self, entering: AbstractAsyncContextManager[SourceTunnel]) -> None:
        async with entering as tunnel:
            self._tunnel = tunnel
            wishes = self._wishes or [ServiceWish(each) for each in tunnel.status().service_ids]
            _check_services(wishes, tunnel.status().service_ids)
            self._meter = TrafficMeter(each.service for each in wishes)
            # At the end of the block they are closed with the tunnel.
            listeners = [await tunnel.listen(w.service, self._host, w.port) for w in wishes]
            self._places = tuple(
                _place(each, is_for_browser=self._browse and len(listeners) == 1)
                for each in listeners
            )
            self._draw()
            if self._out is not None:
                for place in self._places:
                    print(place.service, place.address, file=self._out, flush=True)
            browsing = asyncio.get_running_loop().create_task(self._open_browser())
            try:
                async with told("connect", self._details, os.environ):
                    await self._until_ended(tunnel)
            finally:
                browsing.cancel()
                await asyncio.wait([browsing])
            self.opening.closing()

    def _details(self) -> Document:
        """Return what ``tailrace status`` shows of this process."""
        assert self._tunnel is not None
        status = self._tunnel.status()
        return {"tunnels": [tunnel_document(self._tunnel.tunnel_id or "", status)]}

    async def _until_ended(self, tunnel: SourceTunnel) -> None:
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(tunnel.wait_closed()), loop.create_task(self._ended.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if waits[0].done():
                waits[0].result()  # raises what has made it fail
                self._ending = "the tunnel was closed, or its lifetime is over"
        finally:
            for each in waits:
                each.cancel()
            await asyncio.wait(waits)

    # Signals

    def _end(self, using: asyncio.Task[None], number: int) -> None:
        """End in order; once more, without waiting for connections."""
        self._number = number
        if self._places and not self._ended.is_set():
            self._ended.set()
        else:
            self.opening.closing()
            using.cancel()

    def _interrupted(self, error: asyncio.CancelledError) -> None:
        """Raise what a tunnel that was cancelled is to end with, if anything."""
        notes = getattr(error, "__notes__", [])
        if notes:  # by the library: the tunnel may still be open
            raise TailraceError(f"{notes[-1]}; the next command tries again") from None
        if not self._number:
            raise error
        if not self._ended.is_set():
            raise Terminated(self._number) from None

    # What is seen

    async def _keep_drawing(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self._draw()

    def _draw(self, outcome: str = "") -> None:
        state = self.opening.state
        for note in state.notes[self._noted :]:
            self._view.note(self._label, note)
        self._noted = len(state.notes)
        status = None if self._tunnel is None else self._tunnel.status()
        now = time.monotonic()
        self._view.show(
            Picture(
                self._label,
                state,
                self._started,
                now,
                None if status is None else status.link.round_trip,
                self._places,
                {} if status is None else self._meter.sample(status.connections, now),
                outcome,
            )
        )

    async def _open_browser(self) -> None:
        if not self._browse:
            return
        for place in self._places:
            if place.url and not await _show_in_browser(place.url):
                self.opening.note(f"no browser could be started; open {place.url}")


def _check_services(wishes: Sequence[ServiceWish], known: Sequence[str]) -> None:
    """Raise :class:`ConfigurationError` if the tunnel does not have all services."""
    for wish in wishes:
        if wish.service not in known:
            guess = closest_name(wish.service, known)
            hint = f"; did you mean {guess}?" if guess else ""
            raise ConfigurationError(
                f"the tunnel has no service {wish.service!r}{hint or '.'} It has {', '.join(known)}"
            )


def _place(listener: TunnelListener, *, is_for_browser: bool) -> Place:
    scheme = browsable(listener.service) or ("http" if is_for_browser else "")
    address = format_host_port(listener.host, listener.port)
    seen = format_host_port(_ANY_ADDRESS.get(listener.host, listener.host), listener.port)
    return Place(listener.service, address, f"{scheme}://{seen}/" if scheme else "")


async def _show_in_browser(url: str) -> bool:
    """Return whether a browser was started; one of the terminal would not have it."""
    quiet = asyncio.subprocess.DEVNULL
    launcher = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _BROWSE, url),
        stdin=quiet,
        stdout=quiet,
        stderr=quiet,
        start_new_session=True,
    )
    return await launcher.wait() == 0


@contextmanager
def _signals(end: Callable[[int], None]) -> Iterator[None]:
    """Call ``end`` on the first two signals that ask for an end; the third one ends the process."""
    count = 0

    def handle(number: int) -> None:
        nonlocal count
        count += 1
        if count == 2:
            remove()
        end(number)

    handlers = {
        number: partial(handle, number)
        for number in ending_signals()
        if signal.getsignal(number) is not signal.SIG_IGN  # as nohup sets it
    }
    with loop_signals(handlers) as remove:
        yield
