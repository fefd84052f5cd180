"""Metrics in the text format of Prometheus: those of a collector, and of the process."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "Exposition"]

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4


class Exposition:
    """Renders metrics."""

    def __init__(self, collector: Collector) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(self) -> bytes:
        """Return all metrics."""
        return generate_latest(self._registry)
