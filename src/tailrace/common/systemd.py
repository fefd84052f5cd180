"""What systemd is told by a service that it runs, and what it wants of a log.

The protocol is that of sd_notify(3): lines ``NAME=VALUE`` in one datagram to the socket that
``NOTIFY_SOCKET`` names. Where that variable is not set, nothing is told and nothing fails.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, TextIO

from .escaping import cut, escape
from .network_errors import network_error_text
from .periodic import every

if TYPE_CHECKING:
    import asyncio

__all__ = ["JournalFormatter", "ServiceManager", "is_journal"]

_PATIENCE: Final = 1.0
"""Seconds for systemd to take the news of a start: at boot many datagrams wait. All else may be
lost, and holds up nothing."""
_STATUS: Final = 400
"""Characters of a status that ``systemctl status`` shows."""
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
"""Level of a record -> priority in the journal (sd-daemon(3)); what is below is 7."""

_log = logging.getLogger("tailrace.systemd")


class ServiceManager:
    """Tells systemd how the service that it runs is doing; otherwise does nothing.

    Args:
        environment: has ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` from systemd.

    Example::

        manager = ServiceManager(os.environ)
        manager.ready("waiting for tunnels")
        with manager.watchdog(asyncio.get_running_loop()):
            ...
        manager.stopping()
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._period = _watchdog_period(environment)
        self._status = ""
        self._is_ready = False
        self._has_failed = False

    @property
    def is_there(self) -> bool:
        """Whether systemd wants to be told."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """Say that the service has started, and what it is doing."""
        patience = 0.0 if self._is_ready else _PATIENCE
        self._send("READY=1", f"STATUS={_line(status)}", patience=patience)
        self._status = status
        self._is_ready = True

    def status(self, text: str) -> None:
        """Say what the service is doing, unless that is what was said last."""
        if text != self._status:
            self._send(f"STATUS={_line(text)}")
            self._status = text

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that the service reloads, and after the body that it has."""
        now = time.monotonic_ns() // 1000 if self.is_there else 0
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}")
        try:
            yield
        finally:
            self._send("READY=1", patience=_PATIENCE)

    def stopping(self) -> None:
        """Say that the service is about to end."""
        self._send("STOPPING=1")

    @contextlib.contextmanager
    def watchdog(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Give a sign of life from the event loop, twice in the time that systemd waits for one.

        A loop that is stuck gives none, and systemd starts the service again.
        """
        if not self._address or self._period is None:
            yield
            return
        self._send("WATCHDOG=1")
        with every(loop, self._period, lambda: self._send("WATCHDOG=1")):
            yield

    def _send(self, *lines: str, patience: float = 0.0) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(patience)
                sock.connect(self._address)
                sock.send("\n".join(lines).encode(errors="replace"))
            self._has_failed = False
        except OSError as error:
            # Once: the watchdog would repeat it for ever.
            level = logging.DEBUG if self._has_failed else logging.WARNING
            _log.log(level, "systemd cannot be told %s: %s", lines[0], network_error_text(error))
            self._has_failed = True


def _address(text: str) -> str:
    """Return the address of the socket, "" if there is none; ``@`` is an abstract name."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else ""  # a machine's AF_VSOCK is not for services


def _watchdog_period(environment: Mapping[str, str]) -> float | None:
    """Return the seconds between two signs of life, ``None`` if none are wanted of this process."""
    text, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not text.isdecimal() or int(text) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(text) / 2_000_000


def _line(text: str) -> str:
    return escape(cut(text, _STATUS))


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return whether what is written to ``stream`` goes to systemd's journal.

    ``JOURNAL_STREAM`` names the stream that does: a program may have redirected its own.
    """
    try:
        found = os.fstat(stream.fileno())
    except (AttributeError, OSError, ValueError):  # an object that replaces the stream
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JournalFormatter(logging.Formatter):
    """Puts the priority of a record, such as ``<4>``, before each of its lines."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of ``formatter``, with the priority."""
        levels = (priority for level, priority in _PRIORITIES if record.levelno >= level)
        prefix = f"<{next(levels, 7)}>"
        return "\n".join(prefix + line for line in self._formatter.format(record).split("\n"))
