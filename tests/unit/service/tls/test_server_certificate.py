"""Certificates: given ones, and new ones for a running listener."""

import os
import ssl
from pathlib import Path

import pytest
import trustme

from tailrace.errors import ConfigurationError
from tailrace.service.tls.authority import Certificates
from tailrace.service.tls.server_certificate import ServerTls, given_certificates


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
