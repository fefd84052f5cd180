"""Many connected but idle links in one service: memory for each, and how fast the API stays.

    .venv/bin/python -m bench.idle_links [--links 10000] [--requests 1000]

Starts ``tailrace serve``, opens a tunnel for each two links, and lets two other processes
connect to both sides of all of them over TLS. The links then do what local proxies do when
nobody uses them: a ping every 20 seconds. The control API is asked meanwhile, with a new TLS
connection for each request.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import quantiles
from typing import Final

from .contenders import TunnelingService, start_service
from .processes import BenchError, Supervisor
from .rig import Generator
from .runner import allow_many_files

__all__ = ["main"]

_LIMIT_KIB: Final = 80
_LIMIT_MS: Final = 50
_HOLDERS: Final = 2
_IDLE: Final = 20.0
"""Seconds for which the idle links are watched."""
_MIB: Final = 1024 * 1024


def main() -> int:
    """Measure and print; return 1 when a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--links", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=1000)
    arguments = parser.parse_args()
    allow_many_files()
    try:
        with Supervisor() as supervisor:
            return _measure(supervisor, arguments.links, arguments.requests)
    except BenchError as error:
        print(f"bench.idle_links: {error}", file=sys.stderr)
        return 1


def _measure(supervisor: Supervisor, links: int, requests: int) -> int:
    service = start_service(supervisor)
    process = service.process
    began = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        tunnels = list(pool.map(lambda _: service.open_tunnel(), range(links // 2)))
    opening = time.perf_counter() - began
    sides = ("source", "destination")
    tokens = [(side, getattr(tunnel, side)) for tunnel in tunnels for side in sides]
    before = process.memory()
    began = time.perf_counter()
    holders = [Generator(supervisor, f"links-{number}") for number in range(_HOLDERS)]
    for number, holder in enumerate(holders):
        share = tokens[number::_HOLDERS]
        holder.send("idle", endpoint=str(service.data), ca_file=service.ca_file, tokens=share)
    for holder in holders:
        holder.receive(patience=600.0)
    connecting = time.perf_counter() - began
    cpu = process.cpu_seconds()
    time.sleep(_IDLE)
    cpu = (process.cpu_seconds() - cpu) / _IDLE
    after, peak = process.memory(), process.memory("VmHWM")
    each = (after - before) / len(tokens) / 1024
    times = _ask(service, requests, [tunnel.id for tunnel in tunnels])
    lost = sum(holder.call("idle_lost")["lost"] for holder in holders)
    cuts = quantiles(times, n=100)
    print(
        f"{len(tokens)} links on {os.cpu_count()} cores\n"
        f"tunnels opened {len(tunnels) / opening:.0f}/s, links {len(tokens) / connecting:.0f}/s\n"
        f"service memory {before / _MIB:.0f} MiB before, {after / _MIB:.0f} MiB with links, "
        f"{peak / _MIB:.0f} MiB at most\n"
        f"each link {each:.1f} KiB (may be {_LIMIT_KIB})\n"
        f"idle CPU {100 * cpu:.1f} % of one core; {lost} links lost\n"
        f"control API, ms: median {cuts[49]:.1f}, p95 {cuts[94]:.1f}, "
        f"p99 {cuts[98]:.1f} (may be {_LIMIT_MS}), worst {max(times):.1f}"
    )
    met = each <= _LIMIT_KIB and cuts[98] < _LIMIT_MS and not lost
    print("met" if met else "NOT met")
    return 0 if met else 1


def _ask(service: TunnelingService, requests: int, ids: list[str]) -> list[float]:
    """Return milliseconds of ``requests`` calls, a mix of what operators do."""
    times = []
    for number in range(requests):
        began = time.perf_counter()
        match number % 4:
            case 0:
                service.call("ListTunnels", {"maxResults": 50})
            case 1:
                service.call("OpenTunnel", {"description": "while others idle"})
            case _:
                service.call("DescribeTunnel", {"tunnelId": ids[number * 7919 % len(ids)]})
        times.append((time.perf_counter() - began) * 1000)
        time.sleep(0.002)
    return times


if __name__ == "__main__":
    sys.exit(main())
