"""The library's own connections beside those of its listener on loopback, in one run.

    .venv/bin/python -m bench.in_process [--rounds 9] [--mib 64] [--round-trips 2000]

The source of a tunnel is in this process, its destination in another one; both serve streams of
asyncio. Connections are opened with ``open_connection`` and to a listener of the same tunnel, from
this process and from another one, in turns; the figures are medians of the rounds. What must hold
is the comparison within this process: a client of its own has a core of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, astuple, dataclass
from statistics import median
from typing import Final

from tailrace import SourceTunnel, Tunnel
from tailrace.common.event_loop import LoopChoice, loop_factory

from .contenders import start_service
from .processes import BenchError, Supervisor, python_path

__all__ = ["main"]

_MIB: Final = 1024 * 1024
_BLOCK: Final = 256 * 1024
_MESSAGE: Final = bytes(64)
_PATIENCE: Final = 30.0
_OTHER: Final = "listener, other process"

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class _Figures:
    """Throughput in MB/s, and the median of round trips in milliseconds."""

    up: float
    down: float
    round_trip: float


def main() -> int:
    """Measure and print; return 1 when the library's own connections are slower."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--round-trips", type=int, default=2000)
    parser.add_argument("--destination", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    mib, round_trips = arguments.mib, arguments.round_trips
    with asyncio.Runner(loop_factory=loop_factory(LoopChoice.AUTO)) as runner:
        if arguments.destination:
            runner.run(_serve())
        elif arguments.client is not None:
            figures = runner.run(_measure(_connecting(arguments.client), mib, round_trips))
            print(json.dumps(asdict(figures)))
        else:
            return _compare(runner, arguments.rounds, mib, round_trips)
    return 0


def _compare(runner: asyncio.Runner, rounds: int, mib: int, round_trips: int) -> int:
    try:
        with Supervisor() as supervisor:
            service = start_service(supervisor)
            tunnel = service.open_tunnel(["BENCH"])
            os.environ["SSL_CERT_FILE"] = service.ca_file
            os.environ["AWSIOT_TUNNEL_ENDPOINT"] = "{}:{}".format(*service.data)
            command = [sys.executable, "-m", "bench.in_process", "--destination"]
            places = ("SSL_CERT_FILE", "AWSIOT_TUNNEL_ENDPOINT")
            environment = {name: os.environ[name] for name in places}
            supervisor.spawn(
                "far", command, environment | python_path() | {"TOKEN": tunnel.destination}
            )
            found = runner.run(_all(tunnel.source, rounds, mib, round_trips))
    except BenchError as error:
        print(f"bench.in_process: {error}", file=sys.stderr)
        return 1
    return _report(found)


async def _all(token: str, rounds: int, mib: int, round_trips: int) -> dict[str, _Figures]:
    async with Tunnel.source(token) as tunnel:
        await tunnel.wait_peer(_PATIENCE)
        server = await tunnel.listen("BENCH")
        options = ["--mib", str(mib), "--round-trips", str(round_trips)]
        command = [sys.executable, "-m", "bench.in_process", "--client", str(server.port), *options]
        found: dict[str, list[_Figures]] = {}
        for _ in range(rounds):
            own = await _measure(_opening(tunnel), mib, round_trips)
            listener = await _measure(_connecting(server.port), mib, round_trips)
            other = await asyncio.to_thread(_run, command)
            for name, each in (("in process", own), ("listener", listener), (_OTHER, other)):
                found.setdefault(name, []).append(each)
    return {name: _median(each) for name, each in found.items()}


def _median(figures: list[_Figures]) -> _Figures:
    up, down, round_trip = zip(*(astuple(each) for each in figures), strict=True)
    return _Figures(median(up), median(down), median(round_trip))


def _run(command: list[str]) -> _Figures:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return _Figures(**json.loads(done.stdout))


def _report(found: dict[str, _Figures]) -> int:
    own = found["in process"]
    print(f"{'':26}{'up, MB/s':>12}{'down, MB/s':>12}{'round trip, ms':>16}")
    for name, each in found.items():
        print(f"{name:26}{each.up:12.4g}{each.down:12.4g}{each.round_trip:16.3f}")
    holds = True
    for name, each in found.items():
        if each is own:
            continue
        ratios = own.up / each.up, own.down / each.down, each.round_trip / own.round_trip
        up, down, round_trip = ratios
        print(f"{f'of {name}':26}{up:12.2f}{down:12.2f}{round_trip:16.2f}")
        holds = holds and (name == _OTHER or min(ratios) >= 1)
    print("at least as fast as the listener:", "yes" if holds else "NO")
    return 0 if holds else 1


def _opening(tunnel: SourceTunnel) -> Callable[[], Awaitable[_Streams]]:
    return lambda: tunnel.open_connection("BENCH")


def _connecting(port: int) -> Callable[[], Awaitable[_Streams]]:
    return lambda: asyncio.open_connection("127.0.0.1", port)


async def _measure(
    connect: Callable[[], Awaitable[_Streams]], mib: int, round_trips: int
) -> _Figures:
    size = mib * _MIB
    # The first of each is to warm up.
    for part in (size // 8, size):
        up, down = await _upload(await connect(), part), await _download(await connect(), part)
    return _Figures(
        size / up / 1e6, size / down / 1e6, await _ping(await connect(), round_trips) * 1e3
    )


async def _upload(streams: _Streams, size: int) -> float:
    reader, writer = streams
    block = bytes(_BLOCK)
    began = time.perf_counter()
    writer.write(f"up {size}\n".encode())
    for _ in range(size // _BLOCK):
        writer.write(block)
        await writer.drain()
    await reader.readexactly(1)
    writer.close()
    return time.perf_counter() - began


async def _download(streams: _Streams, size: int) -> float:
    reader, writer = streams
    began = time.perf_counter()
    writer.write(f"down {size}\n".encode())
    await _take(reader, size)
    writer.close()
    return time.perf_counter() - began


async def _ping(streams: _Streams, count: int) -> float:
    reader, writer = streams
    writer.write(b"echo 0\n")
    took = []
    for _ in range(count):
        began = time.perf_counter()
        writer.write(_MESSAGE)
        await reader.readexactly(len(_MESSAGE))
        took.append(time.perf_counter() - began)
    writer.close()
    return median(took)


async def _take(reader: asyncio.StreamReader, size: int) -> None:
    while size:
        data = await reader.read(_BLOCK)
        if not data:
            raise BenchError(f"a connection ended {size} bytes early")
        size -= len(data)


# The other end


async def _serve() -> None:
    async with Tunnel.destination(os.environ["TOKEN"], {"BENCH": _handle}) as tunnel:
        await tunnel.wait_closed()


async def _handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    task, size = (await reader.readline()).decode().split()
    match task:
        case "up":
            await _take(reader, int(size))
            writer.write(b"k")
        case "down":
            block = bytes(_BLOCK)
            for _ in range(int(size) // _BLOCK):
                writer.write(block)
                await writer.drain()
        case _:
            while data := await reader.read(_BLOCK):
                writer.write(data)
    await writer.drain()
    await reader.read()


if __name__ == "__main__":
    sys.exit(main())
