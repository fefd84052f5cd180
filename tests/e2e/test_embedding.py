"""Service and both ends of a tunnel in one program: nothing but the public API, TLS and sockets."""

from __future__ import annotations

import asyncio

import tailrace
from support.waiting import HANG


async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.readline()).upper())


async def test_all_in_one_loop(loop_kind: str) -> None:
    async with asyncio.timeout(HANG), tailrace.Service() as service:
        async with service.client() as client:
            opened = await client.open(services=["ECHO"])
        endpoint, ca = service.endpoints.data_endpoint, service.endpoints.ca_file
        async with (
            tailrace.Tunnel.destination(
                opened.destination_token.reveal(), {"ECHO": upper}, endpoint=endpoint, ca=ca
            ),
            tailrace.Tunnel.source(
                opened.source_token.reveal(), endpoint=endpoint, ca=ca
            ) as source,
        ):
            await source.wait_peer()
            reader, writer = await source.open_connection("ECHO")
            writer.write(b"through the tunnel\n")
            assert await reader.readline() == b"THROUGH THE TUNNEL\n"
            writer.close()
            await writer.wait_closed()
