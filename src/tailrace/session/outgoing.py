"""The control messages that a session sends; each has a frame, unless many of ours are due."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from ..wire import Capability, Message, MessageType, encode_delimited
from .ledger import Ledger
from .streams import Connection, Stream

__all__ = ["Outgoing"]

_TOGETHER: Final = 16 * 1024
"""Bytes of messages in one frame."""
_MAX_FAILURE: Final = 200
"""Bytes of the words in a reset that say why; the rest is cut off."""


class Outgoing:
    """Builds the messages; ``send`` is called with each of them."""

    __slots__ = ("_send",)

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send

    def send(self, kind: MessageType, connection: Connection, *, failure: str = "") -> None:
        """Send a message about a connection; a reset may say why it is no end in order."""
        payload = _failure_for(connection.stream, failure)
        self._send(_about(kind, connection, payload, ignorable=False))

    def send_ours(self, kind: MessageType, connection: Connection, payload: bytes = b"") -> None:
        """Send a message of this project about a connection."""
        self._send(_about(kind, connection, payload, ignorable=True))

    def send_all(self, kind: MessageType, contents: Iterable[tuple[Connection, bytes]]) -> None:
        """Send messages of this project about connections, in as few frames as that takes."""
        frame = bytearray()
        for connection, payload in contents:
            message = _about(kind, connection, payload, ignorable=True)
            if len(frame) + len(message) > _TOGETHER:
                self._send(bytes(frame))
                frame.clear()
            frame += message
        if frame:
            self._send(bytes(frame))

    def reset_stream(self, stream: Stream, failure: str = "") -> None:
        """Send the reset of a stream; it may say why it is no end in order."""
        payload = _failure_for(stream, failure)
        message = Message(MessageType.STREAM_RESET, stream.stream_id, stream.wire_name, 0, payload)
        self._send(encode_delimited(message))

    def answer_reset(self, message: Message, *, whole_stream: bool) -> None:
        """Answer a start with a reset, of what it has started, under the same ids."""
        kind, number = MessageType.CONNECTION_RESET, message.connection_id
        if whole_stream:
            kind, number = MessageType.STREAM_RESET, 0
        answer = Message(kind, message.stream_id, message.service_id, number)
        self._send(encode_delimited(answer))

    def offer(self, payload: bytes) -> None:
        """Send a SESSION_OFFER."""
        message = Message(MessageType.SESSION_OFFER, payload=payload, ignorable=True)
        self._send(encode_delimited(message))

    def of_ledger(self, kind: MessageType, ledger: Ledger) -> None:
        """Send a start or a reset of a connection that outlives links."""
        ids = (ledger.stream_id, ledger.service_id, ledger.connection_id)
        self._send(encode_delimited(Message(kind, *ids)))


def _about(kind: MessageType, connection: Connection, payload: bytes, *, ignorable: bool) -> bytes:
    stream = connection.stream
    number = connection.connection_id if connection.has_connection_id else 0
    ids = (stream.stream_id, stream.wire_name, number)
    return encode_delimited(Message(kind, *ids, payload, ignorable=ignorable))


def _failure_for(stream: Stream, failure: str) -> bytes:
    """Return what a reset tells the peer about why: nothing that it would not understand."""
    if Capability.FLOW not in stream.peer_capabilities:
        return b""
    return failure.encode(errors="replace")[:_MAX_FAILURE]
