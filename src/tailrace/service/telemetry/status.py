"""What the service tells of itself on request, made from its counters."""

from __future__ import annotations

from typing import Any

from ..config import Endpoints
from ..errors import StoreFailed
from ..tunnels.queries import TunnelQueries
from .counters import Counters

__all__ = ["service_status"]


def service_status(
    counters: Counters, queries: TunnelQueries, endpoints: Endpoints
) -> dict[str, Any]:
    """Return counts and endpoints, for JSON, and a ``summary`` of them. None is secret."""
    try:
        usage = queries.usage()
        tunnels = {"open": usage.open, "closed": usage.closed}
    except StoreFailed:
        tunnels = {}
    sides = {
        side.value: {"links": of.links, "messages": of.messages, "bytes": of.bytes}
        for side, of in counters.traffic.items()
    }
    refused = counters.refusals.total()
    parts = [
        f"tunnels open: {tunnels['open']}" if tunnels else "the store cannot be read",
        *(f"{side}s: {of.links}" for side, of in counters.traffic.items()),
        *([f"handshakes refused: {refused}"] if refused else []),
    ]
    return {
        "summary": ", ".join(parts),
        "service": {
            "api_endpoint": endpoints.api_endpoint,
            "data_endpoint": endpoints.data_endpoint,
            "tunnels": tunnels,
            "sides": sides,
            "resets": dict(counters.resets),
            "suspended": counters.suspended,
            "offers": counters.offers,
            "refused": dict(counters.refusals),
            "ended": dict(counters.ended),
            "requests": counters.requests.total(),
            "stalled_links": counters.stalls.stalled,
            "stalled_seconds": counters.stalls.seconds,
        },
    }
