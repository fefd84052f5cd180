"""What ``tailrace tunnel open`` shows to paste next is a tunnel when it is pasted."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from support.network.applications import application, exchange, mirror
from support.network.ports import free_port, is_listening
from support.processes.child import installed, process
from support.processes.terminals import on_terminal
from support.service import ServiceProcess
from support.waiting import until
from tailrace.common.addresses import TCPAddress


async def test_the_commands_to_paste(service: ServiceProcess, tmp_path: Path) -> None:
    environment = service.shell_environment() | {"TERM": "xterm"}
    words = ["tunnel", "open", "--service", "SSH", "--service", "WEB", "--tokens-to", "my tokens"]
    with on_terminal([installed("tailrace"), *words], environment, tmp_path) as terminal:
        assert await asyncio.to_thread(terminal.end) == 0
    shown = terminal.shown.replace("\r\n", "\n")
    source, destination = (line for line in shown.splitlines() if line.startswith("  localproxy"))
    # As on another machine, where nothing of this shell is known.
    elsewhere = {"HOME": str(tmp_path), "PATH": str(Path(installed("localproxy")).parent)}
    port = free_port()
    async with application(mirror) as server:
        destination = destination.replace("localhost:22", f"127.0.0.1:{server.port}")
        source = source.replace("5555", str(port)).replace("5556", str(free_port()))
        with (
            process("destination", ["/bin/sh", "-c", f"exec {destination}"], tmp_path, elsewhere),
            process("source", ["/bin/sh", "-c", f"exec {source}"], tmp_path, elsewhere),
        ):
            (tunnel_id,) = re.findall(r"^tunnel +(\S+)$", shown, re.MULTILINE)

            def is_connected() -> bool:
                told = service.control.call("DescribeTunnel", {"tunnelId": tunnel_id})["tunnel"]
                return told["destinationConnectionState"]["status"] == "CONNECTED"

            await until(lambda: is_listening(port) and is_connected(), "both ends")
            await exchange(TCPAddress("127.0.0.1", port), 100_000)
