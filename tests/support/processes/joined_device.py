"""A device that has joined a service: ``tailrace agent run`` as a process of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.processes.child import Process, clean_environment, installed, process
from support.service.process import ServiceProcess
from support.waiting import wait_until

__all__ = ["joined_device"]


@contextmanager
def joined_device(
    service: ServiceProcess, directory: Path, thing: str, **services: int
) -> Iterator[Process]:
    """A device that serves ports of this machine, and waits for tunnels.

    ``directory`` is that of the service.
    """
    joined = directory / f"{thing}.joined"
    place = ["--state-dir", str(directory / "state"), "--host", "127.0.0.1", "--out", str(joined)]
    key = ["env", "--for", "device", "--name", thing, *place]
    subprocess.run([installed("tailrace"), *key], check=True, stdout=subprocess.DEVNULL)
    environment = clean_environment(
        TAILRACE_SERVICE_DIR=str(joined), XDG_STATE_HOME=str(directory / f"{thing}.state")
    )
    words = [f"--service={name}={port}" for name, port in services.items()]
    command = [installed("tailrace"), "agent", "run", *words]
    with process(thing, command, directory, environment) as agent:
        wait_until(
            lambda: f"thing {thing} waits" in service.process.log or not agent.running,
            "the agent",
        )
        yield agent
