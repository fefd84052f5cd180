"""Figures through a real tunnel: one to the service and back, and one to a thing.

The first has both ends in this process, so that it tells what this network and the service give,
whatever the device is. It is opened for that, with the shortest lifetime there is: whatever becomes
of this program, it does not stay open. The second is a tunnel of the thing; what its application
sends by itself is all that may be asked of it.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from ...aws import Client
from ...checks.findings import Finding, failed, ok, skipped, warning
from ...common.uninterrupted import uninterrupted
from ...errors import ConfigurationError, OpenFailed, TailraceError, TunnelNotFound
from ...library import (
    PeerDialectLearned,
    PeerPresence,
    PeerSilent,
    SourceTunnel,
    Tunnel,
    connect,
)
from .tunnel import TunnelChecks

__all__ = ["LoopMeasurement", "Place", "ThingMeasurement"]

_SERVICE: Final = "DOCTOR"
_LIFETIME: Final = timedelta(minutes=1)
_LIFETIME_OF_THING: Final = timedelta(minutes=5)
_ORDER: Final = struct.Struct("!cI")
"""What the source asks of the destination: to echo, take or give, and how many bytes."""
_ECHOES: Final = 10
_FIRST_SIZE: Final = 4096
_LAST_SIZE: Final = 64 * 1024 * 1024
_ENOUGH: Final = 0.5
"""Seconds from which on a transfer tells the rate."""
_BLOCK: Final = bytes(65_536)
_CAP: Final = 900_000.0
"""Bytes a second; AWS passes 800 KB/s of a tunnel."""
_BANNER: Final = 3.0
"""Seconds in which an application may say something first."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where tunnels are."""

    endpoint: str
    ca: Path | None
    timeout: float
    """Seconds for connecting, and for the device."""


