"""The library's own connections beside those of its listener on loopback, in one run.

    .venv/bin/python -m bench.in_process [--rounds 9] [--mib 64] [--round-trips 2000] [--json]

The source of a tunnel is in this process, its destination in another one; both serve streams of
asyncio. Connections are opened with ``open_connection`` and to a listener of the same tunnel, from
this process and from another one, in turns, with the same program on both ends. Each round gives
one ratio; all figures are medians of the rounds. What must hold is the comparison within this
process: a client of its own has a core of its own.

Wall-clock time is that of all processes together. CPU time is that of the process with the source
and the client alone, which is where the two differ.
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
from dataclasses import asdict, dataclass
from statistics import median
from typing import Final

from tailrace import SourceTunnel, Tunnel
from tailrace.common.event_loop import LoopChoice, loop_factory

from .contenders import start_service
from .processes import BenchError, Supervisor, python_path

__all__ = ["main", "round_in_process"]

_MIB: Final = 1024 * 1024
_BLOCK: Final = 256 * 1024
_MESSAGE: Final = bytes(64)
_PATIENCE: Final = 30.0
_REST: Final = 0.5
"""Seconds between a transfer and round trips, which it would slow down, and a faster one more."""
_OWN: Final = "in process"
_LISTENER: Final = "listener"
_OTHER: Final = "listener, other process"

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class _Figures:
    """Seconds that everything took, and those of CPU in this process."""

    up: float
    down: float
    round_trip: float
    """Median of one; its CPU time is the mean."""
    cpu_up: float
    cpu_down: float
    cpu_round_trip: float


_CASES: Final = ("up", "down", "round_trip")


def round_in_process(mib: int, round_trips: int) -> dict[str, dict[str, float]]:
    """Return the figures of one round, which has both ways come first once.

    They are those that ``--json`` prints, for each case.

    Raises:
        BenchError: something did not work.
    """
    options = ["--rounds", "2", "--mib", str(mib), "--round-trips", str(round_trips), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.in_process", *options],
        capture_output=True,
        text=True,
        env=os.environ | python_path(),
    )
    if done.returncode:
        raise BenchError(f"bench.in_process: {done.stderr.strip()[-300:]}")
    figures: dict[str, dict[str, float]] = json.loads(done.stdout)
    return figures


def main() -> int:
    """Measure and print; return 1 when the library's own connections are slower."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--round-trips", type=int, default=2000)
    parser.add_argument(
        "--json", action="store_true", help="print figures as JSON; then slow ones are no failure"
    )
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
            return _compare(runner, arguments)
    return 0


