"""Fetch a URL from a device by aiohttp, through a tunnel and without a local port.

    ~/tailrace/bin/pip install aiohttp
    python examples/http_aiohttp.py pump-7 http://pump-7/status
    python examples/http_aiohttp.py pump-7 https://pump-7/status --ca device-ca.pem

HTTP and HTTPS are services of the device. The host in the URL is what the device's server sees
and what its certificate must have; nobody looks it up.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace

import tailrace


class TunnelConnector(aiohttp.BaseConnector):
    """Connects to a service of a tunnel, whatever the URL; ``tls`` is whom to trust for https."""

    def __init__(self, tunnel: tailrace.SourceTunnel, service: str, tls: ssl.SSLContext) -> None:
        super().__init__()
        self._tunnel = tunnel
        self._service = service
        self._tls = tls

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        tls, name = (self._tls, req.url.raw_host) if req.is_ssl() else (None, None)
        try:
            async with asyncio.timeout(timeout.sock_connect):
                sock = await self._tunnel.open_socket(self._service)
                _, protocol = await self._loop.create_connection(
                    self._factory, sock=sock, ssl=tls, server_hostname=name
                )
        except OSError as error:
            raise aiohttp.ClientConnectionError(f"{self._service}: {error}") from error
        return protocol


async def fetch(thing: str, url: str, ca: str | None, timeout: float) -> None:
    service = "HTTPS" if url.startswith("https:") else "HTTP"
    tls = ssl.create_default_context(cafile=ca)
    async with (
        tailrace.connect(thing, services=[service], reuse=True, timeout=timeout) as tunnel,
        aiohttp.ClientSession(connector=TunnelConnector(tunnel, service, tls)) as session,
        session.get(url, raise_for_status=True) as response,
    ):
        print(await response.text())


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
    except (OSError, aiohttp.ClientError) as error:
        sys.exit(f"{args.url}: {error}")


if __name__ == "__main__":
    main()
