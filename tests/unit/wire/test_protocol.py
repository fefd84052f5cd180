"""Names and limits: numbers other programs rely on, spelt out once more."""

from __future__ import annotations

from tailrace.wire import protocol as limits


def test_subprotocol_names_newest_first() -> None:
    # Guides V1 to V3, handshake: header Sec-WebSocket-Protocol.
    assert limits.SUBPROTOCOLS == (
        "aws.iot.securetunneling-3.0",
        "aws.iot.securetunneling-2.0",
        "aws.iot.securetunneling-1.0",
    )
    assert limits.SUBPROTOCOLS[::-1] == (
        limits.SUBPROTOCOL_V1,
        limits.SUBPROTOCOL_V2,
        limits.SUBPROTOCOL_V3,
    )


def test_sizes_of_the_guide() -> None:
    assert limits.MAX_PAYLOAD == 63 * 1024
    assert limits.MAX_FRAME == 131_076
    assert limits.MAX_MESSAGE == 2**16 - 1


def test_ids() -> None:
    assert limits.MAX_STREAM_ID == 2_147_483_647
    assert limits.MAX_CONNECTION_ID == 4_294_967_295
