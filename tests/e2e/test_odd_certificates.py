"""Certificates, keys and places for them that cannot be used: one line, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from support.network.applications import application
from support.processes.child import clean_environment, installed, process
from support.tunnel import proxy_process
from tailrace.cli.exit_codes import ExitCode
from tailrace.common.addresses import TCPAddress
from tailrace.common.secret import Secret

TOKEN = Secret("q" * 40)
DAY = timedelta(days=1)


class Authority:
    """Issues certificates that trustme does not."""

    def __init__(self, directory: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = directory / "ca.pem"
        self.certificate = self.issue("Odd CA", self.key, is_authority=True)
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        *names: str,
        since: timedelta = -DAY,
        until: timedelta = DAY,
        is_authority: bool = False,
        issuer: tuple[str, ec.EllipticCurvePrivateKey] | None = None,
    ) -> x509.Certificate:
        issuer_name, issuer_key = issuer or ("Odd CA", self.key)
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name)]),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now + since,
            not_valid_after=now + until,
        ).add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        if names:
            alternative = x509.SubjectAlternativeName([x509.DNSName(each) for each in names])
            builder = builder.add_extension(alternative, critical=False)
        return builder.sign(issuer_key, hashes.SHA256())


def odd_chain(kind: str, authority: Authority, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return what a server shows, in PEM, the key in front."""
    chain: list[x509.Certificate] = []
    match kind:
        case "without names":
            chain = [authority.issue("x", key)]
        case "expired":
            chain = [authority.issue("x", key, "localhost", since=-2 * DAY, until=-DAY)]
        case "not yet valid":
            chain = [authority.issue("x", key, "localhost", since=DAY, until=2 * DAY)]
        case "long chain":
            issuer = None
            for number in range(120):
                own = ec.generate_private_key(ec.SECP256R1())
                name = f"Intermediate {number}"
                made = authority.issue(name, own, is_authority=True, issuer=issuer)
                chain.insert(0, made)
                issuer = name, own
            chain.insert(0, authority.issue("x", key, "localhost", issuer=issuer))
        case "huge":
            names = (f"host-{number}.example" for number in range(6000))
            chain = [authority.issue("x", key, "localhost", *names)]
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key.private_bytes(*form) + b"".join(c.public_bytes(Encoding.PEM) for c in chain)


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("without names", ExitCode.TLS, "hostname mismatch"),
        ("expired", ExitCode.TLS, "certificate has expired"),
        ("not yet valid", ExitCode.TLS, "certificate is not yet valid"),
        ("long chain", ExitCode.TLS, "'CN=Intermediate 115'; 116 more; trusted"),
        ("huge", ExitCode.NETWORK, "excessive message size; its certificates are larger than"),
    ],
)
async def test_what_a_service_shows(tmp_path: Path, kind: str, code: ExitCode, said: str):
    authority = Authority(tmp_path)
    shown = tmp_path / "shown.pem"
    shown.write_bytes(odd_chain(kind, authority, ec.generate_private_key(ec.SECP256R1())))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown)
    settings = tmp_path / "settings.json"
    settings.write_text('{"tunneling": {"proxy": {"websocket": {"connect_retry_count": "0"}}}}')

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()

    async with application(serve, tls=context) as where:
        assert isinstance(where, TCPAddress)
        arguments = ["-m", "src", "-e", f"localhost:{where.port}", "-c", str(authority.file)]
        arguments += ["--settings-json", str(settings)]
        with proxy_process(tmp_path, "source", arguments, TOKEN) as proxy:
            assert await proxy.exit_code() == code, proxy.log
            assert said in proxy.fatal_line
            assert len(proxy.fatal_line) < 1000


@pytest.mark.parametrize("name", ["-c", "SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_a_pipe_in_the_place_of_certificates(tmp_path: Path, name: str):
    """Waiting for it would not even end with SIGTERM."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    arguments = ["-m", "src", "-e", "localhost:1", *(["-c", str(pipe)] if name == "-c" else [])]
    environment = {} if name == "-c" else {name: str(pipe)}
    with proxy_process(tmp_path, "source", arguments, TOKEN, **environment) as proxy:
        assert await proxy.exit_code() == ExitCode.USAGE
        assert f"{pipe} is a pipe or a device, and no file" in proxy.fatal_line


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("encrypted key", "the key is encrypted; decrypt it with: openssl pkey"),
        ("key of another", "the key belongs to another certificate"),
        ("pipe", "is a pipe or a device, and no file"),
    ],
)
async def test_a_key_that_the_service_cannot_use(tmp_path: Path, fault: str, said: str):
    issued = trustme.CA().issue_cert("localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    match fault:
        case "encrypted key":
            encryption = BestAvailableEncryption(b"nobody-is-asked")
            private = ec.generate_private_key(ec.SECP256R1())
            key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        case "key of another":
            trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(key)
        case _:
            os.mkfifo(key)
    command = [installed("tailrace"), "serve", "--state-dir", str(tmp_path / "state")]
    command += ["--tls-cert", str(cert), "--tls-key", str(key)]
    # Without a terminal of its own, which OpenSSL would ask on whatever the streams are.
    with process("serve", ["setsid", "--wait", *command], tmp_path, clean_environment()) as serve:
        assert await serve.exit_code() == ExitCode.USAGE
        (line,) = serve.log.splitlines()
        assert line.startswith("tailrace serve: ")
        assert said in line
