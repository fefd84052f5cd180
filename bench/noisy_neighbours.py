"""What one tunnel costs the others when its proxies flood, stall or send garbage.

    .venv/bin/python -m bench.noisy_neighbours [--seconds 5] [--only KIND ...]

Starts ``tailrace serve`` as a process and sends 64 bytes back and forth through one
tunnel, over TLS, from this process. Then the same while other processes do their worst on
a second tunnel: what the round trip becomes, and what the service's memory grows to. The
round trip is not delayed by the service alone: the villains take processor time, too.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles

from bench.idle_links import KeptConnection, start_service, status_kib
from tailrace.service.config import Endpoints
from tailrace.wire import MAX_FRAME, MAX_PAYLOAD, Message, MessageType, encode_delimited

LIMIT_MS = 5.0
"""How much later the median and 95 of 100 round trips may be."""
LIMIT_KIB = 2048
"""How much a link may make the service grow."""

DATA, START = MessageType.DATA, MessageType.STREAM_START


class Link:
    """One WebSocket, by hand and blocking; masked with zeros."""

    def __init__(self, job: dict[str, str], side: str, client_token: str = "") -> None:
        host, _, port = job["endpoint"].rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout=30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = ssl.create_default_context(cafile=job["ca_file"])
        self.socket = context.wrap_socket(plain, server_hostname=host)
        more = f"client-token: {client_token}\r\n" if client_token else ""
        self.socket.sendall(
            (
                f"GET /tunnel?local-proxy-mode={side} HTTP/1.1\r\nHost: {host}\r\n"
                "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
                "Sec-WebSocket-Protocol: aws.iot.securetunneling-3.0\r\n"
                f"access-token: {job[side]}\r\n{more}\r\n"
            ).encode()
        )
        self.content = b""
        while b"\r\n\r\n" not in self.content:
            self._fill()
        head, _, self.content = self.content.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(head.decode(errors="replace"))

    def _fill(self) -> None:
        more = self.socket.recv(1 << 18)
        if not more:
            raise ConnectionError("closed")
        self.content += more

    def receive(self) -> bytes:
        """Return the payload of the next binary frame."""
        while True:
            while len(self.content) < 2 or len(self.content) < self._frame()[1]:
                self._fill()
            begin, end = self._frame()
            opcode, payload = self.content[0] & 15, self.content[begin:end]
            self.content = self.content[end:]
            if opcode == 2:
                return payload
            if opcode == 8:
                raise ConnectionError("closed by the service")

    def _frame(self) -> tuple[int, int]:
        size = self.content[1]
        if size < 126:
            return 2, 2 + size
        begin = 4 if size == 126 else 10
        return begin, begin + int.from_bytes(self.content[2:begin], "big")


def frame(payload: bytes, opcode: int = 2) -> bytes:
    """Return one frame of a client."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


