"""Why TLS with the service failed, in plain words."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Final

from ...common.network_errors import network_error_text
from ...errors import CertificateFault, CertificateRejected, TLSFailed
from ..endpoint import NetworkEndpoint

__all__ = ["tls_failure", "tls_timeout"]

# What X509_verify_cert reports (OpenSSL, x509_vfy.h).
_OUT_OF_DATE: Final = {9, 10}
_WRONG_NAME: Final = {62, 64}
_REMEDIES: Final = {
    "version number": "; is this a TLS port?",
    "excessive message size": "; its certificates are larger than the 100 KiB that OpenSSL takes",
}
"""Part of OpenSSL's reason -> what it may mean."""


def tls_failure(
    error: BaseException, endpoint: NetworkEndpoint, trusted: str, presented: Iterable[str] = ()
) -> TLSFailed:
    """Say in one line why TLS failed and what was trusted.

    Args:
        trusted: the trusted certificates, in words.
        presented: the server's certificates, in words; empty if the notes of ``error`` are these.
    """
    where = endpoint.authority
    if isinstance(error, ssl.SSLCertVerificationError):
        certificates = "; ".join(presented) or "; ".join(getattr(error, "__notes__", []))
        shown = f"; presented: {certificates}" if certificates else ""
        return CertificateRejected(
            f"certificate of {where} does not verify: {error.verify_message}{shown}"
            f"; trusted: {trusted}",
            fault=_fault(error.verify_code),
        )
    if isinstance(error, ssl.SSLError):
        # Libraries raise it without the attributes that the ssl module adds.
        reason = getattr(error, "reason", None) or error.strerror or "unknown reason"
        reason = reason.lower().replace("_", " ")
        remedy = next((text for part, text in _REMEDIES.items() if part in reason), "")
        return TLSFailed(f"TLS handshake with {where} failed: {reason}{remedy}")
    if isinstance(error, ConnectionError):
        detail = f" ({error})" if str(error) else ""
        text = f"the connection was closed during it{detail}"
    else:
        text = network_error_text(error)
    return TLSFailed(f"TLS handshake with {where} failed: {text}")


def tls_timeout(endpoint: NetworkEndpoint) -> TLSFailed:
    """Say that the TLS handshake took too long."""
    where, seconds = endpoint.authority, endpoint.connect_timeout
    return TLSFailed(
        f"TLS handshake with {where} was not done within {seconds:g} s", setting="connect_timeout"
    )


def _fault(verify_code: int) -> CertificateFault:
    if verify_code in _WRONG_NAME:
        return CertificateFault.WRONG_NAME
    if verify_code in _OUT_OF_DATE:
        return CertificateFault.OUT_OF_DATE
    return CertificateFault.UNTRUSTED
