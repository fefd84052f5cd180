"""The certificate of the listeners, and its renewal while they run."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509

from ...errors import ConfigurationError
from .authority import Certificates, fill_ca_dir

__all__ = ["ServerTls", "given_certificates"]


def given_certificates(
    directory: Path, cert: Path, key: Path | None, ca: Path | None
) -> Certificates:
    """Return the certificate in the file ``cert``, with its chain and key, all in PEM.

    ``key`` may be ``None`` when it is in the same file. ``ca`` is what clients have to
    trust; ``None`` means ``cert``, which is right when it is self-signed and does no harm
    when a public authority signed it.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    trusted = ca or cert
    try:
        authorities = x509.load_pem_x509_certificates(trusted.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read {trusted}: {error.strerror}") from error
    except ValueError:
        raise ConfigurationError(f"{trusted} holds no certificate in PEM") from None
    certificates = Certificates(trusted, directory / "ca-given", cert, key or cert)
    fill_ca_dir(certificates.ca_dir, authorities)
    return certificates


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
            self.context.load_cert_chain(certificates.server_file, certificates.server_key_file)
        self.certificates, self._shown = certificates, _pem(certificates)


def _context(certificates: Certificates) -> ssl.SSLContext:
    with _complaints(certificates):
        return certificates.server_context()


def _pem(certificates: Certificates) -> bytes:
    with _complaints(certificates):
        return certificates.server_file.read_bytes()


@contextmanager
def _complaints(certificates: Certificates) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        names = " and ".join(
            dict.fromkeys(map(str, (certificates.server_file, certificates.server_key_file)))
        )
        reason = error.strerror or error
        raise ConfigurationError(f"cannot use the certificate in {names}: {reason}") from None
