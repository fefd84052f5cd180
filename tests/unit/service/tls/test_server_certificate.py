"""Certificates: given ones, and new ones for a running listener."""

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from tailrace.errors import ConfigurationError
from tailrace.service.errors import SettingUnusable
from tailrace.service.tls.authority import Certificates
from tailrace.service.tls.server_certificate import ServerTls, _faults, given_certificates


class Issued:
    """Files of a certificate by an authority of its own."""

    def __init__(self, directory: Path, name: str) -> None:
        self.authority = trustme.CA()
        issued = self.authority.issue_cert(name)
        self.ca = directory / f"{name}-ca.pem"
        self.cert = directory / f"{name}.pem"
        self.key = directory / f"{name}.key"
        self.both = directory / f"{name}-both.pem"
        self.authority.cert_pem.write_to_path(self.ca)
        issued.cert_chain_pems[0].write_to_path(self.cert)
        issued.private_key_pem.write_to_path(self.key)
        issued.private_key_and_cert_chain_pem.write_to_path(self.both)

    def certificates(self, directory: Path) -> Certificates:
        return given_certificates(directory, self.cert, self.key, self.ca)


def shown_name(context: ssl.SSLContext, authority: Path) -> str:
    """The name in the certificate that a server with this context shows."""
    client_context = ssl.create_default_context(cafile=authority)
    client_context.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    certificate = client.getpeercert()
    assert certificate is not None
    names = certificate["subjectAltName"]
    return str(names[0][1])


def test_a_given_certificate(tmp_path: Path) -> None:
    issued = Issued(tmp_path, "tunnel.example")
    tls = ServerTls(lambda: issued.certificates(tmp_path))
    assert shown_name(tls.context, issued.ca) == "tunnel.example"
    # The directory is one that --capath takes.
    (entry,) = tls.certificates.ca_dir.iterdir()
    assert entry.suffix == ".0"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(capath=tls.certificates.ca_dir)


def test_one_file_for_all(tmp_path: Path) -> None:
    issued = Issued(tmp_path, "tunnel.example")
    tls = ServerTls(lambda: given_certificates(tmp_path, issued.both, None, None))
    assert tls.certificates.ca_file == issued.both
    assert shown_name(tls.context, issued.ca) == "tunnel.example"


def test_several_authorities(tmp_path: Path) -> None:
    issued = Issued(tmp_path, "a.example")
    twice = tmp_path / "several.pem"
    other = Issued(tmp_path, "b.example")
    twice.write_bytes(issued.ca.read_bytes() * 2 + other.ca.read_bytes())
    found = given_certificates(tmp_path, issued.cert, issued.key, twice)
    names = sorted(path.name for path in found.ca_dir.iterdir())
    # All have the same subject words, so they may share a hash and are numbered.
    assert len(names) == 3
    given_certificates(tmp_path, issued.cert, issued.key, issued.ca)
    assert len(list(found.ca_dir.iterdir())) == 1


def test_reloading(tmp_path: Path) -> None:
    first, second = Issued(tmp_path, "first.example"), Issued(tmp_path, "second.example")
    current = first
    tls = ServerTls(lambda: current.certificates(tmp_path))
    context = tls.context
    current = second
    assert shown_name(context, first.ca) == "first.example"
    loaded = tls.load()
    assert shown_name(context, first.ca) == "first.example"
    tls.switch(loaded)
    assert tls.context is context
    assert shown_name(context, second.ca) == "second.example"
    assert tls.certificates.server_file == second.cert


def test_renewing(tmp_path: Path) -> None:
    first, second = Issued(tmp_path, "first.example"), Issued(tmp_path, "second.example")
    current = first
    tls = ServerTls(lambda: current.certificates(tmp_path))
    assert not tls.renew()
    current = second
    assert tls.renew()
    assert shown_name(tls.context, second.ca) == "second.example"
    assert not tls.renew()
    second.cert.unlink()
    with pytest.raises(ConfigurationError, match="No such file"):
        tls.renew()


def test_a_certificate_without_a_key_needs_the_option_for_one(tmp_path: Path) -> None:
    issued = Issued(tmp_path, "a.example")
    with pytest.raises(SettingUnusable) as caught:
        ServerTls(lambda: given_certificates(tmp_path, issued.cert, None, None))
    assert caught.value.text({"tls_key": "--tls-key"}) == (
        f"cannot use the certificate in {issued.cert}: no private key follows it; "
        "name one with --tls-key"
    )


