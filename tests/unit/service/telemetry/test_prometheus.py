"""Metrics in the text format of Prometheus, as its own parser reads them."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tailrace.common.exposition import Exposition
from tailrace.service.errors import StoreFailed
from tailrace.service.limits import DEFAULT
from tailrace.service.notify.mailbox import Mailbox
from tailrace.service.telemetry.counters import Counters, ResetCause
from tailrace.service.telemetry.prometheus import service_metrics
from tailrace.service.tunnels.queries import TunnelQueries
from tailrace.service.tunnels.rules import RandomIds, Tunnels, TunnelSpec
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.unstored import Unstored
from tailrace.wire import Side


class Outbox:
    name = "mqtt://broker:1883"
    waiting = 3
    delivered = 5
    failed = 7
    given_up = 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore.open(tmp_path / "tunnels.sqlite3")
    yield store
    store.close()


def samples(metrics: Exposition) -> dict[str, float]:
    """Samples by name and label values."""
    text = metrics.render().decode()
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_everything(store: SqliteStore) -> None:
    tunnels = Tunnels(store, Unstored(), RandomIds(), DEFAULT)
    opened = [tunnels.open(TunnelSpec(), 1.0) for _ in range(3)]
    tunnels.close(opened[0].tunnel.tunnel_id, 2.0, connected=False)
    counters = Counters(time.monotonic)
    source = counters.traffic[Side.SOURCE]
    source.links, source.messages, source.bytes = 2, 30, 4000
    counters.resets[ResetCause.PEER_LEFT] = 4
    counters.suspended, counters.offers = 5, 11
    counters.refusals["token_used"] = 6
    counters.ended["lost"] = 8
    counters.requests["OpenTunnel", "ok"] = 9
    counters.quotas["stored_bytes"] = 2
    counters.request_seconds = 0.5
    counters.stalls.begin()
    counters.lag.record(0.002)
    counters.lag.record(9.0)
    queries = TunnelQueries(store, Unstored(), lambda: 1.0, "us-east-1", "0")
    found = samples(service_metrics(counters, queries, [Outbox()], Mailbox()))
    expected = {
        "tailrace_tunnels open": 2,
        "tailrace_tunnels closed": 1,
        "tailrace_stored_bytes": 3024,
        "tailrace_tunnels_opened_per_hour": 3,
        "tailrace_quota_exceeded_total stored_bytes": 2,
        "tailrace_links source": 2,
        "tailrace_links destination": 0,
        "tailrace_messages_total source": 30,
        "tailrace_bytes_total source": 4000,
        "tailrace_stream_resets_total peer_left": 4,
        "tailrace_sessions_suspended_total": 5,
        "tailrace_session_offers_total": 11,
        "tailrace_handshakes_refused_total token_used": 6,
        "tailrace_links_ended_total lost": 8,
        "tailrace_api_requests_total OpenTunnel ok": 9,
        "tailrace_api_request_seconds_total": 0.5,
        "tailrace_relay_stalled_links": 1,
        "tailrace_loop_lag_seconds_bucket 0.001": 0,
        "tailrace_loop_lag_seconds_bucket 0.0025": 1,
        "tailrace_loop_lag_seconds_bucket 2.5": 1,
        "tailrace_loop_lag_seconds_bucket +Inf": 2,
        "tailrace_loop_lag_seconds_count": 2,
        "tailrace_loop_lag_seconds_sum": 9.002,
        "tailrace_notifications_waiting mqtt://broker:1883": 3,
        "tailrace_notifications_total mqtt://broker:1883 delivered": 5,
        "tailrace_notifications_total mqtt://broker:1883 failed": 7,
        "tailrace_notifications_total mqtt://broker:1883 given_up": 1,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found["tailrace_relay_backpressure_seconds_total"] > 0
    assert any(name.startswith("tailrace_info ") for name in found)
    assert found["process_open_fds"] > 0


def test_nothing_has_happened(store: SqliteStore) -> None:
    found = samples(
        service_metrics(
            Counters(time.monotonic),
            TunnelQueries(store, Unstored(), lambda: 1.0, "r", "0"),
            [],
            Mailbox(),
        )
    )
    assert found["tailrace_tunnels open"] == 0
    assert found["tailrace_loop_lag_seconds_count"] == 0
    assert not any(name.startswith("tailrace_notifications") for name in found)


def test_a_failing_store_does_not_hide_the_rest(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise StoreFailed("disk full")

    queries = TunnelQueries(store, Unstored(), lambda: 1.0, "us-east-1", "0")
    monkeypatch.setattr(queries, "usage", fail)
    found = samples(service_metrics(Counters(time.monotonic), queries, [], Mailbox()))
    assert "tailrace_links source" in found
    assert "tailrace_tunnels open" not in found
