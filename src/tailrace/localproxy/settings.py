"""The one frozen configuration object of a local proxy.

Built by :func:`tailrace.cli.localproxy.resolve.build_settings` from argv, files and
environment; everything below reads it and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from ..common.secret import Secret
from ..link.proxy.settings import WebProxy
from ..wire import Side

__all__ = [
    "Backend",
    "LocalAddress",
    "LoopChoice",
    "PeerVersion",
    "ProxySettings",
    "ServiceMap",
    "TCPAddress",
    "UnixAddress",
]


class PeerVersion(Enum):
    """Message format of the peer: ``-y V1|V2``, or learned while it is safe."""

    AUTO = "auto"
    V1 = "V1"
    V2 = "V2"
    V3 = "V3"


class Backend(Enum):
    """WebSocket back end of the link."""

    AUTO = "auto"
    PICOWS = "picows"
    WEBSOCKETS = "websockets"


class LoopChoice(Enum):
    """Event loop."""

    AUTO = "auto"
    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"


@dataclass(frozen=True, slots=True)
class TCPAddress:
    """A TCP address; ``host`` "" means the default of the mode, ``port`` 0 "pick one".

    ``host`` is a name or a literal without brackets.
    """

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if host else str(self.port)


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a unix stream socket."""

    path: str

    def __str__(self) -> str:
        return self.path


LocalAddress = TCPAddress | UnixAddress

ServiceMap = Mapping[str, LocalAddress]
"""Service id -> local address; the id "" stands for a lone ``-s PORT`` or ``-d PORT``."""


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

    services: ServiceMap | None = None
    """The map of ``-s`` or ``-d``; ``None`` when only a mode was given."""
    fallback_services: ServiceMap = field(default_factory=dict)
    """The map of ``--config-dir``; used for ids when ``services`` is ``None``."""
    allowed: tuple[LocalAddress, ...] | None = None
    """Destination: the only addresses that are connected to; ``None``: those of the maps."""
    bind_address: str = ""
    """Source: address to listen on, "" is "localhost"; destination: local address of outgoing
    connections, "" is any. A host name or an address without brackets."""
    peer_version: PeerVersion = PeerVersion.AUTO

    capath: Path | None = None
    verify_tls: bool = True
    backend: Backend = Backend.AUTO
    loop: LoopChoice = LoopChoice.AUTO
    web_proxy: WebProxy | None = None
    """Reach the service through this proxy; ``None``: directly."""

    subprotocol: str = "aws.iot.securetunneling-3.0"
    max_payload: int = 64_512
    max_connections: int = 0
    """Open connections for each service; 0: no limit."""
    ping_period: float = 20.0
    connect_timeout: float = 10.0
    """Bound of each step of setting up the link: DNS, TCP, TLS, upgrade."""
    connect_retry_count: int = -1
    """Tries to set up the link again before giving up; -1: for ever."""
    retry_delay: float = 2.5
    """First delay of the exponential backoff of the link."""
    retry_delay_cap: float = 120.0
    reconnect_on_data_error: bool = True

    dial_timeout: float = 10.0
    """Bound of one attempt to reach a destination application."""
    dial_retry_count: int = 0
    """Further attempts after a refused one; -1: for ever."""
    dial_retry_delay: float = 2.5
    linger: float = 5.0
    """How long a client that has closed its sending half still receives, without news."""
    stall_timeout: float = 30.0
    """How long one connection that takes nothing may hold up the others."""

    json_events: bool = False
    """Write one JSON object a line to standard output for each event."""
    ready_file: Path | None = None
    """Written atomically once the tunnel can be used."""
    state_dir: Path | None = None
    """Where the generated client token of an access token outlives the process (0600)."""
