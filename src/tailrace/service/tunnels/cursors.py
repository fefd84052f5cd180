"""Opaque cursors: where a list goes on, readable for this process only.

A position counts all tunnels, so that a cursor in clear would tell how many others have opened.
It is encrypted and authenticated (AES-GCM) under a key that is made with the process, together
with what the list is of. A cursor that another list, key or process gave is refused.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Final

from ..errors import InvalidCursor

__all__ = ["Cursors"]

_NONCE: Final = 12
_POSITION: Final = 8


class Cursors:
    """Makes and reads cursors of one process."""

    def __init__(self) -> None:
        # Commands that run no service have to start without it, and need not pay for it.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._forged = InvalidTag
        self._cipher = AESGCM(AESGCM.generate_key(128))

    def seal(self, position: int, purpose: Sequence[str]) -> str:
        """Return a cursor for a ``position`` below 2**64; all cursors have the same length."""
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._cipher.encrypt(nonce, position.to_bytes(_POSITION, "big"), _bytes(purpose))
        return urlsafe_b64encode(nonce + sealed).decode()

    def open(self, cursor: str, purpose: Sequence[str]) -> int:
        """Return the position in a cursor.

        Raises:
            InvalidCursor: it was not made by :meth:`seal` for the same purpose.
        """
        try:
            content = urlsafe_b64decode(cursor)
            position = self._cipher.decrypt(content[:_NONCE], content[_NONCE:], _bytes(purpose))
        except (ValueError, self._forged):
            raise InvalidCursor("not a cursor of this list") from None
        return int.from_bytes(position, "big")


def _bytes(purpose: Sequence[str]) -> bytes:
    return "\0".join(purpose).encode()
