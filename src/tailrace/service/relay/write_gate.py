"""Whether more may be sent to a client.

Two things can be full: the transport, when its write buffer is over the high-water mark;
and the send window (:mod:`tailrace.flow.send_window`), when as many bytes are on their way
as the path carries. While either is full, the gate is closed and the link of the other side
is not read (:class:`~.read_gate.ReadBlock`).

The window is measured by pings, and their pongs are seen only while the link is read. If
both directions were full, each would wait for a pong that waits for the other one: so the
window limits nothing while the link is not read.
"""

from __future__ import annotations

from ...flow.window_driver import WindowDriver

__all__ = ["WriteGate"]


class WriteGate:
    """The gate of one link; without a ``window`` only the transport decides."""

    __slots__ = ("is_open", "transport_full", "window")

    def __init__(self, window: WindowDriver | None) -> None:
        self.window = window
        self.transport_full = False
        """Whether the write buffer is over its mark; call :meth:`update` after a change."""
        self.is_open = True

    def start(self) -> None:
        """Begin to measure: the link is open."""
        if self.window is not None:
            self.window.start()

    def update(self) -> bool:
        """Decide again; return whether the decision is another one."""
        is_open = not (self.transport_full or (self.window is not None and self.window.full))
        changed = is_open is not self.is_open
        self.is_open = is_open
        return changed

    def follow_reading(self, is_read: bool) -> None:
        """Limit what is in flight only while the link is read; call :meth:`update` when safe."""
        if self.window is None:
            return
        if is_read:
            self.window.resume()
        else:
            self.window.suspend()

    def stop(self) -> None:
        """Give up the window: the connection is gone."""
        if self.window is not None:
            self.window.stop()
            self.window = None
