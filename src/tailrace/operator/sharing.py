"""A command's side of a shared tunnel: find the process that holds it, or fork one.

Loads no event loop: a command that finds a holder is quick, and one that forks loads it once.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..common.atomic_files import make_private_directory
from ..common.file_lock import locked
from ..control.places import connected
from ..errors import ConfigurationError
from .failures import CommandFailed
from .messages import MessageReader, encode_message
from .state import HolderState

if TYPE_CHECKING:
    from .wish import Wish

__all__ = ["Membership", "fork_holder", "join", "share_name"]

_SILENCE: Final = 30.0
"""Seconds for which a holder may say nothing at first: it is started, or the machine is busy."""
_SILENT: Final = "the process that holds the tunnel does not answer; it may be stopped"
_RETRY: Final = 0.05
"""Seconds until a connection is tried again."""
_GOODBYE: Final = 15.0
"""Seconds to wait for a tunnel to be closed."""
_SUFFIX: Final = ".holder"
"""Of the names of sockets: what ends with ``.sock`` in their directory is a control socket."""
_RECEIVED: Final = 65_536
_SECRETS: Final = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SETTINGS: Final = ("AWS_", "AWSIOT_", "TAILRACE_", "SSL_CERT_", "HOME", "XDG_CONFIG_HOME")


def share_name(wanted: str, environment: Mapping[str, str]) -> str:
    """Return the name under which commands with the same wish and settings find each other.

    Args:
        wanted: all that matters of the wish.
        environment: of it, what says which service is called, and as whom. No secret key goes into
            the name: a key is known by its id.
    """
    from hashlib import sha256

    settings = sorted(
        f"{name}={value}"
        for name, value in environment.items()
        if (name.startswith(_SETTINGS) or name.lower().endswith("_proxy")) and name not in _SECRETS
    )
    return sha256("\0".join([wanted, *settings]).encode("utf-8", "surrogateescape")).hexdigest()[
        :16
    ]


def join(
    directory: Path, name: str, start: Callable[[socket.socket, Path, Path], None]
) -> Membership:
    """Connect to the holder of this name.

    Args:
        directory: of sockets; made with mode 0700 if it does not exist.
        start: makes a holder if there is none; gets a listening socket, its path, and the file
            that commands lock while they connect.

    Raises:
        CommandFailed: the holder takes no more connections.
        ConfigurationError: the directory cannot be used.
    """
    make_private_directory(directory)
    path, lock = directory / f"{name}{_SUFFIX}", directory / "tunnels.lock"
    listening = sock = None
    try:
        with locked(lock, wait=True):
            try:
                sock = _connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                _remove_dead(directory)
                listening = _listen(path)
                sock = _connect(path)
        if listening is not None:
            start(listening, path, lock)
    except OSError as error:
        if sock is not None:
            sock.close()
        text = error.strerror or str(error)
        raise ConfigurationError(f"cannot use {path}: {text}; set XDG_RUNTIME_DIR") from None
    finally:
        if listening is not None:
            listening.close()
    return Membership(sock, path)


def _connect(path: Path) -> socket.socket:
    """Connect to a holder; wait for a while where too many commands wait already."""
    deadline = time.monotonic() + _SILENCE
    while True:
        try:
            sock = connected(path)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise CommandFailed(_SILENT) from None
            time.sleep(_RETRY)
        else:
            sock.setblocking(True)
            return sock


def _remove_dead(directory: Path) -> None:
    """Remove the sockets of holders that were killed."""
    for path in directory.glob(f"*{_SUFFIX}"):
        try:
            connected(path).close()
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            continue


def _listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    try:
        # Nobody else can reach it, not even before its mode is set: its directory is private.
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen(128)
    except BaseException:
        listening.close()
        raise
    return listening


def fork_holder(wish: Wish) -> Callable[[socket.socket, Path, Path], None]:
    """Return what starts a holder in a process of its own, which this one need not wait for."""

    def start(listening: socket.socket, path: Path, lock: Path) -> None:
        child = os.fork()
        if not child:
            _hold(wish, listening, path, lock)
        os.waitpid(child, 0)

    return start


def _hold(wish: Wish, listening: socket.socket, path: Path, lock: Path) -> None:
    """Hold the tunnel; never returns. Called in a child, whose own child it is that stays."""
    status = 1
    try:
        os.setsid()
        if os.fork():
            status = 0
            return
        _detach(listening)
        from .holder import hold

        hold(wish, listening, path, lock)
        status = 0
    finally:
        # Nothing of the command that was forked is to be flushed or run at the end once more.
        os._exit(status)


def _detach(listening: socket.socket) -> None:
    """Close all that the command has open, above all its terminal and pipes."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    kept = listening.fileno()
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


