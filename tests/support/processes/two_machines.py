"""Two machines with a cable between them: network namespaces of Linux, which root can make."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

__all__ = ["SERVER", "TwoMachines", "two_machines"]

SERVER = "10.77.0.1"
_DEVICE = "10.77.0.2"


@dataclass(frozen=True)
class TwoMachines:
    """Commands that run another one on each machine."""

    server: tuple[str, ...]
    device: tuple[str, ...]
    cable: str
    """The server's end of the cable."""

    def unplug(self) -> None:
        """Take the cable out."""
        _ip(*self.server, "ip", "link", "set", self.cable, "down")

    def plug(self) -> None:
        """Put it in again."""
        _ip(*self.server, "ip", "link", "set", self.cable, "up")


@contextmanager
def two_machines() -> Iterator[TwoMachines]:
    """Make two machines, of which one has :data:`SERVER` as its address."""
    if os.geteuid() != 0:
        pytest.skip("only root can make machines with a network")
    if shutil.which("ip") is None:
        pytest.skip("no machines with a network: the command ip is missing (iproute2)")
    # Names of interfaces have 15 characters at most.
    names = [f"trl{os.getpid()}{end}" for end in "sd"]
    with ExitStack() as stack:
        for name in names:
            added = subprocess.run(
                ["ip", "netns", "add", name], capture_output=True, text=True, check=False
            )
            if added.returncode != 0:
                pytest.skip(f"no machines with a network: {added.stderr.strip()}")
            stack.callback(_ip, "ip", "netns", "del", name)
        server, device = names
        _ip(
            *("ip", "link", "add", server, "netns", server),
            *("type", "veth", "peer", "name", device, "netns", device),
        )
        for name, address in ((server, SERVER), (device, _DEVICE)):
            inside = ("ip", "-n", name)
            _ip(*inside, "addr", "add", f"{address}/24", "dev", name)
            for link in ("lo", name):
                _ip(*inside, "link", "set", link, "up")
        yield TwoMachines(("ip", "netns", "exec", server), ("ip", "netns", "exec", device), server)


def _ip(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=True)
