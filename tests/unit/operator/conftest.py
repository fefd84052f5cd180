from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.plugins.fixtures import service, session_service
from tailrace.control.documents import FORMAT

__all__ = ["service", "session_service"]


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a name short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="tailrace-") as name:
        yield Path(name)


@pytest.fixture
def tunnel() -> dict[str, Any]:
    return {
        "tunnel": "0233abcd-1234",
        "side": "source",
        "services": {"SSH": 1, "WEB": 0},
        "phase": "connected",
        "endpoint": "host:443",
        "round_trip": 0.0123,
        "peer": "connected",
        "reconnects": 1,
        "failures": {"LinkError": 2},
        "last_cause": "lost",
        "last_failure": 40.0,
        "open": 1,
        "opened": 7,
        "bytes_in": 1_000_000,
        "bytes_out": 12,
        "paused_since": None,
        "waiting": 0,
        "pauses": 0,
        "bytes_again": 0,
        "connections": [],
    }


@pytest.fixture
def proxy(tunnel: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": "localproxy",
        "pid": 4711,
        "version": "1",
        "since": 0.0,
        "time": 100.0,
        "clock": 50.0,
        "tunnels": [tunnel],
    }


@pytest.fixture
def serve() -> dict[str, Any]:
    sides = {"source": {"links": 2, "bytes": 5000}, "destination": {"links": 3, "bytes": 0}}
    return {
        "format": FORMAT,
        "kind": "serve",
        "pid": 12,
        "since": 0.0,
        "time": 100.0,
        "clock": 50.0,
        "summary": "tunnels open: 3",
        "service": {"tunnels": {"open": 3}, "sides": sides},
    }
