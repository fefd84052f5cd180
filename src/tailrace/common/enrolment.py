"""What an invited machine and the service say to each other.

The machine asks ``GET /join/ca.pem`` for the certificates of the service's authority, on a
connection that is not trusted yet, and looks for the one whose key was pinned. On another one,
which that certificate must verify, it sends ``POST /join`` with its one-time code and the secret
key that it has made. So the secret is known to nobody else, the answer holds none, and a machine
whose answer was lost asks again: with the same secret it is the same one.
"""

from __future__ import annotations

import re
import secrets
from enum import Enum
from typing import Final

from .secret import Secret

__all__ = [
    "AUTHORITY_PATH",
    "JOIN_PATH",
    "MAX_AUTHORITY",
    "MAX_REQUEST",
    "Role",
    "is_pin",
    "is_secret_key",
    "new_code",
    "new_secret_key",
    "read_code",
]

JOIN_PATH: Final = "/join"
AUTHORITY_PATH: Final = "/join/ca.pem"
MAX_REQUEST: Final = 1024
"""Bytes of a request to join."""
MAX_AUTHORITY: Final = 256 * 1024
"""Bytes of certificates that a machine takes."""

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
"""Base32 (RFC 4648): nothing that a shell reads, and no two letters that look alike."""
_CODE_LENGTH: Final = 26
"""130 random bits."""
_CODE: Final = re.compile(f"[{_ALPHABET}]{{{_CODE_LENGTH}}}")
_SECRET_KEY: Final = re.compile(r"[A-Za-z0-9_-]{43,128}")
_PIN: Final = re.compile(r"sha256:[0-9a-f]{64}")


class Role(Enum):
    """What a machine is invited as."""

    DEVICE = "device"
    OPERATOR = "operator"


def new_code() -> Secret:
    """Return a new one-time code."""
    return Secret("".join(secrets.choice(_ALPHABET) for _ in range(_CODE_LENGTH)))


def read_code(text: str) -> Secret | None:
    """Return the code that somebody typed, in any case, with hyphens; ``None`` for none."""
    code = text.strip().replace("-", "").upper()
    return Secret(code) if _CODE.fullmatch(code) else None


def new_secret_key() -> Secret:
    """Return a new secret key: 256 random bits."""
    return Secret(secrets.token_urlsafe(32))


def is_secret_key(text: str) -> bool:
    """Return whether ``text`` has the form of a secret key."""
    return _SECRET_KEY.fullmatch(text) is not None


def is_pin(text: str) -> bool:
    """Return whether ``text`` is ``sha256:`` and the SHA-256 of a public key in hexadecimal."""
    return _PIN.fullmatch(text) is not None