def many(*messages: Message) -> bytes:
    """Return one frame that is full of these messages."""
    run = b"".join(map(encode_delimited, messages))
    return frame(run * (MAX_FRAME // len(run)))


# Villains: processes of their own


def keep_sending(link: Link, content: bytes) -> None:
    link.socket.settimeout(None)
    while True:
        link.socket.sendall(content)


def swallow(link: Link) -> None:
    link.socket.settimeout(None)
    into = bytearray(1 << 18)
    while link.socket.recv_into(into):
        pass


def flood(content: bytes, reads: bool = True) -> Callable[[dict[str, str]], None]:
    """Return a villain whose source sends ``content`` for ever; its destination may not read."""

    def play(job: dict[str, str]) -> None:
        destination, source = Link(job, "destination"), Link(job, "source")
        source.socket.sendall(frame(encode_delimited(Message(START, 1, "", 1))))
        readers = [source, destination] if reads else []
        for link in readers:
            threading.Thread(target=swallow, args=(link,), daemon=True).start()
        keep_sending(source, content)

    return play


def garbage(job: dict[str, str]) -> None:
    """Come back for ever, each time with something that is no message."""
    chance = random.Random(1)
    client_token = str(uuid.uuid4())
    while True:
        with contextlib.suppress(OSError):
            link = Link(job, "source", client_token)
            link.socket.sendall(frame(chance.randbytes(60_000)))
            while True:
                link.receive()


def strangers(job: dict[str, str]) -> None:
    """Knock for ever with a token that opens nothing."""
    while True:
        with contextlib.suppress(OSError):
            Link(job | {"source": "nothing"}, "source")


def starts(job: dict[str, str]) -> None:
    """Start streams for ever while nobody is there, and take the answers."""
    source = Link(job, "source")
    threading.Thread(target=swallow, args=(source,), daemon=True).start()
    keep_sending(source, many(*(Message(START, n, "", n) for n in range(1, 2000))))


def unread_starts(job: dict[str, str]) -> None:
    """The same, and read nothing: ends in being disconnected, and begins again."""
    client_token = str(uuid.uuid4())
    while True:
        with contextlib.suppress(OSError):
            source = Link(job, "source", client_token)
            keep_sending(source, many(*(Message(START, n, "", n) for n in range(1, 2000))))


VILLAINS: dict[str, Callable[[dict[str, str]], None]] = {
    "bulk": flood(many(Message(DATA, 1, "", 1, bytes(MAX_PAYLOAD)))),
    "tiny messages": flood(many(Message(DATA, 1, "", 1, b"x"))),
    "tiny messages, mixed": flood(many(*(Message(DATA, 1, "", n, b"x") for n in (1, 2)))),
    "stale messages": flood(many(Message(DATA, 7, "", 1, b"x"))),
    "tiny frames": flood(frame(encode_delimited(Message(DATA, 1, "", 1, b"x"))) * 8000),
    "empty frames": flood(frame(b"") * 20000),
    "pings": flood(frame(b"", 9) * 20000),
    "stall": flood(many(Message(DATA, 1, "", 1, bytes(MAX_PAYLOAD))), reads=False),
    "streams": starts,
    "streams, unread": unread_starts,
    "garbage": garbage,
    "strangers": strangers,
}


@contextmanager
def villain(kind: str, job: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.noisy_neighbours", "--villain", kind],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError(f"{kind}: the villain has ended")
    finally:
        process.kill()
        process.communicate()


# The tunnel that behaves


class Good:
    """64 bytes there and back."""

    def __init__(self, job: dict[str, str]) -> None:
        self.source, self.destination = Link(job, "source"), Link(job, "destination")
        for link in (self.source, self.destination):
            link.receive()
        self.source.socket.sendall(frame(encode_delimited(Message(START, 1, "", 1))))
        self.destination.receive()
        self._frame = frame(encode_delimited(Message(DATA, 1, "", 1, bytes(64))))

    def round_trip(self) -> float:
        """Return milliseconds."""
        began = time.perf_counter()
        self.source.socket.sendall(self._frame)
        self.destination.receive()
        self.destination.socket.sendall(self._frame)
        self.source.receive()
        return (time.perf_counter() - began) * 1000

    def measure(self, seconds: float) -> list[float]:
        times = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            times.append(self.round_trip())
            time.sleep(0.002)
        return times


def open_job(api: KeptConnection, endpoints: Endpoints) -> dict[str, str]:
    opened = api.call("OpenTunnel", {})
    return {
        "endpoint": endpoints.data_endpoint,
        "ca_file": endpoints.ca_file,
        "source": opened["sourceAccessToken"],
        "destination": opened["destinationAccessToken"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each kind")
    parser.add_argument("--only", metavar="KIND", nargs="+", choices=VILLAINS, default=VILLAINS)
    parser.add_argument("--loop", default="auto", choices=("auto", "asyncio", "uvloop"))
    parser.add_argument("--villain", choices=VILLAINS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.villain:
        VILLAINS[args.villain](json.loads(sys.stdin.readline()))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    with tempfile.TemporaryDirectory() as directory:
        service, endpoints = start_service(Path(directory), args.loop)
        try:
            return measure(args, service, endpoints)
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(60)


def measure(args: argparse.Namespace, service: subprocess.Popen[bytes], at: Endpoints) -> int:
    api = KeptConnection(at)
    good = Good(open_job(api, at))
    jobs = {kind: open_job(api, at) for kind in args.only}
    api.connection.close()
    good.measure(1.0)
    print(f"{os.cpu_count()} cores, loop {args.loop}")
    print("| round trip, ms | median | p95 | p99 | worst | memory, KiB |")
    print("|---|---|---|---|---|---|")

    def row(name: str, times: list[float], grown: int) -> tuple[float, float]:
        cuts = quantiles(times, n=100)
        print(
            f"| {name} | {cuts[49]:.2f} | {cuts[94]:.2f} | {cuts[98]:.2f} | {max(times):.1f} "
            f"| {grown:+} |",
            flush=True,
        )
        return cuts[49], cuts[94]

    alone = row("alone", good.measure(args.seconds), 0)
    slow, large = [], []
    for kind, job in jobs.items():
        before = status_kib(service.pid, "VmRSS")
        with villain(kind, job):
            good.measure(1.0)
            times = good.measure(args.seconds)
            grown = status_kib(service.pid, "VmRSS") - before
        cuts = row(kind, times, grown)
        if any(late - usual > LIMIT_MS for late, usual in zip(cuts, alone, strict=True)):
            slow.append(kind)
        if grown > 2 * LIMIT_KIB:
            large.append(kind)
    if slow:
        print(f"NOT met: median and p95 may be {LIMIT_MS} ms later, not with: {', '.join(slow)}")
    if large:
        print(f"NOT met: a link may take {LIMIT_KIB} KiB, not with: {', '.join(large)}")
    if not slow and not large:
        print("met")
    return 1 if slow or large else 0


if __name__ == "__main__":
    sys.exit(main())
