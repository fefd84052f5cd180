"""What a process tells of itself, as a document for JSON. None of it is secret.

Counts only grow for as long as the process lives, and ``clock`` is that of the same moment: two
documents give the rates.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from .. import __version__

if TYPE_CHECKING:
    from ..localproxy.status import TunnelStatus

__all__ = ["FORMAT", "Document", "process_document", "tunnel_document"]

Document = dict[str, Any]

FORMAT: Final = 1
"""Changes when what was told is told in another way; more may be told at any time."""
_MOST_CONNECTIONS: Final = 100
"""Connections of a tunnel that are told one by one."""


def process_document(kind: str, since: float, details: Mapping[str, Any]) -> Document:
    """Return what is told of this process: what is so for each kind, and ``details``.

    Args:
        kind: the command, as ``localproxy``.
        details: ``tunnels``, a list of :func:`tunnel_document`; ``summary``, a line of what else
            people should know; and whatever there is to that.
        since: when it started, in seconds since the epoch.
    """
    return {
        "format": FORMAT,
        "kind": kind,
        "pid": os.getpid(),
        "version": __version__,
        "since": since,
        "time": time.time(),
        "clock": time.monotonic(),
        **details,
    }


def tunnel_document(name: str, status: TunnelStatus, **more: object) -> Document:
    """Return what is told of one end of a tunnel.

    Args:
        name: what people know the tunnel by.
        more: what else this process knows of it.
    """
    link = status.link
    connections = status.connections
    open_ones = Counter(each.service_id for each in connections)
    return {
        "tunnel": name,
        "side": status.side.value,
        "services": {each: open_ones[each] for each in status.service_ids},
        "phase": link.phase.value,
        "endpoint": link.endpoint,
        "round_trip": link.round_trip,
        "peer": status.peer.value,
        "reconnects": link.reconnects,
        "failures": dict(link.failures),
        "last_cause": link.last_cause,
        "last_failure": link.last_failure,
        "open": len(connections),
        "opened": status.opened,
        "bytes_in": status.bytes_in,
        "bytes_out": status.bytes_out,
        "paused_since": status.paused_since,
        "waiting": status.waiting,
        "pauses": status.pauses,
        "bytes_again": status.bytes_again,
        "connections": [
            {
                "service": each.service_id,
                "connection": each.connection_id,
                "peer": each.peer,
                "state": each.state.value,
                "waits": each.waits,
                "bytes_in": each.bytes_in,
                "bytes_out": each.bytes_out,
                "since": each.since,
            }
            for each in connections[:_MOST_CONNECTIONS]
        ],
        **more,
    }
