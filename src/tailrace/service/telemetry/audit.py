"""The audit log: who did what to which tunnel, and who connected from where. Never a token.

One JSON object per line, appended with one write each, so that a line is never torn.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ..errors import SettingUnusable

__all__ = ["AuditLog", "timestamp"]

_log = logging.getLogger(__name__)

_KEPT: Final = ("tunnelId", "resourceArn", "clientMode", "delete", "tagKeys")
_KEPT_OF_DESTINATION: Final = ("thingName", "services")


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
        self._handle = -1 if path is None else _open(path)

    def reopen(self) -> None:
        """Open the file again: after a log rotation has renamed it, this is a new one.

        Raises:
            SettingUnusable: the file cannot be written; the old one stays in use.
        """
        if self._path is not None and self._handle >= 0:
            handle = _open(self._path)
            os.close(self._handle)
            self._handle = handle

    def close(self) -> None:
        """Close the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

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

        ``key`` is the access key id of the signer, ``outcome`` ``ok`` or an error code.
        ``tunnel`` is the id of a new tunnel.
        """
        details = {name: parameters[name] for name in _KEPT if name in parameters}
        destination = parameters.get("destinationConfig", {})
        details |= {name: destination[name] for name in _KEPT_OF_DESTINATION if name in destination}
        if tunnel is not None:
            details["tunnelId"] = tunnel
        self._write(
            operation, {"key": key, "address": address, "request": request} | details, outcome
        )

    def link(self, event: str, tunnel: str, side: str, address: str, channel: str) -> None:
        """Record that a local proxy has ``connected`` or ``disconnected``."""
        self._write(
            event, {"tunnelId": tunnel, "side": side, "address": address, "channel": channel}
        )

    def expired(self, tunnel: str) -> None:
        """Record that a tunnel was closed because its lifetime had ended."""
        self._write("expired", {"tunnelId": tunnel})

    def _write(self, event: str, details: Mapping[str, Any], outcome: str | None = None) -> None:
        if self._handle < 0:
            return
        document = {"time": timestamp(self._clock()), "event": event} | dict(details)
        if outcome is not None:
            document["outcome"] = outcome
        try:
            os.write(self._handle, json.dumps(document).encode() + b"\n")
        except OSError as error:
            _log.error("audit log %s: %s", self._path, error.strerror)


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise SettingUnusable(
            "{0}: cannot write {path}: {reason}", "audit_log", path=path, reason=error.strerror
        ) from None
