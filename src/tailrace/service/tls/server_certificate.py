"""The certificate of the listeners, and its renewal while they run."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ...common.certificate_files import certificate_error_text, holds_no_pem
from ...common.special_files import is_special
from ...errors import ConfigurationError
from ..errors import SettingUnusable
from .authority import Certificates, fill_ca_dir

__all__ = ["ServerTls", "given_certificates"]

_log = logging.getLogger(__name__)

_LARGEST_CHAIN: Final = 100 * 1024
"""Bytes of certificates that OpenSSL takes from a server (SSL_CTX_set_max_cert_list(3))."""

_MISSING: Final = "one of them holds no certificate or no key in PEM"


def given_certificates(
    directory: Path, cert: Path, key: Path | None, ca: Path | None
) -> Certificates:
    """Return the certificate in the file ``cert``, with its chain and key, all in PEM.

    ``key`` may be ``None`` when it is in the same file. ``ca`` is what clients have to
    trust; ``None`` means ``cert``, which is right when it is self-signed and does no harm
    when a public authority signed it.

    What clients may refuse is logged: a service may be set up before its certificate is valid.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    shown = _read(cert)
    for fault in _faults(shown, datetime.now(UTC)):
        _log.warning("clients may refuse the certificate in %s: %s", cert, fault)
    authorities = shown if ca is None else _read(ca)
    if key is not None and is_special(key):
        raise ConfigurationError(f"{key} is a pipe or a device, and no file")
    certificates = Certificates(ca or cert, directory / "ca-given", cert, key or cert)
    fill_ca_dir(certificates.ca_dir, authorities)
    return certificates


def _read(path: Path) -> Sequence[x509.Certificate]:
    """Return the certificates in a file, at least one."""
    if is_special(path):
        raise ConfigurationError(f"{path} is a pipe or a device, and no file")
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except ValueError:
        raise ConfigurationError(f"{path} holds no certificate in PEM") from None


def _faults(chain: Sequence[x509.Certificate], now: datetime) -> Iterator[str]:
    """Yield what is wrong with a server's certificate, which comes first, or its chain."""
    leaf = chain[0]
    if now > leaf.not_valid_after_utc:
        yield f"it has expired on {leaf.not_valid_after_utc:%Y-%m-%d}"
    if now < leaf.not_valid_before_utc:
        yield f"it is not valid before {leaf.not_valid_before_utc:%Y-%m-%d}"
    try:
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        yield "it has no subject alternative name (RFC 9110 section 4.3.4)"
    except ValueError:
        yield "its extensions are broken"
    if sum(len(each.public_bytes(Encoding.DER)) for each in chain) > _LARGEST_CHAIN:
        yield "with its chain it is larger than 100 KiB"


class ServerTls:
    """The TLS context of all listeners; ``load`` finds or makes the certificates.

    Raises:
        ConfigurationError: the certificates cannot be used.
    """

    def __init__(self, load: Callable[[], Certificates]) -> None:
        self._load = load
        self.certificates = load()
        self.context = _context(self.certificates)
        self._shown = _pem(self.certificates)
        self.authorities = _authorities(self.certificates)
        """What clients have to trust, in PEM."""

    def renew(self) -> bool:
        """Load the certificates again; return whether the server has another one now.

        Raises:
            ConfigurationError: they cannot be used; everything stays as it was.
        """
        certificates = self.load()
        if _pem(certificates) == self._shown:
            return False
        self.switch(certificates)
        return True

    def load(self) -> Certificates:
        """Load the certificates again, for :meth:`switch`.

        Raises:
            ConfigurationError: they cannot be used.
        """
        certificates = self._load()
        # A key that does not fit must not be noticed half-way in the live context.
        _context(certificates)
        return certificates

    def switch(self, certificates: Certificates) -> None:
        """Show the certificate that :meth:`load` has loaded to connections from now on.

        Raises:
            ConfigurationError: its files have just changed, and cannot be used.
        """
        with _complaints(certificates):
            certificates.load_into(self.context)
        self.certificates, self._shown = certificates, _pem(certificates)
        self.authorities = _authorities(certificates)


def _context(certificates: Certificates) -> ssl.SSLContext:
    with _complaints(certificates):
        return certificates.server_context()


def _pem(certificates: Certificates) -> bytes:
    with _complaints(certificates):
        return certificates.server_file.read_bytes()


def _authorities(certificates: Certificates) -> bytes:
    with _complaints(certificates):
        return certificates.ca_file.read_bytes()


@contextmanager
def _complaints(certificates: Certificates) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cert = certificates.server_file
        if certificates.server_key_file == cert and holds_no_pem(error):
            template = (
                "cannot use the certificate in {cert}: no private key follows it; name one with {0}"
            )
            raise SettingUnusable(template, "tls_key", cert=cert) from None
        names = " and ".join(
            dict.fromkeys(map(str, (certificates.server_file, certificates.server_key_file)))
        )
        text = certificate_error_text(error, missing=_MISSING)
        raise ConfigurationError(f"cannot use the certificate in {names}: {text}") from None
