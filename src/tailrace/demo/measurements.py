"""What the demonstration measures: transfers and round trips through the tunnel."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import TailraceError

__all__ = ["DemoFailed", "Measurements", "measure", "table"]

_ROUND_TRIPS: Final = 500
_TIMEOUT: Final = 60.0
_HOST: Final = "127.0.0.1"


class DemoFailed(TailraceError):
    """A step of the demonstration did not work; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """What the demonstration found out."""

    listing: tuple[str, ...]
    download_rate: float
    """Megabytes (10**6) per second."""
    upload_rate: float
    download_matches: bool
    upload_matches: bool
    round_trips: tuple[float, ...]
    """Seconds, for 64 bytes."""


def measure(http_port: int, echo_port: int, files: Path, name: str) -> Measurements:
    """Move the file ``name`` in ``files`` in both directions, then time small round trips.

    Raises:
        DemoFailed: a transfer failed, or its content is not what it should be.
    """
    listing = _list(http_port, files)
    expected = hashlib.sha256((files / name).read_bytes()).hexdigest()
    start = time.perf_counter()
    with _response(http_port, "GET", f"/{name}") as response:
        content = response.read()
    download_rate = _rate(content, start)
    start = time.perf_counter()
    with _response(http_port, "PUT", "/upload", content) as response:
        # The response begins when the file has arrived; its hash follows later.
        upload_rate = _rate(content, start)
        received = response.read().decode()
    return Measurements(
        listing,
        download_rate,
        upload_rate,
        hashlib.sha256(content).hexdigest() == expected,
        received == expected,
        _round_trips(echo_port),
    )


def _list(port: int, files: Path) -> tuple[str, ...]:
    with _response(port, "GET", "/") as response:
        page = response.read().decode(errors="replace")
    names = tuple(path.name for path in sorted(files.iterdir()) if f'href="{path.name}"' in page)
    if not names:
        raise DemoFailed("the directory listing that came through the tunnel is not ours")
    return names


@contextmanager
def _response(
    port: int, method: str, path: str, body: bytes | None = None
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(_HOST, port, timeout=_TIMEOUT)
    try:
        connection.request(method, path, body)
        # It may hold the socket after the connection has given it up.
        with connection.getresponse() as response:
            if response.status >= http.HTTPStatus.BAD_REQUEST:
                raise DemoFailed(f"{method} {path} was answered with {response.status}")
            yield response
    except http.client.IncompleteRead as error:
        got = len(error.partial)
        size = got + (error.expected or 0)
        raise DemoFailed(f"{method} {path} ended after {got} of {size} bytes") from None
    except (OSError, http.client.HTTPException) as error:
        raise DemoFailed(f"{method} {path} through the tunnel failed: {error}") from None
    finally:
        connection.close()


def _rate(content: bytes, start: float) -> float:
    return len(content) / (time.perf_counter() - start) / 1e6


def _round_trips(port: int) -> tuple[float, ...]:
    ping = os.urandom(64)
    times = []
    try:
        with socket.create_connection((_HOST, port), timeout=_TIMEOUT) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(_ROUND_TRIPS):
                start = time.perf_counter()
                sock.sendall(ping)
                pong = sock.recv(len(ping), socket.MSG_WAITALL)
                times.append(time.perf_counter() - start)
                if pong != ping:
                    raise DemoFailed("the echo through the tunnel differs from what was sent")
    except OSError as error:
        raise DemoFailed(f"the echo through the tunnel failed: {error}") from None
    return tuple(times)


def table(found: Measurements) -> list[str]:
    """Return the lines that show the measurements."""
    quantiles = statistics.quantiles(found.round_trips, n=100)
    median, p99 = quantiles[49] * 1e3, quantiles[98] * 1e3
    matches = {"download": found.download_matches, "upload": found.upload_matches}
    return [
        f"directory listing  {', '.join(found.listing)}",
        f"download 64 MiB    {found.download_rate:.0f} MB/s",
        f"upload 64 MiB      {found.upload_rate:.0f} MB/s",
        f"round trip 64 B    median {median:.2f} ms, p99 {p99:.2f} ms",
        f"sha256 match: {' '.join(name for name, same in matches.items() if same) or 'none'}",
    ]
