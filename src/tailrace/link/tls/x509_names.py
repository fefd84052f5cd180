"""Subject, issuer and dates of a certificate, read from its DER form.

The standard library shows them only after a certificate has been verified, and they matter most
when that failed; of our own it shows nothing. Just enough of X.509 (RFC 5280 section 4.1) for one
line.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["describe", "end_of_validity", "leaf_certificate", "presented_certificates"]

_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UNKNOWN: Final = "?"
_SHOWN: Final = 5
"""Certificates of a chain that are described; usual chains have up to four."""

# Object identifiers in DER (RFC 4519), of what identifies a certificate to a reader.
_ATTRIBUTES: Final = {
    b"\x55\x04\x03": "CN",
    b"\x55\x04\x0a": "O",
    b"\x55\x04\x0b": "OU",
}
_UTF16_STRING: Final = 0x1E
_UTC_TIME: Final = 0x17
"""With two digits for the year: 50 is 1950 (RFC 5280 section 4.1.2.5.1)."""


def describe(der: bytes) -> str:
    """Return ``'CN=..., O=...' issued by 'CN=...'`` for one certificate; never raises.

    What cannot be read is shown as ``?``: the certificate comes from a peer that is not trusted.
    """
    try:
        subject, issuer = _names(der)
    except (IndexError, StopIteration):
        subject = issuer = _UNKNOWN
    return f"'{subject}' issued by '{issuer}'"


def presented_certificates(tls: object) -> list[str]:
    """Describe the other side's first certificates, leaf first; empty if they cannot be known.

    ``tls`` is the TLS object of either kind of transport, after a handshake or a failed one.
    """
    found = _chain(tls)
    more = [f"{len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return [describe(_der(each)) for each in found[:_SHOWN]] + more


def leaf_certificate(tls: object) -> bytes | None:
    """Return the other side's own certificate in DER, ``None`` if it cannot be known."""
    found = _chain(tls)
    return _der(found[0]) if found else None


def end_of_validity(der: bytes) -> datetime | None:
    """Return when a certificate expires, ``None`` if that cannot be read."""
    try:
        tag, digits = list(_elements(_fields(der)[2]))[1]
        text = digits.decode("ascii")
        if tag == _UTC_TIME:
            text = ("20" if text < "50" else "19") + text
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except (IndexError, StopIteration, ValueError):
        return None


def _chain(tls: object) -> list[Any]:
    # Public since Python 3.13; before that a method of the C object behind it.
    holder = tls if hasattr(tls, "get_unverified_chain") else getattr(tls, "_sslobj", None)
    chain: Callable[[], list[Any] | None] | None = getattr(holder, "get_unverified_chain", None)
    return (chain() if chain else None) or []


def _der(certificate: Any) -> bytes:
    if isinstance(certificate, bytes):
        return certificate
    return ssl.PEM_cert_to_DER_cert(certificate.public_bytes())


def _names(der: bytes) -> tuple[str, str]:
    _, issuer, _, subject = _fields(der)
    return _name(subject), _name(issuer)


def _fields(der: bytes) -> list[bytes]:
    """Return algorithm, issuer, validity and subject."""
    fields = _elements(_content(_content(der)))
    if next(fields)[0] == _VERSION:  # absent in version 1, which begins with the serial number
        next(fields)
    return [next(fields)[1] for _ in range(4)]


def _name(name: bytes) -> str:
    parts = []
    for _, relative in _elements(name):
        for _, pair in _elements(relative):
            elements = _elements(pair)
            label = _ATTRIBUTES.get(next(elements)[1])
            tag, value = next(elements)
            if label:
                codec = "utf-16-be" if tag == _UTF16_STRING else "utf-8"
                parts.append(f"{label}={value.decode(codec, 'replace')}")
    text = ", ".join(reversed(parts))  # most specific first
    return "".join(c if c.isprintable() and c != "'" else " " for c in text)[:200] or _UNKNOWN


def _content(der: bytes) -> bytes:
    """Return the content of the sequence that ``der`` begins with."""
    tag, content = next(_elements(der))
    if tag != _SEQUENCE:
        raise IndexError
    return content


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element (ITU-T X.690, one-byte tags, definite lengths)."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            octets = length & 0x7F
            length = int.from_bytes(data[at : at + octets], "big")
            at += octets
        if at + length > len(data):
            raise IndexError
        yield tag, data[at : at + length]
        at += length
