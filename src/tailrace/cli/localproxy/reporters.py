"""Subscribers to a proxy's events: the log lines scripts match, JSON lines, ready signals."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

from ...common.addresses import (
    DEFAULT_APPLICATION_HOST,
    LocalAddress,
    TCPAddress,
    UnixAddress,
)
from ...common.atomic_files import write_atomically
from ...common.log_floods import flood_kind
from ...common.queued_output import QueuedOutput
from ...common.systemd import ServiceManager
from ...control.summary import paused_text, resumed_text
from ...errors import ConfigurationError
from ...localproxy.events import (
    Connected,
    Connecting,
    ConnectionClosed,
    ConnectionCut,
    ConnectionOpened,
    ConnectionRefused,
    Ended,
    Listening,
    ListeningOnNetwork,
    PeerDialectLearned,
    PeerJoined,
    PeerLeft,
    PeerSilent,
    ProxyEvent,
    Reconnecting,
    ServicesMapped,
    Started,
    TunnelPaused,
    TunnelResumed,
)
from ...localproxy.in_process import IN_PROCESS
from ...wire import Side
from .error_hints import describe

__all__ = ["JSONReporter", "LogReporter", "ReadyFile", "SystemdNotifier", "dropped_events"]

logger = logging.getLogger("tailrace.localproxy")

_RULE: Final = "-" * 33
_OPTIONS: Final = (
    ("not in the allow-list", "not in the allow-list (--allow)"),
    ("of its family in the bind address", "of its family in -b"),
)
"""Words of the engine, which knows no options, and the same with the option."""


def _with_options(reason: str) -> str:
    for words, option in _OPTIONS:
        reason = reason.replace(words, option)
    return reason


class _Line:
    """A line that is logged for every connection.

    To find the caller and the names of file, thread and process each time would cost as much as
    three messages of data, so its records are copies of one.
    """

    def __init__(self, template: str) -> None:
        path, line, function, _ = logger.findCaller(stacklevel=2)
        record = logger.makeRecord(
            logger.name, logging.INFO, path, line, template, (), None, function
        )
        self._attributes = record.__dict__
        self._started = record.created - record.relativeCreated / 1000

    def __call__(self, *arguments: object) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        now = time.time()
        record = logging.LogRecord.__new__(logging.LogRecord)
        record.__dict__ = self._attributes | {
            "args": arguments,
            "created": now,
            "msecs": float(int(now % 1 * 1000)),
            "relativeCreated": (now - self._started) * 1000,
        }
        logger.handle(record)


class LogReporter:
    """Logs the lines of the C++ command that scripts and people wait for."""

    def __init__(self, side: Side) -> None:
        self._source = side is Side.SOURCE
        self._ports: dict[str, int] = {}
        self._creating = _Line("creating tcp connection id %d")
        self._accepted = _Line("Accepted tcp connection on %s from %s")
        self._connected = _Line("Connected to %s, port: %s")
        self._connected_to_path = _Line("Connected to Unix socket: %s")
        self._disconnected = _Line("Disconnected from: %s")

    def __call__(self, event: ProxyEvent) -> None:
        match event:
            case ConnectionOpened():
                self._opened(event)
            case ConnectionClosed():
                self._closed(event)
            case ConnectionRefused() | ConnectionCut():
                self._failed(event)
            case Started(side):
                logger.info("Starting proxy in %s mode", side.value)
            case Connecting(endpoint):
                logger.info(
                    "Attempting to establish web socket connection with endpoint wss://%s", endpoint
                )
            case Connected(endpoint, channel_id, backend):
                logger.info("Web socket session ID: %s", channel_id)
                logger.info(
                    "Successfully established websocket connection with proxy server: wss://%s",
                    endpoint,
                )
                logger.debug("Link back end: %s", backend)
            case ServicesMapped(services):
                self._mapped(services)
            case Listening(service_id, address, assigned):
                self._listening(service_id, address, assigned)
            case PeerJoined(peer):
                logger.info("The %s is connected", peer.value)
            case PeerLeft(peer):
                logger.info("No %s is connected", peer.value)
            case Reconnecting(cause, delay):
                logger.error("%s; trying again in %.1f s", describe(cause), delay)
            case TunnelPaused():
                logger.info("%s", paused_text(event))
            case TunnelResumed():
                logger.info("%s", resumed_text(event))
            case Ended(code, reason, requested) if not requested:
                logger.info("Web socket close received. Code: %d; Reason: %s", code, reason)
            case ListeningOnNetwork() | PeerDialectLearned() | PeerSilent():
                self._warning(event)
            case _:
                pass

    def _mapped(self, services: Mapping[str, LocalAddress | None]) -> None:
        logger.info("Use port mapping:")
        logger.info(_RULE)
        for service_id, address in services.items():
            logger.info("%s = %s", service_id, address or IN_PROCESS)
        logger.info(_RULE)

    def _listening(self, service_id: str, address: LocalAddress, assigned: bool) -> None:
        if isinstance(address, UnixAddress):
            logger.info("Listening for new connection on socket %s", address.path)
            return
        self._ports[service_id] = address.port
        if assigned:
            logger.info("Listen port assigned for service id %s. New port mapping: ", service_id)
            logger.info("%s = %d", service_id, address.port)
        logger.info("Listening for new connection on port %d", address.port)

    def _warning(self, event: ListeningOnNetwork | PeerDialectLearned | PeerSilent) -> None:
        match event:
            case ListeningOnNetwork(address):
                logger.warning(
                    "Listening on %s: whoever reaches this host can use the tunnel; "
                    "-b 127.0.0.1 keeps it on this machine",
                    address,
                )
            case PeerDialectLearned(dialect):
                logger.warning(
                    "The peer speaks %s: one connection at a time for each service; "
                    "say so from the start with --destination-client-type %s",
                    dialect,
                    dialect,
                )
            case PeerSilent(service_id, seconds):
                logger.warning(
                    "The peer has answered nothing on service '%s' for %g s. If the device runs "
                    "an older client (Device Client, Greengrass, console), start this side with "
                    "--destination-client-type V1 (-y V1)",
                    service_id,
                    seconds,
                )

    def _opened(self, event: ConnectionOpened) -> None:
        peer = event.peer
        if self._source:
            self._creating(event.connection_id)
            port = self._ports.get(event.service_id)
            self._accepted(f"port {port}" if port else "socket", peer)
        elif peer.startswith("/"):
            self._connected_to_path(peer)
        else:
            host, _, port_text = peer.rpartition(":")
            self._connected(host or DEFAULT_APPLICATION_HOST, port_text)

    def _closed(self, event: ConnectionClosed) -> None:
        self._disconnected(event.peer)
        about = (event.connection_id, event.bytes_in, event.bytes_out)
        logger.debug("Connection %d: %d bytes sent, %d received", *about)

    def _failed(self, event: ConnectionRefused | ConnectionCut) -> None:
        kind = flood_kind(per=event.service_id)
        match event:
            case ConnectionRefused(_, _, reason):
                logger.error("%s", _with_options(reason), extra=kind)
            case ConnectionCut(service_id, connection_id, _, received, reason):
                name = f"{connection_id} of {service_id}" if service_id else str(connection_id)
                when = f"after {received} bytes" if received else "before any byte"
                logger.warning("connection %s was reset %s: %s", name, when, reason, extra=kind)


class JSONReporter:
    """Writes one JSON object per line for every event.

    Each object has the time, and ``tunnel``: what tells this end of its tunnel from others, and
    stays the same when the command is started again.
    """

    def __init__(self, out: QueuedOutput | TextIO, tunnel: str = "") -> None:
        self._out = out
        self._tunnel = tunnel

    def __call__(self, event: ProxyEvent) -> None:
        described = self._describe(event)
        if described is not None:
            self._out.write(_line(described, self._tunnel))

    def failed(self, exit_code: int, error: str, message: str) -> None:
        """Write the last event of a command that ends with ``exit_code`` because of an error."""
        described = {"event": "failed", "exit": exit_code, "error": error, "message": message}
        self._out.write(_line(described, self._tunnel))

    @staticmethod
    def _describe(event: ProxyEvent) -> dict[str, Any] | None:
        match event:
            case Started(side):
                return {"event": "started", "mode": side.value, "pid": os.getpid()}
            case Connecting(endpoint):
                return {"event": "connecting", "endpoint": endpoint}
            case Connected(endpoint, channel_id, backend):
                about: dict[str, Any] = {"endpoint": endpoint, "channel_id": channel_id}
                return {"event": "connected", **about, "link": backend}
            case ServicesMapped(services):
                mapping = {name: str(address or IN_PROCESS) for name, address in services.items()}
                return {"event": "services", "services": mapping}
            case Listening(service_id, address, assigned):
                about = {"service": service_id, **_where(address)}
                return {"event": "listening", **about, "assigned": assigned}
            case ConnectionOpened(service_id, number, peer):
                about = {"service": service_id, "connection": number}
                return {"event": "connection_opened", **about, "peer": peer}
            case ConnectionRefused(service_id, number, reason):
                about = {"service": service_id, "connection": number}
                return {"event": "connection_refused", **about, "reason": _with_options(reason)}
            case ConnectionCut(service_id, number, peer, received, reason):
                about = {"service": service_id, "connection": number, "peer": peer}
                about |= {"bytes_received": received, "reason": reason}
                return {"event": "connection_cut", **about}
            case ConnectionClosed(service_id, number, peer, bytes_in, bytes_out):
                about = {"service": service_id, "connection": number, "peer": peer}
                counts = {"bytes_sent": bytes_in, "bytes_received": bytes_out}
                return {"event": "connection_closed", **about, **counts}
            case PeerJoined(peer):
                return {"event": "peer_joined", "peer": peer.value}
            case PeerLeft(peer):
                return {"event": "peer_left", "peer": peer.value}
            case Reconnecting(cause, delay):
                about = {"cause": describe(cause), "delay": round(delay, 3)}
                return {"event": "reconnecting", **about}
            case TunnelPaused(cause, connections, timeout):
                about = {"cause": cause, "connections": connections}
                return {"event": "paused", **about, "timeout": round(timeout, 3)}
            case TunnelResumed(after, connections, again):
                about = {"after": round(after, 3), "connections": connections}
                return {"event": "resumed", **about, "bytes_again": again}
            case Ended(code, reason, requested):
                about = {"code": code, "reason": reason}
                return {"event": "closed", **about, "by": "request" if requested else "service"}
            case _:
                return None


def dropped_events(tunnel: str, count: int) -> str:
    """Return the line in the place of ``count`` events that nobody has read in time."""
    return _line({"event": "events_dropped", "count": count}, tunnel)


def _line(described: dict[str, Any], tunnel: str) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    common = {"event": described["event"], "time": now, "tunnel": tunnel}
    return json.dumps(common | described, separators=(",", ":")) + "\n"


def _where(address: LocalAddress | None) -> dict[str, Any]:
    if isinstance(address, TCPAddress):
        return {"host": address.host, "port": address.port}
    return {"path": address.path} if address is not None else {}


class ReadyFile:
    """Keeps a file that exists exactly while the tunnel can be used.

    It appears, whole, when the services are mapped and (source) listened for, and holds the
    addresses as JSON; it is removed when the link is lost or the proxy ends.
    """

    def __init__(self, path: Path, side: Side) -> None:
        self._path = path
        self._side = side
        self._services: dict[str, dict[str, Any]] = {}
        self._expected: frozenset[str] = frozenset()
        self._was_written = False

    def __call__(self, event: ProxyEvent) -> None:
        match event:
            case Started():
                self.remove()
                self._check()
            case ServicesMapped(services):
                self._expected = frozenset(services)
                self._services = {}
                if self._side is Side.DESTINATION:
                    self._write({k: _where(v) for k, v in services.items()})
            case Listening(service_id, address, _):
                self._services[service_id] = _where(address)
                if self._expected and self._expected <= frozenset(self._services):
                    self._write(self._services)
            case Reconnecting() | Ended():
                self.remove()
            case _:
                pass

    def _check(self) -> None:
        """Fail here rather than after the access token has been used."""
        probe = self._path.parent / f".{self._path.name}.probe"
        with self._complaints():
            if self._path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            write_atomically(probe, b"", durable=False)
            probe.unlink()

    def _write(self, services: dict[str, dict[str, Any]]) -> None:
        document = {"pid": os.getpid(), "mode": self._side.value, "services": services}
        try:
            with self._complaints():
                write_atomically(self._path, json.dumps(document).encode(), durable=False)
        except ConfigurationError as error:
            # A disk that is full by the time of a reconnect must not end the proxy.
            if not self._was_written:
                raise
            logger.error("%s", error)
        else:
            self._was_written = True

    @contextlib.contextmanager
    def _complaints(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigurationError(
                f"Cannot write the ready file {self._path}: {error.strerror}; check --ready-file"
            ) from None

    def remove(self) -> None:
        """Remove the file if it exists."""
        with contextlib.suppress(OSError):
            self._path.unlink()


class SystemdNotifier:
    """Tells systemd about readiness."""

    def __init__(self, manager: ServiceManager) -> None:
        self._manager = manager

    def __call__(self, event: ProxyEvent) -> None:
        match event:
            case ServicesMapped():
                self._manager.ready("Connected")
            case Reconnecting(cause, _):
                self._manager.status(f"Reconnecting: {describe(cause)}")
            case Ended():
                self._manager.stopping()
            case _:
                pass
