"""Many connected but idle links in one service: memory for each, and how fast the API stays.

    .venv/bin/python bench/idle_links.py [--links 10000] [--helpers 2] [--requests 1000]

Starts ``tailrace serve`` as a process, opens a tunnel for each two links, and lets helper
processes connect to both sides of all of them over TLS. The links then do what local
proxies do when nobody uses them: a ping every 20 seconds. The control API is asked
meanwhile, once with a new TLS connection for each request, once over a kept one.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import json
import os
import resource
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

from tailrace.aws import ControlClient, Credentials
from tailrace.aws import signing as sigv4
from tailrace.common.secret import Secret
from tailrace.service.config import Endpoints

LIMIT_KIB = 80
LIMIT_MS = 50

SERVE = """
import argparse, sys
from tailrace.cli.serve import add_serve_parser, run_serve
parser = argparse.ArgumentParser()
add_serve_parser(parser.add_subparsers())
sys.exit(run_serve(parser.parse_args()))
"""


def raise_open_files() -> int:
    """Allow as many descriptors as the system lets us have; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


# Helper processes: the clients


class Link(asyncio.Protocol):
    """One WebSocket, driven by hand: it costs its process little."""

    def __init__(self, request: bytes, lost: Callable[[], None]) -> None:
        self.request = request
        self.lost = lost
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.head = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if self.open.done():
            return
        self.head += data
        if b"\r\n\r\n" in self.head:
            if self.head.startswith(b"HTTP/1.1 101 "):
                self.open.set_result(None)
            else:
                self.open.set_exception(ConnectionError(self.head.decode(errors="replace")))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.open.done():
            self.open.set_exception(ConnectionError(f"closed: {error}"))
        self.lost()

    def ping(self) -> None:
        """Send a ping with the 13 bytes that the C++ proxy sends, masked with zeros."""
        self.transport.write(b"\x89\x8d\0\0\0\0" + b"%013d" % (time.time_ns() // 1_000_000))


async def hold_links(period: float) -> None:
    """Connect what standard input asks for, say so, ping until standard input ends."""
    job = json.loads(sys.stdin.readline())
    host, _, port = job["endpoint"].rpartition(":")
    context = ssl.create_default_context(cafile=job["ca_file"])
    loop = asyncio.get_running_loop()
    links: list[Link] = []
    lost = 0

    def count_lost() -> None:
        nonlocal lost
        lost += 1

    async def connect(side: str, token: str) -> None:
        request = (
            f"GET /tunnel?local-proxy-mode={side} HTTP/1.1\r\nHost: {host}\r\n"
            "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
            "Sec-WebSocket-Protocol: aws.iot.securetunneling-3.0\r\n"
            f"access-token: {token}\r\n\r\n"
        )
        _, link = await loop.create_connection(
            lambda: Link(request.encode(), count_lost),
            host,
            int(port),
            ssl=context,
            server_hostname=host,
        )
        await link.open
        links.append(link)

    waiting = iter(job["tokens"])

    async def work() -> None:
        for side, token in waiting:
            await connect(side, token)

    await asyncio.gather(*(work() for _ in range(16)))
    print("connected", flush=True)

    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    step = 0
    while not ended.is_set():
        # Spread over the period, as the proxies of a fleet are.
        slices = 50
        for link in links[step % slices :: slices]:
            link.ping()
        step += 1
        try:
            async with asyncio.timeout(period / slices):
                await ended.wait()
        except TimeoutError:
            continue
    print(lost, flush=True)
    # Their end is not measured.
    os._exit(0)


# The parent


def status_kib(pid: int, name: str) -> int:
    """Return a size in KiB from /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise KeyError(name)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_service(directory: Path, loop: str) -> tuple[subprocess.Popen[bytes], Endpoints]:
    ready = directory / "ready"
    log = (directory / "log").open("wb")
    command = [sys.executable, "-c", SERVE, "serve", "--loop", loop, "--log-level", "warning"]
    command += ["--state-dir", str(directory / "state"), "--ready-file", str(ready)]
    command += ["--api-listen", "localhost:0", "--data-listen", "localhost:0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    log.close()
    while not ready.exists():
        if process.poll() is not None:
            sys.exit((directory / "log").read_text())
        time.sleep(0.05)
    return process, Endpoints.read(ready)


class KeptConnection:
    """Signed requests over one connection."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        parts = urlsplit(endpoints.api_endpoint)
        assert parts.hostname is not None
        self.netloc = parts.netloc
        self.connection = http.client.HTTPSConnection(
            parts.hostname,
            parts.port,
            context=ssl.create_default_context(cafile=endpoints.ca_file),
        )

    def call(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(parameters).encode()
        date = sigv4.timestamp(time.time())
        headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("host", self.netloc),
            ("x-amz-date", date),
            ("x-amz-target", f"IoTSecuredTunneling.{operation}"),
        ]
        signature = sigv4.authorization(
            self.endpoints.access_key_id,
            Secret(self.endpoints.secret_access_key),
            self.endpoints.region,
            "IoTSecuredTunneling",
            date,
            headers,
            body,
        )
        self.connection.request("POST", "/", body, {**dict(headers), "authorization": signature})
        answer = self.connection.getresponse()
        document: dict[str, Any] = json.loads(answer.read())
        if answer.status != 200:
            raise RuntimeError(str(document))
        return document


def timed(
    call: Callable[[str, dict[str, Any]], object], requests: int, ids: list[str]
) -> list[float]:
    """Return milliseconds of ``requests`` calls, a mix of what operators do."""
    times = []
    for number in range(requests):
        began = time.perf_counter()
        match number % 4:
            case 0:
                call("ListTunnels", {"maxResults": 50})
            case 1:
                call("OpenTunnel", {"description": "while others idle"})
            case _:
                call("DescribeTunnel", {"tunnelId": ids[number * 7919 % len(ids)]})
        times.append((time.perf_counter() - began) * 1000)
        time.sleep(0.002)
    return times


def row(name: str, times: list[float]) -> str:
    percentiles = quantiles(times, n=100)
    return (
        f"| {name} | {percentiles[49]:.1f} | {percentiles[94]:.1f} | {percentiles[98]:.1f} "
        f"| {max(times):.1f} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--links", type=int, default=10_000)
    parser.add_argument("--helpers", type=int, default=2)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds to watch the idle links")
    parser.add_argument("--loop", default="auto", choices=("auto", "asyncio", "uvloop"))
    parser.add_argument("--ping", type=float, default=20.0, help=argparse.SUPPRESS)
    parser.add_argument("--helper", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    files = raise_open_files()
    if args.helper:
        asyncio.run(hold_links(args.ping))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    if files < args.links + 100:
        sys.exit(f"{files} open files are allowed, {args.links + 100} are needed: ulimit -n")
    with tempfile.TemporaryDirectory() as directory:
        return measure(args, Path(directory))


def measure(args: argparse.Namespace, directory: Path) -> int:
    service, endpoints = start_service(directory, args.loop)
    helpers: list[subprocess.Popen[str]] = []
    try:
        api = KeptConnection(endpoints)
        began = time.perf_counter()
        tokens: list[tuple[str, str]] = []
        ids = []
        for _ in range((args.links + 1) // 2):
            opened = api.call("OpenTunnel", {})
            ids.append(opened["tunnelId"])
            tokens.append(("source", opened["sourceAccessToken"]))
            tokens.append(("destination", opened["destinationAccessToken"]))
        opening = time.perf_counter() - began
        before = status_kib(service.pid, "VmRSS")
        began = time.perf_counter()
        for number in range(args.helpers):
            command = [sys.executable, __file__, "--helper", "--ping", str(args.ping)]
            helper = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            helpers.append(helper)
            assert helper.stdin is not None
            job = {
                "endpoint": endpoints.data_endpoint,
                "ca_file": endpoints.ca_file,
                "tokens": tokens[number :: args.helpers],
            }
            helper.stdin.write(json.dumps(job) + "\n")
            helper.stdin.flush()
        for helper in helpers:
            assert helper.stdout is not None
            if helper.stdout.readline() != "connected\n":
                raise RuntimeError("a helper could not connect")
        connecting = time.perf_counter() - began
        links = len(tokens)
        cpu = cpu_seconds(service.pid)
        time.sleep(args.idle)
        cpu = (cpu_seconds(service.pid) - cpu) / args.idle
        after, peak = (status_kib(service.pid, name) for name in ("VmRSS", "VmHWM"))
        each = (after - before) / links
        credentials = Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key))
        client = ControlClient(
            endpoints.api_endpoint, endpoints.region, credentials, Path(endpoints.ca_file)
        )
        new = timed(client.call, args.requests, ids)
        api.connection.close()
        kept = timed(api.call, args.requests, ids)
        api.connection.close()
        lost = 0
        for helper in helpers:
            assert helper.stdin is not None
            assert helper.stdout is not None
            helper.stdin.write("end\n")
            helper.stdin.flush()
            lost += int(helper.stdout.readline())
        print(f"{links} links on {os.cpu_count()} cores, loop {args.loop}")
        print(f"tunnels opened {len(ids) / opening:.0f}/s, links set up {links / connecting:.0f}/s")
        print(
            f"service memory {before / 1024:.0f} MiB before, {after / 1024:.0f} MiB with links, "
            f"{peak / 1024:.0f} MiB at most"
        )
        print(f"each link {each:.1f} KiB (may be {LIMIT_KIB})")
        print(f"idle CPU {100 * cpu:.1f} % of one core; {lost} links lost")
        print("| control API, ms | median | p95 | p99 | worst |")
        print("|---|---|---|---|---|")
        print(row("new connection each", new))
        print(row("kept connection", kept))
        met = each <= LIMIT_KIB and max(quantiles(t, n=100)[98] for t in (new, kept)) < LIMIT_MS
        print("met" if met and not lost else f"NOT met: p99 must be below {LIMIT_MS} ms")
        return 0 if met and not lost else 1
    finally:
        for helper in helpers:
            helper.kill()
            helper.communicate()
        began = time.perf_counter()
        service.send_signal(signal.SIGTERM)
        service.wait(60)
        print(f"service stopped in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
