"""One connection to an MQTT 3.1.1 broker as a state machine. Pure.

Bytes go in, and bytes and events come out; time is an argument, in seconds of any clock that never
goes back. A client with a topic subscribes to it after every CONNACK, whatever that says of a
session the broker has kept: that costs one packet, and a client that trusts the broker's memory is
deaf from the day on which the broker loses it. A client without a topic publishes.

What the broker may send in which state, and what is done then, stands in one table at the end of
this file. All else is a violation, and ends the connection: the broker's next bytes could mean
anything.

**Acknowledging.** A message counts as received when the application has stored it. From the
moment in which :meth:`Session.next_event` returns it to :meth:`Session.acknowledge`, nothing else
is read, so a broker that sends faster than the application stores is slowed down by TCP. A broker
that gets no acknowledgement sends the message again with the next connection, so repetitions are
the application's to recognise. For that reason nothing needs to be remembered for QoS 2 either:
PUBREC says that the message is stored, and each PUBREL is answered (section 4.3.3).

**Silence.** The broker is asked for a sign of life (PINGREQ) when nothing was sent or nothing was
received for the keep-alive time. One and a half times the keep-alive time without a byte, and the
connection is dead, as it is for the broker on its side (section 3.1.2.10). While the application
stores a message nothing is read, so that the broker's silence means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from ..common.secret import Secret
from .codec import (
    DISCONNECT,
    PINGREQ,
    Connack,
    Oversized,
    Packet,
    PacketReader,
    Pingresp,
    Puback,
    Publish,
    Pubrel,
    Suback,
    encode_connect,
    encode_puback,
    encode_pubcomp,
    encode_publish,
    encode_pubrec,
    encode_subscribe,
)
from .errors import BrokerError, BrokerFault

__all__ = [
    "Accepted",
    "Acknowledged",
    "Dropped",
    "Event",
    "Handled",
    "Received",
    "Session",
    "SessionSettings",
    "SessionState",
    "Subscribed",
]

_REFUSALS: Final = {
    1: "it does not speak MQTT 3.1.1",
    2: "it does not allow this client id",
    3: "it is not available",
    4: "wrong user or password",
    5: "not authorized",
}
"""Code of CONNACK -> what it means (section 3.2.2.3)."""
_SUBSCRIPTION: Final = 1
"""Packet id of SUBSCRIBE, the only packet with one that a subscriber begins."""
_MAX_PACKET_ID: Final = 65_535


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How a client presents itself, and what it wants."""

    client_id: str
    topic: str | None = None
    """Topic to subscribe to at QoS 1; ``None``: the client publishes."""
    keep_alive: int = 45
    """Seconds, 1-65535."""
    clean_session: bool = True
    """Whether the broker is to forget what it kept for this client id, and to keep nothing."""
    user: str | None = None
    password: Secret | None = None
    answer_timeout: float = 10.0
    """Seconds for the broker to answer CONNECT and SUBSCRIBE each."""


class SessionState(Enum):
    """Where a session stands."""

    CONNECTING = "connecting"
    """CONNECT is sent."""
    SUBSCRIBING = "subscribing"
    """SUBSCRIBE is sent; messages may come already (section 3.8.4)."""
    SUBSCRIBED = "subscribed"
    PUBLISHING = "publishing"
    """Accepted, and without a topic."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The broker took the client in."""

    session_present: bool
    """Whether it had kept a session."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker granted the subscription, at ``qos``."""

    qos: int


@dataclass(frozen=True, slots=True)
class Received:
    """A message has come; :meth:`Session.acknowledge` it when it is stored."""

    message: Publish


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message was too large and is gone, acknowledged so that it does not come back."""

    message: Oversized


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker has taken the message that was published with ``packet_id``."""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Handled:
    """A packet has come that concerns nobody else."""


Event: TypeAlias = Accepted | Subscribed | Received | Dropped | Acknowledged | Handled


@dataclass(slots=True)
class _Times:
    """When something happened last."""

    sent: float
    received: float


