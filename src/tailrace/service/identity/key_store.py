"""The access keys that sign API requests: one from the environment, the others in a file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from ...common.atomic_files import write_file
from ...common.secret import Secret
from ...errors import ConfigurationError
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

_Signature = tuple[int, int, int]
"""What tells one state of a file from another."""


def credentials_file(state_dir: Path) -> Path:
    """Return where a service keeps its keys."""
    return state_dir / "credentials.json"


def new_key(
    name: str, now: float, policy: Policy = EVERYTHING, seconds: float | None = None
) -> AccessKey:
    """Return a key that nobody has yet; with ``seconds`` a temporary one."""
    # The prefixes that AWS uses, too: its tools and secret scanners know them.
    prefix = "AKIA" if seconds is None else "ASIA"
    return AccessKey(
        access_key_id=prefix + "".join(secrets.choice(_BASE32) for _ in range(16)),
        secret_access_key=Secret(secrets.token_urlsafe(30)),
        session_token=None if seconds is None else Secret("trs_" + secrets.token_urlsafe(32)),
        expires_at=None if seconds is None else now + seconds,
        name=name,
        created_at=now,
        policy=policy,
    )


class KeyFile:
    """The file of keys, mode 0600; changed by one process at a time, replaced in one go."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def signature(self) -> _Signature | None:
        """Return what changes with the file, ``None`` when there is no file."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self) -> tuple[AccessKey, ...]:
        """Return all keys, none when there is no file.

        Raises:
            ConfigurationError: the file cannot be read, others may read it, or it is not
                a file of keys.
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
        """Add a key; those that have expired go.

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
        """Return the service's own key: the first that is good for everything and for ever.

        It is made when there is none.

        Raises:
            ConfigurationError: the file cannot be read or written.
        """
        with self._locked():
            keys = self.read()
            for key in keys:
                if key.policy.is_unlimited and key.expires_at is None:
                    return key
            own = new_key("default", now)
            self._write([*keys, own])
            return own

    def _write(self, keys: Sequence[AccessKey]) -> None:
        document = {"keys": [key.to_document() for key in keys]}
        write_file(self.path, json.dumps(document, indent=2).encode() + b"\n")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            import fcntl
        except ImportError:  # not POSIX: the last one to write wins
            yield
            return
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"cannot write {lock}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _entries(document: object) -> list[dict[str, object]]:
    if not isinstance(document, dict):
        raise TypeError
    entries = document.get("keys", [document])
    if not isinstance(entries, list):
        raise TypeError
    return entries


class KeyRing:
    """Finds keys by their id, those of the file as it is at that moment."""

    def __init__(self, file: KeyFile, own: AccessKey) -> None:
        self.own = own
        """The key that the ready file gives away."""
        self._file = file
        self._signature: _Signature | None = None
        self._keys: dict[str, AccessKey] = {}
        self._from_environment: AccessKey | None = None

    @classmethod
    def open(cls, path: Path, environment: Mapping[str, str], now: float) -> KeyRing:
        """Return the keys of a service; without any, one is made.

        Raises:
            ConfigurationError: only half of a key is in the environment, or the file
                cannot be read or written.
        """
        file = KeyFile(path)
        given = _given(environment)
        ring = cls(file, given or file.ensure_own(now))
        ring._from_environment = given
        # Before the keys: a change in between is seen at the next look.
        ring._signature = file.signature()
        ring._keys = {key.access_key_id: key for key in file.read()}
        return ring

    def find(self, access_key_id: str) -> AccessKey | None:
        """Return the key with this id, ``None`` for an unknown or a revoked one."""
        given = self._from_environment
        if given is not None and given.access_key_id == access_key_id:
            return given
        signature = self._file.signature()
        if signature != self._signature:
            self._signature = signature
            self._refresh()
        return self._keys.get(access_key_id)

    def _refresh(self) -> None:
        try:
            self._keys = {key.access_key_id: key for key in self._file.read()}
        except ConfigurationError as error:
            _log.error("the access keys stay as they were: %s", error)
        else:
            _log.info("access keys were loaded again, there are %d", len(self._keys))


def _given(environment: Mapping[str, str]) -> AccessKey | None:
    access_key_id = environment.get(ACCESS_KEY_VARIABLE, "")
    secret = environment.get(SECRET_KEY_VARIABLE, "")
    if access_key_id and secret:
        return AccessKey(access_key_id, Secret(secret), name="environment")
    if access_key_id or secret:
        raise ConfigurationError(
            f"set both {ACCESS_KEY_VARIABLE} and {SECRET_KEY_VARIABLE}, or none of them"
        )
    return None