class LoopMeasurement:
    """To the service and back; :meth:`check_round_trip` has to be the first."""

    def __init__(self, client: Client, place: Place) -> None:
        self._client = client
        self._place = place
        self._rates: tuple[float, float] | None = None

    async def check_round_trip(self) -> Finding:
        """Measure all there is, and tell the round trip."""
        async with self._tunnel() as (source, _):
            reader, writer = await source.open_connection(_SERVICE)
            try:
                echo = await _echo(reader, writer)
                self._rates = (
                    await _rate(reader, writer, b"T"),
                    await _rate(reader, writer, b"G"),
                )
                to_service = source.status().link.round_trip
            except (OSError, asyncio.IncompleteReadError) as error:
                raise OpenFailed(f"the connection through the service was cut: {error}") from None
            finally:
                writer.close()
        shown = "" if to_service is None else f"; a ping of the service takes {_ms(to_service)}"
        return ok(f"{_ms(echo)} through a tunnel with both ends here{shown}")

    async def check_throughput(self) -> Finding:
        """Tell the rates that were measured."""
        if self._rates is None:
            return skipped("nothing was measured")
        there, back = self._rates
        text = f"{_mb(there)} from source to destination, {_mb(back)} back, with both ends here"
        if max(there, back) < _CAP:
            text += "; AWS passes 0.8 MB/s of a tunnel"
        return ok(text)

    @asynccontextmanager
    async def _tunnel(self) -> AsyncIterator[tuple[SourceTunnel, Tunnel]]:
        opened = await self._client.open(
            services=[_SERVICE], description="tailrace doctor", lifetime=_LIFETIME
        )
        place = self._place
        try:
            destination = Tunnel.destination(
                opened.destination_token,
                {_SERVICE: _serve},
                endpoint=place.endpoint,
                ca=place.ca,
                timeout=place.timeout,
            )
            source = Tunnel.source(
                opened.source_token, endpoint=place.endpoint, ca=place.ca, timeout=place.timeout
            )
            async with destination, source:
                yield source, destination
        finally:
            await uninterrupted(self._close(opened.tunnel_id))

    async def _close(self, tunnel_id: str) -> None:
        with suppress(TunnelNotFound):
            await self._client.api.call("CloseTunnel", {"tunnelId": tunnel_id, "delete": True})


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Do what the source orders."""
    with suppress(asyncio.IncompleteReadError):
        while True:
            order, size = _ORDER.unpack(await reader.readexactly(_ORDER.size))
            if order == b"E":
                writer.write(await reader.readexactly(size))
            elif order == b"T":
                await _take(reader, size)
                writer.write(b"k")
            else:
                await _give(writer, size)


async def _take(reader: asyncio.StreamReader, size: int) -> None:
    while size:
        data = await reader.read(min(size, len(_BLOCK)))
        if not data:
            raise asyncio.IncompleteReadError(b"", size)
        size -= len(data)


async def _give(writer: asyncio.StreamWriter, size: int) -> None:
    for start in range(0, size, len(_BLOCK)):
        writer.write(_BLOCK[: size - start])
        await writer.drain()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    """Return the shortest time in which a byte comes back."""
    times = []
    for _ in range(_ECHOES):
        began = time.monotonic()
        writer.write(_ORDER.pack(b"E", 1) + b"?")
        await reader.readexactly(1)
        times.append(time.monotonic() - began)
    return min(times)


async def _rate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, order: bytes) -> float:
    """Return bytes a second of a transfer that takes long enough to tell."""
    size = _FIRST_SIZE
    while True:
        began = time.monotonic()
        writer.write(_ORDER.pack(order, size))
        if order == b"T":
            await _give(writer, size)
            await reader.readexactly(1)
        else:
            await _take(reader, size)
        took = time.monotonic() - began
        if took >= _ENOUGH or size >= _LAST_SIZE:
            return size / max(took, 1e-6)
        size *= 4


class ThingMeasurement:
    """To a thing; :meth:`check_peer` has to be the first."""

    def __init__(
        self,
        client: Client,
        place: Place,
        tunnel: TunnelChecks,
        thing: str | None,
        asked: Sequence[str],
    ) -> None:
        self._client = client
        self._place = place
        self._checks = tunnel
        self._thing = thing
        self._asked = tuple(asked)
        self._answer: Finding | None = None

    async def check_peer(self) -> Finding:
        """Connect to the device, and tell who is there and what it speaks."""
        found = self._checks.found
        services = self._asked or (found.services if found is not None else ())
        if self._thing is not None and not services:
            raise ConfigurationError("which service is to be measured? name it with --service")
        if self._thing is None and found is not None and found.source.is_connected:
            return skipped("a source is connected, and would be disconnected", "name the thing")
        place = self._place
        began = time.monotonic()
        async with connect(
            self._thing,
            tunnel_id=None if self._thing is not None or found is None else found.tunnel_id,
            services=services if self._thing is not None else (),
            reuse=self._thing is not None,
            lifetime=_LIFETIME_OF_THING if self._thing is not None else None,
            timeout=place.timeout,
            client=self._client,
            endpoint=place.endpoint,
            ca=place.ca,
        ) as tunnel:
            took = time.monotonic() - began
            told = tunnel.status().peer is not PeerPresence.UNTOLD
            service = (*services, *tunnel.status().service_ids, "")[0]
            events = tunnel.events()
            self._answer = await _first_word(tunnel, service)
        text = f"the device is connected ({took:.1f} s after it was asked for)"
        return _peer(text, await _dialect(events), told=told)

    async def check_answer(self) -> Finding:
        """Tell what the application has answered."""
        return self._answer or skipped("nothing was measured")


def _peer(text: str, dialect: PeerDialectLearned | PeerSilent | None, *, told: bool) -> Finding:
    """Say what the peer speaks; ``told`` is whether the service tells who is connected."""
    if isinstance(dialect, PeerSilent):
        fix = "if it is Device Client or Greengrass: localproxy --destination-client-type V1"
        return warning(f"{text}, and has answered nothing for {dialect.seconds:.0f} s", fix)
    version = "V3, as far as can be told" if dialect is None else dialect.dialect
    return ok(f"{text}; it speaks {version}" + ("" if told else "; AWS does not tell more"))


async def _first_word(tunnel: SourceTunnel, service: str) -> Finding:
    """Connect to the application, and wait for what it says by itself."""
    began = time.monotonic()
    try:
        reader, writer = await tunnel.open_connection(service)
    except TailraceError as error:
        return failed(str(error), error.advice, cause=error)
    try:
        async with asyncio.timeout(_BANNER):
            data = await reader.read(64)
    except TimeoutError:
        return ok(
            f"{service} accepts connections, and says nothing for {_BANNER:g} s, as HTTP does"
        )
    except OSError as error:
        text = f"{service} refuses connections: {error}"
        return failed(text, "start the application on the device", cause=OpenFailed(text))
    finally:
        writer.close()
    took = time.monotonic() - began
    if not data:
        return warning(f"{service} closes connections at once", "look at the application's log")
    return ok(f"{service} answered in {_ms(took)}: connection and first bytes, end to end")


async def _dialect(events: AsyncIterator[object]) -> PeerDialectLearned | PeerSilent | None:
    """Return what was learned of the peer until the tunnel was left."""
    learned: PeerDialectLearned | PeerSilent | None = None
    async for event in events:
        if isinstance(event, PeerDialectLearned | PeerSilent):
            learned = event
    return learned


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _mb(rate: float) -> str:
    return f"{rate / 1e6:.1f} MB/s"
