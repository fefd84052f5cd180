from __future__ import annotations

import json
import os
import time

import pytest

from tailrace import __version__
from tailrace.control.documents import FORMAT, process_document, tunnel_document
from tailrace.localproxy.connection_states import ConnectionState
from tailrace.localproxy.status import (
    ConnectionStatus,
    LinkPhase,
    LinkStatus,
    PeerPresence,
    TunnelStatus,
)
from tailrace.wire import Side

LINK = LinkStatus(LinkPhase.CONNECTED, "host:443", 0.01, 2, "lost", 90.0, {"LinkError": 2})


def status(connections: int) -> TunnelStatus:
    return TunnelStatus(
        Side.SOURCE,
        ("SSH", "WEB"),
        LINK,
        PeerPresence.CONNECTED,
        tuple(
            ConnectionStatus("SSH", number, "peer", ConnectionState.OPEN, 1, 2, 95.0, True)
            for number in range(connections)
        ),
        opened=connections + 1,
        bytes_in=1000,
        bytes_out=2000,
        paused_since=91.0,
        waiting=1,
        pauses=2,
        bytes_again=500,
    )


def test_a_tunnel():
    document = json.loads(json.dumps(tunnel_document("#ab", status(1), thing="pump-7")))
    assert document == {
        "tunnel": "#ab",
        "side": "source",
        "services": {"SSH": 1, "WEB": 0},
        "phase": "connected",
        "endpoint": "host:443",
        "round_trip": 0.01,
        "peer": "connected",
        "reconnects": 2,
        "failures": {"LinkError": 2},
        "last_cause": "lost",
        "last_failure": 90.0,
        "open": 1,
        "opened": 2,
        "bytes_in": 1000,
        "bytes_out": 2000,
        "paused_since": 91.0,
        "waiting": 1,
        "pauses": 2,
        "bytes_again": 500,
        "connections": [
            {
                "service": "SSH",
                "connection": 0,
                "peer": "peer",
                "state": "open",
                "waits": True,
                "bytes_in": 1,
                "bytes_out": 2,
                "since": 95.0,
            }
        ],
        "thing": "pump-7",
    }


def test_of_many_connections_all_are_counted_and_some_are_told():
    document = tunnel_document("#ab", status(12_000))
    assert (document["open"], document["services"]["SSH"]) == (12_000, 12_000)
    assert len(document["connections"]) == 100


def test_a_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "time", lambda: 60.0)
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    assert process_document("kind", 5.0, {"tunnels": []}) == {
        "format": FORMAT,
        "kind": "kind",
        "pid": os.getpid(),
        "version": __version__,
        "since": 5.0,
        "time": 60.0,
        "clock": 7.0,
        "tunnels": [],
    }
