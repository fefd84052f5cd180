"""Sites with something on the way: a slow link, or a network of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from .contenders.base import find_tool
from .errors import BenchError, Unavailable
from .generators import Generator
from .processes import Process, Supervisor, wait_until
from .site import LOOPBACK, Address, Place, Site

__all__ = ["NetworkSite", "SlowSite", "Weather"]

_NEAR_HOST: Final = "10.77.0.1"
_HUB_HOST: Final = "10.77.0.2"
_NEAR_DEVICE: Final = "near0"
_FAR_DEVICE: Final = "far0"
_SEGMENT: Final = 1500
"""Bytes of a packet."""


class SlowSite(Site):
    """Loopback, with a slow link in front of whatever the near side connects to."""

    def __init__(self, supervisor: Supervisor, rate: float) -> None:
        """Set a rate in bytes a second, for each direction."""
        self._box = Generator(supervisor, "link", Site(), Place.NEAR)
        self._box.call("throttle", host=LOOPBACK, rate=rate)

    def gate(self, hub: Address) -> Address:
        port = self._box.call("throttle_to", host=hub.host, port=hub.port)["port"]
        return Address(LOOPBACK, int(port))

    def helpers(self) -> list[int]:
        return [self._box.process.pid]


@dataclass(frozen=True, slots=True)
class Weather:
    """What a network does to packets, each way."""

    round_trip: float
    """Seconds there and back."""
    rate: float
    """Bytes a second."""
    loss: float = 0.0
    """Share of packets (0..1)."""
    queue: float = 0.1
    """Seconds of traffic at the rate that wait before packets are dropped."""


class NetworkSite(Site):
    """Two network namespaces and a wire with a delay between them.

    The namespaces have no names and belong to two sleeping processes: with these they
    are gone, and nothing of the machine's own network is touched. The wire is ``veth``
    with ``netem`` where the kernel has it, else a process that carries packets between
    two ``tun`` devices.
    """

    hub_host = _HUB_HOST
    bind_host = "0.0.0.0"

    def __init__(self, supervisor: Supervisor) -> None:
        """Make the namespaces and the wire.

        Raises:
            Unavailable: the machine does not allow it; the text says what.
        """
        for tool in ("unshare", "nsenter", "ip"):
            if find_tool(tool) is None:
                raise Unavailable(f"no program {tool}")
        self._user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        self._spaces: dict[Place, Process] = {}
        self._supervisor = supervisor
        self._wire: Generator | None = None
        far = supervisor.spawn("far", ["unshare", *self._user, "--net", "sleep", "infinity"])
        self._settle(Place.FAR, far)
        # The near side belongs to the same user namespace, so that one process may use both.
        near = supervisor.spawn(
            "near", [*self.command(Place.FAR, []), "unshare", "--net", "sleep", "infinity"]
        )
        self._settle(Place.NEAR, near)
        self.kind = self._connect()

    @property
    def is_local(self) -> bool:
        return False

    def command(self, place: Place, command: Sequence[str]) -> list[str]:
        pid = str(self._spaces[place].pid)
        user = ["--user", "--preserve-credentials"] if self._user else []
        return ["nsenter", "--target", pid, *user, "--net", "--", *command]

    def helpers(self) -> list[int]:
        return [self._wire.process.pid] if self._wire is not None else []

    def set(self, weather: Weather) -> None:
        """Change what the wire does.

        Raises:
            BenchError: the kernel refuses.
        """
        if self._wire is not None:
            self._wire.call(
                "wire_set",
                delay=weather.round_trip / 2,
                rate=weather.rate,
                loss=weather.loss,
                queue=weather.queue,
            )
            return
        waiting = weather.queue + weather.round_trip / 2
        limit = max(16, int(weather.rate * waiting / _SEGMENT))
        arguments = [
            *("netem", "limit", str(limit), "delay", f"{weather.round_trip / 2 * 1e6:.0f}us"),
            *("rate", f"{weather.rate * 8:.0f}bit"),
        ]
        if weather.loss:
            arguments += ["loss", f"{weather.loss * 100:g}%"]
        for place, device in ((Place.NEAR, _NEAR_DEVICE), (Place.FAR, _FAR_DEVICE)):
            self._run(place, ["tc", "qdisc", "replace", "dev", device, "root", *arguments])

    def counts(self) -> dict[str, Any]:
        """Return what the wire has carried and dropped, where it is one of ours."""
        return self._wire.call("wire_counts") if self._wire is not None else {}

    def _settle(self, place: Place, process: Process) -> None:
        """Wait until a namespace's process is in it, and bring its loopback up."""
        own = os.readlink("/proc/self/ns/net")

        def apart() -> bool:
            return _namespace(process.pid) not in ("", own) and not _is_entering(process.pid)

        try:
            wait_until(apart, process, "no network namespace", timeout=5.0)
        except BenchError as error:
            raise Unavailable(f"network namespaces are not allowed here: {error}") from None
        self._spaces[place] = process
        self._run(place, ["ip", "link", "set", "lo", "up"])

    def _connect(self) -> str:
        near = str(self._spaces[Place.NEAR].pid)
        pair = ["type", "veth", "peer", "name", _NEAR_DEVICE, "netns", near]
        if shutil.which("tc") and self._try(Place.FAR, ["ip", "link", "add", _FAR_DEVICE, *pair]):
            self._address()
            netem = ["tc", "qdisc", "add", "dev", _FAR_DEVICE, "root", "netem", "delay", "1ms"]
            if self._try(Place.FAR, netem):
                for place, device in ((Place.NEAR, _NEAR_DEVICE), (Place.FAR, _FAR_DEVICE)):
                    # Losses are to hit packets, not the large pieces that veth hands over.
                    self._run(place, ["ip", "link", "set", "dev", device, "gso_max_segs", "1"])
                return "netem"
            self._run(Place.FAR, ["ip", "link", "del", _FAR_DEVICE])
        self._wire = Generator(self._supervisor, "wire", self, Place.FAR)
        try:
            self._wire.call("wire", names=[_FAR_DEVICE, _NEAR_DEVICE])
        except BenchError as error:
            raise Unavailable(f"neither netem nor tun devices can be used: {error}") from None
        self._run(Place.FAR, ["ip", "link", "set", _NEAR_DEVICE, "netns", near])
        self._address()
        return "tun"

    def _address(self) -> None:
        for place, device, host, peer in (
            (Place.NEAR, _NEAR_DEVICE, _NEAR_HOST, _HUB_HOST),
            (Place.FAR, _FAR_DEVICE, _HUB_HOST, _NEAR_HOST),
        ):
            self._run(place, ["ip", "address", "add", host, "peer", peer, "dev", device])
            options = ["up", "mtu", str(_SEGMENT), "txqueuelen", "10000"]
            self._run(place, ["ip", "link", "set", device, *options])

    def _try(self, place: Place, command: list[str]) -> bool:
        done = subprocess.run(self.command(place, command), capture_output=True)
        return done.returncode == 0

    def _run(self, place: Place, command: list[str]) -> None:
        done = subprocess.run(self.command(place, command), capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"{' '.join(command[:4])}: {done.stderr.strip()}")


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


def _is_entering(pid: int) -> bool:
    """Tell whether a process is still the one that makes the namespace."""
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip() != "sleep"
    except OSError:
        time.sleep(0.01)
        return True
