"""The public API: what it offers, what it costs to import, and what its types find."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import tailrace
from support.repository import ROOT

API = """
    AccessRefused
    Agent
    AgentStatus
    Application
    CallRefused
    CertificateFault
    CertificateRejected
    Client
    ConfigurationError
    ConnectFailed
    Connected
    Connecting
    ConnectionClosed
    ConnectionCut
    ConnectionOpened
    ConnectionRefused
    ConnectionState
    ConnectionStatus
    ControlCertificateRejected
    ControlError
    ControlThrottled
    Credentials
    CredentialsRefused
    DecodeError
    Delivery
    DestinationTunnel
    Ended
    Endpoints
    EventsDropped
    FileSource
    HandshakeAltered
    HandshakeFailed
    LimitExceeded
    Limits
    LinkError
    LinkPhase
    LinkStatus
    ListenError
    Listening
    ListeningOnNetwork
    LocalAddress
    LocalProtocolError
    NameResolutionFailed
    NotTunnelingService
    Notification
    NotificationIgnored
    NotificationNotStored
    NotificationSource
    OpenFailed
    OpenedTunnel
    PeerDialectLearned
    PeerJoined
    PeerLeft
    PeerPresence
    PeerSilent
    ProtocolError
    ProxyRefused
    Reconnecting
    RemoteProtocolError
    ResponseLost
    RotatedTokens
    Secret
    ServedStatus
    Service
    ServiceIdMismatch
    ServiceMap
    ServiceRule
    ServiceUnavailable
    ServicesMapped
    Side
    SideState
    SourceTunnel
    Started
    StdinSource
    StreamHandler
    TCPAddress
    TLSFailed
    TailraceError
    TimedOut
    TokenRotated
    Tunnel
    TunnelClosed
    TunnelDescription
    TunnelEvent
    TunnelListener
    TunnelNotFound
    TunnelPaused
    TunnelResumed
    TunnelState
    TunnelStatus
    TunnelSummary
    UnixAddress
    __version__
    connect
    notifications
    sync
"""
"""What is taken away from here breaks somebody's program."""

SYNC = """
    Application
    Client
    DestinationTunnel
    Service
    SocketHandler
    SourceTunnel
    Tunnel
    TunnelConnection
    TunnelListener
    connect
"""
"""The same for ``tailrace.sync``."""

ALIASES = {"Application", "LocalAddress", "StreamHandler", "TunnelEvent"}
"""Names of types, which have no docstring of their own."""

SIGNATURES = {
    "Client.aclose": "self",
    "Client.open": "self, *, thing=None, services=(), description=None, lifetime=None, tags=None",
    "Client.describe": "self, tunnel_id",
    "Client.list": "self, *, thing=None, limit=None",
    "Client.rotate": "self, tunnel_id, side=None, *, thing=None, services=()",
    "Client.close": "self, tunnel_id, *, delete=False",
    "Client.tag": "self, tunnel, tags",
    "Client.untag": "self, tunnel, keys",
    "Client.tags": "self, tunnel",
    "Tunnel.source": "token, *, region=None, endpoint=None, ca=None, client_token=None,"
    " dialect=None, timeout=30.0, renewal_timeout=0.0,"
    " resume_timeout=120.0",
    "Tunnel.destination": "token, services, *, region=None, endpoint=None, ca=None,"
    " client_token=None, timeout=30.0, renewal_timeout=0.0,"
    " resume_timeout=120.0",
    "Tunnel.renew": "self, token",
    "Tunnel.wait_peer": "self, timeout=None",
    "Tunnel.wait_closed": "self",
    "Tunnel.close": "self",
    "Tunnel.status": "self",
    "Tunnel.events": "self",
    "SourceTunnel.open_connection": "self, service",
    "SourceTunnel.open_socket": "self, service",
    "SourceTunnel.listen": "self, service, host='127.0.0.1', port=0",
    "TunnelListener.close": "self",
    "Agent.destinations": "self",
    "Agent.receive": "self, payload, *, thing_name=None, retained=False",
    "Agent.run": "self, *sources",
    "Agent.status": "self",
    "Agent.log_status": "self",
    "Agent.subscribe": "self, subscriber",
    "notifications": "source",
    "Service.environment": "self",
    "Service.client": "self, timeout=30.0",
    "connect": "thing=None, *, tunnel_id=None, services=(), reuse=False, keep=False,"
    " lifetime=None, timeout=30.0, client=None, client_token=None, region=None, endpoint=None,"
    " ca=None, dialect=None, resume_timeout=120.0",
}
"""Functions and methods, and their parameters."""

PROPERTIES = {"Tunnel.client_token", "SourceTunnel.tunnel_id", "Service.endpoints"}
"""Attributes that are computed."""

