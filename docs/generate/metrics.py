"""Metrics of local proxies, agents and the service, from what they show Prometheus."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client.core import Metric

from tailrace.common.exposition import Exposition
from tailrace.control.collector import document_metrics
from tailrace.service.notify.base import Notification
from tailrace.service.notify.mailbox import Mailbox
from tailrace.service.notify.outbox import Outbox
from tailrace.service.telemetry.counters import Counters, ResetCause
from tailrace.service.telemetry.prometheus import service_metrics
from tailrace.service.tunnels.queries import TunnelQueries
from tailrace.service.tunnels.rules import Refusal
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.unstored import Unstored

from .markdown import notice, table

__all__ = ["page", "proxy_families", "service_families", "shown_name"]

_INTRODUCTION: Final = """\
# Metrics

What Prometheus finds at `/metrics`, with [`--metrics-listen`](status.md#metrics) of a local proxy
or of the agent, and [at the service](../guides/deployment.md#what-it-tells). All of them have
`process_*` (memory, CPU, descriptors) and `python_*` (garbage collection) of the library
prometheus-client as well.
"""

_VALUES: Final = {
    "tailrace_tunnels": "open, closed",
    "tailrace_quota_exceeded": "open_tunnels, opened_per_hour, stored_bytes",
    "tailrace_stream_resets": ", ".join(ResetCause),
    "tailrace_links_ended": "client, lost, replaced, revoked, tunnel_closed, protocol_error, "
    "shutdown",
    "tailrace_handshakes_refused": f"{', '.join(each.name.lower() for each in Refusal)}, "
    "bad_request, tls_not_finished, and others",
    "tailrace_notifications": "delivered, failed (to be tried again), given_up",
    "tailrace_proxy_link_failures": "the class of the error",
    "tailrace_proxy_bytes": "in, out",
}
"""Values of a metric's last label."""


class _Nobody:
    """A notifier that delivers nothing: here only its name counts."""

    name = "mqtt"

    async def deliver(self, notification: Notification) -> None:
        """Not called."""

    async def close(self) -> None:
        """Not called."""


def _families(exposition: Exposition) -> Iterator[Metric]:
    # The text has no labels of a metric without samples.
    for family in exposition._registry.collect():
        if family.name.startswith("tailrace_"):
            yield family


def proxy_families() -> list[Metric]:
    """Return the metrics of a local proxy or an agent."""
    about = {"kind": "localproxy", "version": "", "tunnels": []}
    return list(_families(document_metrics(lambda: about)))


def service_families() -> list[Metric]:
    """Return the metrics of a service that notifies things."""
    with tempfile.TemporaryDirectory() as directory:
        store = SqliteStore.open(Path(directory, "tunnels.sqlite3"))
        try:
            queries = TunnelQueries(store, Unstored(), time.time, "us-east-1", "0")
            outbox = Outbox(_Nobody(), time.time)
            counters = Counters(time.monotonic)
            return list(_families(service_metrics(counters, queries, [outbox], Mailbox())))
        finally:
            store.close()


def shown_name(family: Metric) -> str:
    """Return a metric's name as Prometheus shows it."""
    return f"{family.name}_total" if family.type == "counter" else str(family.name)


def _table(families: list[Metric]) -> str:
    rows = []
    for family in families:
        labels = ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ()))
        values = f": {_VALUES[family.name]}" if family.name in _VALUES else ""
        rows.append([f"`{shown_name(family)}`", family.type, labels + values, family.documentation])
    return table(["Metric", "Type", "Labels", "Tells"], rows)


def page() -> str:
    """Return the page."""
    return "\n".join(
        [
            notice("the collectors in src/tailrace"),
            _INTRODUCTION,
            "## Local proxies and agents\n",
            "`tunnel` is the id of the tunnel where it is known, or else the beginning of the",
            "SHA-256 of its access token; `side` is source or destination.\n",
            _table(proxy_families()),
            "## The service\n",
            "None of them names a tunnel or a thing.\n",
            _table(service_families()),
        ]
    )
