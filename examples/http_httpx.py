"""Fetch a URL from a device by httpx, through a tunnel and without a local port.

    ~/tailrace/bin/pip install httpx
    python examples/http_httpx.py pump-7 http://pump-7/status
    python examples/http_httpx.py pump-7 https://pump-7/status --ca device-ca.pem

HTTP and HTTPS are services of the device. The host in the URL is what the device's server sees
and what its certificate must have; nobody looks it up.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys

import anyio.abc
import httpcore
import httpx
from httpcore._backends.anyio import AnyIOStream

import tailrace


class TunnelBackend(httpcore.AsyncNetworkBackend):
    """Connects to a service of a tunnel, whatever host and port are asked for."""

    def __init__(self, tunnel: tailrace.SourceTunnel, service: str) -> None:
        self._tunnel = tunnel
        self._service = service

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *_: object, **__: object
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                sock = await self._tunnel.open_socket(self._service)
        except TimeoutError:
            raise httpcore.ConnectTimeout from None
        return AnyIOStream(await anyio.abc.SocketStream.from_socket(sock))


class TunnelTransport(httpx.AsyncHTTPTransport):
    """Sends all requests to a service of a tunnel; ``tls`` is whom to trust for https."""

    def __init__(self, tunnel: tailrace.SourceTunnel, service: str, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls)
        # There is no argument for it, and httpx is a thin layer over httpcore's pool.
        backend = TunnelBackend(tunnel, service)
        self._pool = httpcore.AsyncConnectionPool(ssl_context=tls, network_backend=backend)


async def fetch(thing: str, url: str, ca: str | None, timeout: float) -> None:
    service = "HTTPS" if url.startswith("https:") else "HTTP"
    tls = ssl.create_default_context(cafile=ca)
    async with (
        tailrace.connect(thing, services=[service], reuse=True, timeout=timeout) as tunnel,
        httpx.AsyncClient(transport=TunnelTransport(tunnel, service, tls)) as client,
    ):
        response = await client.get(url)
        response.raise_for_status()
        print(response.text)


def main() -> None:
    parser = argparse.ArgumentParser(description="fetch a URL from a device")
    parser.add_argument("thing")
    parser.add_argument("url")
    parser.add_argument("--ca", metavar="FILE", help="certificates to trust, not the system's")
    parser.add_argument("--timeout", type=float, default=30, help="seconds for the device to come")
    args = parser.parse_args()
    try:
        asyncio.run(fetch(args.thing, args.url, args.ca, args.timeout))
    except tailrace.TailraceError as error:
        sys.exit(error.explain())
    except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
        sys.exit(f"{args.url}: {str(error).partition(chr(10))[0] or type(error).__name__}")


if __name__ == "__main__":
    main()
