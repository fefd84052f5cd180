"""One link and what belongs to it alone: its frames, its send window, whether it is read.

Lives from an accepted upgrade to the end of the link. What it carries is not its own
(:mod:`.traffic`), and neither are the decisions: who may send is told by the outbound side,
whether the link is read by the inbound side. Here stands what those decisions mean for one
WebSocket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..errors import ServiceIdMismatch, TailraceError
from ..flow.window_driver import WindowDriver
from ..link import Link, LinkClosed
from .traffic import Traffic

__all__ = ["LinkSession"]


class LinkSession:
    """The handler of one link, and the carrier of its traffic.

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
        self._receive_frame = traffic.session.receive_frame
        self._window = WindowDriver(loop, self._send_ping, self._window_changed)

    def link_opened(self, link: Link) -> None:
        """Take the open link; frames may follow at once."""
        self.link = link
        self._window.start()
        self.traffic.attach(self)
        self._window_changed()

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
        self.link = None
        self._window.stop()
        self.traffic.detach()

    # -- carrier ------------------------------------------------------------------------------

    @property
    def flow_messages(self) -> bool:
        return self.link is not None and self.link.info.flow_messages

    def send_control(self, frame: bytes) -> None:
        if self.link is not None:
            self.link.send(frame)

    def send_data(self, message: memoryview) -> None:
        assert self.link is not None
        self.link.send(message)
        self._window.count(len(message))

    def set_reading(self, reading: bool) -> None:
        assert self.link is not None
        if reading:
            self._window.resume()
            self.link.resume_reading()
        else:
            self.link.pause_reading()
            self._window.suspend()
            self._window_changed()

    # -- send window ----------------------------------------------------------------------------

    def _send_ping(self, payload: bytes) -> None:
        if self.link is not None:
            self.link.send_ping(payload)

    def _window_changed(self) -> None:
        window = self._window.window
        self._outbound.set_window(window.full, window.quantum)
