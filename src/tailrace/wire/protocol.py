"""Names and limits of the tunnel protocol, versions 1 to 3."""

from __future__ import annotations

from typing import Final

__all__ = [
    "MAX_CONNECTION_ID",
    "MAX_FRAME",
    "MAX_MESSAGE",
    "MAX_PAYLOAD",
    "MAX_STREAM_ID",
    "SUBPROTOCOLS",
    "SUBPROTOCOL_V1",
    "SUBPROTOCOL_V2",
    "SUBPROTOCOL_V3",
]

SUBPROTOCOL_V1: Final = "aws.iot.securetunneling-1.0"
SUBPROTOCOL_V2: Final = "aws.iot.securetunneling-2.0"
SUBPROTOCOL_V3: Final = "aws.iot.securetunneling-3.0"
SUBPROTOCOLS: Final = (SUBPROTOCOL_V3, SUBPROTOCOL_V2, SUBPROTOCOL_V1)
"""Newest first."""

MAX_PAYLOAD: Final = 64_512
"""Bytes of application data in one DATA message (guide V3, message schema: 63 KiB)."""

MAX_MESSAGE: Final = 65_535
"""Bytes of one encoded message; what the 2-byte length prefix can express."""

MAX_FRAME: Final = 131_076
"""Bytes of payload in one WebSocket frame (guide V3, subprotocol restrictions)."""

MAX_STREAM_ID: Final = 2**31 - 1
"""Stream ids are positive int32; 0 is invalid, negative ones are never sent."""

MAX_CONNECTION_ID: Final = 2**32 - 1
"""Connection ids are uint32; 0 means "not set"."""
