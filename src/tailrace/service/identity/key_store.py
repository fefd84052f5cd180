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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...common.atomic_files import make_private_directory, write_file
from ...common.file_lock import locked
from ...common.private_files import OTHERS, open_private
from ...common.secret import Secret
from ...errors import ConfigurationError
from ..limits import COMMON_QUOTAS, Quotas
from .policy import EVERYTHING, AccessKey, Policy

__all__ = [
    "ACCESS_KEY_VARIABLE",
    "SECRET_KEY_VARIABLE",
    "KeyFile",
    "KeyRing",
    "LoadedKeys",
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

    def make_directory(self) -> None:
        """Make the state directory, or see that no other user may write to it.

        Root may look after the keys of a service that runs as another user.

        Raises:
            ConfigurationError: it cannot be used.
        """
        if not (_is_root() and self.path.parent.is_dir()):
            make_private_directory(self.path.parent)

    def signature(self) -> _Signature | None:
        """Return a value that changes with the file, ``None`` when it does not exist."""
        try:
            found = self.path.lstat()
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
            with open(open_private(self.path, os.O_RDONLY, OTHERS), "rb") as file:
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
        _give_to_service(self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path.with_name(self.path.name + ".lock")
        with locked(lock, wait=True):
            _give_to_service(lock)
            yield


def _give_to_service(path: Path) -> None:
    """Let root's files in the state directory of another user belong to that user."""
    if _is_root():
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _is_root() -> bool:
    return os.name == "posix" and os.geteuid() == 0


def _entries(document: object) -> list[dict[str, object]]:
    if not isinstance(document, dict):
        raise TypeError
    entries = document.get("keys", [document])
    if not isinstance(entries, list):
        raise TypeError
    return entries


@dataclass(frozen=True, slots=True)
class LoadedKeys:
    """The keys in the file, by their id, and the file's signature."""

    signature: _Signature | None
    keys: Mapping[str, AccessKey]


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
        self._failure = ""
        """Why the file could not be read at the last look."""
        self.switch(self.load())

    @property
    def own_is_given(self) -> bool:
        """Whether :attr:`own` comes from the environment, and so is never written down."""
        return self._given is not None

    def find(self, access_key_id: str) -> AccessKey | None:
        """Return the key with this id, ``None`` for an unknown or a revoked one."""
        if self._given is not None and self._given.access_key_id == access_key_id:
            return self._given
        if self._file.signature() != self._signature:
            self._refresh()
        return self._keys.get(access_key_id)

    def load(self) -> LoadedKeys:
        """Read the file, for :meth:`switch`.

        Raises:
            ConfigurationError: it cannot be read.
        """
        # Before the keys: a change in between is noticed by the next look.
        signature = self._file.signature()
        return LoadedKeys(signature, {key.access_key_id: key for key in self._file.read()})

    def switch(self, loaded: LoadedKeys) -> None:
        """Use the keys that :meth:`load` has read."""
        self._signature, self._keys, self._failure = loaded.signature, loaded.keys, ""

    def _refresh(self) -> None:
        try:
            # A file that could not be read has to be looked at again.
            self.switch(self.load())
        except ConfigurationError as error:
            # Each request comes here until the file can be read, which one line tells.
            if str(error) != self._failure:
                self._failure = str(error)
                _log.error("the access keys stay as they were: %s", error)
        else:
            _log.info("access keys were loaded again, there are %d", len(self._keys))


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
