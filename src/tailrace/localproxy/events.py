"""What happens in a local proxy, for those who subscribe: logs, JSON, ready files, programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ..common.addresses import LocalAddress
from ..errors import LinkError, TailraceError
from ..wire import Side
from .log import TunnelLog

__all__ = [
    "Connected",
    "Connecting",
    "ConnectionClosed",
    "ConnectionCut",
    "ConnectionOpened",
    "ConnectionRefused",
    "Ended",
    "Events",
    "Listening",
    "ListeningOnNetwork",
    "PeerDialectLearned",
    "PeerJoined",
    "PeerLeft",
    "PeerSilent",
    "ProxyEvent",
    "Reconnecting",
    "ServicesMapped",
    "Started",
    "Subscriber",
    "TunnelPaused",
    "TunnelResumed",
]


@dataclass(frozen=True, slots=True)
class Started:
    """The proxy runs; nothing is connected yet.

    Example: ``case tailrace.Started(side): print(side.value, "started")``
    """

    side: Side


@dataclass(frozen=True, slots=True)
class Connecting:
    """An attempt to set up the link begins; ``endpoint`` is ``host:port``.

    Example: ``case tailrace.Connecting(endpoint): print("connecting to", endpoint)``
    """

    endpoint: str


@dataclass(frozen=True, slots=True)
class Connected:
    """The link is up.

    Example: ``case tailrace.Connected(endpoint): print("connected to", endpoint)``
    """

    endpoint: str
    channel_id: str
    backend: str
    tells_presence: bool = False
    """Whether the service tells when the other side connects and leaves."""


@dataclass(frozen=True, slots=True)
class ServicesMapped:
    """The service ids of the tunnel and their local addresses are settled.

    Example: ``case tailrace.ServicesMapped(services): print(*services)``
    """

    services: Mapping[str, LocalAddress | None]
    """``None`` for a service that stays within this process."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Source: clients of ``service_id`` are accepted at ``address``.

    Example: ``case tailrace.Listening(service_id, address): print(service_id, "at", address)``
    """

    service_id: str
    address: LocalAddress
    assigned: bool
    """Whether the port was picked by the system."""


@dataclass(frozen=True, slots=True)
class ListeningOnNetwork:
    """Source: other machines can reach the address that was bound, and use the tunnel.

    Example: ``case tailrace.ListeningOnNetwork(address): print(address, "is open to all")``
    """

    address: LocalAddress


@dataclass(frozen=True, slots=True)
class PeerJoined:
    """The other side of the tunnel is connected; services of this project tell.

    Example: ``case tailrace.PeerJoined(peer): print("the", peer.value, "is connected")``
    """

    peer: Side


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """The other side of the tunnel is not connected; services of this project tell.

    Example: ``case tailrace.PeerLeft(peer): print("no", peer.value, "is connected")``
    """

    peer: Side


@dataclass(frozen=True, slots=True)
class PeerDialectLearned:
    """Source: the peer speaks V1 or V2, one connection at a time for each service.

    Example: ``case tailrace.PeerDialectLearned(dialect): print("the peer speaks", dialect)``
    """

    dialect: str


@dataclass(frozen=True, slots=True)
class PeerSilent:
    """Source: the peer has answered nothing; an older one would not understand V3.

    Where the device runs one, as AWS' Device Client and Greengrass are, the source has to be told:
    ``dialect="V1"`` of :meth:`Tunnel.source` and :func:`connect`.

    Example: ``case tailrace.PeerSilent(service_id, seconds): print(service_id, "is silent")``
    """

    service_id: str
    seconds: float
    """For how long."""


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """A local connection was accepted (source) or reached (destination).

    Example: ``case tailrace.ConnectionOpened(service_id): print("one more for", service_id)``
    """

    service_id: str
    connection_id: int
    peer: str


@dataclass(frozen=True, slots=True)
class ConnectionRefused:
    """A connection was not opened: the application or a limit refused it.

    Example: ``case tailrace.ConnectionRefused(reason=reason): print("refused:", reason)``
    """

    service_id: str
    connection_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class ConnectionCut:
    """A connection has ended in the tunnel, and not in order; its local end is reset.

    :class:`ConnectionClosed` follows when everything received has been delivered.

    Example: ``case tailrace.ConnectionCut(reason=reason): print("cut:", reason)``
    """

    service_id: str
    connection_id: int
    peer: str
    received: int
    """Bytes that had come from the tunnel."""
    reason: str


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """A local connection has ended; byte counts as seen from the local socket.

    Example: ``case tailrace.ConnectionClosed(bytes_in=size): print(size, "bytes sent")``
    """

    service_id: str
    connection_id: int
    peer: str
    bytes_in: int
    """Read from the local socket, sent into the tunnel."""
    bytes_out: int
    """Received from the tunnel."""


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The link was lost or could not be set up; another attempt follows.

    Example: ``case tailrace.Reconnecting(cause, delay): print(cause, "again in", delay, "s")``
    """

    cause: LinkError
    delay: float
    """Seconds until then."""


@dataclass(frozen=True, slots=True)
class TunnelPaused:
    """The link, or the peer, is gone, and open connections wait until both are back.

    :class:`TunnelResumed` follows, or :class:`ConnectionCut` for each that has waited in vain.

    Example: ``case tailrace.TunnelPaused(cause): print("paused:", cause)``
    """

    cause: str
    """For people, on one line."""
    connections: int
    """Those that wait."""
    timeout: float
    """Seconds after which those that still wait are reset."""


@dataclass(frozen=True, slots=True)
class TunnelResumed:
    """The connections that have waited go on, but for those that have ended at the peer.

    Example: ``case tailrace.TunnelResumed(after): print(f"resumed after {after:.1f} s")``
    """

    after: float
    """Seconds that they have waited."""
    connections: int
    """Those that go on."""
    bytes_again: int
    """Bytes that this end sends again."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The tunnel was closed or this proxy was told to stop.

    Example: ``case tailrace.Ended(reason=reason): print("ended", reason)``
    """

    code: int
    reason: str
    requested: bool = False
    """Whether this proxy was told to stop: then nothing was received that closed the tunnel."""


ProxyEvent: TypeAlias = (
    Started
    | Connecting
    | Connected
    | ServicesMapped
    | Listening
    | ListeningOnNetwork
    | PeerJoined
    | PeerLeft
    | PeerDialectLearned
    | PeerSilent
    | ConnectionOpened
    | ConnectionRefused
    | ConnectionCut
    | ConnectionClosed
    | Reconnecting
    | TunnelPaused
    | TunnelResumed
    | Ended
)

Subscriber = Callable[[ProxyEvent], None]


class Events:
    """Those who are told what happens."""

    def __init__(self, log: TunnelLog) -> None:
        self._log = log
        self._subscribers: dict[object, Subscriber] = {}

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with every event from now on; return what ends that."""
        key = object()
        self._subscribers[key] = subscriber

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)

        return unsubscribe

    def emit(self, event: ProxyEvent) -> None:
        """Tell the subscribers, in the order they came.

        An error of theirs is logged and goes no further, but for those of this package, with
        which a subscriber ends the proxy.
        """
        for key in list(self._subscribers):
            subscriber = self._subscribers.get(key)
            if subscriber is None:
                continue
            try:
                subscriber(event)
            except TailraceError:
                raise
            except Exception as error:
                self._log.error("A subscriber failed", exc_info=error)
