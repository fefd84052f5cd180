"""Pins: digests of the public keys that a machine is to trust on its first contact."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ...errors import ConfigurationError

__all__ = ["certificate_hosts", "pins_of"]

_MOST: Final = 4


def pins_of(ca_file: Path) -> tuple[str, ...]:
    """Return ``sha256:HEX`` of the public key (SPKI, in DER) of each authority in a PEM file.

    Where it holds none, the certificates themselves are what is trusted.

    Raises:
        ConfigurationError: the file cannot be read, or holds too many.
    """
    try:
        found = x509.load_pem_x509_certificates(ca_file.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read {ca_file}: {error.strerror}") from error
    except ValueError:
        raise ConfigurationError(f"{ca_file} holds no certificate in PEM") from None
    trusted = [each for each in found if _is_authority(each)] or found
    if len(trusted) > _MOST:
        raise ConfigurationError(
            f"{ca_file} holds {len(trusted)} authorities; give the service one with --tls-ca"
        )
    return tuple(dict.fromkeys(map(_pin, trusted)))


def certificate_hosts(server_file: Path) -> tuple[str, ...]:
    """Return the names and addresses for which a server certificate is good.

    Raises:
        ConfigurationError: the file cannot be read, or holds no such certificate.
    """
    try:
        certificate = x509.load_pem_x509_certificate(server_file.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except OSError as error:
        raise ConfigurationError(f"cannot read {server_file}: {error.strerror}") from error
    except (ValueError, x509.ExtensionNotFound):
        raise ConfigurationError(f"{server_file} holds no certificate of a server") from None
    addresses = names.get_values_for_type(x509.IPAddress)
    return (*names.get_values_for_type(x509.DNSName), *map(str, addresses))


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound):
        return False


def _pin(certificate: x509.Certificate) -> str:
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(key).hexdigest()}"