class Membership:
    """A command's connection to the holder of its tunnel."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self.path: Final = path
        """The holder's socket, where the command's own children can ask, too."""
        self.state = HolderState(waiting_since=time.monotonic())
        """As far as it was received."""
        self._sock = sock
        self._reader = MessageReader()
        self._connection: socket.socket | None = None
        self._refusal: CommandFailed | None = None
        self._has_ended = False
        self._silent_until: float | None = time.monotonic() + _SILENCE
        """When the holder is given up, ``None`` once it has said something."""

    def receive(self, timeout: float) -> bool:
        """Wait for news for so many seconds; return whether there are any.

        Raises:
            CommandFailed: there is no tunnel any more, or the holder has never said anything.
        """
        ready, _, _ = select.select([self._sock], [], [], timeout)
        if not ready:
            if self._silent_until is not None and time.monotonic() > self._silent_until:
                self._has_ended = True  # as far as this command is concerned
                raise CommandFailed(_SILENT)
            return False
        self._silent_until = None
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, _RECEIVED, 1)
        except ConnectionError:
            data, descriptors = b"", []
        for number in descriptors:
            self._connection = socket.socket(fileno=number)
        if not data and not self._has_ended:
            raise CommandFailed("the process that held the tunnel has ended")
        for message in self._reader.feed(data):
            self._take(message)
        return True

    def _take(self, message: dict[str, object]) -> None:
        match message:
            case {"state": dict(document)}:
                self.state = HolderState.from_document(document)
            case {"refused": str(text), "status": int(status)}:
                self._refusal = CommandFailed(text, status)
            case {"failed": str(text), "status": int(status)}:
                self._has_ended = True
                raise CommandFailed(text, status)
            case {"ended": _}:
                self._has_ended = True
            case _:
                pass

    def open_socket(self, service: str) -> socket.socket:
        """Return a connection to a service, a blocking socket.

        Raises:
            CommandFailed: there is none.
        """
        self._send("open", service)
        while self._connection is None:
            if self._refusal is not None:
                raise self._refusal
            self.receive(3600)
        sock, self._connection = self._connection, None
        sock.setblocking(True)
        return sock

    def check(self) -> None:
        """Take the news that have come.

        Raises:
            CommandFailed: there is no tunnel any more.
        """
        while self.receive(0):
            pass

    def leave(self, waiting: Callable[[], None]) -> None:
        """Use the tunnel no more; wait until it is closed, if nobody else uses it.

        Args:
            waiting: called now and then meanwhile.

        Raises:
            CommandFailed: it could not be closed.
        """
        self._send("leave", True)
        deadline = time.monotonic() + _GOODBYE
        while not self._has_ended:
            if time.monotonic() > deadline:
                raise CommandFailed("the tunnel is still being closed")
            if not self.receive(0.2):
                waiting()

    def close(self) -> None:
        """End the connection. If the holder has no other one, it closes the tunnel."""
        if self._connection is not None:
            self._connection.close()
        self._sock.close()

    def _send(self, name: str, value: object) -> None:
        with suppress(OSError):  # then the end of the holder is what is received next
            self._sock.sendall(encode_message(name, value))
