"""Test the web server of a device through a real tunnel, on this machine alone.

    ~/tailrace/bin/pip install pytest httpx
    pytest examples/test_device.py

The fixture `tailrace_tunnel` comes with tailrace[service]: it opens a tunnel through a tunneling
service that runs for the tests, with a local proxy at either end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tailrace.testing.tunnels import ServiceInThread, TunnelFactory


class StatusPage(BaseHTTPRequestHandler):
    """What is tested; yours comes from elsewhere."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"path": self.path, "pressure": 2.5}).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def device() -> Iterator[int]:
    """The port of the device's web server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), StatusPage) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_status_page(tailrace_tunnel: TunnelFactory, device: int) -> None:
    tunnel = tailrace_tunnel(HTTP=device)
    response = httpx.get(tunnel.url("HTTP") + "/status")
    assert response.json() == {"path": "/status", "pressure": 2.5}


def test_what_an_operator_sees(
    tailrace_service: ServiceInThread, tailrace_tunnel: TunnelFactory, device: int
) -> None:
    tunnel = tailrace_tunnel(HTTP=device)
    listed = subprocess.run(
        [sys.executable, "-m", "tailrace", "tunnel", "list"],
        env=os.environ | tailrace_service.environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    (summary,) = json.loads(listed.stdout)["tunnelSummaries"]
    assert (summary["tunnelId"], summary["status"]) == (tunnel.tunnel_id, "OPEN")
