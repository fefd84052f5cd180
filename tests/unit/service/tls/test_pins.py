"""What machines are told to trust, from the service's files."""

from pathlib import Path

import pytest
import trustme

from tailrace.errors import ConfigurationError
from tailrace.link.tls.pin import certificates_of, pin_of
from tailrace.service.tls.authority import ensure_certificates
from tailrace.service.tls.pins import certificate_hosts, pins_of


def pin(blob: trustme.Blob) -> str:
    (der,) = certificates_of(blob.bytes().decode())
    return pin_of(der)


def test_the_service_and_machines_reckon_alike(tmp_path: Path) -> None:
    made = ensure_certificates(tmp_path, ("localhost", "::1"), 1_700_000_000.0)
    (der,) = certificates_of(made.ca_file.read_text())
    assert pins_of(made.ca_file) == (pin_of(der),)
    assert set(certificate_hosts(made.server_file)) == {"localhost", "::1"}


def test_authorities_count_and_without_any_the_certificates(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    leaf = first.issue_cert("a.example").cert_chain_pems[0]
    file = tmp_path / "ca.pem"

    def write(*blobs: trustme.Blob) -> Path:
        file.write_bytes(b"".join(each.bytes() for each in blobs))
        return file

    assert pins_of(write(leaf, first.cert_pem)) == (pin(first.cert_pem),)
    both = (pin(first.cert_pem), pin(second.cert_pem))
    assert pins_of(write(first.cert_pem, second.cert_pem, first.cert_pem)) == both
    assert pins_of(write(leaf)) == (pin(leaf),)
    with pytest.raises(ConfigurationError, match="holds 5 authorities; give the service one"):
        pins_of(write(*[first.cert_pem] * 5))


def test_files_that_are_no_certificates(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    for read in (pins_of, certificate_hosts):
        with pytest.raises(ConfigurationError, match="cannot read"):
            read(file)
    file.write_text("no")
    with pytest.raises(ConfigurationError, match="holds no certificate in PEM"):
        pins_of(file)
    file.write_bytes(trustme.CA().cert_pem.bytes())
    with pytest.raises(ConfigurationError, match="holds no certificate of a server"):
        certificate_hosts(file)
