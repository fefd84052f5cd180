"""Pins of certificates, and what strangers may send in place of certificates."""

from __future__ import annotations

import hashlib

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tailrace.link.tls.pin import certificates_of, pin_of

CA = trustme.CA()
PEM = CA.cert_pem.bytes().decode()
DER = x509.load_pem_x509_certificate(PEM.encode()).public_bytes(Encoding.DER)


def oracle(der: bytes) -> str:
    """Return the pin as the cryptography package reads it."""
    key = x509.load_der_x509_certificate(der).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(info).hexdigest()}"


def element(tag: int, content: bytes) -> bytes:
    """Return an element in DER."""
    if len(content) < 0x80:
        return bytes((tag, len(content))) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


@pytest.mark.parametrize("kind", list(trustme.KeyType))
def test_the_pin_is_that_of_the_public_key(kind: trustme.KeyType) -> None:
    ca = trustme.CA(key_type=kind)
    for pem in (ca.cert_pem, ca.issue_cert("a.example", key_type=kind).cert_chain_pems[0]):
        (der,) = certificates_of(pem.bytes().decode())
        assert pin_of(der) == oracle(der)


def test_several_certificates_in_one_text() -> None:
    assert certificates_of(f"# ours\n{PEM}\n{PEM}") == [DER, DER]
    assert certificates_of("nothing") == []
    assert len(certificates_of(PEM * 200)) == 100
    for body in ("M", "\u00e4"):
        with pytest.raises(ValueError):
            certificates_of(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")


KEY = element(0x30, b"key")
FIELDS = [element(0x02, b"1"), *[element(0x30, b"")] * 4]


def made_of(fields: list[bytes]) -> bytes:
    """Return a certificate with these fields, as far as the pin goes."""
    signed = element(0x30, b"".join(fields))
    return element(0x30, signed + element(0x30, b"") + element(0x03, b""))


def test_a_version_may_be_missing() -> None:
    pin = f"sha256:{hashlib.sha256(KEY).hexdigest()}"
    assert pin_of(made_of([*FIELDS, KEY])) == pin
    assert pin_of(made_of([element(0xA0, b"2"), *FIELDS, KEY, element(0xA3, b"")])) == pin


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"0",
        DER[:-1],
        DER + b"\0",
        made_of(FIELDS),
        made_of([*FIELDS[1:], KEY]),
        made_of([FIELDS[0], element(0xA0, b""), *FIELDS[1:], KEY]),
        made_of([*FIELDS, element(0x31, b"key")]),
        # What BER allows: an indefinite length, one that is longer than it must be, tags of
        # several bytes.
        made_of([*FIELDS[:4], b"\x30\x80", KEY, b"\0\0", KEY]),
        made_of([*FIELDS[:4], b"\x30\x81\x00", KEY]),
        made_of([*FIELDS[:4], b"\x30\x82\x00\x80" + bytes(128), KEY]),
        made_of([*FIELDS[:4], b"\x3f\x81\x00\x00", KEY]),
        made_of([*FIELDS[:4], b"\x30\x85\x01\0\0\0\0", KEY]),
        element(0x31, DER[4:]),
    ],
)
def test_what_is_no_certificate_in_der(der: bytes) -> None:
    with pytest.raises(ValueError):
        pin_of(der)


@given(st.data())
def test_both_readers_of_a_changed_certificate_see_the_same_key(data: st.DataObject) -> None:
    der = bytearray(DER)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(der) - 1))
        match data.draw(st.sampled_from(["change", "insert", "remove"])):
            case "change":
                der[at] = data.draw(st.integers(0, 255))
            case "insert":
                der.insert(at, data.draw(st.sampled_from([0, 0x30, 0x80, 0x81, 0xA0])))
            case _:
                del der[at]
    try:
        pin = pin_of(bytes(der))
    except ValueError:
        return
    try:
        expected = oracle(bytes(der))
    except Exception:
        return  # it is not read as a certificate at all
    assert pin == expected
