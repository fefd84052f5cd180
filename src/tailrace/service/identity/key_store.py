"""The access keys that sign API requests: one from the environment, the others in a file.

``tailrace keys`` changes the file while a service runs, and a revoked key must not sign a
single request more. So the service looks at the signature of the :class:`~.state_file.StateFile`
with each request, but reads it only when that has changed. A file that could not be read is read
again with each request until it can.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...common.secret import Secret
from ...errors import ConfigurationError
from ..limits import COMMON_QUOTAS, Quotas
from .policy import EVERYTHING, AccessKey, Policy
from .state_file import Signature, StateFile

__all__ = [
    "ACCESS_KEY_VARIABLE",
    "SECRET_KEY_VARIABLE",
    "KeyFile",
    "KeyRing",
    "LoadedKeys",
    "credentials_file",
    "new_key",
    "new_key_id",
]

_log = logging.getLogger(__name__)

ACCESS_KEY_VARIABLE: Final = "TAILRACE_ACCESS_KEY_ID"
SECRET_KEY_VARIABLE: Final = "TAILRACE_SECRET_ACCESS_KEY"  # noqa: S105 - a name

_BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


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
    return AccessKey(
        access_key_id=new_key_id(is_temporary=seconds is not None),
        secret_access_key=Secret(secrets.token_urlsafe(30)),
        session_token=None if seconds is None else Secret("trs_" + secrets.token_urlsafe(32)),
        expires_at=None if seconds is None else now + seconds,
        name=name,
        created_at=now,
        policy=policy,
        quotas=quotas,
    )


def new_key_id(*, is_temporary: bool = False) -> str:
    """Return a new random id of a key."""
    # The prefixes of AWS, which its tools and secret scanners know.
    prefix = "ASIA" if is_temporary else "AKIA"
    return prefix + "".join(secrets.choice(_BASE32) for _ in range(16))


class KeyFile(StateFile):
    """The key file."""

    def read(self) -> tuple[AccessKey, ...]:
        """Return all keys, none when the file does not exist.

        Raises:
            ConfigurationError: the file cannot be read, is open to other users, or is not
                a key file.
        """
        content = self.read_bytes()
        if content is None:
            return ()
        try:
            document = json.loads(content)
            return tuple(AccessKey.from_document(entry) for entry in _entries(document))
        except (ValueError, KeyError, TypeError):
            # Without the cause: it may quote a secret.
            raise ConfigurationError(
                f"{self.path} is not a file of access keys; remove it to have a new one made"
            ) from None

    def add(self, key: AccessKey, now: float) -> None:
        """Add a key, in place of one with its id, and remove those that have expired.

        Raises:
            ConfigurationError: the file cannot be read or written.
        """
        with self.locked():
            kept = (
                each
                for each in self.read()
                if not each.has_expired(now) and each.access_key_id != key.access_key_id
            )
            self._write([*kept, key])

    def revoke(self, access_key_id: str) -> AccessKey | None:
        """Remove a key and return it, ``None`` when it is not there.

        Raises:
            ConfigurationError: the file cannot be read or written.
        """
        with self.locked():
            keys = self.read()
            found = next((key for key in keys if key.access_key_id == access_key_id), None)
            if found is not None:
                self._write([key for key in keys if key is not found])
            return found

    def ensure_own(self, now: float) -> AccessKey:
        """Return the service's own key, made if need be.

        It is the first without any restriction that is not of another machine.

        Raises:
            ConfigurationError: the file cannot be read or written.
        """
        with self.locked():
            keys = self.read()
            for key in keys:
                if key.is_privileged and not key.joined:
                    return key
            own = new_key("default", now)
            self._write([*keys, own])
            return own

    def _write(self, keys: Sequence[AccessKey]) -> None:
        document = {"keys": [key.to_document() for key in keys]}
        self.replace(json.dumps(document, indent=2).encode() + b"\n")


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

    signature: Signature | None
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
