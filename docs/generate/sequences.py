"""Drawings of what two ends say to each other, from two sessions that really do.

The sessions are those that local proxies run on. Between them stands what a service does: it
announces the service ids and passes messages on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tailrace.session import (
    V1,
    V2,
    V3,
    Connection,
    ConnectionRequested,
    Dialect,
    Event,
    Session,
)
from tailrace.wire import Message, MessageSplitter, MessageType, Side, decode, encode_delimited

from .svg import Drawing

__all__ = ["SEQUENCES"]

_STEP: Final = 34
_SERVICES: Final = ("SSH",)


class _End:
    """One end: a session, and the record of all it sends."""

    def __init__(self, tunnel: _Tunnel, side: Side, dialect: Dialect | None) -> None:
        self.tunnel = tunnel
        self.session = Session(side, self, dialect=dialect)
        self.requested: list[Connection] = []

    def event_occurred(self, event: Event) -> None:
        """Take what a destination is asked for."""
        if isinstance(event, ConnectionRequested):
            self.requested.append(event.connection)
            event.connection.sink = self

    def data_received(self, data: memoryview) -> None:
        """Take data: what it says is in the record already."""

    def send_control(self, frame: bytes) -> None:
        """Pass a message of the session on."""
        self.tunnel.carry(self.session.side, frame)

    def send(self, connection: Connection, text: str) -> None:
        """Send data as the engine does, with the names that the session has given."""
        message = Message(
            MessageType.DATA,
            connection.stream_id,
            connection.stream.wire_name,
            connection.connection_id if connection.has_connection_id else 0,
            text.encode(),
        )
        self.tunnel.carry(self.session.side, encode_delimited(message))


class _Tunnel:
    """Two ends, the service between them, and what was said so far."""

    def __init__(self, dialect: Dialect) -> None:
        self.said: list[tuple[str, str, str]] = []
        self.source = _End(self, Side.SOURCE, dialect)
        self.destination = _End(self, Side.DESTINATION, None)
        announced = Message(MessageType.SERVICE_IDS, available_service_ids=_SERVICES)
        for end in (self.source, self.destination):
            self.said.append(("service", end.session.side.value, _words(announced)))
            end.session.receive_frame(memoryview(encode_delimited(announced)))

    def local(self, side: Side, outwards: bool, what: str) -> None:
        """Note what a client or an application does."""
        outside = "client" if side is Side.SOURCE else "application"
        self.said.append((side.value, outside, what) if outwards else (outside, side.value, what))

    def carry(self, sender: Side, frame: bytes) -> None:
        """Note a message, and give it to the other end."""
        (body,) = MessageSplitter().feed(memoryview(frame))
        self.said.append((sender.value, sender.other.value, _words(decode(body))))
        other = self.destination if sender is Side.SOURCE else self.source
        other.session.receive_frame(memoryview(frame))


def _words(message: Message) -> str:
    parts = [MessageType(message.type).name]
    if message.available_service_ids:
        parts.append(" ".join(message.available_service_ids))
    if message.stream_id:
        parts.append(f"stream {message.stream_id}")
    if message.service_id:
        parts.append(message.service_id)
    if message.connection_id:
        parts.append(f"connection {message.connection_id}")
    if message.type == MessageType.DATA:
        parts.append(f"“{bytes(message.payload).decode()}”")
    return " · ".join(parts)


def _one_connection(tunnel: _Tunnel) -> None:
    tunnel.local(Side.SOURCE, False, "connects")
    near = tunnel.source.session.open("SSH")
    tunnel.local(Side.DESTINATION, True, "is connected to")
    (far,) = tunnel.destination.requested
    tunnel.destination.send(far, "SSH-2.0-device")
    tunnel.source.send(near, "SSH-2.0-client")
    tunnel.local(Side.DESTINATION, False, "closes")
    tunnel.destination.session.reset(far)
    tunnel.local(Side.SOURCE, True, "end of file")


def _two_connections(tunnel: _Tunnel) -> None:
    for _ in range(2):
        tunnel.local(Side.SOURCE, False, "connects")
        tunnel.source.session.open("SSH")
    first, second = tunnel.destination.requested
    tunnel.destination.send(second, "to the second")
    tunnel.local(Side.DESTINATION, False, "closes the first")
    tunnel.destination.session.reset(first)
    tunnel.source.send(tunnel.source.session.connections[0], "the second goes on")


def _refused(tunnel: _Tunnel) -> None:
    tunnel.local(Side.SOURCE, False, "connects")
    tunnel.source.session.open("SSH")
    tunnel.local(Side.DESTINATION, False, "refuses")
    tunnel.destination.session.refuse(tunnel.destination.requested[0])
    tunnel.local(Side.SOURCE, True, "is reset")


def _drawn(title: str, dialect: Dialect, play: Callable[[_Tunnel], None]) -> str:
    tunnel = _Tunnel(dialect)
    play(tunnel)
    places = {"client": 70, "source": 230, "service": 460, "destination": 690, "application": 850}
    height = 90 + _STEP * len(tunnel.said)
    drawing = Drawing(920, height, title)
    for name, x in places.items():
        drawing.rule(x, 44, x, height - 16)
        drawing.box(x - 62, 14, 124, 30, [name], "strong" if name == "service" else "plain")
    for number, (sender, receiver, what) in enumerate(tunnel.said):
        y = 90 + number * _STEP
        start, end = places[sender], places[receiver]
        drawing.arrow(start, y, end, y)
        drawing.words((start + end) / 2, y - 6, [what], size=12, on_card=True)
    return drawing.render()


SEQUENCES: Final[dict[str, Callable[[], str]]] = {
    "sequence-v3.svg": lambda: _drawn("One connection, V3", V3, _one_connection),
    "sequence-v3-two.svg": lambda: _drawn("Two connections of a service", V3, _two_connections),
    "sequence-v2.svg": lambda: _drawn("One connection, V2", V2, _one_connection),
    "sequence-v1.svg": lambda: _drawn("One connection, V1", V1, _one_connection),
    "sequence-refused.svg": lambda: _drawn("An application refuses", V3, _refused),
}
"""Name of a file -> what draws it."""
