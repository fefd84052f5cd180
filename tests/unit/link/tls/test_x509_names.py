"""Names of certificates, against the cryptography package as the oracle."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from support.network.certificates import Certificates, handshake
from tailrace.link.endpoint import TLSOptions
from tailrace.link.tls.context import build_trust
from tailrace.link.tls.x509_names import (
    describe,
    end_of_validity,
    leaf_certificate,
    presented_certificates,
)

KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(subject: list[x509.NameAttribute], issuer: list[x509.NameAttribute]) -> bytes:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name(issuer),
        subject_name=x509.Name(subject),
        public_key=KEY.public_key(),
        serial_number=7,
        not_valid_before=start,
        not_valid_after=start + timedelta(days=1),
    )
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def named(
    oid: x509.ObjectIdentifier, value: str, kind: _ASN1Type | None = None
) -> x509.NameAttribute:
    return x509.NameAttribute(oid, value, kind)


def test_subject_and_issuer_most_specific_first() -> None:
    der = certificate(
        [named(NameOID.COUNTRY_NAME, "DE"), named(NameOID.COMMON_NAME, "host.example")],
        [
            named(NameOID.ORGANIZATION_NAME, "Inspection Inc"),
            named(NameOID.ORGANIZATIONAL_UNIT_NAME, "Proxy"),
            named(NameOID.COMMON_NAME, "Inspection CA"),
        ],
    )
    assert (
        describe(der)
        == "'CN=host.example' issued by 'CN=Inspection CA, OU=Proxy, O=Inspection Inc'"
    )


def test_string_types_of_old_authorities() -> None:
    der = certificate(
        [named(NameOID.COMMON_NAME, "Größe", _ASN1Type.BMPString)],
        [named(NameOID.COMMON_NAME, "plain", _ASN1Type.PrintableString)],
    )
    assert describe(der) == "'CN=Größe' issued by 'CN=plain'"


def test_a_name_cannot_break_the_line() -> None:
    der = certificate(
        [named(NameOID.COMMON_NAME, "evil' \x1b[31m\r\n[fatal] x")],
        [named(NameOID.COMMON_NAME, "c" * 64)],
    )
    shown = describe(der)
    assert shown.isprintable()
    assert shown.count("'") == 4


def test_an_empty_name_and_one_without_known_parts() -> None:
    der = certificate([], [named(NameOID.COUNTRY_NAME, "DE")])
    assert describe(der) == "'?' issued by '?'"


@pytest.mark.parametrize(
    "der", [b"", b"\x30", b"\x30\x00", b"\x02\x01\x05", b"\x30\x84\xff", b"\x30\x05abc"]
)
def test_what_is_no_certificate(der: bytes) -> None:
    assert describe(der) == "'?' issued by '?'"


# RFC 5280 allows 64 characters, and the oracle counts bytes.
TEXT = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=16)


@given(subject=TEXT, issuer=TEXT)
def test_any_name_is_shown(subject: str, issuer: str) -> None:
    der = certificate([named(NameOID.COMMON_NAME, subject)], [named(NameOID.COMMON_NAME, issuer)])
    names = [
        x509.load_der_x509_certificate(der).subject,
        x509.load_der_x509_certificate(der).issuer,
    ]
    oracle = [str(n.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value) for n in names]
    left, right = (f"'CN={each.replace(chr(39), ' ')}'" for each in oracle)
    assert describe(der) == f"{left} issued by {right}"


def wrapped(content: bytes) -> bytes:
    """Return a DER sequence of more than 255 bytes."""
    return b"\x30\x82" + len(content).to_bytes(2, "big") + content


def test_a_certificate_of_version_1() -> None:
    der = certificate([named(NameOID.COMMON_NAME, "host")], [named(NameOID.COMMON_NAME, "ca")])
    body = x509.load_der_x509_certificate(der).tbs_certificate_bytes
    content = body[-int.from_bytes(body[2:4], "big") :] if body[1] == 0x82 else body[3:]
    # No version field is what makes it version 1 (RFC 5280 section 4.1.2.1).
    assert content[:5] == b"\xa0\x03\x02\x01\x02"
    old = wrapped(wrapped(content[5:]) + bytes(300))
    assert describe(old) == "'CN=host' issued by 'CN=ca'"


SAMPLE = certificate([named(NameOID.COMMON_NAME, "host")], [named(NameOID.COMMON_NAME, "ca")])


@given(st.binary(max_size=200) | st.integers(0, len(SAMPLE)).map(lambda end: SAMPLE[:end]))
@example(SAMPLE[:-1])
def test_never_raises(der: bytes) -> None:
    assert describe(der).isprintable()


@given(at=st.integers(0, len(SAMPLE) - 1), value=st.integers(0, 255))
def test_a_damaged_certificate_never_raises(at: int, value: int) -> None:
    damaged = bytearray(SAMPLE)
    damaged[at] = value
    assert describe(bytes(damaged)).isprintable()


def test_the_certificates_that_a_server_presented(certificates: Certificates) -> None:
    client = build_trust(TLSOptions(certificates.ca_file)).context
    tls = handshake(client, certificates.server_context())
    leaf, *_ = presented_certificates(tls)
    assert leaf.startswith("'CN=tunnel service")
    assert "O=Tailrace tests" in leaf


class Modern:
    """A TLS object that tells its chain itself, as bytes: Python 3.13, aiofastnet."""

    def __init__(self, chain: list[bytes] | None) -> None:
        self.chain = chain

    def get_unverified_chain(self) -> list[bytes] | None:
        return self.chain


def test_the_chain_of_newer_tls_objects(certificates: Certificates) -> None:
    der = ssl.PEM_cert_to_DER_cert(certificates.ca_file.read_text())
    assert presented_certificates(Modern([der, der])) == presented_certificates(Modern([der])) * 2
    assert presented_certificates(Modern(None)) == []
    assert presented_certificates(object()) == []


def test_a_long_chain_is_not_shown_in_full(certificates: Certificates) -> None:
    der = ssl.PEM_cert_to_DER_cert(certificates.ca_file.read_text())
    shown = presented_certificates(Modern([der] * 120))
    assert shown == [*presented_certificates(Modern([der] * 5)), "115 more"]


@pytest.mark.parametrize("year", [1999, 2026, 2049, 2050, 2100])
def test_the_end_of_validity(year: int) -> None:
    end = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([]),
        subject_name=x509.Name([]),
        public_key=KEY.public_key(),
        serial_number=7,
        not_valid_before=datetime(1990, 1, 1, tzinfo=UTC),
        not_valid_after=end,
    )
    der = builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)
    assert end_of_validity(der) == end


@given(st.binary(max_size=200))
def test_what_is_no_certificate_has_no_end(der: bytes) -> None:
    assert end_of_validity(der) is None


def test_the_leaf_of_a_handshake(certificates: Certificates) -> None:
    trust = build_trust(TLSOptions(authorities=certificates.ca_file)).context
    tls = handshake(trust, certificates.server_context())
    assert leaf_certificate(tls) == tls.getpeercert(binary_form=True)
    assert leaf_certificate(object()) is None
