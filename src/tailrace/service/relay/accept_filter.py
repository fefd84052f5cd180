"""Turn connections away before a TLS handshake is spent on them.

Event loops that accept in Python (asyncio's, and aiofastnet on any loop) take a
:class:`AcceptFilter` for the listening socket that it wraps.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from ..telemetry.client_address import set_client_address

__all__ = ["AcceptFilter"]

_BACKLOG: Final = 1024

_AT_ONCE: Final = 64
"""Connections turned away in one go, so that a flood leaves time for everybody else."""

_OUT_OF_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})


class AcceptFilter:
    """A listening socket whose :meth:`accept` yields only connections that are let in.

    ``admit`` is asked with the peer's host. When the process has no file descriptor
    left, connections are closed with the help of a spare one instead of waiting in
    the backlog, which an event loop would try to accept for ever; ``exhausted`` is
    told about each of them.
    """

    __slots__ = ("_admit", "_exhausted", "_listening", "_spare")

    def __init__(
        self,
        listening: socket.socket,
        admit: Callable[[str], bool],
        exhausted: Callable[[], None],
    ) -> None:
        self._listening = listening
        self._admit = admit
        self._exhausted = exhausted
        self._spare: int | None = _open_spare()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listening, name)

    def listen(self, backlog: int) -> None:
        """Listen; event loops take ``backlog`` for the number of connections to accept in one go.

        The queue of the operating system is long all the same.
        """
        self._listening.listen(max(backlog, _BACKLOG))

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept the next connection that is let in.

        Raises:
            BlockingIOError: there is none now.
        """
        for _ in range(_AT_ONCE):
            try:
                connection, address = self._listening.accept()
            except OSError as error:
                if error.errno not in _OUT_OF_FILES:
                    raise
                self._shed()
                continue
            if self._spare is None:
                self._spare = _open_spare()
            if self._admit(str(address[0])):
                set_client_address(address)
                return connection, address
            connection.close()
        raise BlockingIOError

    def close(self) -> None:
        """Close the listening socket."""
        self._give_up_spare()
        self._listening.close()

    def _give_up_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _shed(self) -> None:
        """Accept one connection in place of the spare file, and close it."""
        self._give_up_spare()
        try:
            connection, _ = self._listening.accept()
        except OSError:
            # Somebody else has taken the descriptor: next time, then.
            raise BlockingIOError from None
        connection.close()
        self._exhausted()
        self._spare = _open_spare()


def _open_spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
