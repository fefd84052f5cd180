"""An access token, as far as it can be told without using it up."""

from __future__ import annotations

import os
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from ...aws import TunnelDescription, TunnelState
from ...checks.findings import Finding, failed, ok, skipped, warning
from ...common.secret import Secret
from ...common.special_files import is_special
from ...errors import ConfigurationError
from ...library import Side
from ..hints import ago
from .tunnel import TokenUseless, TunnelChecks

__all__ = ["TokenChecks"]

_MAX_SIZE: Final = 16_384
_VISIBLE: Final = re.compile(r"[!-~]+")
_KEPT: Final = "{}.client-token"
"""Name of the file with a client token; it has the digest of the access token."""
_SLACK: Final = timedelta(seconds=5)
"""By which the clocks of this machine and of the service may differ here."""


class TokenChecks:
    """Checks of the token in a file; :meth:`check_file` has to be the first."""

    def __init__(
        self, path: Path, side: Side, state_dir: Path | None, tunnel: TunnelChecks | None
    ) -> None:
        """Check the token in ``path``.

        ``state_dir`` is where ``localproxy`` keeps its client tokens, ``tunnel`` what the token is
        said to belong to.
        """
        self._path = path
        self._side = side
        self._state_dir = state_dir
        self._tunnel = tunnel
        self.token: Secret | None = None
        """The token, once it was read."""
        self._written = datetime.fromtimestamp(0, UTC)
        self._is_kept = False

    async def check_file(self) -> Finding:
        """Read the token, and look at what it is made of."""
        path = self._path
        try:
            if is_special(path):
                return self._unusable("is a pipe or a device", "name a file")
            with path.open("rb") as file:
                data = file.read(_MAX_SIZE + 1)
            found = path.stat()
        except OSError as error:
            return self._unusable(error.strerror or str(error), "name the file that has the token")
        text = data.decode("utf-8", "replace").strip()
        if text.startswith("{"):
            return self._unusable("holds JSON", "keep the value of one access token in it")
        if not _VISIBLE.fullmatch(text) or len(data) > _MAX_SIZE:
            return self._unusable(
                "holds no token: one line without blanks, in ASCII", "copy the token in one piece"
            )
        self.token = Secret(text)
        self._written = datetime.fromtimestamp(found.st_mtime, UTC)
        self._is_kept = self._kept(self.token)
        age = ago(datetime.now(UTC) - self._written)
        shown = f"{len(text)} characters, written {age} ago"
        if os.name == "posix" and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return warning(f"{shown}; other users may read it", f"chmod 600 {path}")
        return ok(shown)

    async def check_token(self) -> Finding:
        """Compare the token with what is known of its tunnel."""
        tunnel = None if self._tunnel is None else await self._tunnel.settled()
        used = "localproxy has a client token for it here, with which it is good again"
        if tunnel is None:
            if self._is_kept:
                return ok(used)
            return skipped(
                "a token does not tell its tunnel, and is only judged when it is used",
                "name the tunnel: --tunnel ID, or the thing",
            )
        if tunnel.state is not TunnelState.OPEN:
            text = "it is refused: its tunnel is closed"
            return failed(text, "open another tunnel", cause=TokenUseless(text))
        rotate = f"tailrace tunnel rotate {tunnel.tunnel_id} --mode {self._side.value}"
        return self._compare(tunnel, rotate, used)

    def _compare(self, tunnel: TunnelDescription, rotate: str, used: str) -> Finding:
        if self._written < tunnel.opened - _SLACK:
            text = "it is refused: it was written before this tunnel was opened"
            return failed(text, f"get new tokens: {rotate}", cause=TokenUseless(text))
        if self._written < tunnel.changed - _SLACK:
            return warning(
                "the tunnel has changed since it was written: after a rotation it is refused",
                f"if it was rotated, use the new token; or get another one: {rotate}",
            )
        if self._is_kept:
            return ok(used)
        state = tunnel.source if self._side is Side.SOURCE else tunnel.destination
        if state.is_connected:
            return warning(
                f"a {self._side.value} is connected: if with this token, it is used up",
                f"stop that one; if the token is refused: {rotate}",
            )
        if state.since is not None and state.since > self._written + _SLACK:
            return warning(
                f"a {self._side.value} was connected since it was written: if with this token, it"
                " is used up",
                f"use the client token of the first time (localproxy -i), or {rotate}",
            )
        return ok("nothing says that it was used or replaced")

    def _kept(self, token: Secret) -> bool:
        if self._state_dir is None:
            return False
        try:
            return (self._state_dir / _KEPT.format(token.digest)).exists()
        except OSError:
            return False

    def _unusable(self, text: str, fix: str) -> Finding:
        text = f"{self._path}: {text}"
        return failed(text, fix, cause=ConfigurationError(text))
