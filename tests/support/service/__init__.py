"""A running service, in this process or one of its own, and clients of it."""

from __future__ import annotations

from .clients import MessageClient, api, dial, trust
from .in_process import config, running
from .process import ServiceProcess, control_client, service_process

__all__ = [
    "MessageClient",
    "ServiceProcess",
    "api",
    "config",
    "control_client",
    "dial",
    "running",
    "service_process",
    "trust",
]
