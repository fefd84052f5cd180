"""Local proxies behind real load balancers, as the page configures them: the address is kept."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from support.documents import blocks, section
from support.network.ports import free_port
from support.processes.child import server_process
from support.repository import ROOT
from support.service import api, config, dial, running
from tailrace.service.config import DataSettings, OperationSettings
from tailrace.wire import Message, MessageType

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

PAGE = ROOT / "docs" / "guides" / "load-balancer.md"

NGINX = """
load_module {module};
daemon off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 64; }}
"""


def documented(kind: str, port: int, target: int) -> str:
    """Return the configuration of the page, for these ports of this machine."""
    part = section(PAGE, "Behind a load balancer")
    (block,) = (each.text for each in blocks(PAGE, part) if each.language == kind)
    for written, meant in (
        ("10.0.0.7:7444", f"127.0.0.1:{target}"),
        ("bind :443", f"bind 127.0.0.1:{port}"),
        ("listen 443", f"listen 127.0.0.1:{port}"),
    ):
        block = block.replace(written, meant)
    return block


def balancer(kind: str, directory: Path, port: int, target: int) -> list[str]:
    """Write a configuration; return the command that uses it, or skip."""
    name = kind.partition(" ")[0]
    program = shutil.which(name, path=PATH)
    if program is None or (name == "nginx" and not STREAM_MODULE.exists()):
        pytest.skip(f"{name} is not installed: make apt installs it")
    path = directory / f"{name}.conf"
    if name == "haproxy":
        block = documented(name, port, target).replace("send-proxy-v2", kind.partition(" ")[2])
        path.write_text(f"global\n  maxconn 100\n{block}")
        return [program, "-db", "-f", str(path)]
    own = NGINX.format(directory=directory, module=STREAM_MODULE)
    path.write_text(own + documented(name, port, target))
    return [program, "-p", str(directory), "-c", str(path), "-e", "stderr"]


@pytest.mark.parametrize("kind", ["haproxy send-proxy-v2", "haproxy send-proxy", "nginx"])
async def test_the_clients_address_is_audited(tmp_path: Path, kind: str) -> None:
    settings = config(
        tmp_path / "state",
        data=DataSettings(proxies=(ip_network("127.0.0.1"),)),
        operation=OperationSettings(audit_log=tmp_path / "audit"),
    )
    port = free_port()
    async with running(settings) as service:
        target = int(service.endpoints.data_endpoint.rpartition(":")[2])
        command = balancer(kind, tmp_path, port, target)
        opened_by = api(service.endpoints)
        opened = await asyncio.to_thread(opened_by.open_tunnel)
        opened_by.close()
        in_front = replace(service.endpoints, data_endpoint=f"127.0.0.1:{port}")
        with server_process("balancer", command, tmp_path, port):
            async with (
                dial(
                    in_front, "source", opened["sourceAccessToken"], local_addr=("127.0.0.9", 0)
                ) as source,
                # Not from the load balancer's address: it is taken as it is.
                dial(
                    service.endpoints,
                    "destination",
                    opened["destinationAccessToken"],
                    local_addr=("127.0.0.8", 0),
                ) as destination,
            ):
                await source.send(Message(MessageType.STREAM_START, 1))
                assert (await destination.recv()).type == MessageType.STREAM_START
    events = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    addresses = {
        event["side"]: event["address"].rpartition(":")[0]
        for event in events
        if event["event"] == "connected"
    }
    assert addresses == {"source": "127.0.0.9", "destination": "127.0.0.8"}
