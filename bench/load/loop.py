"""A bare epoll loop: handlers by file descriptor, and one tick."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable

__all__ = ["Loop"]


class Loop:
    """Calls handlers of ready file descriptors until told to stop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._tick: Callable[[], None] | None = None
        self._period = 0.0
        self._running = True
        self._kept: list[socket.socket] = []

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call ``handler`` with the events that occur (errors and hang-ups always count)."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def forget(self, fd: int) -> None:
        """Watch a file descriptor no longer; to be called before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def once(self, fd: int, handler: Callable[[], None]) -> None:
        """Call ``handler`` when there is something to read, and forget the descriptor then."""

        def ready(events: int) -> None:
            self.forget(fd)
            handler()

        self.watch(fd, select.EPOLLIN, ready)

    def listen(self, accepted: Callable[[socket.socket], None]) -> int:
        """Listen on a loopback port, which is returned; ``accepted`` gets each connection."""
        listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
        listening.setblocking(False)
        self._kept.append(listening)

        def accept(events: int) -> None:
            with contextlib.suppress(BlockingIOError):
                sock, _ = listening.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                accepted(sock)

        self.watch(listening.fileno(), select.EPOLLIN, accept)
        return int(listening.getsockname()[1])

    def every(self, period: float, tick: Callable[[], None]) -> None:
        """Call ``tick`` every ``period`` seconds, as exactly as the kernel's timers allow."""
        self._period = period
        self._tick = tick

    def stop(self) -> None:
        """Leave :meth:`run` soon."""
        self._running = False

    def run(self, until: Callable[[], bool] | None = None, seconds: float | None = None) -> bool:
        """Call handlers until :meth:`stop`, until ``until`` holds, or for some seconds.

        Returns whether ``until`` holds.
        """
        handlers = self._handlers
        poll = self._epoll.poll
        now = time.monotonic()
        due = now + self._period
        ends = None if seconds is None else now + seconds
        while self._running:
            if until is not None and until():
                return True
            if ends is not None and time.monotonic() >= ends:
                return False
            for fd, events in poll(self._timeout(due, ends)):
                handler = handlers.get(fd)
                if handler is not None:
                    handler(events)
            if self._tick is not None and time.monotonic() >= due:
                due = max(due + self._period, time.monotonic())
                self._tick()
        return False

    def _timeout(self, due: float, ends: float | None) -> float | None:
        wakes = [at for at in (due if self._tick is not None else None, ends) if at is not None]
        return max(0.0, min(wakes) - time.monotonic()) if wakes else None
