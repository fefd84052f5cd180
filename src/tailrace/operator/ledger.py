"""The tunnels that commands of this user have opened and not closed yet.

A tunnel costs money, so that one whose process was killed is closed by the next command. Each
tunnel has a file of mode 0600, written before the service is asked for the tunnel: from then on it
is found, if not by its id then by its description, which no other has. The file is locked by the
process that has the tunnel, and the lock goes with the process however that ends: a file without a
lock is one whose tunnel nobody closes any more. No token stands in it. Where processes have no such
locks, on Windows, nothing is written, and what a killed command has left open ends by itself.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from ..aws import Client, TunnelState
from ..common.atomic_files import make_private_directory
from ..common.file_lock import HAS_LOCKS, lock
from ..common.private_files import open_private
from ..errors import CallRefused, ConfigurationError, TailraceError, TunnelNotFound

__all__ = ["LedgerEntry", "close_orphans"]

_SUFFIX: Final = ".tunnel"
_LONGEST: Final = timedelta(hours=12)
"""How long a tunnel is open at most."""
_MAX_SIZE: Final = 16 * 1024
_MOST_SEARCHED: Final = 100
"""Tunnels of a thing that are looked at for one whose id is not known."""


class LedgerEntry:
    """The entry of a tunnel that this process is about to open."""

    def __init__(self, directory: Path, client: Client, thing: str, description: str) -> None:
        """Write the entry.

        Raises:
            ConfigurationError: it cannot be written.
        """
        make_private_directory(directory)
        self._path = directory / f"{uuid.uuid4().hex}{_SUFFIX}"
        # Not found under its name before it is locked.
        hidden = self._path.with_suffix(".new")
        try:
            self._handle = open_private(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            lock(self._handle, wait=True)
            self._write(
                endpoint=client.endpoint,
                region=client.region,
                thing=thing,
                description=description,
                time=time.time(),
            )
            hidden.rename(self._path)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write {hidden}: {error.strerror}", setting="state_dir"
            ) from None

    def opened(self, tunnel_id: str) -> None:
        """Add the id of the tunnel; without it, its description still tells it."""
        with suppress(OSError):
            self._write(tunnel_id=tunnel_id)

    def remove(self) -> None:
        """Remove the entry: the tunnel is closed, or is to stay open."""
        self._path.unlink(missing_ok=True)
        self.leave()

    def leave(self) -> None:
        """Leave the tunnel to the next command."""
        os.close(self._handle)

    def _write(self, **fields: str | float) -> None:
        os.write(self._handle, (json.dumps(fields) + "\n").encode())


async def close_orphans(directory: Path, client: Client) -> list[str]:
    """Close tunnels that killed commands have left open at the service of ``client``.

    When the service cannot be called, the others are left to the next command: the wait for each
    may be long.

    Returns:
        One line for each that was closed, or could not be.
    """
    notes = []
    for path, handle in _orphans(directory):
        fields = _read(handle)
        try:
            note, is_done = await _close_orphan(fields, client)
            notes += [note] if note else []
            if is_done:
                path.unlink(missing_ok=True)
        except TailraceError as error:
            tunnel = f"tunnel {fields.get('tunnel_id', '')}".rstrip()
            notes.append(f"{tunnel} to {fields['thing']}, of a command that was killed: {error}")
            if not isinstance(error, CallRefused):
                break
        finally:
            os.close(handle)
    return notes


def _orphans(directory: Path) -> Iterator[tuple[Path, int]]:
    """Yield entries that no process has any more, locked."""
    for path in sorted(directory.glob(f"*{_SUFFIX}")) if HAS_LOCKS else ():
        try:
            handle = open_private(path, os.O_RDWR)
        except OSError:
            continue  # gone meanwhile, or not ours
        try:
            lock(handle, wait=False)
            is_removed = os.fstat(handle).st_nlink == 0
        except OSError:
            os.close(handle)
            continue
        if is_removed:
            os.close(handle)
        else:
            yield path, handle


def _read(handle: int) -> dict[str, str | float]:
    """Return what an entry says; nothing of it counts if it is damaged."""
    fields: dict[str, str | float] = {}
    try:
        for line in os.pread(handle, _MAX_SIZE, 0).decode().splitlines():
            fields |= json.loads(line)
    except (ValueError, TypeError):
        if "description" not in fields:
            return {}
    return fields


async def _close_orphan(fields: dict[str, str | float], client: Client) -> tuple[str, bool]:
    """Return what to say, and whether nothing is left to do.

    Raises:
        TailraceError: it cannot be closed now.
    """
    if not fields or time.time() - float(fields["time"]) > _LONGEST.total_seconds():
        return "", True
    if (fields["endpoint"], fields["region"]) != (client.endpoint, client.region):
        return "", False  # a command that calls that service will close it
    thing = str(fields["thing"])
    tunnel_id = str(fields.get("tunnel_id", ""))
    try:
        tunnel_id = tunnel_id or await _search(client, thing, str(fields["description"]))
        if not tunnel_id or (await client.describe(tunnel_id)).state is not TunnelState.OPEN:
            return "", True
        await client.close(tunnel_id)
    except TunnelNotFound:
        return "", True
    return f"closed tunnel {tunnel_id} to {thing}, which a killed command had left open", True


async def _search(client: Client, thing: str, description: str) -> str:
    async for each in client.list(thing=thing, limit=_MOST_SEARCHED):
        if each.description == description:
            return each.tunnel_id
    return ""
