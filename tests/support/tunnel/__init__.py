"""Whole tunnels: a service process, local proxies in this process or as processes.

Everything is started by a context manager and is gone when its block ends: processes
are waited for, sockets closed, tasks done. The system picks all ports. When a block ends
with an error, the logs of its processes are printed, and pytest shows them.
"""

from __future__ import annotations

from .in_process import Ends, RunningProxy, both_proxies, disguise, running_proxy
from .processes import (
    ProxyProcess,
    arguments_for,
    both_processes,
    proxy_process,
    read_ready_file,
    tunnel_process,
)
from .tunnels import Tunnel, open_tunnel, tunnel_of

__all__ = [
    "Ends",
    "ProxyProcess",
    "RunningProxy",
    "Tunnel",
    "arguments_for",
    "both_processes",
    "both_proxies",
    "disguise",
    "open_tunnel",
    "proxy_process",
    "read_ready_file",
    "running_proxy",
    "tunnel_of",
    "tunnel_process",
]
