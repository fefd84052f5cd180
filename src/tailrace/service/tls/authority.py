"""The service's own certificate authority and server certificate.

Made on first start and kept in the state directory, keys readable by the owner only.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ...common.atomic_files import make_private_directory, write_file
from ...common.certificate_files import refuse_passphrase
from ...common.private_files import OTHERS, OTHERS_MAY_WRITE, open_private
from ...errors import ConfigurationError
from ..errors import SettingUnusable

__all__ = [
    "Certificates",
    "certificate_names",
    "ensure_certificates",
    "fill_ca_dir",
    "subject_hash",
]

_CA_DAYS: Final = 3650
_SERVER_DAYS: Final = 397
_RENEW_DAYS: Final = 30
"""Days before the end of a certificate at which it is replaced."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Where the certificates are.

    ``ca_dir`` holds the authority under the name by which OpenSSL looks it up, so that it
    works as a ``--capath``.
    """

    ca_file: Path
    ca_dir: Path
    server_file: Path
    server_key_file: Path

    def server_context(self) -> ssl.SSLContext:
        """Return a TLS context for listeners: TLS 1.2 or newer, the server certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Let listeners with this context show the server certificate from now on.

        Raises:
            OSError: a file cannot be used.
        """
        context.load_cert_chain(self.server_file, self.server_key_file, password=refuse_passphrase)


def certificate_names(host_names: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the names of a server certificate: this machine's, and ``host_names``."""
    own = ("localhost", "127.0.0.1", "::1", socket.gethostname().lower())
    return tuple(dict.fromkeys(name for name in (*own, *host_names) if name))


def ensure_certificates(directory: Path, names: Sequence[str], now: float) -> Certificates:
    """Make the certificates in ``directory`` that are missing or unfit.

    A server certificate is unfit when it ends within 30 days, is not signed by the
    authority, or has other names than ``names``.

    Raises:
        ConfigurationError: a file cannot be read or written, or a name is not valid.
    """
    make_private_directory(directory)
    certificates = Certificates(
        ca_file=directory / "ca.pem",
        ca_dir=directory / "ca",
        server_file=directory / "server.pem",
        server_key_file=directory / "server.key",
    )
    ca_key_file = directory / "ca.key"
    today = datetime.fromtimestamp(now, UTC)
    authority = _load(certificates.ca_file, ca_key_file)
    if authority is None or _ends_soon(authority[0], today):
        authority = _make_authority(today)
        _save(certificates.ca_file, ca_key_file, *authority)
    server = _load(certificates.server_file, certificates.server_key_file)
    if server is None or not _is_fit(server[0], authority[0], names, today):
        _save(
            certificates.server_file,
            certificates.server_key_file,
            *_make_server(authority, names, today),
        )
    fill_ca_dir(certificates.ca_dir, [authority[0]])
    return certificates


def subject_hash(certificate: x509.Certificate) -> str:
    """Return the 8 hex digits by which OpenSSL looks up a CA, as ``openssl x509 -hash``.

    They are the start of the SHA-1, read as little endian, of the subject's
    canonical form: the relative names without the outer SEQUENCE, all text in UTF-8,
    lower case, with single spaces.
    """
    canonical = b""
    for rdn in certificate.subject.rdns:
        parts = []
        for attribute in rdn:
            oid = x509.Name([x509.NameAttribute(attribute.oid, "x" * 2)]).public_bytes()
            text = " ".join(str(attribute.value).lower().split()).encode()
            parts.append(_der(0x30, _object_identifier(oid) + _der(0x0C, text)))
        canonical += _der(0x31, b"".join(sorted(parts)))
    digest = hashlib.sha1(canonical, usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"


def _object_identifier(name: bytes) -> bytes:
    """Cut the OBJECT IDENTIFIER out of a DER name: SEQUENCE, SET, SEQUENCE, then it."""
    return name[6 : 8 + name[7]]


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def fill_ca_dir(directory: Path, authorities: Sequence[x509.Certificate]) -> None:
    """Put certificates into ``directory`` under the names by which OpenSSL looks them up.

    Other files in it are removed.

    Raises:
        ConfigurationError: a file cannot be written.
    """
    make_private_directory(directory)
    wanted: dict[Path, bytes] = {}
    for authority in authorities:
        digest = subject_hash(authority)
        number = sum(path.stem == digest for path in wanted)
        wanted[directory / f"{digest}.{number}"] = authority.public_bytes(Encoding.PEM)
    for other in directory.iterdir():
        if other not in wanted:
            other.unlink()
    for path, pem in wanted.items():
        if not path.exists() or path.read_bytes() != pem:
            write_file(path, pem, 0o644)


_Pair: TypeAlias = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _load(certificate_file: Path, key_file: Path) -> _Pair | None:
    """Read a certificate and its key; ``None`` when either is missing."""
    try:
        certificate = x509.load_pem_x509_certificate(_read(certificate_file, OTHERS_MAY_WRITE))
        key = load_pem_private_key(_read(key_file, OTHERS), None)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot read {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(
            f"cannot read {certificate_file} and {key_file}: {error}; remove both to have "
            "new ones made"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != (
        certificate.public_key()
    ):
        return None
    return certificate, key


def _read(path: Path, forbidden: int) -> bytes:
    with open(open_private(path, os.O_RDONLY, forbidden), "rb") as file:
        return file.read()


def _save(
    certificate_file: Path,
    key_file: Path,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> None:
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_file(key_file, key_pem)
    write_file(certificate_file, certificate.public_bytes(Encoding.PEM), 0o644)


def _ends_soon(certificate: x509.Certificate, today: datetime) -> bool:
    return certificate.not_valid_after_utc < today + timedelta(days=_RENEW_DAYS)


def _is_fit(
    certificate: x509.Certificate,
    authority: x509.Certificate,
    names: Sequence[str],
    today: datetime,
) -> bool:
    if _ends_soon(certificate, today):
        return False
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return set(extension.value) == set(_general_names(names))


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            try:
                found.append(x509.DNSName(name))
            except ValueError:
                raise SettingUnusable(
                    "{0} {name!r} is not a name for a certificate", "host_names", name=name
                ) from None
    return found


def _make_authority(today: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # The random part tells authorities of different services apart in a shared
    # trust store, where a certificate is found by its subject.
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tailrace"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Tailrace service CA {os.urandom(4).hex()}"),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _make_server(authority: _Pair, names: Sequence[str], today: datetime) -> _Pair:
    issuer, issuer_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tailrace service")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(min(today + timedelta(days=_SERVER_DAYS), issuer.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate, key


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
