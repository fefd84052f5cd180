"""Serve a FastAPI app on a device through a tunnel; the device listens on no port.

    ~/tailrace/bin/pip install fastapi uvicorn
    python examples/fastapi_device.py tokens/destination.token

It serves HTTP, a service of the tunnel, until the tunnel is closed. The tunnel brings its
connections to a unix socket; its token comes from a file, as `tailrace tunnel open --tokens-to`
writes it. http_httpx.py and http_aiohttp.py are clients: fetch http://pump-7/load.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from pathlib import Path

import uvicorn
from fastapi import FastAPI

import tailrace

app = FastAPI()


@app.get("/load")
async def load() -> dict[str, float]:
    return dict(zip(("1 min", "5 min", "15 min"), os.getloadavg(), strict=True))


async def serve(token: str) -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listening:
        path = f"{directory}/app"
        listening.bind(path)
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        async with tailrace.Tunnel.destination(token, {"HTTP": f"unix:{path}"}) as tunnel:
            print("serving", flush=True)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(server.serve(sockets=[listening]))
                await tunnel.wait_closed()
                server.should_exit = True


def main() -> None:
    parser = argparse.ArgumentParser(description="serve an app through a tunnel")
    parser.add_argument("token_file", type=Path)
    args = parser.parse_args()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(args.token_file.read_text().strip()))
    except OSError as error:
        sys.exit(str(error))
    except tailrace.TailraceError as error:
        sys.exit(error.explain())


if __name__ == "__main__":
    main()