def test_what_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    issued, other = Issued(tmp_path, "a.example"), Issued(tmp_path, "b.example")
    tls = ServerTls(lambda: issued.certificates(tmp_path))
    os.replace(other.key, issued.key)
    with pytest.raises(ConfigurationError, match="cannot use the certificate in") as caught:
        tls.load()
    assert str(issued.key) in str(caught.value)
    assert shown_name(tls.context, issued.ca) == "a.example"
    with pytest.raises(ConfigurationError, match="cannot use the certificate in"):
        tls.switch(tls.certificates)
    issued.key.unlink()
    with pytest.raises(ConfigurationError, match="No such file"):
        tls.load()
    issued.ca.write_text("junk")
    with pytest.raises(ConfigurationError, match="holds no certificate"):
        tls.load()
    issued.ca.unlink()
    with pytest.raises(ConfigurationError, match="cannot read"):
        tls.load()
    assert shown_name(tls.context, _copy(tmp_path, issued)) == "a.example"


def _copy(directory: Path, issued: Issued) -> Path:
    path = directory / "copy.pem"
    issued.authority.cert_pem.write_to_path(path)
    return path


PASSPHRASE = b"nobody-is-asked"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("key of another", "the key belongs to another certificate"),
        ("encrypted key", "the key is encrypted; decrypt it with: openssl pkey -in FILE -out NEW"),
        ("short key", "the key is too short to be secure"),
        ("key in DER", "one of them holds no certificate or no key in PEM"),
        ("key that is none", "one of them holds no certificate or no key in PEM"),
        ("directory", "Is a directory"),
        ("missing key", "No such file or directory"),
    ],
)
def test_a_key_that_cannot_be_used_is_said_in_plain_words(
    tmp_path: Path, fault: str, said: str
) -> None:
    issued = Issued(tmp_path, "a.example")
    cert, key = issued.cert, tmp_path / "odd.key"
    private = load_pem_private_key(issued.key.read_bytes(), None)
    match fault:
        case "key of another":
            key = Issued(tmp_path, "b.example").key
        case "encrypted key":
            encryption = BestAvailableEncryption(PASSPHRASE)
            key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        case "short key":
            cert = tmp_path / "short.pem"
            write_weak_pair(cert, key)
        case "key in DER":
            form = (Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            key.write_bytes(private.private_bytes(*form))
        case "key that is none":
            key.write_text("junk")
        case "directory":
            key.mkdir()
    with pytest.raises(ConfigurationError) as caught:
        ServerTls(lambda: given_certificates(tmp_path, cert, key, None))
    assert said in str(caught.value)
    assert str(key) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "_ssl" not in str(caught.value)


def write_weak_pair(cert: Path, key: Path) -> None:
    """Write a certificate with a key that nobody takes any more."""
    private = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "weak")])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, private.public_key(), 5, start, start)
    cert.write_bytes(builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM))
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key.write_bytes(private.private_bytes(*form))


@pytest.mark.parametrize("place", ["cert", "key", "ca"])
def test_a_pipe_holds_up_nothing(tmp_path: Path, place: str) -> None:
    issued = Issued(tmp_path, "a.example")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    files = {"cert": issued.cert, "key": issued.key, "ca": issued.ca} | {place: pipe}
    with pytest.raises(ConfigurationError, match="pipe is a pipe or a device, and no file"):
        given_certificates(tmp_path, **files)


def certificate(**changes: Any) -> x509.Certificate:
    """A certificate that is valid in 2026."""
    fields = {
        "not_valid_before": datetime(2026, 1, 1, tzinfo=UTC),
        "not_valid_after": datetime(2026, 12, 31, tzinfo=UTC),
    }
    names = changes.pop("names", ["a.example"])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.example")])
    private = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(name, name, private.public_key(), 5, **(fields | changes))
    if names:
        alternative = x509.SubjectAlternativeName([x509.DNSName(each) for each in names])
        builder = builder.add_extension(alternative, critical=False)
    return builder.sign(private, hashes.SHA256())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"not_valid_after": datetime(2026, 2, 1, tzinfo=UTC)}, ["it has expired on 2026-02-01"]),
        ({"not_valid_before": datetime(2026, 8, 1, tzinfo=UTC)}, ["it is not valid before 2026-"]),
        ({"names": []}, ["it has no subject alternative name (RFC 9110 section 4.3.4)"]),
        (
            {"names": [f"host-{number}.example" for number in range(6000)]},
            ["with its chain it is larger than 100 KiB"],
        ),
    ],
)
def test_what_clients_may_refuse(changes: dict[str, Any], said: list[str]) -> None:
    found = list(_faults([certificate(**changes)], datetime(2026, 6, 1, tzinfo=UTC)))
    assert len(found) == len(said)
    assert all(text.startswith(each) for text, each in zip(found, said, strict=True))


def test_an_expired_certificate_is_shown_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "old.pem"
    old = certificate(
        not_valid_before=datetime(2020, 1, 1, tzinfo=UTC),
        not_valid_after=datetime(2021, 1, 1, tzinfo=UTC),
    )
    path.write_bytes(old.public_bytes(Encoding.PEM))
    given_certificates(tmp_path, path, None, None)
    assert caplog.messages == [
        f"clients may refuse the certificate in {path}: it has expired on 2021-01-01"
    ]
