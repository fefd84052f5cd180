"""Local proxies as processes: the command ``localproxy``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from support.processes.child import Process, clean_environment, installed, process
from support.tunnel.tunnels import Tunnel
from support.waiting import until
from tailrace.common.addresses import LocalAddress, ServiceAddresses, TCPAddress, UnixAddress
from tailrace.common.secret import Secret
from tailrace.wire import Side

__all__ = [
    "ProxyProcess",
    "arguments_for",
    "both_processes",
    "proxy_process",
    "read_ready_file",
    "tunnel_process",
]


class ProxyProcess(Process):
    """A running ``localproxy``."""

    def __init__(self, inner: Process, ready_file: Path) -> None:
        super().__init__(inner.name, inner._popen, inner._directory)
        self.ready_file = ready_file

    async def ready(self) -> dict[str, LocalAddress]:
        """Wait until the tunnel can be used; return service id -> local address."""
        await until(
            lambda: self.ready_file.exists() or not self.running, f"readiness of {self.name}"
        )
        assert self.running, self.log
        return read_ready_file(self.ready_file)


def read_ready_file(path: Path) -> dict[str, LocalAddress]:
    """Return the addresses in a proxy's ready file."""
    services = json.loads(path.read_text())["services"]
    return {
        service_id: UnixAddress(where["path"])
        if "path" in where
        else TCPAddress(where["host"], where["port"])
        for service_id, where in services.items()
    }


@contextmanager
def proxy_process(
    directory: Path,
    name: str,
    arguments: Sequence[str],
    token: Secret | None = None,
    *,
    machine: Sequence[str] = (),
    **env: str,
) -> Iterator[ProxyProcess]:
    """The command ``localproxy``; the token goes into its environment.

    ``machine`` is a command that runs another one.
    """
    if token is not None:
        env["AWSIOT_TUNNEL_ACCESS_TOKEN"] = token.reveal()
    ready_file = directory / f"{name}.json"
    command = [*machine, installed("localproxy"), *arguments, "--ready-file", str(ready_file)]
    with process(name, command, directory, clean_environment(**env)) as started:
        yield ProxyProcess(started, ready_file)


def arguments_for(
    tunnel: Tunnel, side: Side, services: ServiceAddresses | None = None
) -> list[str]:
    """Return the command line of a proxy of a tunnel, without its token."""
    arguments = ["-e", tunnel.endpoints.data_endpoint, "-c", tunnel.endpoints.ca_dir]
    if services is None:
        arguments += ["-m", side.value]
    else:
        entries = (f"{name}={where}" if name else str(where) for name, where in services.items())
        arguments += ["-s" if side is Side.SOURCE else "-d", ",".join(entries)]
    return arguments + (["-b", "127.0.0.1"] if side is Side.SOURCE else [])


@contextmanager
def tunnel_process(
    directory: Path,
    tunnel: Tunnel,
    side: Side,
    services: ServiceAddresses | None = None,
    *options: str,
    name: str = "",
    machine: Sequence[str] = (),
) -> Iterator[ProxyProcess]:
    """The command ``localproxy`` at one end of a tunnel."""
    arguments = [*arguments_for(tunnel, side, services), *options]
    token = tunnel.tokens[side]
    with proxy_process(directory, name or side.value, arguments, token, machine=machine) as started:
        yield started


@asynccontextmanager
async def both_processes(
    directory: Path,
    tunnel: Tunnel,
    applications: ServiceAddresses,
    *options: str,
    machine: Sequence[str] = (),
) -> AsyncIterator[tuple[ProxyProcess, ProxyProcess, dict[str, LocalAddress]]]:
    """Source and destination as processes, ready; and where the source listens."""
    with (
        tunnel_process(
            directory, tunnel, Side.DESTINATION, applications, *options, machine=machine
        ) as destination,
        tunnel_process(directory, tunnel, Side.SOURCE, None, *options, machine=machine) as source,
    ):
        await destination.ready()
        yield source, destination, await source.ready()
