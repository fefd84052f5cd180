"""A wrong line for each misuse that types can find."""

from __future__ import annotations

import asyncio
import socket

import tailrace
from tailrace.testing.tunnels import TunnelFactory

__all__ = ["misuse", "misuse_blocking", "misuse_in_a_test"]


def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve, but not as a coroutine."""


async def alone(reader: asyncio.StreamReader) -> None:
    """Serve without a writer."""


async def misuse() -> None:
    """Do everything wrong."""
    tailrace.Tunnel.source()  # wrong
    tailrace.Tunnel.source(b"token")  # wrong
    tailrace.Tunnel.source("token", "eu-west-1")  # wrong
    tailrace.Tunnel.source("token", port=443)  # wrong
    tailrace.Tunnel.source("token", dialect="V4")  # wrong
    tailrace.Tunnel.destination("token")  # wrong
    tailrace.Tunnel.destination("token", "SSH=localhost:22")  # wrong
    tailrace.Tunnel.destination("token", {"SSH": plain})  # wrong
    tailrace.Tunnel.destination("token", {"SSH": alone})  # wrong
    tailrace.Tunnel.destination("token", {"SSH": 2.2})  # wrong
    tailrace.ServiceMap({"SSH": plain})  # wrong
    tailrace.ServiceMap(SSH=22)  # wrong
    tailrace.ServiceMap({"SSH": 22}).rules["SSH"] = tailrace.ServiceRule(1)  # wrong
    tailrace.ServiceRule(22, ["127.0.0.1"])  # wrong
    tailrace.ServiceRule(22, bandwidth="1 MB/s")  # wrong
    with tailrace.Tunnel.source("token"):  # wrong
        pass
    async with tailrace.Tunnel.source("token") as source:
        await source.open_connection()  # wrong
        await source.open_connection(22)  # wrong
        await source.listen("SSH", 22)  # wrong
        await source.wait_peer("30 s")  # wrong
        for _ in source.events():  # wrong
            pass
        print(source.status().links)  # wrong
        source.status().service_ids = ()  # wrong
    async with tailrace.Tunnel.destination("token", {"SSH": 22}) as destination:
        await destination.open_connection("SSH")  # wrong
        await destination.listen("SSH")  # wrong
    tailrace.connect("t", ["SSH"])  # wrong
    tailrace.connect("t", services=[22])  # wrong
    tailrace.connect("t", services=["SSH"], lifetime=60)  # wrong
    with tailrace.connect("t", services=["SSH"]):  # wrong
        pass
    tailrace.Client("profile")  # wrong
    tailrace.Client(credentials=("AKID", "secret"))  # wrong
    tailrace.Client(attempts=1.5)  # wrong
    tailrace.Credentials("AKID", "secret")  # wrong
    async with tailrace.Client() as client:
        await client.open(lifetime=60)  # wrong
        await client.open(services=[1])  # wrong
        await client.open(tags=[("a", "b")])  # wrong
        await client.rotate("t", "source")  # wrong
        await client.close()  # wrong
        await client.close("t", True)  # wrong
        await client.tag("arn:t", {"a": 1})  # wrong
        print(list(client.list()))  # wrong
        (await client.rotate("t")).source_token.reveal()  # wrong
        opened = await client.open()
        opened.tunnel_id = ""  # wrong
        print("token " + opened.source_token)  # wrong
    print(tailrace.Tunel)  # wrong
    tailrace.Service(1)  # wrong
    tailrace.Service("state", "::1")  # wrong
    tailrace.Service(port=1)  # wrong
    tailrace.Service(api_port="1")  # wrong
    tailrace.Service(host_names="name")  # wrong
    tailrace.Service(notify_command="program argument")  # wrong
    tailrace.Service(limits="azure")  # wrong
    tailrace.Service(limits=tailrace.Limits(services=None))  # wrong
    with tailrace.Service():  # wrong
        pass
    async with tailrace.Service() as service:
        service.endpoints.region = "eu-west-1"  # wrong
        print(service.environment().region)  # wrong


async def coroutine(sock: socket.socket) -> None:
    """Serve a socket, but as a coroutine."""


def misuse_blocking() -> None:
    """Do everything wrong in a script."""
    tailrace.sync.Tunnel.source("token", "eu-west-1")  # wrong
    tailrace.sync.Tunnel.destination("token", {"SSH": plain})  # wrong
    tailrace.sync.Tunnel.destination("token", {"SSH": coroutine})  # wrong
    tailrace.sync.connect("t", services=["SSH"], client=tailrace.Client())  # wrong
    with tailrace.sync.connect("t", services=["SSH"]) as source:
        source.open_connection("SSH").drain()  # wrong
        source.open_connection("SSH", 30)  # wrong
        source.open_connection("SSH").write("text")  # wrong
        source.wait_closed(30)  # wrong
    with tailrace.sync.Tunnel.destination("token", {"SSH": 22}) as destination:
        destination.open_socket("SSH")  # wrong
    tailrace.sync.Client("profile")  # wrong
    print(tailrace.sync.Client().open().source_token + "")  # wrong
    tailrace.sync.Service(limits="azure")  # wrong


def misuse_in_a_test(tailrace_tunnel: TunnelFactory) -> None:
    """Do everything wrong with a fixture."""
    tailrace_tunnel(8080)  # wrong
    tailrace_tunnel(HTTP=80.80)  # wrong
    tunnel = tailrace_tunnel(HTTP=8080)
    tunnel.address(22)  # wrong
    print(tunnel.address("HTTP").port)  # wrong
    tunnel.cut("source")  # wrong
    tunnel.throttle("800 kB/s")  # wrong
    tunnel.refuse("503")  # wrong
    with tunnel.cut():  # wrong
        pass
