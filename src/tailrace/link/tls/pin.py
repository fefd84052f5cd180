"""The public key of a certificate, by which one is recognized that is not trusted yet.

A *pin* is the SHA-256 of the certificate's SubjectPublicKeyInfo in DER (RFC 7469 section 2.4). It
decides what is trusted, and it is read here while OpenSSL reads the certificate again. Both must
see the same key, whatever a stranger sends: so nothing is read but DER proper (ITU-T X.690 section
10), of which there is one reading. Each field must have its one tag, each length must be definite
and as short as can be, and nothing may be left over.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Iterator
from typing import Final

__all__ = ["certificates_of", "pin_of"]

_SEQUENCE: Final = 0x30
_INTEGER: Final = 0x02
_BIT_STRING: Final = 0x03
_VERSION: Final = 0xA0
_CERTIFICATE: Final = (_SEQUENCE, _SEQUENCE, _BIT_STRING)
"""What is signed, the algorithm, the signature (RFC 5280 section 4.1)."""
_BEFORE_KEY: Final = (_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE)
"""Serial number, algorithm, issuer, validity, subject."""
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_MOST: Final = 100


def certificates_of(pem: str) -> list[bytes]:
    """Return the certificates in a text, in DER, 100 at most.

    Raises:
        ValueError: one of them is not base64.
    """
    found = _PEM.findall(pem)[:_MOST]
    return [ssl.PEM_cert_to_DER_cert(each) for each in found]


def pin_of(der: bytes) -> str:
    """Return ``sha256:HEX`` of the public key of a certificate.

    Raises:
        ValueError: it is no certificate in DER.
    """
    (outer,) = _fields(der, (_SEQUENCE,))
    signed, *_ = _fields(_content(outer), _CERTIFICATE)
    fields = iter(_elements(_content(signed)))
    tags = list(_BEFORE_KEY)
    for each in fields:
        if each[0] == _VERSION and len(tags) == len(_BEFORE_KEY):
            continue  # absent in version 1
        if not tags:
            if each[0] != _SEQUENCE:
                break
            return f"sha256:{hashlib.sha256(each).hexdigest()}"
        if each[0] != tags.pop(0):
            break
    raise ValueError("this is no certificate")


def _fields(data: bytes, tags: tuple[int, ...]) -> list[bytes]:
    """Return the elements that ``data`` consists of, which must have these tags."""
    found = list(_elements(data))
    if tuple(each[0] for each in found) != tags:
        raise ValueError("this is no certificate")
    return found


def _content(element: bytes) -> bytes:
    start, _ = _extent(element, 0)
    return element[start:]


def _elements(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        _, end = _extent(data, at)
        yield data[at:end]
        at = end


def _extent(data: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the element at ``at`` begins and ends."""
    if len(data) < at + 2 or data[at] & 0x1F == 0x1F:
        raise ValueError("an element is cut, or has a tag of several bytes")
    start, length = at + 2, data[at + 1]
    if length & 0x80:
        octets = length & 0x7F
        length = int.from_bytes(data[start : start + octets], "big")
        start += octets
        if not 1 <= octets <= 4 or length < max(0x80, 1 << 8 * (octets - 1)):
            raise ValueError("a length is not in DER")
    if start + length > len(data):
        raise ValueError("an element is cut")
    return start, start + length
