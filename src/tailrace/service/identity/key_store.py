"""The access keys that sign API requests: one from the environment, the others in a file.

``tailrace keys`` changes the file while a service runs, and a revoked key must not sign a
single request more. So the service looks at the file with each request, but reads it only
when its *signature* has changed: inode, mode, size and times of change, from one ``stat``. A
key file is never changed in place. :class:`KeyFile` writes a new one and renames it over
the old, which gives another inode each time; the others notice an editor that writes in
place, and a change of mode. A file that could not be read is read again with each request
until it can. Processes that change the file hold a lock of their own file, because the key file
is another one after each change.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from ...common.atomic_files import write_file
from ...common.secret import Secret
from ...errors import ConfigurationError
from ..file_lock import locked
from ..limits import COMMON_QUOTAS, Quotas
from .policy import EVERYTHING, AccessKey, Policy

__all__ = [
    "ACCESS_KEY_VARIABLE",
    "SECRET_KEY_VARIABLE",
    "KeyFile",
    "KeyRing",
    "credentials_file",
    "new_key",
]

_log = logging.getLogger(__name__)

ACCESS_KEY_VARIABLE: Final = "TAILRACE_ACCESS_KEY_ID"
SECRET_KEY_VARIABLE: Final = "TAILRACE_SECRET_ACCESS_KEY"  # noqa: S105 - a name

_BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

_Signature = tuple[int, int, int, int, int]


def credentials_file(state_dir: Path) -> Path:
    """Return the path of a service's key file."""
    return state_dir / "credentials.json"


def new_key(
    name: str,
    now: float,
    policy: Policy = EVERYTHING,
    seconds: float | None = None,
    quotas: Quotas = COMMON_QUOTAS,
) -> AccessKey:
    """Return a new random key; with ``seconds`` a temporary one."""
    # The prefixes of AWS, which its tools and secret scanners know.
    prefix = "AKIA" if seconds is None else "ASIA"
    return AccessKey(
        access_key_id=prefix + "".join(secrets.choice(_BASE32) for _ in range(16)),
        secret_access_key=Secret(secrets.token_urlsafe(30)),
        session_token=None if seconds is None else Secret("trs_" + secrets.token_urlsafe(32)),
        expires_at=None if seconds is None else now + seconds,
        name=name,
        created_at=now,
        policy=policy,
        quotas=quotas,
    )


class KeyFile:
    """The key file, mode 0600; changed by one process at a time, and replaced atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def signature(self) -> _Signature | None:
        """Return a value that changes with the file, ``None`` when it does not exist."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return (
            found.st_ino,
            found.st_mode,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
        )

    def read(self) -> tuple[AccessKey, ...]:
        """Return all keys, none when the file does not exist.

        Raises:
            ConfigurationError: the file cannot be read, is open to other users, or is not
                a key file.
        """
        try:
            with self.path.open("rb") as file:
                if os.name == "posix" and os.fstat(file.fileno()).st_mode & (
                    stat.S_IRWXG | stat.S_IRWXO
                ):
                    raise ConfigurationError(
                        f"{self.path} is open to other users: chmod 600 {self.path}"
                    )
                content = file.read()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ConfigurationError(f"cannot read {self.path}: {error.strerror}") from error
        try:
            document = json.loads(content)
            return tuple(AccessKey.from_document(entry) for entry in _entries(document))
        except (ValueError, KeyError, TypeError):
            # Without the cause: it may quote a secret.
            raise ConfigurationError(
                f"{self.path} is not a file of access keys; remove it to have a new one made"
            ) from None

    def add(self, key: AccessKey, now: float) -> None:
        """Add a key, and remove those that have expired.

        Raises:
            ConfigurationError: the file cannot be read or written.
        """
        with self._locked():
            self._write([*(k for k in self.read() if not k.has_expired(now)), key])

    def revoke(self, access_key_id: str) -> AccessKey | None:
        """Remove a key and return it, ``None`` when it is not there.

        Raises:
            ConfigurationError: the file cannot be read or written.
        """
        with self._locked():
            keys = self.read()
            found = next((key for key in keys if key.access_key_id == access_key_id), None)
            if found is not None:
                self._write([key for key in keys if key is not found])
            return found

    def ensure_own(self, now: float) -> AccessKey:
        """Return the service's own key, made if need be: the first without any restriction.

        Raises:
            ConfigurationError: the file cannot be read or written.
        """
        with self._locked():
            keys = self.read()
            for key in keys:
                if key.is_privileged:
                    return key
            own = new_key("default", now)
            self._write([*keys, own])
            return own

    def _write(self, keys: Sequence[AccessKey]) -> None:
        document = {"keys": [key.to_document() for key in keys]}
        write_file(self.path, json.dumps(document, indent=2).encode() + b"\n")

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.path.with_name(self.path.name + ".lock"), wait=True)


def _entries(document: object) -> list[dict[str, object]]:
    if not isinstance(document, dict):
        raise TypeError
    entries = document.get("keys", [document])
    if not isinstance(entries, list):
        raise TypeError
    return entries


class KeyRing:
    """Finds keys by their id; the file may change meanwhile."""

    def __init__(self, file: KeyFile, environment: Mapping[str, str], now: float) -> None:
        """Read the keys of a service; without any, one is made.

        Raises:
            ConfigurationError: only half of a key is in the environment, or the file
                cannot be read or written.
        """
        self._file = file
        self._given = _read_environment(environment)
        self.own = self._given or file.ensure_own(now)
        """The key that the ready file names."""
        # Before the keys: a change in between is noticed by the next look.
        self._signature = file.signature()
        self._keys = _by_id(file.read())
        self._failure = ""
        """Why the file could not be read at the last look."""

    def find(self, access_key_id: str) -> AccessKey | None:
        """Return the key with this id, ``None`` for an unknown or a revoked one."""
        if self._given is not None and self._given.access_key_id == access_key_id:
            return self._given
        signature = self._file.signature()
        if signature != self._signature:
            self._refresh(signature)
        return self._keys.get(access_key_id)

    def _refresh(self, signature: _Signature | None) -> None:
        try:
            self._keys = _by_id(self._file.read())
        except ConfigurationError as error:
            # Each request comes here until the file can be read, which one line tells.
            if str(error) != self._failure:
                self._failure = str(error)
                _log.error("the access keys stay as they were: %s", error)
        else:
            # Only now: a file that could not be read has to be looked at again.
            self._signature, self._failure = signature, ""
            _log.info("access keys were loaded again, there are %d", len(self._keys))


def _by_id(keys: Sequence[AccessKey]) -> dict[str, AccessKey]:
    return {key.access_key_id: key for key in keys}


def _read_environment(environment: Mapping[str, str]) -> AccessKey | None:
    access_key_id = environment.get(ACCESS_KEY_VARIABLE, "")
    secret = environment.get(SECRET_KEY_VARIABLE, "")
    if access_key_id and secret:
        return AccessKey(access_key_id, Secret(secret), name="environment")
    if access_key_id or secret:
        raise ConfigurationError(
            f"set both {ACCESS_KEY_VARIABLE} and {SECRET_KEY_VARIABLE}, or none of them"
        )
    return None
