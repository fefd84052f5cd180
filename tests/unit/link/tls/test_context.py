"""Trust: what is loaded, and what a real handshake makes of it."""

from __future__ import annotations

import dataclasses
import logging
import os
import resource
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
import trustme

from support.network.certificates import Certificates, handshake
from support.waiting import HANG
from tailrace.errors import ConfigurationError
from tailrace.link.endpoint import TLSOptions
from tailrace.link.tls import context as context_module
from tailrace.link.tls.context import Trust, build_trust


def trust_in(path: Path | None, *, verify: bool = True) -> Trust:
    return build_trust(TLSOptions(path, verify))


@pytest.fixture
def hashed(certificates: Certificates, tmp_path: Path) -> Path:
    """A directory the way OpenSSL's own tool makes it."""
    directory = tmp_path / "hashed"
    directory.mkdir()
    (directory / "ours.pem").write_bytes(certificates.ca_file.read_bytes())
    subprocess.run(["openssl", "rehash", str(directory)], check=True)
    assert any(each.is_symlink() for each in directory.iterdir())
    return directory


def test_a_file_is_trusted(certificates: Certificates) -> None:
    tls = handshake(trust_in(certificates.ca_file).context, certificates.server_context())
    assert tls.version() in {"TLSv1.2", "TLSv1.3"}


def test_a_hashed_directory_is_trusted(certificates: Certificates, hashed: Path) -> None:
    # Only the hashed name counts for OpenSSL.
    (hashed / "ours.pem").rename(hashed / "moved")
    for link in hashed.iterdir():
        if link.is_symlink():
            link.unlink()
            (hashed / "moved").rename(link)
            break
    handshake(trust_in(hashed).context, certificates.server_context())


