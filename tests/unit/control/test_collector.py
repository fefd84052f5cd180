from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tailrace.control.collector import document_metrics

TUNNEL: dict[str, Any] = {
    "tunnel": "ab",
    "side": "source",
    "services": {"SSH": 1, "WEB": 0},
    "phase": "connected",
    "round_trip": 0.25,
    "peer": "absent",
    "reconnects": 1,
    "failures": {"LinkError": 2},
    "opened": 7,
    "bytes_in": 1000,
    "bytes_out": 12,
    "waiting": 3,
    "pauses": 2,
    "bytes_again": 500,
}
ORDER = ("kind", "version", "tunnel", "side", "service", "cause", "direction")
OTHER = TUNNEL | {"tunnel": "cd", "phase": "waiting", "peer": "untold", "round_trip": None}


def samples(*tunnels: dict[str, Any]) -> dict[str, float]:
    """Samples of our own by name and label values."""
    document = {"kind": "agent", "version": "1.2", "tunnels": list(tunnels)}
    text = document_metrics(lambda: document).render().decode()
    return {
        " ".join(
            (sample.name, *(sample.labels[each] for each in ORDER if each in sample.labels))
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("tailrace_")
    }


def test_a_tunnel():
    assert samples(TUNNEL) == {
        "tailrace_proxy_info agent 1.2": 1,
        "tailrace_proxy_tunnels": 1,
        "tailrace_proxy_link_up ab source": 1,
        "tailrace_proxy_peer_up ab source": 0,
        "tailrace_proxy_round_trip_seconds ab source": 0.25,
        "tailrace_proxy_reconnects_total ab source": 1,
        "tailrace_proxy_link_failures_total ab source LinkError": 2,
        "tailrace_proxy_connections ab source SSH": 1,
        "tailrace_proxy_connections ab source WEB": 0,
        "tailrace_proxy_connections_opened_total ab source": 7,
        "tailrace_proxy_bytes_total ab source in": 1000,
        "tailrace_proxy_bytes_total ab source out": 12,
        "tailrace_proxy_connections_waiting ab source": 3,
        "tailrace_proxy_pauses_total ab source": 2,
        "tailrace_proxy_sent_again_bytes_total ab source": 500,
    }


def test_what_is_not_known_is_left_out():
    found = samples(TUNNEL, OTHER)
    assert found["tailrace_proxy_tunnels"] == 2
    assert found["tailrace_proxy_link_up cd source"] == 0
    assert "tailrace_proxy_peer_up cd source" not in found
    assert "tailrace_proxy_round_trip_seconds cd source" not in found
