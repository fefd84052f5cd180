"""The trust bundle."""

import ssl
from pathlib import Path

import pytest

from tailrace.errors import ConfigurationError
from tailrace.service.tls import ca_bundle as trust
from tailrace.service.tls.authority import ensure_certificates
from tailrace.service.tls.ca_bundle import system_trust, write_bundle


def test_the_bundle_holds_both(tmp_path: Path) -> None:
    certificates = ensure_certificates(tmp_path / "tls", ("localhost",), 1.8e9)
    bundle = tmp_path / "bundle.pem"
    write_bundle(bundle, certificates.ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(bundle)
    ours = ssl.PEM_cert_to_DER_cert(certificates.ca_file.read_text())
    assert ours in context.get_ca_certs(binary_form=True)
    assert bundle.read_bytes().startswith(system_trust().rstrip(b"\n"))


def test_a_bundle_that_is_up_to_date_is_not_written(tmp_path: Path) -> None:
    """It may be where nothing can be written."""
    certificates = ensure_certificates(tmp_path / "tls", ("localhost",), 1.8e9)
    bundle = tmp_path / "bundle.pem"
    write_bundle(bundle, certificates.ca_file)
    before = bundle.stat()
    write_bundle(bundle, certificates.ca_file)
    assert bundle.stat() == before
    bundle.write_bytes(b"old")
    write_bundle(bundle, certificates.ca_file)
    assert bundle.stat().st_ino != before.st_ino


def test_earlier_bundles_are_not_taken_for_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(b"junk")
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    assert system_trust() != b"junk"


def test_a_missing_authority(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ca\.pem"):
        write_bundle(tmp_path / "bundle.pem", tmp_path / "ca.pem")


def test_a_python_whose_openssl_was_built_for_another_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = ssl.get_default_verify_paths()._replace(openssl_cafile=str(tmp_path / "none"))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: elsewhere)
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(b"the distribution's")
    monkeypatch.setattr(trust, "_KNOWN_BUNDLES", (str(tmp_path / "missing"), str(bundle)))
    assert system_trust() == b"the distribution's"
    bundle.unlink()
    assert system_trust() == b""
