"""Certificates, with OpenSSL as the judge."""

import shutil
import socket
import ssl
import stat
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tailrace.errors import ConfigurationError
from tailrace.service.tls.authority import (
    Certificates,
    certificate_names,
    ensure_certificates,
    subject_hash,
)

NOW = datetime.now(UTC).timestamp()
DAY = 86400.0
NAMES = ("localhost", "127.0.0.1", "::1", "box.example")


def handshake(certificates: Certificates, client: ssl.SSLContext, name: str) -> str:
    """Shake hands over a socket pair; return the TLS version."""
    ours, theirs = socket.socketpair()
    server = certificates.server_context()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as tls:
            return tls.version() or ""
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["cafile", "capath"])
def test_clients_trust_the_server(tmp_path: Path, name: str, kind: str) -> None:
    certificates = ensure_certificates(tmp_path / "tls", NAMES, NOW)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if kind == "cafile":
        context.load_verify_locations(cafile=certificates.ca_file)
    else:
        context.load_verify_locations(capath=certificates.ca_dir)
    assert handshake(certificates, context, name) == "TLSv1.3"


def test_other_names_and_other_authorities_are_not_trusted(tmp_path: Path) -> None:
    certificates = ensure_certificates(tmp_path / "tls", NAMES, NOW)
    other = ensure_certificates(tmp_path / "other", NAMES, NOW)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=certificates.ca_file)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificates, context, "elsewhere.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(other, context, "localhost")


def test_keys_are_private(tmp_path: Path) -> None:
    directory = tmp_path / "tls"
    ensure_certificates(directory, NAMES, NOW)
    for path in directory.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(list(directory.glob("*.key"))) == 2


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_nothing_changes_without_need(tmp_path: Path) -> None:
    directory = tmp_path / "tls"
    ensure_certificates(directory, NAMES, NOW)
    before = contents(directory)
    ensure_certificates(directory, tuple(reversed(NAMES)), NOW + 300 * DAY)
    assert contents(directory) == before


@pytest.mark.parametrize(
    ("names", "days"), [((*NAMES, "new.example"), 0), (NAMES[:2], 0), (NAMES, 380)]
)
def test_the_server_certificate_is_renewed(
    tmp_path: Path, names: tuple[str, ...], days: int
) -> None:
    directory = tmp_path / "tls"
    first = ensure_certificates(directory, NAMES, NOW)
    authority, server = first.ca_file.read_bytes(), first.server_file.read_bytes()
    ensure_certificates(directory, names, NOW + days * DAY)
    assert first.ca_file.read_bytes() == authority
    assert first.server_file.read_bytes() != server


@pytest.mark.parametrize("lost", ["ca.key", "ca.pem"])
def test_a_lost_authority_is_replaced_with_all_it_signed(tmp_path: Path, lost: str) -> None:
    directory = tmp_path / "tls"
    certificates = ensure_certificates(directory, NAMES, NOW)
    (directory / lost).unlink()
    ensure_certificates(directory, NAMES, NOW)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(capath=certificates.ca_dir)
    assert handshake(certificates, context, "localhost")
    assert len(list(certificates.ca_dir.iterdir())) == 1


def test_an_authority_at_its_end_is_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "tls"
    certificates = ensure_certificates(directory, NAMES, NOW)
    before = certificates.ca_file.read_bytes()
    ensure_certificates(directory, NAMES, NOW + 3640 * DAY)
    assert certificates.ca_file.read_bytes() != before


def test_keys_that_do_not_fit_are_replaced(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    ensure_certificates(one, NAMES, NOW)
    ensure_certificates(two, NAMES, NOW)
    shutil.copy(two / "server.key", one / "server.key")
    ensure_certificates(one, NAMES, NOW).server_context()


def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    directory = tmp_path / "tls"
    ensure_certificates(directory, NAMES, NOW)
    (directory / "server.pem").write_text("junk")
    with pytest.raises(ConfigurationError, match=r"server\.pem"):
        ensure_certificates(directory, NAMES, NOW)


def test_impossible_names_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="host_names"):
        ensure_certificates(tmp_path / "tls", ("caf\u00e9",), NOW)


def test_names() -> None:
    names = certificate_names(["tunnel.example", "localhost"])
    assert names[:3] == ("localhost", "127.0.0.1", "::1")
    assert socket.gethostname().lower() in names
    assert names.count("localhost") == 1
    assert "tunnel.example" in names


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
@pytest.mark.parametrize(
    "attributes",
    [
        [(NameOID.COMMON_NAME, "Simple")],
        [(NameOID.COUNTRY_NAME, "DE"), (NameOID.COMMON_NAME, "  Two   Spaces  ")],
        [(NameOID.ORGANIZATION_NAME, "x" * 64), (NameOID.COMMON_NAME, "MiXeD CaSe 12")],
        [(NameOID.EMAIL_ADDRESS, "Root@Example.org"), (NameOID.COMMON_NAME, "y" * 64)],
        [(NameOID.ORGANIZATION_NAME, "z" * 64)] * 4,
    ],
)
def test_subject_hash_is_that_of_openssl(
    tmp_path: Path, attributes: list[tuple[x509.ObjectIdentifier, str]]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "c.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    answer = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", path], capture_output=True, check=True
    )
    assert subject_hash(certificate) == answer.stdout.decode().strip()
