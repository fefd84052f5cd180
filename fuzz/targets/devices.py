"""What a device is sent before it trusts anybody, and while it waits: certificates, and events."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import strategies as st

from tailrace.aws.event_stream import Event, EventReader
from tailrace.common.notification_stream import KEEP_ALIVE, event
from tailrace.link.tls.pin import pin_of

from ..checks import cuts, pieces
from ..mutate import mutated, vary_bytes
from ..target import Target

__all__ = ["CERTIFICATE_PIN", "EVENT_STREAM"]


def _certificate() -> bytes:
    key = ec.derive_private_key(7, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fuzz")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7)
    builder = builder.not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
    builder = builder.not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


_CERTIFICATE: Final = _certificate()
_DER: Final = (
    b"\x30\x80",
    b"\0\0",
    b"\x30\x82",
    b"\x81\x80",
    b"\xa0\x03",
    b"\x1f\x81",
    b"\x02\x01",
)


def _check_pin(der: bytes) -> None:
    """Both readers of a certificate see the same key, or one of them none at all."""
    pin = pin_of(der)
    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except Exception:
        # Of many kinds; such a certificate cannot be trusted by anybody.
        return
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert pin == f"sha256:{hashlib.sha256(info).hexdigest()}"


CERTIFICATE_PIN: Final = Target(
    "certificate-pin",
    "certificates by whose public key a service is recognised",
    mutated((_CERTIFICATE,), _DER),
    _check_pin,
    (ValueError,),
    (_CERTIFICATE, _CERTIFICATE[:-1], b""),
    vary_bytes,
)

_STREAMS: Final = (
    KEEP_ALIVE + event("t-1", '{"a": 1}') + KEEP_ALIVE,
    b"data: a\r\ndata: b\r\n\r\n",
    b"event: \xff\n\n",
    b"x" * 70_000,
)


def _read(data: bytes, sizes: list[int]) -> list[Event] | None:
    """Return the events, ``None`` for a stream that is refused."""
    reader = EventReader()
    try:
        return [each for piece in pieces(data, sizes) for each in reader.feed(piece)]
    except ValueError:
        return None


def _check_events(value: tuple[bytes, list[int]]) -> None:
    """The pieces in which a stream comes do not matter."""
    data, sizes = value
    assert _read(data, sizes) == _read(data, [len(data) or 1])


EVENT_STREAM: Final = Target(
    "event-stream",
    "server-sent events with notifications",
    st.tuples(mutated(_STREAMS, (b"\n\n", b"data:", b"id: ", b"event: ", b"\r\n")), cuts()),
    _check_events,
    (),
    tuple((data, [1000]) for data in _STREAMS),
    lambda value, random: (vary_bytes(value[0], random), value[1]),
)
