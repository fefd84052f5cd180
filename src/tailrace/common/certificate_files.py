"""What is wrong with files of certificates and keys, in plain words."""

from __future__ import annotations

import errno
import ssl
from typing import Final, NoReturn

__all__ = ["certificate_error_text", "holds_no_pem", "refuse_passphrase"]

_NOT_PEM: Final = frozenset({"", "NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE", "PEM_LIB"})
_WORDS: Final = {
    "KEY_VALUES_MISMATCH": "the key belongs to another certificate",
    "EE_KEY_TOO_SMALL": "the key is too short to be secure",
}
"""OpenSSL's reason -> what it means."""


def holds_no_pem(error: OSError) -> bool:
    """Return whether OpenSSL says that it did not find in a file what it looked for."""
    return isinstance(error, ssl.SSLError) and (getattr(error, "reason", None) or "") in _NOT_PEM


def certificate_error_text(error: OSError, *, missing: str = "no certificate in PEM") -> str:
    """Return what OpenSSL or the system says about such a file, without codes.

    ``missing`` is what is not in it where OpenSSL does not find what it looks for.
    """
    if holds_no_pem(error):
        return missing
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    reason = error.reason
    return _WORDS.get(reason) or reason.lower().replace("_", " ")


def refuse_passphrase() -> NoReturn:
    """Refuse a key that is encrypted: the ``password`` of :meth:`ssl.SSLContext.load_cert_chain`.

    Without one, OpenSSL asks for the passphrase on the terminal.

    Raises:
        OSError: always.
    """
    text = "the key is encrypted; decrypt it with: openssl pkey -in FILE -out NEW_FILE"
    raise OSError(errno.EACCES, text)
