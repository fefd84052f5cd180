"""One link and what belongs to it alone: its frames, its send window, whether it is read.

Lives from an accepted upgrade to the end of the link. What it carries is not its own
(:mod:`.traffic`), and neither are the decisions: who may send is told by the outbound side,
whether the link is read by the inbound side. Here stands what those decisions mean for one
WebSocket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from ..errors import ServiceIdMismatch, TailraceError
from ..flow.window_driver import WindowDriver
from ..link import Link, LinkClosed
from ..wire import NO_CAPABILITIES, Capabilities
from .traffic import Traffic

__all__ = ["LinkSession"]

_REQUESTS: Final = 256
"""Connections after which a turn of the loop is over for a link; the rest of the frame that it
happens in, still comes."""


def _drop(frame: memoryview) -> None:
    """Receive a frame and do nothing about it."""


class LinkSession:
    """The handler of one link, and the carrier of its traffic.

    A peer may ask for connections as fast as the link carries them, and each costs as much as a
    hundred messages of data. So beyond some in one turn, frames wait for the next, and the link is
    not read meanwhile.

    ``failed`` is called with what makes another link useless.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        traffic: Traffic,
        failed: Callable[[TailraceError], None],
    ) -> None:
        self.link: Link | None = None
        """The link, ``None`` before it is open and after it has ended."""
        self.traffic = traffic
        self._failed = failed
        self._outbound = traffic.connections.outbound
        self._loop = loop
        self._receive_frame = traffic.session.receive_frame
        """What becomes of a frame: the session takes it, or it is kept, or dropped."""
        self._reading = True
        """Whether the traffic wants the link to be read."""
        self._link_is_read = True
        self._requests = 0
        """Connections that the peer has asked for in this turn."""
        self._backlog: deque[bytes] = deque()
        """Frames that wait for their turn; the link is not read while there are any."""
        self._window = WindowDriver(loop, self._send_ping, self._window_changed)

    def link_opened(self, link: Link) -> None:
        """Take the open link; frames may follow at once."""
        self.link = link
        self._window.start()
        self.traffic.attach(self)
        self._window_changed()

    def stop_receiving(self) -> None:
        """Drop all frames from now on: the proxy ends, and nothing they say matters any more."""
        self._receive_frame = _drop
        self._backlog.clear()

    # -- link handler ---------------------------------------------------------------------

    def frame_received(self, payload: memoryview) -> None:
        try:
            self._receive_frame(payload)
        except ServiceIdMismatch as error:
            self._failed(error)

    def writing_paused(self) -> None:
        self._outbound.set_link_paused(True)

    def writing_resumed(self) -> None:
        self._outbound.set_link_paused(False)

    def pong_received(self, payload: bytes) -> None:
        self._window.pong_received(payload)

    def link_closed(self, closed: LinkClosed) -> None:
        # There is no later turn: take them all.
        self._requests = _REQUESTS
        self._receive_frame = self.traffic.session.receive_frame
        while self._backlog:
            self._take_kept()
        self.link = None
        self._window.stop()
        self.traffic.detach(closed)

    # -- carrier ------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        return self.link.info.capabilities if self.link is not None else NO_CAPABILITIES

    def send_control(self, frame: bytes) -> None:
        if self.link is not None:
            self.link.send(frame)

    def send_data(self, message: memoryview) -> None:
        assert self.link is not None
        self.link.send(message)
        self._window.count(len(message))

    def set_reading(self, reading: bool) -> None:
        assert self.link is not None
        self._reading = reading
        if reading:
            self._window.resume()
            self._regulate()
        else:
            self._regulate()
            self._window.suspend()
            self._window_changed()

    # -- send window ----------------------------------------------------------------------------

    def _send_ping(self, payload: bytes) -> None:
        if self.link is not None:
            self.link.send_ping(payload)

    def _window_changed(self) -> None:
        window = self._window.window
        self._outbound.set_window(window.full, window.quantum)

    # -- turns --------------------------------------------------------------------------------

    def count_request(self, cost: int = 1) -> None:
        before = self._requests
        if not before:
            self._loop.call_soon(self._begin_turn)
        self._requests += cost
        if before < _REQUESTS <= self._requests and self._receive_frame != _drop:
            self._receive_frame = self._keep

    def _keep(self, frame: memoryview) -> None:
        self._backlog.append(bytes(frame))
        self._regulate()

    def _begin_turn(self) -> None:
        """Take frames that were kept, for as long as the turn lasts."""
        self._requests = 0
        if self._receive_frame == self._keep:
            self._receive_frame = self.traffic.session.receive_frame
        while self._backlog and self._receive_frame != self._keep:
            self._take_kept()
        self._regulate()

    def _take_kept(self) -> None:
        try:
            self.frame_received(memoryview(self._backlog.popleft()))
        except Exception as error:
            self.stop_receiving()
            if self.link is not None:
                self.link.handler_failed(error)

    def _regulate(self) -> None:
        """Read the link unless it is not to be read, or frames wait for their turn."""
        reading = self._reading and not self._backlog
        if reading is self._link_is_read or self.link is None:
            return
        self._link_is_read = reading
        if reading:
            self.link.resume_reading()
        else:
            self.link.pause_reading()
