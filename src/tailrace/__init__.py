"""AWS IoT Secure Tunneling in Python: local proxy, service and device agent.

This package is also the library: a tunnel in a program, and the control API. Its names are loaded
when they are first used, so that importing it costs nothing.

Example::

    async with tailrace.connect("pump-7", services=["SSH"]) as tunnel:
        reader, writer = await tunnel.open_connection("SSH")
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - run from a clone or an archive, nothing else looks
    found = ".".join(map(str, sys.version_info[:2]))
    sys.exit(f"tailrace needs Python 3.11 or later; {sys.executable} is Python {found}")

TYPE_CHECKING = False
"""As ``typing`` has it, whose import takes longer than all of this."""
if TYPE_CHECKING:
    from . import sync
    from .agent.agent import Agent, AgentStatus
    from .agent.notification import Notification
    from .agent.notifications import notifications
    from .agent.sources.base import Delivery, NotificationSource
    from .agent.sources.file import FileSource
    from .agent.sources.stdin import StdinSource
    from .agent.tunnels import ServedStatus
    from .aws import (
        Client,
        Credentials,
        OpenedTunnel,
        RotatedTokens,
        Secret,
        SideState,
        TunnelDescription,
        TunnelState,
        TunnelSummary,
    )
    from .errors import (
        AccessRefused,
        CallRefused,
        CertificateFault,
        CertificateRejected,
        ConfigurationError,
        ConnectFailed,
        ControlCertificateRejected,
        ControlError,
        ControlThrottled,
        CredentialsRefused,
        DecodeError,
        HandshakeAltered,
        HandshakeFailed,
        LimitExceeded,
        LinkError,
        ListenError,
        LocalProtocolError,
        NameResolutionFailed,
        NotificationIgnored,
        NotificationNotStored,
        NotTunnelingService,
        OpenFailed,
        ProtocolError,
        ProxyRefused,
        RemoteProtocolError,
        ResponseLost,
        ServiceIdMismatch,
        ServiceUnavailable,
        TailraceError,
        TimedOut,
        TLSFailed,
        TokenRotated,
        TunnelClosed,
        TunnelNotFound,
    )
    from .library import (
        Application,
        Connected,
        Connecting,
        ConnectionClosed,
        ConnectionCut,
        ConnectionOpened,
        ConnectionRefused,
        ConnectionState,
        ConnectionStatus,
        DestinationTunnel,
        Ended,
        EventsDropped,
        LinkPhase,
        LinkStatus,
        Listening,
        ListeningOnNetwork,
        LocalAddress,
        PeerDialectLearned,
        PeerJoined,
        PeerLeft,
        PeerPresence,
        PeerSilent,
        Reconnecting,
        ServiceMap,
        ServiceRule,
        ServicesMapped,
        Side,
        SourceTunnel,
        Started,
        StreamHandler,
        TCPAddress,
        Tunnel,
        TunnelEvent,
        TunnelListener,
        TunnelPaused,
        TunnelResumed,
        TunnelStatus,
        UnixAddress,
        connect,
    )
    from .service.config import Endpoints
    from .service.limits import Limits
    from .service.service import Service

__version__ = "0.2.0"

__all__ = [
    "AccessRefused",
    "Agent",
    "AgentStatus",
    "Application",
    "CallRefused",
    "CertificateFault",
    "CertificateRejected",
    "Client",
    "ConfigurationError",
    "ConnectFailed",
    "Connected",
    "Connecting",
    "ConnectionClosed",
    "ConnectionCut",
    "ConnectionOpened",
    "ConnectionRefused",
    "ConnectionState",
    "ConnectionStatus",
    "ControlCertificateRejected",
    "ControlError",
    "ControlThrottled",
    "Credentials",
    "CredentialsRefused",
    "DecodeError",
    "Delivery",
    "DestinationTunnel",
    "Ended",
    "Endpoints",
    "EventsDropped",
    "FileSource",
    "HandshakeAltered",
    "HandshakeFailed",
    "LimitExceeded",
    "Limits",
    "LinkError",
    "LinkPhase",
    "LinkStatus",
    "ListenError",
    "Listening",
    "ListeningOnNetwork",
    "LocalAddress",
    "LocalProtocolError",
    "NameResolutionFailed",
    "NotTunnelingService",
    "Notification",
    "NotificationIgnored",
    "NotificationNotStored",
    "NotificationSource",
    "OpenFailed",
    "OpenedTunnel",
    "PeerDialectLearned",
    "PeerJoined",
    "PeerLeft",
    "PeerPresence",
    "PeerSilent",
    "ProtocolError",
    "ProxyRefused",
    "Reconnecting",
    "RemoteProtocolError",
    "ResponseLost",
    "RotatedTokens",
    "Secret",
    "ServedStatus",
    "Service",
    "ServiceIdMismatch",
    "ServiceMap",
    "ServiceRule",
    "ServiceUnavailable",
    "ServicesMapped",
    "Side",
    "SideState",
    "SourceTunnel",
    "Started",
    "StdinSource",
    "StreamHandler",
    "TCPAddress",
    "TLSFailed",
    "TailraceError",
    "TimedOut",
    "TokenRotated",
    "Tunnel",
    "TunnelClosed",
    "TunnelDescription",
    "TunnelEvent",
    "TunnelListener",
    "TunnelNotFound",
    "TunnelPaused",
    "TunnelResumed",
    "TunnelState",
    "TunnelStatus",
    "TunnelSummary",
    "UnixAddress",
    "__version__",
    "connect",
    "notifications",
    "sync",
]

_HOMES = {
    "Agent": ".agent.agent",
    "AgentStatus": ".agent.agent",
    "Delivery": ".agent.sources.base",
    "Endpoints": ".service.config",
    "FileSource": ".agent.sources.file",
    "Limits": ".service.limits",
    "Notification": ".agent.notification",
    "NotificationSource": ".agent.sources.base",
    "ServedStatus": ".agent.tunnels",
    "Service": ".service.service",
    "StdinSource": ".agent.sources.stdin",
    "notifications": ".agent.notifications",
}
"""Names of the service, whose packages are an extra, and of the agent -> the module of each."""


if not TYPE_CHECKING:  # to type checkers, a name that does not exist is an error

    def __getattr__(name: str) -> object:
        if name in __all__:
            from importlib import import_module

            if name == "sync":
                return import_module(".sync", __name__)
            ours = (".errors", ".aws", ".library")
            for home in (_HOMES[name],) if name in _HOMES else ours:
                module = import_module(home, __name__)
                if name in module.__all__:
                    value: object = getattr(module, name)
                    globals()[name] = value
                    return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
