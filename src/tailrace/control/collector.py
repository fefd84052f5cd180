"""A document as metrics of Prometheus. Needs prometheus-client."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..common.exposition import Exposition
from .documents import Document

__all__ = ["document_metrics"]

_TUNNEL = ("tunnel", "side")


def document_metrics(document: Callable[[], Document]) -> Exposition:
    """Return the metrics of a process that tells its tunnels in a document."""
    return Exposition(_DocumentCollector(document))


class _DocumentCollector(Collector):
    def __init__(self, document: Callable[[], Document]) -> None:
        self._document = document

    def describe(self) -> Iterator[Metric]:
        """Describe nothing, so that registering asks for no document."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics but those of the process."""
        document = self._document()
        info = GaugeMetricFamily(
            "tailrace_proxy_info", "The command and its version.", labels=["kind", "version"]
        )
        info.add_metric([document["kind"], document["version"]], 1)
        yield info
        tunnels = document.get("tunnels", [])
        yield GaugeMetricFamily("tailrace_proxy_tunnels", "Tunnels that are served.", len(tunnels))
        yield from _links(tunnels)
        yield from _connections(tunnels)


def _links(tunnels: list[Document]) -> Iterator[Metric]:
    connected = GaugeMetricFamily(
        "tailrace_proxy_link_up", "Whether the link to the service is up.", labels=_TUNNEL
    )
    peer = GaugeMetricFamily(
        "tailrace_proxy_peer_up",
        "Whether the other side is connected, where the service tells.",
        labels=_TUNNEL,
    )
    round_trip = GaugeMetricFamily(
        "tailrace_proxy_round_trip_seconds", "Round trip of the link.", labels=_TUNNEL
    )
    reconnects = CounterMetricFamily(
        "tailrace_proxy_reconnects", "How often the link was set up again.", labels=_TUNNEL
    )
    failures = CounterMetricFamily(
        "tailrace_proxy_link_failures",
        "How often the link was lost or could not be set up, by the class of the error.",
        labels=(*_TUNNEL, "cause"),
    )
    for each in tunnels:
        labels = (each["tunnel"], each["side"])
        connected.add_metric(labels, each["phase"] == "connected")
        if each["peer"] in ("connected", "absent"):
            peer.add_metric(labels, each["peer"] == "connected")
        if each["round_trip"] is not None:
            round_trip.add_metric(labels, each["round_trip"])
        reconnects.add_metric(labels, each["reconnects"])
        for cause, count in each["failures"].items():
            failures.add_metric((*labels, cause), count)
    yield from (connected, peer, round_trip, reconnects, failures)


def _connections(tunnels: list[Document]) -> Iterator[Metric]:
    current = GaugeMetricFamily(
        "tailrace_proxy_connections",
        "Local connections that are open.",
        labels=(*_TUNNEL, "service"),
    )
    opened = CounterMetricFamily(
        "tailrace_proxy_connections_opened", "Local connections so far.", labels=_TUNNEL
    )
    size = CounterMetricFamily(
        "tailrace_proxy_bytes",
        "Bytes of local connections: read from them (in), received for them (out).",
        labels=(*_TUNNEL, "direction"),
    )
    waiting = GaugeMetricFamily(
        "tailrace_proxy_connections_waiting",
        "Local connections that wait until a lost link, or the peer, has come back.",
        labels=_TUNNEL,
    )
    pauses = CounterMetricFamily(
        "tailrace_proxy_pauses", "How often connections have waited for that.", labels=_TUNNEL
    )
    again = CounterMetricFamily(
        "tailrace_proxy_sent_again_bytes", "Bytes sent again behind such pauses.", labels=_TUNNEL
    )
    for each in tunnels:
        labels = (each["tunnel"], each["side"])
        waiting.add_metric(labels, each["waiting"])
        pauses.add_metric(labels, each["pauses"])
        again.add_metric(labels, each["bytes_again"])
        for service, count in each["services"].items():
            current.add_metric((*labels, service), count)
        opened.add_metric(labels, each["opened"])
        size.add_metric((*labels, "in"), each["bytes_in"])
        size.add_metric((*labels, "out"), each["bytes_out"])
    yield from (current, opened, size, waiting, pauses, again)
