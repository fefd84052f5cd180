"""The audit log: who did what to which tunnel, and who connected from where. Never a token.

One JSON object per line. A disk that fills up takes the beginning of a line only; what is left of
it is ended before the next line, so that no two are glued, and the log tells what was lost.

Strangers decide how often a handshake is refused, who has a token how often it connects, and who
has a key how often an operation is refused. Of one kind of such events, 20 are written in a minute
and the others counted: :meth:`AuditLog.end_interval` writes one line with ``more`` for each kind.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ...common.log_floods import FloodCount
from ...common.private_files import open_private
from ..errors import SettingUnusable

__all__ = ["OK", "AuditLog", "timestamp"]

OK: Final = "ok"
"""Outcome of a request that was carried out."""

_log = logging.getLogger(__name__)

_KEPT: Final = (
    "tunnelId",
    "resourceArn",
    "clientMode",
    "delete",
    "tagKeys",
    "thingName",
    "tokenIds",
)
_KEPT_OF_DESTINATION: Final = ("thingName", "services")
_MOST_KEPT: Final = 200
"""Service ids or tag keys: more than any request may have that is not refused, by default."""

_OF_A_KIND: Final = 20
_KINDS: Final = 100_000
"""All local proxies of a large service may come back within one minute."""

_FORBIDDEN: Final = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP
"""Permissions that the file must not give. Its group may read it: that is who collects logs."""


def timestamp(seconds: float) -> str:
    """Format seconds since the epoch as ISO 8601 in UTC, with milliseconds."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


class AuditLog:
    """Appends to the file at ``path``, which is made with mode 0600; ``None`` records nothing.

    Raises:
        SettingUnusable: the file cannot be written.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._floods = FloodCount(_OF_A_KIND, _KINDS)
        self._handle = -1
        self._torn = False
        """Whether the file ends in the midst of a line."""
        self._use(self.open_again())

    def open_again(self) -> int:
        """Open the file again: after a log rotation has renamed it, this is a new one.

        The descriptor is for :meth:`switch` or :func:`os.close`; -1 when nothing is recorded.

        Raises:
            SettingUnusable: the file cannot be written, or trusted.
        """
        return -1 if self._path is None else _open(self._path)

    def switch(self, handle: int) -> None:
        """Go on in the file that :meth:`open_again` has opened."""
        self._close()
        self._use(handle)

    def close(self) -> None:
        """Write what is counted, and close the file."""
        self.end_interval()
        self._close()

    def _use(self, handle: int) -> None:
        self._handle = handle
        self._torn = handle >= 0 and not _ends_with_line(handle)

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def end_interval(self) -> None:
        """Write how many events had no line of their own; to be called every minute."""
        for kind, count in self._floods.end_interval().items():
            event, *details = kind if isinstance(kind, tuple) else ("others",)
            self._write(event, dict(details) | {"more": count})

    def request(
        self,
        operation: str,
        parameters: Mapping[str, Any],
        *,
        key: str,
        address: str,
        request: str,
        outcome: str,
        tunnel: str | None,
    ) -> None:
        """Record an operation of the control API.

        ``key`` is the access key id of the signer, ``outcome`` :data:`OK` or an error code.
        ``tunnel`` is the id of a new tunnel.
        """
        details = _kept(parameters, _KEPT)
        details |= _kept(parameters.get("destinationConfig", {}), _KEPT_OF_DESTINATION)
        if tunnel is not None:
            details["tunnelId"] = tunnel
        signer = {"key": key, "address": address, "request": request}
        # What was refused changed nothing, and a client with any key at all may repeat it.
        kind = (operation, ("key", key), ("outcome", outcome))
        if outcome == OK or (self._handle >= 0 and self._floods.passes(kind)):
            self._write(operation, signer | details | {"outcome": outcome})

    def link(self, event: str, tunnel: str, side: str, address: str, channel: str) -> None:
        """Record that a local proxy has ``connected`` or ``disconnected``."""
        self._count(event, {"tunnelId": tunnel, "side": side}, address, channel)

    def refused(
        self, reason: str, address: str, channel: str, side: str | None, tunnel: str | None
    ) -> None:
        """Record that the handshake of a local proxy was refused; ``reason`` is a word.

        ``side`` is what it asked for, ``tunnel`` the one that its token belongs to, if any.
        """
        known = {"tunnelId": tunnel, "side": side, "reason": reason}
        self._count("refused", {k: v for k, v in known.items() if v is not None}, address, channel)

    def _count(self, event: str, details: Mapping[str, str], address: str, channel: str) -> None:
        """Write an event of the data plane, unless there are too many of its kind."""
        if self._handle >= 0 and self._floods.passes((event, *details.items())):
            self._write(event, dict(details) | {"address": address, "channel": channel})

    def invitation(self, event: str, details: Mapping[str, str]) -> None:
        """Record that somebody was ``invited`` or has ``joined``, or that it was revoked."""
        self._write(event, details)

    def join_refused(self, reason: str, invitation: str, address: str) -> None:
        """Record that a machine with a bad code was refused; ``invitation`` is "" if unknown."""
        details = {"reason": reason} | ({"invitation": invitation} if invitation else {})
        if self._handle >= 0 and self._floods.passes(("join_refused", *details.items())):
            self._write("join_refused", details | {"address": address})

    def expired(self, tunnel: str) -> None:
        """Record that a tunnel was closed because its lifetime had ended."""
        self._write("expired", {"tunnelId": tunnel})

    def _write(self, event: str, details: Mapping[str, Any]) -> None:
        if self._handle < 0:
            return
        text = json.dumps({"time": timestamp(self._clock()), "event": event} | dict(details))
        # An end for what is left of a line that could not be written as a whole.
        line = b"\n" * self._torn + text.encode() + b"\n"
        written = 0
        try:
            while written < len(line):
                written += os.write(self._handle, line[written:])
        except OSError as error:
            _log.error("audit log %s: %s; not in it: %s", self._path, error.strerror, text)
        if written:
            self._torn = line[written - 1 : written] != b"\n"


def _kept(parameters: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return some of the parameters, of lists the beginning."""
    kept = {name: parameters[name] for name in names if name in parameters}
    for name, value in kept.items():
        if isinstance(value, list) and len(value) > _MOST_KEPT:
            kept[name] = [*value[:_MOST_KEPT], f"and {len(value) - _MOST_KEPT} more"]
    return kept


def _ends_with_line(handle: int) -> bool:
    if not os.lseek(handle, 0, os.SEEK_END):
        return True
    os.lseek(handle, -1, os.SEEK_END)
    return os.read(handle, 1) == b"\n"


def _open(path: Path) -> int:
    try:
        return open_private(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, _FORBIDDEN)
    except OSError as error:
        raise SettingUnusable(
            "{0}: cannot write {path}: {reason}", "audit_log", path=path, reason=error.strerror
        ) from None
