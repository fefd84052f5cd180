"""The access key that signs API requests: from the environment, or made on first start."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError
from ..secret import Secret
from .files import write_file

__all__ = ["ACCESS_KEY_VARIABLE", "SECRET_KEY_VARIABLE", "Credentials", "ensure_credentials"]

ACCESS_KEY_VARIABLE: Final = "TAILRACE_ACCESS_KEY_ID"
SECRET_KEY_VARIABLE: Final = "TAILRACE_SECRET_ACCESS_KEY"  # noqa: S105 - a name

_BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


@dataclass(frozen=True, slots=True)
class Credentials:
    """One access key."""

    access_key_id: str
    secret_access_key: Secret

    def secret_of(self, access_key_id: str) -> Secret | None:
        """Return the secret of an access key id, ``None`` for an unknown one."""
        return self.secret_access_key if access_key_id == self.access_key_id else None


def ensure_credentials(path: Path, environment: Mapping[str, str]) -> Credentials:
    """Return the access key in the environment or in the file, or make one (file mode 0600).

    Raises:
        ConfigurationError: only half of a key is in the environment, or the file
            cannot be read or written.
    """
    access_key_id = environment.get(ACCESS_KEY_VARIABLE, "")
    secret = environment.get(SECRET_KEY_VARIABLE, "")
    if access_key_id and secret:
        return Credentials(access_key_id, Secret(secret))
    if access_key_id or secret:
        raise ConfigurationError(
            f"set both {ACCESS_KEY_VARIABLE} and {SECRET_KEY_VARIABLE}, or none of them"
        )
    try:
        return _read(path)
    except FileNotFoundError:
        return _make(path)


def _read(path: Path) -> Credentials:
    try:
        document = json.loads(path.read_bytes())
        return Credentials(
            str(document["access_key_id"]), Secret(str(document["secret_access_key"]))
        )
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        # Without the cause: it may quote the secret.
        raise ConfigurationError(
            f"{path} is not a credentials file; remove it to have a new key made"
        ) from None


def _make(path: Path) -> Credentials:
    access_key_id = "AKIA" + "".join(secrets.choice(_BASE32) for _ in range(16))
    credentials = Credentials(access_key_id, Secret(secrets.token_urlsafe(30)))
    document = {
        "access_key_id": access_key_id,
        "secret_access_key": credentials.secret_access_key.reveal(),
    }
    write_file(path, json.dumps(document, indent=2).encode() + b"\n")
    return credentials
