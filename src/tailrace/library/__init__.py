"""The library: a tunnel in a program. Everything here is offered by :mod:`tailrace` itself.

Built on the engine's public surface and the control API's client, and on nothing below them.
No argv, no exit codes, no files.
"""

from ..common.addresses import LocalAddress, TCPAddress, UnixAddress
from ..localproxy.connection_states import ConnectionState
from ..localproxy.events import (
    Connected,
    Connecting,
    ConnectionClosed,
    ConnectionCut,
    ConnectionOpened,
    ConnectionRefused,
    Ended,
    Listening,
    ListeningOnNetwork,
    PeerDialectLearned,
    PeerJoined,
    PeerLeft,
    PeerSilent,
    Reconnecting,
    ServicesMapped,
    Started,
    TunnelPaused,
    TunnelResumed,
)
from ..localproxy.routes import StreamHandler
from ..localproxy.status import ConnectionStatus, LinkPhase, LinkStatus, PeerPresence, TunnelStatus
from ..wire import Side
from .application import Application
from .connector import connect
from .event_stream import EventsDropped, TunnelEvent
from .service_map import ServiceMap, ServiceRule
from .settings import endpoint_in
from .tunnel import DestinationTunnel, SourceTunnel, Tunnel, TunnelListener

__all__ = [
    "Application",
    "Connected",
    "Connecting",
    "ConnectionClosed",
    "ConnectionCut",
    "ConnectionOpened",
    "ConnectionRefused",
    "ConnectionState",
    "ConnectionStatus",
    "DestinationTunnel",
    "Ended",
    "EventsDropped",
    "LinkPhase",
    "LinkStatus",
    "Listening",
    "ListeningOnNetwork",
    "LocalAddress",
    "PeerDialectLearned",
    "PeerJoined",
    "PeerLeft",
    "PeerPresence",
    "PeerSilent",
    "Reconnecting",
    "ServiceMap",
    "ServiceRule",
    "ServicesMapped",
    "Side",
    "SourceTunnel",
    "Started",
    "StreamHandler",
    "TCPAddress",
    "Tunnel",
    "TunnelEvent",
    "TunnelListener",
    "TunnelPaused",
    "TunnelResumed",
    "TunnelStatus",
    "UnixAddress",
    "connect",
    "endpoint_in",
]
