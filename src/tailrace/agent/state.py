"""What the agent keeps over restarts: its tunnels, and which tokens it has seen.

``DIRECTORY/tunnels`` has one file for each tunnel that is served, with its notification and the
client token without which the access token could not be used again; it is removed when the tunnel
ends. ``DIRECTORY/seen`` has the SHA-256 of tokens whose tunnels have ended, a line each, so that a
notification that comes again is known. All of it is readable by this user only.

A notification is stored before it is acted upon and acknowledged: who is told that it was delivered
does not send it again. Everything is bounded, since anybody who may publish at the broker can
send notifications; of the tokens seen, the oldest are dropped first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..common.atomic_files import make_private_directory, write_atomically
from ..common.file_lock import locked
from ..common.private_files import OTHERS, open_private
from ..common.secret import Secret, is_client_token
from ..common.wall_clock import CLOCK_SET
from ..errors import ConfigurationError, NotificationIgnored, NotificationNotStored
from .kill_switch import KillSwitch, read_kill_switch
from .notification import LIFETIME, MAX_PAYLOAD, Notification, parse_notification

__all__ = ["AgentState", "KeptTunnel"]

_REMEMBERED: Final = 2 * LIFETIME
"""Seconds for which a token is known again."""
_MAX_SEEN: Final = 4096
"""Tokens that are known again; a journal of twice as many lines is written anew."""
_MAX_KEPT: Final = 1000
"""Files of tunnels that are read at the start."""
_MAX_FILE: Final = 4 * MAX_PAYLOAD
_MAX_JOURNAL: Final = 4 * 80 * _MAX_SEEN
_DIGEST: Final = 64

_log = logging.getLogger("tailrace.agent")


@dataclass(frozen=True, slots=True)
class KeptTunnel:
    """A tunnel that is served, and what it takes to serve it again after a restart."""

    notification: Notification
    client_token: Secret
    received_at: float
    """Seconds since the epoch."""

    @property
    def digest(self) -> str:
        """SHA-256 of the access token, by which notifications are told apart."""
        return self.notification.access_token.digest

    @property
    def label(self) -> str:
        """Name of the tunnel in logs."""
        return self.notification.tunnel_id or f"#{self.digest[:8]}"

    def lifetime_left(self, now: float) -> float:
        """Return the seconds that the tunnel has left; 0 or less when it has expired.

        A clock that was not set tells nothing, neither now nor when the notification came.
        """
        left = LIFETIME
        if min(now, self.received_at) >= CLOCK_SET:
            left = min(left, self.received_at + LIFETIME - now)
        expires_at = self.notification.expires_at
        if expires_at is not None and now >= CLOCK_SET:
            left = min(left, expires_at - now)
        return left


class AgentState:
    """The state directory of one agent; without a directory, all is kept in memory only."""

    def __init__(self, directory: Path | None, now: Callable[[], float]) -> None:
        self._directory = directory
        self._now = now
        self._seen: dict[str, float] = {}
        """SHA-256 of tokens -> when they came; the oldest first."""
        self._journal_lines = 0
        self._writing = asyncio.Lock()

    @contextmanager
    def opened(self) -> Iterator[list[KeptTunnel]]:
        """Hold the lock of the directory for the body, which gets the tunnels kept in it.

        Raises:
            ConfigurationError: the directory cannot be used, or another agent uses it.
        """
        if self._directory is None:
            yield []
            return
        make_private_directory(self._directory)
        make_private_directory(self._tunnels)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self._directory / "lock", wait=False))
            except BlockingIOError:
                raise ConfigurationError(
                    f"another agent keeps its state in {self._directory}", setting="state_dir"
                ) from None
            self._read_journal()
            kept = sorted(self._read_tunnels(), key=lambda each: each.received_at)
            for each in kept:
                self._remember(each.digest, each.received_at)
            yield kept

    @property
    def is_durable(self) -> bool:
        """Whether there is a directory."""
        return self._directory is not None

    @property
    def kill_switch(self) -> KillSwitch:
        """Whether tunnels may be opened."""
        return KillSwitch.OFF if self._directory is None else read_kill_switch(self._directory)

    def has_seen(self, digest: str) -> bool:
        """Return whether the token with this SHA-256 came before."""
        return digest in self._seen

    async def keep(self, tunnel: KeptTunnel) -> None:
        """Store a tunnel, durably, and know its token from now on.

        Raises:
            NotificationNotStored: it cannot be stored.
        """
        if self._directory is not None:
            content = json.dumps(_document(tunnel)).encode()
            try:
                await asyncio.to_thread(write_atomically, self._path(tunnel), content)
            except OSError as error:
                raise NotificationNotStored(
                    f"cannot store a notification in {self._tunnels}: {error.strerror}"
                ) from error
        self._remember(tunnel.digest, tunnel.received_at)

    async def forget(self, tunnel: KeptTunnel) -> None:
        """Remove what was stored of a tunnel, but for the SHA-256 of its token."""
        if self._directory is None:
            return
        async with self._writing:
            try:
                await asyncio.to_thread(self._forget, tunnel)
            except OSError as error:
                text = "tunnel %s: its end cannot be written down in %s: %s"
                _log.warning(text, tunnel.label, self._directory, error.strerror)

    # -- files --------------------------------------------------------------------------------

    @property
    def _tunnels(self) -> Path:
        assert self._directory is not None
        return self._directory / "tunnels"

    @property
    def _journal(self) -> Path:
        assert self._directory is not None
        return self._directory / "seen"

    def _path(self, tunnel: KeptTunnel) -> Path:
        return self._tunnels / f"{tunnel.digest}.json"

    def _remember(self, digest: str, received_at: float) -> None:
        self._seen.pop(digest, None)
        self._seen[digest] = received_at
        while len(self._seen) > _MAX_SEEN:
            del self._seen[next(iter(self._seen))]

    def _forget(self, tunnel: KeptTunnel) -> None:
        """Write the token down as seen before its file goes: a crash between them loses nothing."""
        try:
            if self._journal_lines >= 2 * _MAX_SEEN:
                # A copy: this runs in a thread, and the loop goes on.
                self._write_journal(self._seen.copy().items())
            else:
                self._append(_journal_line(tunnel.digest, tunnel.received_at))
        finally:
            # A token does not stay on a disk because that is full.
            self._path(tunnel).unlink(missing_ok=True)

    def _append(self, line: bytes) -> None:
        handle = open_private(self._journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, OTHERS)
        try:
            is_whole = os.write(handle, line) == len(line)
            os.fsync(handle)
        finally:
            os.close(handle)
        # What a full disk has cut would spoil the next line, too: all is written anew.
        self._journal_lines += 1 if is_whole else 2 * _MAX_SEEN

    def _write_journal(self, seen: Iterable[tuple[str, float]]) -> None:
        lines = [_journal_line(*each) for each in seen]
        write_atomically(self._journal, b"".join(lines))
        self._journal_lines = len(lines)

    def _read_journal(self) -> None:
        content = _read(self._journal, _MAX_JOURNAL)
        if content is None:
            return
        lines = content.splitlines()
        found = [entry for entry in map(_journal_entry, lines) if entry is not None]
        if len(found) < len(lines):
            _log.warning("%s: %d lines are corrupt", self._journal, len(lines) - len(found))
        now = self._now()
        for digest, received_at in found:
            if received_at < CLOCK_SET or now - received_at < _REMEMBERED:
                self._remember(digest, received_at)
        if len(self._seen) < len(lines) or not content.endswith(b"\n"):
            with suppress(OSError):
                self._write_journal(self._seen.items())
        self._journal_lines = len(self._seen)

    def _read_tunnels(self) -> Iterator[KeptTunnel]:
        for number, path in enumerate(sorted(self._tunnels.iterdir())):
            content = _read(path, _MAX_FILE)
            if content is None:
                continue
            tunnel = _kept_tunnel(content) if number < _MAX_KEPT else None
            if tunnel is not None and self._path(tunnel) == path:
                yield tunnel
                continue
            if not path.name.startswith("."):  # else a crash has left it half written
                _log.warning("%s is corrupt, or not of an agent: removed", path)
            with suppress(OSError):
                path.unlink()


def _document(tunnel: KeptTunnel) -> dict[str, object]:
    return {
        "notification": tunnel.notification.document(),
        "clientToken": tunnel.client_token.reveal(),
        "receivedAt": tunnel.received_at,
    }


def _kept_tunnel(content: bytes) -> KeptTunnel | None:
    """Return the tunnel of a file, ``None`` if it is none."""
    try:
        document: Any = json.loads(content)
        notification = parse_notification(json.dumps(document["notification"]).encode())
        received_at = float(document["receivedAt"])
        client_token: str = document["clientToken"]
        valid = is_client_token(client_token) and received_at >= 0
    except (ValueError, TypeError, LookupError, RecursionError, NotificationIgnored):
        return None
    return KeptTunnel(notification, Secret(client_token), received_at) if valid else None


def _journal_line(digest: str, received_at: float) -> bytes:
    return f"{digest} {received_at:.0f}\n".encode()


def _journal_entry(line: bytes) -> tuple[str, float] | None:
    digest, _, received_at = line.partition(b" ")
    if len(digest) != _DIGEST or not digest.isalnum() or not received_at.isdigit():
        return None
    return digest.decode("ascii", "replace"), float(received_at)


def _read(path: Path, most: int) -> bytes | None:
    """Return the content of a file of this user's own, ``None`` if there is none."""
    try:
        handle = open_private(path, os.O_RDONLY, OTHERS)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("cannot read %s: %s", path, error.strerror)
        return None
    with open(handle, "rb") as file:
        return file.read(most)
