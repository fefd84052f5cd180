"""AWS' conventions, from both sides: request signatures and clients of the control API.

May import :mod:`tailrace.link` (the way to a host), :mod:`tailrace.wire` (the sides of a tunnel),
:mod:`tailrace.common` and :mod:`tailrace.errors`.

What needs an event loop is loaded when it is first used: the service, which verifies signatures,
is no client.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ..common.secret import Secret
from .credentials import Credentials
from .joined import JoinedService, find_joined
from .profile import Profile, aws_endpoint, read_profile
from .results import (
    OpenedTunnel,
    RotatedTokens,
    SideState,
    TunnelDescription,
    TunnelState,
    TunnelSummary,
)
from .running import find_running

if TYPE_CHECKING:
    from .client import Client
    from .control_api import ControlAPI
    from .control_client import ControlClient

__all__ = [
    "Client",
    "ControlAPI",
    "ControlClient",
    "Credentials",
    "JoinedService",
    "OpenedTunnel",
    "Profile",
    "RotatedTokens",
    "Secret",
    "SideState",
    "TunnelDescription",
    "TunnelState",
    "TunnelSummary",
    "aws_endpoint",
    "find_joined",
    "find_running",
    "read_profile",
]

_HOME = {
    "Client": ".client",
    "ControlAPI": ".control_api",
    "ControlClient": ".control_client",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)
