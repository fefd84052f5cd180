"""What a user is told about a failed TLS handshake."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

import pytest

from support.network.certificates import Certificates, handshake
from tailrace.cli.exit_codes import ExitCode, exit_code_of
from tailrace.common.secret import Secret
from tailrace.errors import CertificateFault, CertificateRejected
from tailrace.link.endpoint import ServiceEndpoint, TLSOptions
from tailrace.link.tls.context import build_trust
from tailrace.link.tls.failures import tls_failure, tls_timeout
from tailrace.wire import Side

ENDPOINT = ServiceEndpoint(host="localhost", side=Side.SOURCE, access_token=Secret("token"))


def test_a_stranger_is_refused(certificates: Certificates) -> None:
    trust = build_trust(TLSOptions(certificates.ca_file))
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        handshake(trust.context, certificates.server_context(certificates.stranger))
    failure = tls_failure(caught.value, ENDPOINT, trust.description)
    text = str(failure)
    assert text.startswith("certificate of localhost:443 does not verify: ")
    assert "unable to get local issuer certificate" in text
    assert "issued by 'OU=Testing CA" in text
    assert "O=Somebody else'" in text
    assert f"certificate path {certificates.ca_file}" in text
    assert isinstance(failure, CertificateRejected)
    assert failure.fault is CertificateFault.UNTRUSTED
    assert text.isprintable()
    assert not failure.retryable
    assert exit_code_of(failure) is ExitCode.TLS


@pytest.mark.parametrize("name", ["other.example", "127.0.0.2"])
def test_a_wrong_name_is_refused(certificates: Certificates, name: str) -> None:
    trust = build_trust(TLSOptions(certificates.ca_file))
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        handshake(trust.context, certificates.server_context(), name)
    failure = tls_failure(caught.value, ENDPOINT, trust.description)
    assert "mismatch" in str(failure)
    assert "CN=tunnel service" in str(failure)
    assert isinstance(failure, CertificateRejected)
    assert failure.fault is CertificateFault.WRONG_NAME
    assert not failure.retryable


def test_an_expired_certificate_is_out_of_date(certificates: Certificates) -> None:
    expired = certificates.ca.issue_cert(
        "localhost",
        not_before=datetime(2000, 1, 1, tzinfo=UTC),
        not_after=datetime(2001, 1, 1, tzinfo=UTC),
    )
    trust = build_trust(TLSOptions(certificates.ca_file))
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        handshake(trust.context, certificates.server_context(expired))
    failure = tls_failure(caught.value, ENDPOINT, trust.description)
    assert "expired" in str(failure)
    assert isinstance(failure, CertificateRejected)
    assert failure.fault is CertificateFault.OUT_OF_DATE


def ssl_error(reason: str | None, text: str = "") -> ssl.SSLError:
    error = ssl.SSLError(1, text)
    if reason is not None:
        error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ssl_error("WRONG_VERSION_NUMBER"), "wrong version number; is this a TLS port?"),
        (ssl_error("TLSV1_ALERT_INTERNAL_ERROR"), "tlsv1 alert internal error"),
        (ssl_error("EXCESSIVE_MESSAGE_SIZE"), "larger than the 100 KiB that OpenSSL takes"),
        (ssl_error(None, "something else"), "something else"),
        (ssl_error(None), "unknown reason"),
        (ConnectionResetError(), "the connection was closed during it"),
        (ConnectionResetError(104, "reset"), "closed during it ([Errno 104] reset)"),
        (OSError(113, "whatever"), "failed: No route to host"),
        (FileNotFoundError(2, "No usable temporary directory"), "No such file or directory"),
        (RuntimeError("unexpected SSL error"), "failed: unexpected SSL error"),
        (MemoryError(), "failed: MemoryError"),
    ],
)
def test_other_failures_may_pass(error: BaseException, said: str) -> None:
    failure = tls_failure(error, ENDPOINT, "nothing")
    assert str(failure).startswith("TLS handshake with localhost:443 failed: ")
    assert str(failure).endswith(said)
    assert failure.retryable
    assert exit_code_of(failure) is ExitCode.NETWORK


def test_a_timeout_may_pass() -> None:
    failure = tls_timeout(ENDPOINT)
    assert str(failure) == "TLS handshake with localhost:443 was not done within 10 s"
    assert failure.retryable
    assert exit_code_of(failure) is ExitCode.NETWORK