TYPED = ROOT / "tests" / "support" / "typing"


def parameters(function: object) -> str:
    assert callable(function)
    found = inspect.signature(function).parameters.values()
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in found]
    return str(inspect.Signature(plain))[1:-1]


def documented() -> Iterator[tuple[str, object]]:
    """Yield every public name that has a docstring, and the methods that a program calls."""
    for name in sorted(set(tailrace.__all__) - ALIASES - {"__version__"}):
        yield name, getattr(tailrace, name)
    for name in (*SIGNATURES, *PROPERTIES):
        owner, _, method = name.rpartition(".")
        if not owner:
            continue
        yield name, inspect.getattr_static(getattr(tailrace, owner), method)
    for name in sorted(set(tailrace.sync.__all__) - {"Application", "SocketHandler"}):
        twin = getattr(tailrace.sync, name)
        yield f"sync.{name}", twin
        for method, value in vars(twin).items():
            if not method.startswith("_"):
                yield f"sync.{name}.{method}", value


def without_example(things: Iterator[tuple[str, object]]) -> list[str]:
    return [name for name, thing in things if "Example:" not in (thing.__doc__ or "")]


def test_the_names_are_pinned() -> None:
    assert tailrace.__all__ == API.split()
    assert set(API.split()) <= set(dir(tailrace))
    for name in API.split():
        assert getattr(tailrace, name) is getattr(tailrace, name)
    with pytest.raises(AttributeError, match="module 'tailrace' has no attribute 'Tunel'"):
        tailrace.__getattr__("Tunel")


def test_the_signatures_are_pinned() -> None:
    public = {
        f"{owner}.{name}": value
        for owner in (
            "Client",
            "Tunnel",
            "SourceTunnel",
            "DestinationTunnel",
            "TunnelListener",
            "Service",
            "Agent",
        )
        for name, value in vars(getattr(tailrace, owner)).items()
        if not name.startswith("_")
    }
    properties = {name for name, value in public.items() if isinstance(value, property)}
    assert properties == PROPERTIES
    found = {
        name: parameters(getattr(getattr(tailrace, name.partition(".")[0]), name.partition(".")[2]))
        for name in public.keys() - properties
    }
    functions = {name: parameters(getattr(tailrace, name)) for name in ("connect", "notifications")}
    assert found | functions == SIGNATURES


def test_the_names_of_the_blocking_twin_are_pinned() -> None:
    """Their signatures are those of what they are twins of, which tests/meta holds them to."""
    assert tailrace.sync.__all__ == SYNC.split()
    public = {name for name in vars(tailrace.sync.TunnelConnection) if not name.startswith("_")}
    assert public == {"close", "socket", "writable", "write", "write_eof"}


def test_each_name_has_an_example() -> None:
    assert without_example(documented()) == []
    assert without_example(iter([("nothing", types.SimpleNamespace())])) == ["nothing"]


def loaded(code: str) -> set[str]:
    """Return the modules that a statement loads in a fresh interpreter."""
    script = f"import sys, json; seen = set(sys.modules); {code}\n"
    script += "print(json.dumps(sorted(set(sys.modules) - seen)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_it_loads_nothing_else() -> None:
    assert loaded("import tailrace; dir(tailrace)") == {"tailrace"}
    assert "asyncio" not in loaded("from tailrace import AccessRefused")
    assert "asyncio" not in loaded("from tailrace import Credentials, TunnelState")
    assert "tailrace.library.tunnel" in loaded("from tailrace import Tunnel")
    assert "tailrace.library.tunnel" not in loaded("from tailrace import Client")
    assert "tailrace.sync.tunnel" in loaded("import tailrace; tailrace.sync")
    service = loaded("from tailrace import Service")
    assert "tailrace.service.service" in service
    assert not service & {"picows", "starlette", "tailrace.library", "uvicorn"}


def mypy(path: Path) -> str:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
    # A cache of its own: the options are not those of the project.
    command += ["--config-file=", f"--cache-dir={ROOT / '.mypy_cache' / 'api'}", str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout


def test_types_know_every_name() -> None:
    path = TYPED / "uses.py"
    text = path.read_text()
    assert [name for name in tailrace.__all__ if f"tailrace.{name}" not in text] == []
    twins = (f"tailrace.sync.{name}" for name in tailrace.sync.__all__)
    assert [name for name in twins if name not in text] == []
    assert mypy(path) == ""


def test_types_find_each_misuse() -> None:
    path = TYPED / "misuses.py"
    lines = path.read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    found = {int(line.split(":")[1]) for line in mypy(path).splitlines() if ": error: " in line}
    assert found == wrong
    assert len(wrong) > 10
