"""What one tunnel costs the others when its proxies flood, stall or send garbage.

And what clients of the control API cost them, most of whom have no right to anything.

    .venv/bin/python -m bench.noisy_neighbours [--seconds 5] [--only KIND ...]

Starts ``tailrace serve`` as a process and sends 64 bytes back and forth through one
tunnel, over TLS, from this process. Then the same while other processes do their worst on
a second tunnel, or on the API: what the round trip becomes, and what the service's memory grows
to. The round trip is not delayed by the service alone: the villains take processor time, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable
from statistics import quantiles

from tailrace.wire import MAX_FRAME, MAX_PAYLOAD, Message, MessageType, encode_delimited

from .api_villains import API_VILLAINS, WORST
from .contenders import TunnelingService, start_service
from .load.link import Link, frame
from .processes import BenchError, Process, Supervisor, python_path

LIMIT_MS = 5.0
"""How much later the median and 95 of 100 round trips may be."""
API_P95_MS = 50.0
"""How long 95 of 100 round trips may take beside clients of the API, all of them at once too."""
LIMIT_KIB = 2048
"""How much a link may make the service grow."""
API_LIMIT_KIB = 64 * 1024
"""How much clients of the API may."""
ALL = "the API, all at once"

DATA, START = MessageType.DATA, MessageType.STREAM_START


def connect(job: dict[str, str], side: str, client_token: str = "") -> Link:
    """Return a link to one side of a job's tunnel."""
    return Link(job["endpoint"], job["ca_file"], side, job[side], client_token)


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
        destination, source = connect(job, "destination"), connect(job, "source")
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
            link = connect(job, "source", client_token)
            link.socket.sendall(frame(chance.randbytes(60_000)))
            while True:
                link.receive()


def strangers(job: dict[str, str]) -> None:
    """Knock for ever with a token that opens nothing."""
    while True:
        with contextlib.suppress(OSError):
            connect(job | {"source": "nothing"}, "source")


def starts(job: dict[str, str]) -> None:
    """Start streams for ever while nobody is there, and take the answers."""
    source = connect(job, "source")
    threading.Thread(target=swallow, args=(source,), daemon=True).start()
    keep_sending(source, many(*(Message(START, n, "", n) for n in range(1, 2000))))


def unread_starts(job: dict[str, str]) -> None:
    """The same, and read nothing: ends in being disconnected, and begins again."""
    client_token = str(uuid.uuid4())
    while True:
        with contextlib.suppress(OSError):
            source = connect(job, "source", client_token)
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
    **API_VILLAINS,
}


KINDS = (*VILLAINS, ALL)


# The tunnel that behaves


class Good:
    """64 bytes there and back."""

    def __init__(self, job: dict[str, str]) -> None:
        self.source, self.destination = connect(job, "source"), connect(job, "destination")
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


def open_job(service: TunnelingService) -> dict[str, str]:
    tunnel = service.open_tunnel()
    return {
        "endpoint": str(service.data),
        "ca_file": service.ca_file,
        "source": tunnel.source,
        "destination": tunnel.destination,
        "api": str(service.api),
        "region": service.region,
        "key": service.credentials.access_key_id,
        "secret": service.credentials.secret_access_key.reveal(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each kind")
    parser.add_argument("--only", metavar="KIND", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--villain", choices=VILLAINS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.villain:
        VILLAINS[args.villain](json.loads(sys.stdin.readline()))
        return 0
    try:
        with Supervisor() as supervisor:
            return measure(args, start_service(supervisor))
    except BenchError as error:
        print(f"bench.noisy_neighbours: {error}", file=sys.stderr)
        return 1


def start_villain(supervisor: Supervisor, kind: str, job: dict[str, str]) -> Process:
    """Start a villain in a process of its own."""
    command = [sys.executable, "-m", "bench.noisy_neighbours", "--villain", kind]
    villain = supervisor.spawn(kind, command, python_path(), pipes=True)
    assert villain.popen.stdin is not None
    villain.popen.stdin.write(json.dumps(job).encode() + b"\n")
    return villain


def measure(args: argparse.Namespace, service: TunnelingService) -> int:
    good = Good(open_job(service))
    jobs = {kind: open_job(service) for kind in args.only}
    good.measure(1.0)
    print(f"{os.cpu_count()} cores")
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
        before = service.process.memory()
        with Supervisor() as supervisor:
            villains = [
                start_villain(supervisor, each, job) for each in (WORST if kind == ALL else (kind,))
            ]
            good.measure(1.0)
            times = good.measure(args.seconds)
            grown = (service.process.memory() - before) // 1024
            for villain in villains:
                villain.check()
        cuts = row(kind, times, grown)
        if kind in API_VILLAINS or kind == ALL:
            if cuts[1] > API_P95_MS:
                slow.append(kind)
            if grown > API_LIMIT_KIB:
                large.append(kind)
            continue
        if any(late - usual > LIMIT_MS for late, usual in zip(cuts, alone, strict=True)):
            slow.append(kind)
        if grown > 2 * LIMIT_KIB:
            large.append(kind)
    if slow:
        print(
            f"NOT met: median and p95 may be {LIMIT_MS} ms later, and p95 beside clients of the "
            f"API {API_P95_MS} ms, not with: {', '.join(slow)}"
        )
    if large:
        print(
            f"NOT met: a link may take {LIMIT_KIB} KiB, and clients of the API "
            f"{API_LIMIT_KIB} KiB, not with: {', '.join(large)}"
        )
    if not slow and not large:
        print("met")
    return 1 if slow or large else 0


if __name__ == "__main__":
    sys.exit(main())