class Session:
    """One connection; :meth:`start` it once the transport is connected.

    After each call, send :meth:`data_to_send` and call :meth:`tick` at :meth:`next_deadline`.
    Every method that raises :class:`BrokerError` has ended the session: close the transport.
    """

    def __init__(self, settings: SessionSettings) -> None:
        self._settings = settings
        self._reader = PacketReader()
        self._state = SessionState.CONNECTING
        self._output = bytearray()
        self._times = _Times(0.0, 0.0)
        self._answer_due: float | None = None
        self._unanswered_pings = 0
        self._is_probing = False
        """Whether a PINGREQ was sent since the last byte came in."""
        self._unstored: Publish | None = None
        self._last_packet_id = 0
        self._unacknowledged: set[int] = set()
        """Packet ids of messages that were published."""

    @property
    def state(self) -> SessionState:
        """Where the session stands."""
        return self._state

    def start(self, now: float) -> None:
        """Begin with CONNECT."""
        settings = self._settings
        password = settings.password
        self._send(
            encode_connect(
                settings.client_id,
                keep_alive=settings.keep_alive,
                clean_session=settings.clean_session,
                user=settings.user,
                password=None if password is None else password.reveal(),
            ),
            now,
        )
        self._times.received = now
        self._answer_due = now + settings.answer_timeout

    def data_to_send(self) -> bytes:
        """Return what has to be sent, once."""
        data = bytes(self._output)
        self._output.clear()
        return data

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the broker; :meth:`next_event` says what they mean."""
        self._reader.feed(data)
        self._times.received = now
        self._is_probing = False

    def next_event(self, now: float) -> Event | None:
        """Handle one packet; return ``None`` if more bytes are needed.

        Raises:
            BrokerError: the broker refuses, or breaks the rules.
        """
        assert self._unstored is None, "acknowledge the last message before asking for the next"
        try:
            packet = self._reader.next()
        except BrokerError as error:
            if self._state is SessionState.CONNECTING:
                error.args = (f"{error}; is it an MQTT broker?",)
            raise
        if packet is None:
            return None
        action = _TABLE.get((self._state, type(packet)))
        if action is None:
            name = "PUBLISH" if isinstance(packet, Oversized) else type(packet).__name__.upper()
            raise _violation(f"{name} to a client that is {self._state.value}")
        return action(self, packet, now)

    def acknowledge(self, now: float) -> None:
        """Say that the application has stored the message that came last."""
        message, self._unstored = self._unstored, None
        assert message is not None, "there is nothing to acknowledge"
        self._times.received = now  # nothing was read meanwhile
        self._is_probing = False
        self._settle(message, now)

    def publish(self, topic: str, payload: bytes, now: float) -> int:
        """Publish at QoS 1; return the packet id that :class:`Acknowledged` will have."""
        assert len(self._unacknowledged) < _MAX_PACKET_ID, "every packet id is in use"
        while True:
            self._last_packet_id = self._last_packet_id % _MAX_PACKET_ID + 1
            if self._last_packet_id not in self._unacknowledged:
                break
        self._unacknowledged.add(self._last_packet_id)
        self._send(encode_publish(self._last_packet_id, topic, payload), now)
        return self._last_packet_id

    def disconnect(self, now: float) -> None:
        """Say goodbye: the broker does not take the end for an accident."""
        self._send(DISCONNECT, now)

    def next_deadline(self) -> float:
        """Return when :meth:`tick` has to be called, if nothing happens before."""
        return min(self._ping_due(), self._dead_at())

    def tick(self, now: float) -> None:
        """Do what is due.

        Raises:
            BrokerError: the broker is silent.
        """
        if now >= self._dead_at():
            raise BrokerError(BrokerFault.SILENT, self._silence())
        if now >= self._ping_due():
            self._send(PINGREQ, now)
            self._unanswered_pings += 1
            self._is_probing = self._unstored is None

    def lost(self, cause: str) -> BrokerError:
        """Return what it means that the connection ended, because of ``cause``."""
        match self._state:
            case SessionState.CONNECTING:
                return BrokerError(
                    BrokerFault.CLOSED_EARLY, f"{cause} before the broker answered CONNECT"
                )
            case SessionState.SUBSCRIBING:
                return BrokerError(
                    BrokerFault.SUBSCRIPTION_REFUSED, f"{cause} before it answered SUBSCRIBE"
                )
            case _:
                return BrokerError(BrokerFault.LOST, cause)

    # -- time ----------------------------------------------------------------------------------

    def _ping_due(self) -> float:
        if self._state is SessionState.CONNECTING or self._is_probing:
            return float("inf")
        idle_since = self._times.sent
        if self._unstored is None:
            idle_since = min(idle_since, self._times.received)
        return idle_since + self._settings.keep_alive

    def _dead_at(self) -> float:
        if self._unstored is not None:
            return float("inf")
        dead = self._times.received + 1.5 * self._settings.keep_alive
        return dead if self._answer_due is None else min(dead, self._answer_due)

    def _silence(self) -> str:
        if self._answer_due is None:
            return f"no sign of life for {1.5 * self._settings.keep_alive:g} s"
        asked = "CONNECT" if self._state is SessionState.CONNECTING else "SUBSCRIBE"
        return f"no answer to {asked} within {self._settings.answer_timeout:g} s"

    # -- actions of the table ------------------------------------------------------------------

    def _accept(self, packet: Connack, now: float) -> Event:
        if packet.code:
            reason = _REFUSALS.get(packet.code, f"code {packet.code}")
            raise BrokerError(BrokerFault.REFUSED, f"the broker refused the connection: {reason}")
        topic = self._settings.topic
        if topic is None:
            self._state = SessionState.PUBLISHING
            self._answer_due = None
        else:
            self._state = SessionState.SUBSCRIBING
            self._send(encode_subscribe(_SUBSCRIPTION, topic, 1), now)
            self._answer_due = now + self._settings.answer_timeout
        return Accepted(packet.session_present)

    def _granted(self, packet: Suback, _: float) -> Event:
        if packet.packet_id != _SUBSCRIPTION:
            raise _violation(f"SUBACK for packet id {packet.packet_id}")
        if packet.code == 0x80:
            raise BrokerError(
                BrokerFault.SUBSCRIPTION_REFUSED,
                f"the broker refused the subscription to {self._settings.topic}",
            )
        self._state = SessionState.SUBSCRIBED
        self._answer_due = None
        return Subscribed(packet.code)

    def _receive(self, packet: Publish, _: float) -> Event:
        self._unstored = packet
        return Received(packet)

    def _refuse(self, packet: Oversized, now: float) -> Event:
        self._settle(packet, now)
        return Dropped(packet)

    def _release(self, packet: Pubrel, now: float) -> Event:
        self._send(encode_pubcomp(packet.packet_id), now)
        return Handled()

    def _published(self, packet: Puback, _: float) -> Event:
        if packet.packet_id not in self._unacknowledged:
            raise _violation(f"PUBACK for packet id {packet.packet_id}, which waits for none")
        self._unacknowledged.remove(packet.packet_id)
        return Acknowledged(packet.packet_id)

    def _pong(self, _: Pingresp, __: float) -> Event:
        if not self._unanswered_pings:
            raise _violation("PINGRESP without a PINGREQ")
        self._unanswered_pings -= 1
        return Handled()

    def _settle(self, message: Publish | Oversized, now: float) -> None:
        if message.qos:
            encode = encode_puback if message.qos == 1 else encode_pubrec
            self._send(encode(message.packet_id), now)

    def _send(self, data: bytes, now: float) -> None:
        self._output += data
        self._times.sent = now


def _violation(text: str) -> BrokerError:
    return BrokerError(BrokerFault.VIOLATION, f"the broker sent {text}")


_Action: TypeAlias = Callable[[Session, Any, float], Event]

_TABLE: Final[Mapping[tuple[SessionState, type[Packet]], _Action]] = MappingProxyType(
    {
        (SessionState.CONNECTING, Connack): Session._accept,
        (SessionState.SUBSCRIBING, Suback): Session._granted,
        (SessionState.SUBSCRIBING, Publish): Session._receive,
        (SessionState.SUBSCRIBING, Oversized): Session._refuse,
        (SessionState.SUBSCRIBING, Pubrel): Session._release,
        (SessionState.SUBSCRIBING, Pingresp): Session._pong,
        (SessionState.SUBSCRIBED, Publish): Session._receive,
        (SessionState.SUBSCRIBED, Oversized): Session._refuse,
        (SessionState.SUBSCRIBED, Pubrel): Session._release,
        (SessionState.SUBSCRIBED, Pingresp): Session._pong,
        (SessionState.PUBLISHING, Puback): Session._published,
        (SessionState.PUBLISHING, Pingresp): Session._pong,
    }
)