@pytest.mark.parametrize("name", ["ours.pem", "ours.crt", "OURS.CER"])
def test_a_plain_directory_is_trusted(
    certificates: Certificates, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).write_bytes(certificates.ca_file.read_bytes())
    (tmp_path / "junk.pem").write_text("junk")
    (tmp_path / "README").write_text("not a certificate")
    (tmp_path / "deeper").mkdir()
    trust = trust_in(tmp_path)
    handshake(trust.context, certificates.server_context())
    assert [record.getMessage() for record in caplog.records] == [
        f"certificate file {tmp_path / 'junk.pem'} holds no PEM certificate; skipped"
    ]
    assert trust.description.endswith(f"certificate path {tmp_path} (1 files)")


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_path_without_certificates_is_only_worth_a_warning(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    trust = trust_in(tmp_path / name)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(tmp_path / name) in record.getMessage()
    assert str(tmp_path / name) in trust.description


def test_links_that_start_at_once_read_certificates_once(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 4
    all_want_it, read = threading.Barrier(count), []
    states, build = context_module._states, context_module._build

    def waited_for(options: TLSOptions) -> object:
        all_want_it.wait(HANG)
        return states(options)

    def noted(options: TLSOptions) -> Trust:
        read.append(options)
        return build(options)

    monkeypatch.setattr(context_module, "_states", waited_for)
    monkeypatch.setattr(context_module, "_build", noted)
    context_module._build_once.cache_clear()
    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(trust_in, [certificates.ca_file] * count))
    assert len(read) == 1
    assert all(each is found[0] for each in found)


def test_certificates_that_stay_are_read_once(
    certificates: Certificates, hashed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    for path in (certificates.ca_file, hashed, None):
        assert trust_in(path) is trust_in(path)
    assert trust_in(hashed) is not trust_in(certificates.ca_file)


@pytest.fixture
def foreign(certificates: Certificates, tmp_path: Path) -> Path:
    """A file with the certificate of an authority that has signed nothing here."""
    path = tmp_path / "foreign.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


def replace(path: Path, content: bytes) -> None:
    """Put a new file in the place of an old one, as tools do that renew certificates."""
    fresh = path.with_name("fresh")
    fresh.write_bytes(content)
    fresh.replace(path)


@pytest.mark.parametrize("renew", [Path.write_bytes, replace])
@pytest.mark.parametrize("place", ["file", "directory", "hashed directory", "system"])
def test_certificates_that_change_are_read_again(
    certificates: Certificates,
    hashed: Path,
    bare_system: Path,
    foreign: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    renew: Callable[[Path, bytes], object],
) -> None:
    # Else there is nothing that tells of a change of the system's.
    monkeypatch.setenv("SSL_CERT_FILE", str(foreign))
    ours = certificates.ca_file.read_bytes()
    (tmp_path / "plain").mkdir()
    changing: Path
    path: Path | None
    match place:
        case "file":
            path = changing = tmp_path / "ours.pem"
        case "directory":
            path = tmp_path / "plain"
            changing = path / "ours.pem"
        case "hashed directory":
            path, changing = hashed, hashed / "ours.pem"
        case _:
            path, changing = None, foreign
    theirs = foreign.read_bytes()
    for content, good in ((theirs, False), (ours, True), (theirs, False)):
        renew(changing, content)
        trust = trust_in(path)
        if good:
            handshake(trust.context, certificates.server_context())
            continue
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(trust.context, certificates.server_context())


def test_certificates_that_come_and_go_are_noticed(
    certificates: Certificates, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(foreign))
    directory = tmp_path / "authorities"
    for _ in range(2):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(trust_in(directory).context, certificates.server_context())
        directory.mkdir(exist_ok=True)
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(trust_in(directory).context, certificates.server_context())
        (directory / "ours.pem").write_bytes(certificates.ca_file.read_bytes())
        handshake(trust_in(directory).context, certificates.server_context())
        (directory / "ours.pem").unlink()


def test_a_file_without_certificates_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "junk.pem"
    path.write_text("junk")
    with pytest.raises(ConfigurationError, match=r"junk\.pem holds no PEM certificate"):
        trust_in(path)


def test_a_device_that_cannot_be_read_is_an_error() -> None:
    # Reading one's own memory at address 0 fails for everybody.
    with pytest.raises(ConfigurationError, match="cannot be read: Input/output error"):
        trust_in(Path("/proc/self/mem"))


@pytest.mark.parametrize("name", ["-c", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_pipe_in_the_place_of_a_file_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    if name != "-c":
        monkeypatch.setenv(name, str(path))
    called = "certificate path" if name == "-c" else name
    with pytest.raises(ConfigurationError) as caught:
        trust_in(path if name == "-c" else None)
    assert str(caught.value) == f"{called} {path} is a pipe or a device, and no file"
    trust_in(path, verify=False)


@pytest.mark.parametrize("name", ["localhost", "other.example"])
def test_without_verification_anybody_will_do(certificates: Certificates, name: str) -> None:
    trust = trust_in(None, verify=False)
    handshake(trust.context, certificates.server_context(certificates.stranger), name)
    assert trust.description == "nothing is verified"


def test_tls_1_1_is_refused(certificates: Certificates) -> None:
    trust = trust_in(certificates.ca_file)
    assert trust.context.minimum_version is ssl.TLSVersion.TLSv1_2
    server = certificates.server_context()
    server.set_ciphers("ALL:@SECLEVEL=0")
    # A server that can do no better than TLS 1.1: deprecated, and that is the point.
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        server.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        server.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError) as caught:
        handshake(trust.context, server)
    assert not isinstance(caught.value, ssl.SSLCertVerificationError)


def test_the_systems_certificates_are_named(certificates: Certificates) -> None:
    description = trust_in(certificates.ca_file).description
    assert description.endswith(f" and certificate path {certificates.ca_file}")
    assert len(description) > len(f" and certificate path {certificates.ca_file}")


@pytest.fixture
def bare_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system without certificates: OpenSSL itself looks where the environment says."""
    empty = tmp_path / "no certificates"
    empty.mkdir()
    monkeypatch.setenv("SSL_CERT_DIR", str(empty))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent.pem"))
    return empty


def test_a_system_store_elsewhere_is_used(
    certificates: Certificates, bare_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    trust = trust_in(None)
    assert trust.description == f"the system's certificates ({certificates.ca_file})"
    handshake(trust.context, certificates.server_context())


def test_a_system_store_without_a_path_is_used(
    certificates: Certificates, bare_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(context: ssl.SSLContext, purpose: ssl.Purpose) -> None:
        context.load_verify_locations(certificates.ca_file)

    # As on Windows, whose store has no path.
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", load)
    trust = trust_in(None)
    assert trust.description.partition("; SSL_CERT_FILE ")[0] == "the system's certificates"
    handshake(trust.context, certificates.server_context())


def test_certifi_stands_in_for_a_missing_store(
    certificates: Certificates, bare_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certifi = ModuleType("certifi")
    vars(certifi)["where"] = lambda: str(certificates.ca_file)
    monkeypatch.setitem(sys.modules, "certifi", certifi)
    trust = trust_in(None)
    assert trust.description.startswith("certifi's certificates")
    handshake(trust.context, certificates.server_context())


def test_no_store_at_all_is_said(
    bare_system: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "certifi", None)
    description = trust_in(None).description
    assert description.partition("; SSL_CERT_FILE ")[0] == "no system certificates"
    assert "no CA certificates" in caplog.text


@pytest.mark.parametrize(
    ("variable", "content", "fault"),
    [
        ("SSL_CERT_FILE", None, "cannot be read: No such file or directory"),
        ("SSL_CERT_FILE", "junk", "holds no PEM certificate"),
        ("SSL_CERT_DIR", None, "cannot be read: No such file or directory"),
        ("SSL_CERT_DIR", "junk", "cannot be read: Not a directory"),
    ],
)
def test_a_variable_that_names_nothing_useful_is_named(
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
    content: str | None,
    fault: str,
) -> None:
    """OpenSSL passes over it in silence, and no certificate verifies."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    path = tmp_path / "named"
    monkeypatch.setenv(variable, str(path))
    if content is not None:
        path.write_text(content)
    trust = trust_in(certificates.ca_file)
    assert f"{variable} {path} {fault}; going on without it" in caplog.messages
    assert f"; {variable} {path} {fault} and certificate path " in trust.description
    handshake(trust.context, certificates.server_context())
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    caplog.clear()
    trust_in(None)
    assert caplog.messages == []


def test_a_variable_may_name_several_directories(
    certificates: Certificates,
    hashed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """OpenSSL takes SSL_CERT_DIR as a list; each part is judged by itself."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "ours.pem").write_bytes(certificates.ca_file.read_bytes())
    missing = tmp_path / "missing"
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.setenv("SSL_CERT_DIR", os.pathsep.join(map(str, (other, hashed))))
    trust = trust_in(None)
    assert [text for text in caplog.messages if "SSL_CERT_DIR" in text] == []
    assert f"({other}, {hashed})" in trust.description
    handshake(trust.context, certificates.server_context())
    monkeypatch.setenv("SSL_CERT_DIR", os.pathsep.join(map(str, (missing, hashed))))
    trust = trust_in(None)
    assert f"SSL_CERT_DIR {missing} cannot be read: No such file or directory; going on" in (
        caplog.text
    )
    assert f"({hashed})" in trust.description
    handshake(trust.context, certificates.server_context())


def test_a_system_store_that_cannot_be_read_is_an_error(
    bare_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(ConfigurationError, match=r"system's certificates.*Too many open files"):
            trust_in(None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class TestOwnCertificate:
    """Servers that ask for a certificate, and trust in nothing but given authorities."""

    @pytest.fixture
    def own(self, tmp_path: Path) -> TLSOptions:
        ca = trustme.CA()
        issued = ca.issue_cert("pump-7.example", common_name="pump-7")
        cert, key = tmp_path / "own.pem", tmp_path / "own.key"
        issued.cert_chain_pems[0].write_to_path(cert)
        issued.private_key_pem.write_to_path(key)
        ca.cert_pem.write_to_path(tmp_path / "clients.pem")
        return TLSOptions(certificate=cert, key=key, alpn=("x-amzn-mqtt-ca",))

    def test_it_is_shown_and_the_protocol_offered(
        self, certificates: Certificates, own: TLSOptions, tmp_path: Path
    ) -> None:
        server = certificates.server_context()
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(tmp_path / "clients.pem")
        server.set_alpn_protocols(["x-amzn-mqtt-ca"])
        trust = build_trust(dataclasses.replace(own, authorities=certificates.ca_file))
        tls = handshake(trust.context, server)
        assert tls.selected_alpn_protocol() == "x-amzn-mqtt-ca"
        assert trust.description == str(certificates.ca_file)

    def test_authorities_replace_the_systems(self, certificates: Certificates) -> None:
        trust = build_trust(TLSOptions(authorities=certificates.ca_file))
        assert trust.context.cert_store_stats()["x509_ca"] == 1
        handshake(trust.context, certificates.server_context())

    @pytest.mark.parametrize("field", ["authorities", "certificate", "key"])
    @pytest.mark.parametrize("content", [None, "junk"])
    def test_files_that_are_none(
        self, own: TLSOptions, tmp_path: Path, field: str, content: str | None
    ) -> None:
        path = tmp_path / "other.pem"
        if content is not None:
            path.write_text(content)
        with pytest.raises(ConfigurationError, match=r"other\.pem.*: (no |No such file)"):
            build_trust(dataclasses.replace(own, **{field: path}))

    def test_a_pipe(self, own: TLSOptions, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ConfigurationError, match="is a pipe"):
            build_trust(dataclasses.replace(own, key=tmp_path / "pipe"))
        with pytest.raises(ConfigurationError, match="is a pipe"):
            build_trust(dataclasses.replace(own, authorities=tmp_path / "pipe"))
