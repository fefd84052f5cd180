"""Prometheus metrics, made from the service's counters on request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ... import __version__
from ...common.exposition import Exposition
from ..errors import StoreFailed
from ..notify.mailbox import Mailbox
from ..notify.outbox import Outbox
from ..tunnels.queries import TunnelQueries
from .counters import Counters, LoopLag

__all__ = ["service_metrics"]


def service_metrics(
    counters: Counters, queries: TunnelQueries, outboxes: Sequence[Outbox], mailbox: Mailbox
) -> Exposition:
    """Return the metrics of one service."""
    return Exposition(_ServiceCollector(counters, queries, outboxes, mailbox))


class _ServiceCollector(Collector):
    def __init__(
        self,
        counters: Counters,
        queries: TunnelQueries,
        outboxes: Sequence[Outbox],
        mailbox: Mailbox,
    ) -> None:
        self._counters = counters
        self._queries = queries
        self._outboxes = outboxes
        self._mailbox = mailbox

    def describe(self) -> Iterator[Metric]:
        """Describe nothing, so that registering does not read the store."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics but those of the process."""
        info = GaugeMetricFamily("tailrace_info", "Version of the service.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield from self._tunnels()
        yield from self._traffic()
        yield from self._causes()
        yield from self._requests()
        yield from self._relay()
        yield from self._notifications()

    def _tunnels(self) -> Iterator[Metric]:
        try:
            usage = self._queries.usage()
        except StoreFailed:
            return
        tunnels = GaugeMetricFamily(
            "tailrace_tunnels", "Tunnels that can be described.", labels=["status"]
        )
        tunnels.add_metric(["open"], usage.open)
        tunnels.add_metric(["closed"], usage.closed)
        yield tunnels
        yield GaugeMetricFamily(
            "tailrace_stored_bytes",
            "Bytes of tunnels and tags that can be described.",
            usage.stored_bytes,
        )
        yield GaugeMetricFamily(
            "tailrace_tunnels_opened_per_hour",
            "Most tunnels that one access key has opened since the last full hour.",
            usage.opened,
        )

    def _traffic(self) -> Iterator[Metric]:
        links = GaugeMetricFamily("tailrace_links", "Connected local proxies.", labels=["side"])
        messages = CounterMetricFamily(
            "tailrace_messages", "Tunnel messages received from local proxies.", labels=["side"]
        )
        size = CounterMetricFamily(
            "tailrace_bytes", "Bytes of tunnel messages received from proxies.", labels=["side"]
        )
        for side, traffic in self._counters.traffic.items():
            links.add_metric([side], traffic.links)
            messages.add_metric([side], traffic.messages)
            size.add_metric([side], traffic.bytes)
        yield from (links, messages, size)

    def _causes(self) -> Iterator[Metric]:
        counters = self._counters
        for name, text, causes in (
            ("tailrace_stream_resets", "Streams that were reset, by cause.", counters.resets),
            ("tailrace_handshakes_refused", "Refused handshakes, by cause.", counters.refusals),
            ("tailrace_quota_exceeded", "Requests beyond the quota of a key.", counters.quotas),
            ("tailrace_links_ended", "Links that are gone, by cause.", counters.ended),
        ):
            family = CounterMetricFamily(name, text, labels=["cause"])
            for cause, count in causes.items():
                family.add_metric([cause], count)
            yield family
        yield CounterMetricFamily(
            "tailrace_sessions_suspended",
            "Proxies that were told that the other side has left, and wait for it to come back.",
            counters.suspended,
        )
        yield CounterMetricFamily(
            "tailrace_session_offers",
            "Messages passed on with which two proxies agree to go on with connections.",
            counters.offers,
        )

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "tailrace_api_requests",
            "Requests to the control API.",
            labels=["operation", "outcome"],
        )
        for labels, count in self._counters.requests.items():
            requests.add_metric(labels, count)
        yield requests
        yield CounterMetricFamily(
            "tailrace_api_request_seconds",
            "Time spent on requests that were answered as asked.",
            self._counters.request_seconds,
        )

    def _relay(self) -> Iterator[Metric]:
        stalls, lag = self._counters.stalls, self._counters.lag
        yield CounterMetricFamily(
            "tailrace_relay_backpressure_seconds",
            "Time that links were not read because the other side was full, over all links.",
            stalls.seconds,
        )
        yield GaugeMetricFamily(
            "tailrace_relay_stalled_links",
            "Links that are not read because the other side is full.",
            stalls.stalled,
        )
        yield HistogramMetricFamily(
            "tailrace_loop_lag_seconds",
            "How late the event loop ran what was due.",
            buckets=_cumulative(lag),
            sum_value=lag.sum,
        )

    def _notifications(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "tailrace_waiting_things",
            "Things that wait for notifications at the service itself.",
            self._mailbox.things,
        )
        yield CounterMetricFamily(
            "tailrace_waiting_things_notified",
            "Notifications that such things have acknowledged.",
            self._mailbox.delivered,
        )
        if not self._outboxes:
            return
        waiting = GaugeMetricFamily(
            "tailrace_notifications_waiting", "Notifications not delivered yet.", labels=["by"]
        )
        done = CounterMetricFamily(
            "tailrace_notifications",
            "Notifications and what became of them; one that failed is tried again.",
            labels=["by", "outcome"],
        )
        for outbox in self._outboxes:
            waiting.add_metric([outbox.name], outbox.waiting)
            done.add_metric([outbox.name, "delivered"], outbox.delivered)
            done.add_metric([outbox.name, "failed"], outbox.failed)
            done.add_metric([outbox.name, "given_up"], outbox.given_up)
        yield from (waiting, done)


def _cumulative(lag: LoopLag) -> list[tuple[str, float]]:
    buckets, total = [], 0
    for bound, count in zip((*map(str, lag.BOUNDS), "+Inf"), lag.buckets, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
