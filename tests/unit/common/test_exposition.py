from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tailrace.common.exposition import Exposition


class Lamps(Collector):
    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("lamps", "Lamps.", 3)


def test_metrics_of_a_collector_and_of_the_process() -> None:
    lines = Exposition(Lamps()).render().decode().splitlines()
    assert "lamps 3.0" in lines
    assert any(line.startswith("python_gc_collections_total") for line in lines)
