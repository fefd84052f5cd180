"""The service under many: idle links, and tunnels that are all busy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from .. import procfs
from ..contenders.base import Contender
from ..contenders.registry import WEBSOCKETS
from ..contenders.service import TunnelingService
from ..contenders.tailrace import StartedProxy, Tailrace
from ..errors import BenchError
from ..generators import Generator
from ..model import Better, Metric
from ..rig import BULK, ECHO
from ..site import LOOPBACK, Address, Place, Site
from .base import Bench, Growth, Measured, Scenario

__all__ = ["BusyTunnels", "IdleLinks"]

_MIB: Final = 1024 * 1024
_PING_PERIOD: Final = 20.0
"""Seconds between two pings of a link, as the real proxies send them."""
_BATCH: Final = 250
_HOLDERS: Final = 2


class _Workplace:
    """A service with applications behind it, and a tunnel at a time."""

    def __init__(self, bench: Bench, contender: Tailrace) -> None:
        self.site = Site()
        self.supervisor = bench.supervisor
        self.contender = contender
        self.sink = Generator(self.supervisor, "sink", self.site, Place.FAR)
        self.echo = Generator(self.supervisor, "echo", self.site, Place.FAR)
        self.client = Generator(self.supervisor, "client", self.site, Place.NEAR)
        self.pinger = Generator(self.supervisor, "pinger", self.site, Place.NEAR)
        self.applications = {
            BULK: Address(LOOPBACK, self.sink.call("sink", host=LOOPBACK)["port"]),
            ECHO: Address(LOOPBACK, self.echo.call("echo", host=LOOPBACK)["port"]),
        }
        self.service: TunnelingService = contender.start_service(self.supervisor, self.site)

    def add_tunnels(self, count: int) -> list[dict[str, Address]]:
        """Open tunnels with both proxies; return where their sources listen."""
        started: list[tuple[StartedProxy, StartedProxy]] = []
        for tunnel in self.service.open_tunnels(list(self.applications), count):
            destination = self.contender.start_destination(
                self.supervisor, self.site, self.service, tunnel, self.applications
            )
            source = self.contender.start_source(
                self.supervisor, self.site, self.service, tunnel, self.service.data
            )
            started.append((source, destination))
        for _, destination in started:
            destination.services()
        return [source.services() for source, _ in started]

    def type(self, at: Address, seconds: float) -> dict[str, float]:
        """Return the quantiles of 64-byte round trips."""
        answer: dict[str, float] = self.pinger.call(
            "round_trips", host=at.host, port=at.port, size=64, count=100_000, seconds=seconds
        )
        if answer["unanswered"] or not answer["count"]:
            raise BenchError("an echo was not answered in time")
        return answer

    def service_cpu(self) -> float:
        """Return the CPU seconds of the service so far."""
        return procfs.cpu_seconds(self.service.process.pid)

    def service_memory(self) -> float:
        """Return the resident memory of the service in MiB."""
        return procfs.rss(self.service.process.pid) / _MIB


class IdleLinks(Scenario):
    """Local proxies that only keep their link alive."""

    name = "idle-links"
    title = "The service with idle links, one of its tunnels in use"
    metrics = (
        Metric("memory", "memory of the service", "MiB", Better.LOWER, 0),
        Metric("each", "memory of a link", "KiB", Better.LOWER, 1),
        Metric("opened", "links opened", "/s", Better.HIGHER, 0),
        Metric("idle", "CPU of the service, at rest", "ms/s", Better.LOWER, 1),
        Metric("p50", "64 B through it p50", "ms", Better.LOWER, 3),
        Metric("p99", "64 B through it p99", "ms", Better.LOWER, 3),
    )
    growth = (
        Growth("memory", "memory of the service", "KiB per link", 1024),
        Growth("idle", "CPU of the idle service", "ms/s per 1,000 links", 1000),
    )
    most_rounds = 2

    def excludes(self, contender: Contender) -> str | None:
        if not isinstance(contender, Tailrace):
            return "has no service of its own"
        return "the same service as picows" if contender.name == WEBSOCKETS else None

    def measure(self, bench: Bench, contender: Contender) -> Iterator[Measured]:
        assert isinstance(contender, Tailrace)
        place = _Workplace(bench, contender)
        (listening,) = place.add_tunnels(1)
        holders = [self._holder(place, number) for number in range(_HOLDERS)]
        place.type(listening[ECHO], 0.5)
        empty = place.service_memory()
        links = 0
        for wanted in (0, *bench.pick((2000, 10_000), (200, 1000))):
            if not bench.wants(f"{wanted} links"):
                continue
            bench.say(f"{wanted} links")
            values: dict[str, float] = {}
            if wanted:
                begun = time.monotonic()
                opened = wanted - links
                while links < wanted:
                    links += _open_links(place, holders, min(_BATCH, wanted - links))
                values["opened"] = opened / (time.monotonic() - begun)
                values["each"] = (place.service_memory() - empty) / links * 1024
            values |= self._at_rest(place, listening[ECHO], bench)
            _check_links(holders, links)
            yield f"{wanted} links", values

    def _holder(self, place: _Workplace, number: int) -> Generator:
        holder = Generator(place.supervisor, f"links {number}", place.site, Place.NEAR)
        holder.call(
            "idle",
            endpoint=str(place.service.data),
            ca_file=place.service.ca_file,
            period=_PING_PERIOD,
        )
        return holder

    def _at_rest(self, place: _Workplace, echo: Address, bench: Bench) -> dict[str, float]:
        time.sleep(1.0)
        seconds = bench.pick(10.0, 2.0)
        before = place.service_cpu()
        time.sleep(seconds)
        idle = (place.service_cpu() - before) / seconds * 1e3
        answer = place.type(echo, bench.pick(3.0, 1.0))
        return {
            "memory": place.service_memory(),
            "idle": idle,
            "p50": answer["p50"] * 1e3,
            "p99": answer["p99"] * 1e3,
        }


def _open_links(place: _Workplace, holders: list[Generator], count: int) -> int:
    """Open links, half of them sources and half destinations; return how many."""
    tunnels = place.service.open_tunnels(list(place.applications), count // 2)
    shares = [tunnels[number :: len(holders)] for number in range(len(holders))]
    for holder, share in zip(holders, shares, strict=True):
        tokens = [
            pair
            for tunnel in share
            for pair in (("source", tunnel.source), ("destination", tunnel.destination))
        ]
        holder.send("idle_open", tokens=tokens)
    for holder in holders:
        holder.receive("idle_open")
    return 2 * len(tunnels)


def _check_links(holders: list[Generator], links: int) -> None:
    counts = [holder.call("idle_check") for holder in holders]
    lost = sum(count["lost"] for count in counts)
    if lost or sum(count["links"] for count in counts) != links:
        raise BenchError(f"the service has ended {lost} of {links} idle links")


class BusyTunnels(Scenario):
    """Tunnels that all move bulk at once, and one more that types."""

    name = "busy-tunnels"
    title = "Many tunnels through one service, all busy"
    metrics = (
        Metric("rate", "throughput, all together", "MB/s", Better.HIGHER, 0),
        Metric("cpu_relay", "CPU of the service", "s/GB", Better.LOWER, 2),
        Metric("memory", "memory of the service", "MiB", Better.LOWER, 1),
        Metric("evenness", "first tunnel done after", "% of the time", Better.HIGHER, 0),
        Metric("p50", "64 B on one more tunnel p50", "ms", Better.LOWER, 2),
        Metric("p99", "64 B on one more tunnel p99", "ms", Better.LOWER, 2),
    )
    growth = (
        Growth("memory", "memory of the service", "KiB per busy tunnel", 1024),
        Growth("cpu_relay", "CPU of the service", "ms/GB per tunnel", 1000),
    )
    most_rounds = 3

    def excludes(self, contender: Contender) -> str | None:
        return None if isinstance(contender, Tailrace) else "has no service of its own"

    def measure(self, bench: Bench, contender: Contender) -> Iterator[Measured]:
        assert isinstance(contender, Tailrace)
        place = _Workplace(bench, contender)
        (quiet,) = place.add_tunnels(1)
        ports: list[Address] = []
        for count in bench.pick((1, 10, 50), (1, 4, 12)):
            if not bench.wants(f"{count} tunnels"):
                continue
            bench.say(f"{count} tunnels")
            ports += [at[BULK] for at in place.add_tunnels(count - len(ports))]
            yield f"{count} tunnels", self._busy(bench, place, ports, quiet[ECHO])

    def _busy(
        self, bench: Bench, place: _Workplace, ports: list[Address], echo: Address
    ) -> dict[str, float]:
        size = bench.pick(1536, 384) * _MIB // len(ports)
        before = place.service_cpu()
        place.client.call("transfer", addresses=ports, direction="up", size=size)
        place.client.send("wait")
        # Most of the transfer, but not its end, when the machine is idle again.
        answer = place.type(echo, bench.pick(2.0, 0.4))
        result = place.client.receive("wait", patience=600.0)
        if result["fault"]:
            raise BenchError(result["fault"])
        moved = size * len(ports)
        return {
            "rate": moved / result["seconds"] / 1e6,
            "cpu_relay": (place.service_cpu() - before) / moved * 1e9,
            "memory": place.service_memory(),
            "evenness": result["first"] / result["seconds"] * 100,
            "p50": answer["p50"] * 1e3,
            "p99": answer["p99"] * 1e3,
        }