def _compare(runner: asyncio.Runner, arguments: argparse.Namespace) -> int:
    rounds, mib, round_trips = arguments.rounds, arguments.mib, arguments.round_trips
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
            with_other = not arguments.json
            found = runner.run(_all(tunnel.source, rounds, mib, round_trips, with_other))
    except BenchError as error:
        print(f"bench.in_process: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(_document(found, mib)))
        return 0
    return _report(found, mib)


async def _all(
    token: str, rounds: int, mib: int, round_trips: int, with_other: bool
) -> dict[str, list[_Figures]]:
    """Return the figures of each way and round."""
    async with Tunnel.source(token) as tunnel:
        await tunnel.wait_peer(_PATIENCE)
        server = await tunnel.listen("BENCH")
        options = ["--mib", str(mib), "--round-trips", str(round_trips)]
        command = [sys.executable, "-m", "bench.in_process", "--client", str(server.port), *options]
        found: dict[str, list[_Figures]] = {}
        ways = {_OWN: _opening(tunnel), _LISTENER: _connecting(server.port)}
        for number in range(rounds):
            # Whatever changes in time hits both.
            for name in sorted(ways, reverse=bool(number % 2)):
                measured = await _measure(ways[name], mib, round_trips)
                found.setdefault(name, []).append(measured)
            if with_other:
                found.setdefault(_OTHER, []).append(await asyncio.to_thread(_run, command))
    return found


def _run(command: list[str]) -> _Figures:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return _Figures(**json.loads(done.stdout))


def _median(figures: list[_Figures], name: str) -> float:
    values: list[float] = [getattr(each, name) for each in figures]
    return median(values)


def _ratio(found: dict[str, list[_Figures]], other: str, name: str) -> float:
    """Return how much longer the other way takes, as the median of the rounds."""
    pairs = zip(found[_OWN], found[other], strict=True)
    ratios: list[float] = [getattr(theirs, name) / getattr(own, name) for own, theirs in pairs]
    return median(ratios)


def _document(found: dict[str, list[_Figures]], mib: int) -> dict[str, dict[str, float]]:
    document: dict[str, dict[str, float]] = {}
    for case in _CASES:
        own, listener = (_median(found[name], case) for name in (_OWN, _LISTENER))
        document[case] = {
            "ratio": _ratio(found, _LISTENER, case),
            "cpu_ratio": _ratio(found, _LISTENER, f"cpu_{case}"),
        }
        if case == "round_trip":
            document[case] |= {"p50": own * 1e3, "p50_listener": listener * 1e3}
        else:
            size = mib * _MIB / 1e6
            document[case] |= {"rate": size / own, "rate_listener": size / listener}
    return document


def _report(found: dict[str, list[_Figures]], mib: int) -> int:
    size = mib * _MIB / 1e6
    print(f"{'':36}{'up':>10}{'down':>10}{'round trip':>16}")
    for name, figures in found.items():
        up, down, round_trip = (_median(figures, case) for case in _CASES)
        print(f"{name:36}{size / up:5.0f} MB/s{size / down:5.0f} MB/s{round_trip * 1e3:13.3f} ms")
    for name in [name for name in found if name != _OWN]:
        up, down, round_trip = (_ratio(found, name, case) for case in _CASES)
        print(f"{f'times as fast as {name}':36}{up:10.2f}{down:10.2f}{round_trip:16.2f}")
    up, down, round_trip = (1 / _ratio(found, _LISTENER, f"cpu_{case}") for case in _CASES)
    print(f"{'CPU of that with the listener':36}{up:10.0%}{down:10.0%}{round_trip:16.0%}")
    holds = min(_ratio(found, _LISTENER, case) for case in _CASES) >= 1
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
        up, cpu_up = await _timed(_upload(await connect(), part))
        down, cpu_down = await _timed(_download(await connect(), part))
    await asyncio.sleep(_REST)
    streams = await connect()
    took: list[float] = []
    _, cpu = await _timed(_ping(streams, round_trips, took))
    return _Figures(up, down, median(took), cpu_up, cpu_down, cpu / round_trips)


async def _timed(work: Awaitable[None]) -> tuple[float, float]:
    """Return how long something takes, and how much CPU time."""
    began, cpu = time.perf_counter(), time.process_time()
    await work
    return time.perf_counter() - began, time.process_time() - cpu


async def _upload(streams: _Streams, size: int) -> None:
    reader, writer = streams
    writer.write(f"up {size}\n".encode())
    await _give(writer, size)
    await reader.readexactly(1)
    writer.close()


async def _download(streams: _Streams, size: int) -> None:
    reader, writer = streams
    writer.write(f"down {size}\n".encode())
    await _take(reader, size)
    writer.close()


async def _ping(streams: _Streams, count: int, took: list[float]) -> None:
    """Add the seconds of each round trip to ``took``."""
    reader, writer = streams
    writer.write(b"echo 0\n")
    for _ in range(count):
        began = time.perf_counter()
        writer.write(_MESSAGE)
        await reader.readexactly(len(_MESSAGE))
        took.append(time.perf_counter() - began)
    writer.close()


async def _give(writer: asyncio.StreamWriter, size: int) -> None:
    block = bytes(_BLOCK)
    for left in range(size, 0, -_BLOCK):
        writer.write(block[:left])
        await writer.drain()


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
            await _give(writer, int(size))
        case _:
            while data := await reader.read(_BLOCK):
                writer.write(data)
    await writer.drain()
    await reader.read()


if __name__ == "__main__":
    sys.exit(main())
