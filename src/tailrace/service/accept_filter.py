"""Turn connections away before a TLS handshake is spent on them.

Event loops that accept in Python (asyncio's, and aiofastnet on any loop) take an
:class:`AcceptFilter` for the listening socket that it wraps.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Final, Protocol

from .telemetry.client_address import set_client_address

__all__ = ["ACCEPT_AT_ONCE", "AcceptFilter", "AcceptRules", "AcceptedSocket"]

ACCEPT_AT_ONCE: Final = 8
"""Connections to accept in one turn of the loop: each will ask for a millisecond of TLS."""

_BACKLOG: Final = 1024

_REFUSED_AT_ONCE: Final = 64
"""Connections turned away in one go, so that a flood leaves time for everybody else."""

_OUT_OF_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})


class AcceptRules(Protocol):
    """Decides which connections are let in."""

    def admit(self, host: str, connection: AcceptedSocket) -> bool:
        """Return whether a connection from ``host`` is let in, and count it if so."""

    def release(self, descriptor: int) -> None:
        """Called when a connection that was let in has been closed."""

    def exhausted(self) -> None:
        """Called for each connection that is closed for want of a file descriptor."""


class AcceptedSocket(socket.socket):
    """An accepted connection that may come from elsewhere than it seems, and tells its end."""

    client: object = None
    """The address that it comes from, if it is not the peer's."""
    rules: AcceptRules | None = None

    def getpeername(self) -> object:
        return super().getpeername() if self.client is None else self.client

    def close(self) -> None:
        descriptor = self.fileno()
        super().close()
        if self.rules is not None:
            self.rules.release(descriptor)
            self.rules = None


class AcceptFilter:
    """A listening socket whose :meth:`accept` yields only connections that are let in.

    ``rules`` are asked with the peer's host. When the process has no file descriptor
    left, connections are closed with the help of a spare one instead of waiting in
    the backlog, which an event loop would try to accept for ever.
    """

    __slots__ = ("_listening", "_rules", "_spare")

    def __init__(self, listening: socket.socket, rules: AcceptRules) -> None:
        self._listening = listening
        self._rules = rules
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
        for _ in range(_REFUSED_AT_ONCE):
            try:
                accepted, address = self._listening.accept()
            except OSError as error:
                if error.errno not in _OUT_OF_FILES:
                    raise
                self._shed()
                continue
            if self._spare is None:
                self._spare = _open_spare()
            connection = accepted
            if not isinstance(connection, AcceptedSocket):
                connection = AcceptedSocket(fileno=accepted.detach())
            if self._rules.admit(str(address[0]), connection):
                connection.rules = self._rules
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
        self._rules.exhausted()
        self._spare = _open_spare()


def _open_spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
