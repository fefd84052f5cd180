from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tailrace.service.config import Endpoints
from tailrace.service.errors import StoreFailed
from tailrace.service.limits import DEFAULT
from tailrace.service.telemetry.counters import Counters, ResetCause
from tailrace.service.telemetry.status import service_status
from tailrace.service.tunnels.queries import TunnelQueries
from tailrace.service.tunnels.rules import RandomIds, Tunnels, TunnelSpec
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.unstored import Unstored
from tailrace.wire import Side

ENDPOINTS = Endpoints(
    api_endpoint="https://api:7443",
    data_endpoint="data:7444",
    ca_file="/ca",
    ca_dir="/",
    region="us-east-1",
    access_key_id="AKIA",
    secret_access_key="very-secret",
    pid=1,
)


@pytest.mark.parametrize("broken", [False, True])
def test_counts_and_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    def fail() -> None:
        raise StoreFailed("disk")

    store = SqliteStore.open(tmp_path / "tunnels.sqlite3")
    Tunnels(store, Unstored(), RandomIds(), DEFAULT).open(TunnelSpec(), 1.0)
    queries = TunnelQueries(store, Unstored(), lambda: 1.0, "us-east-1", "0")
    counters = Counters(time.monotonic)
    source = counters.traffic[Side.SOURCE]
    source.links, source.messages, source.bytes = 2, 30, 4000
    counters.resets[ResetCause.PEER_LEFT] = 4
    counters.suspended, counters.offers = 5, 11
    counters.refusals["token_used"] = 6
    counters.ended["lost"] = 8
    counters.requests["OpenTunnel", "ok"] = 9
    if broken:
        monkeypatch.setattr(queries, "usage", fail)
    status = json.loads(json.dumps(service_status(counters, queries, ENDPOINTS)))
    store.close()
    assert status == {
        "summary": f"{'the store cannot be read' if broken else 'tunnels open: 1'}, "
        "sources: 2, destinations: 0, handshakes refused: 6",
        "service": {
            "api_endpoint": "https://api:7443",
            "data_endpoint": "data:7444",
            "tunnels": {} if broken else {"open": 1, "closed": 0},
            "sides": {
                "source": {"links": 2, "messages": 30, "bytes": 4000},
                "destination": {"links": 0, "messages": 0, "bytes": 0},
            },
            "resets": {"peer_left": 4},
            "suspended": 5,
            "offers": 11,
            "refused": {"token_used": 6},
            "ended": {"lost": 8},
            "requests": 9,
            "stalled_links": 0,
            "stalled_seconds": 0.0,
        },
    }
