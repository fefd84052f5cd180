"""Listen for the clients of one service."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Callable
from typing import Final

from ..common.addresses import (
    DEFAULT_LISTEN_HOST,
    LocalAddress,
    TCPAddress,
    UnixAddress,
    format_host_port,
)
from ..common.readiness import readiness_of
from ..errors import ListenError
from .log import TunnelLog

__all__ = ["Listener", "bind"]

_BACKLOG: Final = 1024
_ACCEPTS_PER_TURN: Final = 64
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_PAUSE: Final = 0.5
"""Seconds to wait before accepting again when the process is out of descriptors."""

_MAPPED: Final = "::ffff:"
"""What the system puts in front of an IPv4 address on an IPv6 socket (RFC 4291)."""

AcceptCallback = Callable[[socket.socket, str], None]


def bind(service_id: str, address: LocalAddress, log: TunnelLog) -> Listener:
    """Bind ``address`` for one service; nothing is accepted yet.

    A host name is bound on all its addresses; port 0 picks one port for all of them.

    Raises:
        ListenError: the address is taken or not ours; the text names it.
    """
    if isinstance(address, UnixAddress):
        return Listener([_bind_unix(address.path)], address, log)
    host = address.host or DEFAULT_LISTEN_HOST
    try:
        infos = socket.getaddrinfo(
            host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ListenError(
            f"Could not resolve the listen address {host}: {error.strerror or error}",
            setting="bind_address",
        ) from None
    families = dict.fromkeys((info[0], info[4][0]) for info in infos)
    sockets: list[socket.socket] = []
    port = address.port
    failure: OSError | None = None
    for family, literal in families:
        try:
            sock = _bind_tcp(family, str(literal), port, both_versions=len(families) == 1)
        except OSError as error:
            failure = failure or error
            if error.errno == errno.EADDRINUSE:
                break
        else:
            sockets.append(sock)
            port = sock.getsockname()[1]
    if not sockets or (failure is not None and failure.errno == errno.EADDRINUSE):
        for sock in sockets:
            sock.close()
        assert failure is not None
        raise ListenError(
            f"Could not bind to address: {format_host_port(host, port)} -- {failure.strerror}",
            setting="services",
            service_id=service_id,
            port=port,
            errno=failure.errno or 0,
        )
    return Listener(sockets, TCPAddress(host, port), log)


def _bind_tcp(family: int, literal: str, port: int, *, both_versions: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" alone means IPv4, too, as in the C++ proxy.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both_versions)
        sock.bind((literal, port))
        # Linux lets two processes bind one port until the first listens; only
        # listening proves that it is ours. Nothing is accepted before the tunnel is
        # ready, so a client that comes early waits instead of being refused.
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _remove_stale(path)
        mask = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenError(
            f"Could not bind to the socket path {path} -- {error.strerror or error}",
            setting="path",
        ) from None
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket file that no process listens on; anything else is left alone."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


class Listener:
    """The bound sockets of one service; accepts only between :meth:`start` and :meth:`pause`."""

    def __init__(self, sockets: list[socket.socket], address: LocalAddress, log: TunnelLog) -> None:
        self.address = address
        """Where it listens, with the port that was picked."""
        self._sockets = sockets
        self._log = log
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_accept: AcceptCallback | None = None
        self._retry: asyncio.TimerHandle | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        names = [sock.getsockname() for sock in self._sockets]
        return all(
            not isinstance(name, tuple) or ipaddress.ip_address(name[0]).is_loopback
            for name in names
        )

    @property
    def accepting(self) -> bool:
        """Whether clients are being accepted."""
        return self._loop is not None

    def start(self, loop: asyncio.AbstractEventLoop, on_accept: AcceptCallback) -> None:
        """Accept clients: ``on_accept(socket, peer)`` for each; the callback owns the socket."""
        self.pause()
        self._loop = loop
        self._on_accept = on_accept
        for sock in self._sockets:
            readiness_of(loop).add_reader(sock.fileno(), self._acceptable, sock)

    def pause(self) -> None:
        """Accept no more; clients wait in the backlog."""
        if self._loop is None:
            return
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        for sock in self._sockets:
            readiness_of(self._loop).remove_reader(sock.fileno())
        self._loop = None

    def close(self) -> None:
        """Close the sockets; clients in the backlog are reset."""
        self.pause()
        for sock in self._sockets:
            sock.close()
        self._sockets = []
        if isinstance(self.address, UnixAddress) and os.path.exists(self.address.path):
            os.unlink(self.address.path)

    def _acceptable(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            if self._loop is None or self._on_accept is None:
                return
            try:
                sock, peer = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._accept_failed(error)
                return
            sock.setblocking(False)
            self._on_accept(sock, _name_of(peer))

    def _accept_failed(self, error: OSError) -> None:
        """Go on serving those that are connected; accept again a little later."""
        if error.errno in _OUT_OF_DESCRIPTORS:
            self._log.error(
                "Cannot accept a client of %s: %s; raise the limit of open files (ulimit -n)",
                self.address,
                error.strerror,
            )
        else:
            self._log.error("Cannot accept a client of %s: %s", self.address, error)
        loop, callback = self._loop, self._on_accept
        assert loop is not None
        assert callback is not None
        self.pause()
        self._loop = loop
        self._retry = loop.call_later(_ACCEPT_PAUSE, self.start, loop, callback)


def _name_of(peer: object) -> str:
    """Return the address of a client, an IPv4 one as such also where it came to ``::``."""
    if not isinstance(peer, tuple):
        return "unix client"
    return f"{peer[0].removeprefix(_MAPPED)}:{peer[1]}"
