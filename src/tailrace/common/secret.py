"""Values that must never be seen: access tokens, client tokens, keys."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

__all__ = ["Secret", "is_client_token"]

_CLIENT_TOKEN: Final = re.compile(r"[a-zA-Z0-9-]{32,128}")


def is_client_token(text: str) -> bool:
    """Return whether AWS accepts ``text`` as a client token (guide V3, handshake)."""
    return _CLIENT_TOKEN.fullmatch(text) is not None


class Secret:
    """A string whose text leaves only through :meth:`reveal`.

    ``repr``, ``str``, ``format``, logging and tracebacks show ``<redacted>``; pickling
    and copying are refused by having no way to the text.

    Example::

        token = opened.source_token.reveal()
    """

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        """Return the text; call it only where it goes on the wire or into a hash."""
        return self.__text

    @property
    def digest(self) -> str:
        """SHA-256 of the text in hex, for look-ups that must not hold the text."""
        return hashlib.sha256(self.__text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.__text.encode(), other.__text.encode())

    def __hash__(self) -> int:
        return hash(self.digest)

    def __bool__(self) -> bool:
        return bool(self.__text)

    def __repr__(self) -> str:
        return "<redacted>"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a secret cannot be pickled or copied")
