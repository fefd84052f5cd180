"""What strangers do again and again fills no log: it is counted, and the count is told."""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.network.applications import check_refused
from support.network.ports import free_port
from support.processes.child import Process
from support.service import ServiceProcess, service_process
from support.tunnel import both_processes, tunnel_of
from support.waiting import HANG, wait_until
from tailrace.common.addresses import ServiceAddresses, TCPAddress
from tailrace.service.config import parse_address

FLOOD = 100
CLIENT = "2da438cf-9a30-4148-b236-c338182f243c"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    # asyncio's own loop, which logs more than uvloop.
    options = ("--loop", "asyncio", "--proxy-protocol", "127.0.0.2")
    with service_process(tmp_path, *options) as running:
        yield running


@contextmanager
def connection(endpoint: str, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    address = parse_address(endpoint.removeprefix("https://"), "endpoint")
    target = (address.host, address.port)
    with socket.create_connection(target, HANG, source_address=(source, 0)) as plain:
        yield plain


@contextmanager
def tls(service: ServiceProcess, endpoint: str) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context(cafile=service.endpoints.ca_file)
    with (
        connection(endpoint) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        yield secure


def assert_counted(process: Process, text: str, counted: str = "") -> None:
    """The log of a process that has ended has some lines of a flood, and the number of others."""
    log = process.log
    lines = [line for line in log.splitlines() if text in line and " more " not in line]
    counts = re.findall(rf"(\d+) more .*{re.escape(counted or text)}", log)
    # An interval may have ended meanwhile.
    assert 20 <= len(lines) < FLOOD, log
    assert len(lines) + sum(map(int, counts)) == FLOOD, log
    assert "Traceback" not in log


def test_proxy_headers(service: ServiceProcess) -> None:
    for _ in range(FLOOD):
        with connection(service.endpoints.data_endpoint, "127.0.0.2") as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
    service.stop()
    assert_counted(service.process, "no PROXY header", "refused: PROXY header")


def test_what_is_no_api_request(service: ServiceProcess) -> None:
    for _ in range(FLOOD):
        with tls(service, service.endpoints.api_endpoint) as sock:
            sock.sendall(b"nonsense\r\n\r\n")
            assert b" 400 " in sock.recv(100)
    service.stop()
    assert_counted(service.process, "Invalid HTTP request")


def test_requests(service: ServiceProcess) -> None:
    for _ in range(FLOOD):
        service.control.call("ListTunnels", {})
    service.stop()
    assert_counted(service.process, "ListTunnels by")


def test_reconnects_of_one_token(service: ServiceProcess) -> None:
    opened = service.control.call("OpenTunnel", {})
    upgrade = (
        "GET /tunnel?local-proxy-mode=source HTTP/1.1\r\nHost: localhost\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: 9/h0zvwMEXrg06G+RjnmcA==\r\n"
        f"access-token: {opened['sourceAccessToken']}\r\nclient-token: {CLIENT}\r\n"
        "Sec-WebSocket-Protocol: aws.iot.securetunneling-3.0\r\n\r\n"
    ).encode()
    for _ in range(FLOOD):
        with tls(service, service.endpoints.data_endpoint) as sock:
            sock.sendall(upgrade)
            assert b" 101 " in sock.recv(100)
    service.stop()
    assert_counted(service.process, "connected from")
    assert_counted(service.process, "disconnected;")


def test_no_descriptors_left(service: ServiceProcess) -> None:
    resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (48, 48))
    with contextlib.ExitStack() as stack:
        for _ in range(FLOOD):
            stack.enter_context(connection(service.endpoints.api_endpoint))
        wait_until(
            lambda: re.search("file descriptors|system resource", service.process.log),
            "a line about descriptors",
        )
    service.stop()
    # Each of asyncio's lines brings its traceback.
    assert len(service.process.log) < 50_000


async def test_applications_that_refuse(service: ServiceProcess, tmp_path: Path) -> None:
    nowhere: ServiceAddresses = {"SSH": TCPAddress("127.0.0.1", free_port())}
    with tunnel_of(service, "SSH") as tunnel:
        async with both_processes(tmp_path, tunnel, nowhere) as (_, destination, ports):
            for _ in range(FLOOD):
                await check_refused(ports["SSH"])
            destination.signal(signal.SIGTERM)
            await asyncio.to_thread(destination.wait)
    assert_counted(destination, "Connection refused")
