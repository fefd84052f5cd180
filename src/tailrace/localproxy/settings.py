"""The one frozen configuration object of a local proxy; the engine reads it and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.addresses import LocalAddress, ServiceAddresses
from ..common.secret import Secret
from ..link.proxy.settings import WebProxy
from ..wire import Side

if TYPE_CHECKING:
    from .routes import LocalService, Routes

__all__ = ["Backend", "PeerVersion", "ProxySettings"]


class PeerVersion(Enum):
    """Message format of the peer: given, or learned while it is safe."""

    AUTO = "auto"
    V1 = "V1"
    V2 = "V2"
    V3 = "V3"


class Backend(Enum):
    """WebSocket back end of the link."""

    AUTO = "auto"
    PICOWS = "picows"
    WEBSOCKETS = "websockets"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """Everything a local proxy needs to know. Times are in seconds, sizes in bytes."""

    side: Side
    host: str
    """Host of the service's data endpoint, lower case, without brackets."""
    port: int = 443
    access_token: Secret
    client_token: Secret | None = None
    """``None``: one is generated, so that the access token survives a reconnect."""

    services: Mapping[str, LocalService] | None = None
    """Where to listen for each service id (source), or where its application is (destination);
    ``None`` accepts any ids."""
    routes: Routes | None = None
    """Destination: asked for each connection, in place of ``services``."""
    listen: bool = True
    """Source: accept clients at the addresses of the services, not only from this process."""
    fallback_services: ServiceAddresses = field(default_factory=dict)
    """Used for the ids of the tunnel when ``services`` is ``None``."""
    allowed: tuple[LocalAddress, ...] | None = None
    """Destination: the only addresses that are connected to; ``None``: those of the maps."""
    bind_address: str = ""
    """Source: address to listen on, "" is "localhost"; destination: local address of outgoing
    connections, "" is any. A host name or an address without brackets."""
    peer_version: PeerVersion = PeerVersion.AUTO

    capath: Path | None = None
    verify_tls: bool = True
    backend: Backend = Backend.AUTO
    web_proxy: WebProxy | None = None
    """Reach the service through this proxy; ``None``: directly."""

    subprotocol: str = "aws.iot.securetunneling-3.0"
    max_payload: int = 64_512
    max_connections: int = 12_000
    """Open connections for each service; 0: no limit.

    The peer decides how many there are, and each takes a descriptor, memory and, at a destination,
    one of the 28,232 ports that Linux has by default for connections to one address: the device
    keeps more than half of them.
    """
    ping_period: float = 20.0
    connect_timeout: float = 10.0
    """Bound of each step of setting up the link: DNS, TCP, TLS, upgrade."""
    connect_retry_count: int = -1
    """Tries to set up the link again before giving up; -1: no limit."""
    retry_delay: float = 2.5
    """First delay of the exponential backoff of the link; after one that had lasted, a quick try
    comes before it."""
    retry_delay_cap: float = 120.0
    resume_timeout: float = 120.0
    """How long connections wait for a lost link, or a lost peer, to come back; 0: not at all."""
    renewal_timeout: float = 0.0
    """How long a new access token is waited for when the old one was rotated."""
    reconnect_on_data_error: bool = True

    dial_timeout: float = 10.0
    """Bound of one attempt to reach a destination application."""
    dial_retry_count: int = 0
    """Further attempts after a failed one; -1: no limit."""
    dial_retry_delay: float = 2.5
    linger: float = 5.0
    """How long a half-closed client stays open while nothing arrives for it."""
    stall_timeout: float = 30.0
    """How long a connection that accepts no data may hold up the others."""

    @property
    def can_resume(self) -> bool:
        """Whether connections may outlive the link: only V3 tells them apart."""
        return self.resume_timeout > 0 and (
            self.side is Side.DESTINATION or self.peer_version in (PeerVersion.AUTO, PeerVersion.V3)
        )
