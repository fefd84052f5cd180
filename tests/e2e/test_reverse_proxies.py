"""Real reverse proxies that end TLS, as docs/guides/load-balancer.md has them, and one that fails.

The blocks of the page are run as they are but for addresses, ports and names of files.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest
from botocore.exceptions import ClientError

from support.documents import blocks, section
from support.network.certificates import Certificates
from support.network.ports import free_port
from support.processes.child import server_process
from support.repository import ROOT
from support.service import api, config, dial, running, trust
from support.tunnel.processes import proxy_process
from support.waiting import HANG, until
from tailrace.agent.sources.base import Delivery
from tailrace.agent.sources.service import ServiceSource
from tailrace.aws import Credentials
from tailrace.cli.exit_codes import ExitCode
from tailrace.common.secret import Secret
from tailrace.service.api import waiting_room
from tailrace.service.config import DataSettings, Endpoints, OperationSettings
from tailrace.service.tunneling_service import TunnelingService
from tailrace.wire import Message, MessageType

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
PAGE = ROOT / "docs" / "guides" / "load-balancer.md"

HAPROXY = "global\n  maxconn 100\n{block}"
NGINX = """
daemon off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  {block}
}}
"""
CADDY = "{{\n  admin off\n  auto_https off\n}}\n{block}"

FORGETFUL = """
server {
  listen 443 ssl;
  ssl_certificate     /etc/ssl/tunnel.example.pem;
  ssl_certificate_key /etc/ssl/tunnel.example.key;
  location / {
    proxy_pass https://10.0.0.7:7444;
    SETTINGS
  }
}
"""


def documented(kind: str) -> str:
    """Return the block of the page that is marked with ``kind``."""
    part = section(PAGE, "Behind a reverse proxy")
    (block,) = (each.text for each in blocks(PAGE, part) if each.language == kind)
    return block


@dataclass(frozen=True)
class Front:
    """A reverse proxy in front of a service."""

    endpoints: Endpoints
    api_port: int
    data_port: int


@contextmanager
def front(
    kind: str, block: str, directory: Path, service: TunnelingService, certificates: Certificates
) -> Iterator[Front]:
    """Run a reverse proxy with a block of configuration, or skip."""
    program = shutil.which(kind, path=PATH)
    if program is None:
        pytest.skip(f"{kind} is not installed: make apt installs it")
    both = directory / "front.pem"
    certificates.cert.private_key_and_cert_chain_pem.write_to_path(str(both))
    api_port, data_port = free_port(), free_port()
    endpoints = service.endpoints
    for written, meant in (
        ("10.0.0.7:7444", endpoints.data_endpoint),
        ("10.0.0.7:7443", endpoints.api_endpoint.removeprefix("https://")),
        ("bind :443", f"bind 127.0.0.1:{data_port}"),
        ("bind :8443", f"bind 127.0.0.1:{api_port}"),
        ("listen 443", f"listen 127.0.0.1:{data_port}"),
        ("listen 8443", f"listen 127.0.0.1:{api_port}"),
        ("tunnel.example:443", f"localhost:{data_port}"),
        ("tunnel.example:8443", f"localhost:{api_port}"),
        ("/etc/ssl/tunnel.example.both.pem", str(both)),
        ("/etc/ssl/tunnel.example.pem", str(both)),
        ("/etc/ssl/tunnel.example.key", str(both)),
        ("/etc/ssl/tailrace-ca.pem", endpoints.ca_file),
        ("tunnel.example", "localhost"),
    ):
        block = block.replace(written, meant)
    path = directory / f"{kind}.conf"
    template = {"haproxy": HAPROXY, "nginx": NGINX, "caddy": CADDY}[kind]
    path.write_text(template.format(block=block, directory=directory))
    command = {
        "haproxy": [program, "-db", "-f", str(path)],
        "nginx": [program, "-p", str(directory), "-c", str(path), "-e", "stderr"],
        "caddy": [program, "run", "--config", str(path), "--adapter", "caddyfile"],
    }[kind]
    with server_process("front", command, directory, data_port):
        yield Front(
            replace(
                endpoints,
                api_endpoint=f"https://localhost:{api_port}",
                data_endpoint=f"localhost:{data_port}",
                ca_file=str(certificates.ca_file),
            ),
            api_port,
            data_port,
        )


@pytest.mark.parametrize("kind", ["nginx", "haproxy", "caddy"])
async def test_what_is_documented_works(tmp_path: Path, kind: str) -> None:
    settings = config(
        tmp_path / "state",
        data=DataSettings(forwarders=(ip_network("127.0.0.1"),)),
        operation=OperationSettings(audit_log=tmp_path / "audit"),
    )
    certificates = Certificates(tmp_path)
    async with running(settings) as service:
        with front(kind, documented(kind), tmp_path, service, certificates) as proxy:
            # 1. Health, on both ports.
            async with httpx.AsyncClient(verify=trust(proxy.endpoints), trust_env=False) as http:
                for port in (proxy.data_port, proxy.api_port):
                    answer = await http.get(f"https://localhost:{port}/healthz")
                    assert (answer.status_code, answer.text) == (200, "ok\n")
            # 2. The API: the signature covers the port that the client knows.
            opened_by = api(proxy.endpoints)
            opened = await asyncio.to_thread(opened_by.open_tunnel)
            opened_by.close()
            # 3. A tunnel, and where its clients are.
            claimed = {"X-Forwarded-For": "192.0.2.66"}
            async with (
                dial(
                    proxy.endpoints,
                    "source",
                    opened["sourceAccessToken"],
                    local_addr=("127.0.0.9", 0),
                    additional_headers=claimed | {"access-token": opened["sourceAccessToken"]},
                ) as source,
                dial(
                    proxy.endpoints,
                    "destination",
                    opened["destinationAccessToken"],
                    local_addr=("127.0.0.8", 0),
                ) as destination,
            ):
                for number in range(1, 4):
                    await source.send(Message(MessageType.STREAM_START, number))
                    assert (await destination.recv()).stream_id == number
    events = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    addresses = {
        event["side"]: event["address"] for event in events if event["event"] == "connected"
    }
    assert addresses == {"source": "127.0.0.9", "destination": "127.0.0.8"}


@pytest.mark.parametrize("kind", ["nginx", "haproxy", "caddy"])
async def test_a_thing_waits_behind_each(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent to it is not kept back, and the service notices that it has left."""
    # HAProxy notices it when it is to pass on something.
    monkeypatch.setattr(waiting_room, "KEEP_ALIVE_SECONDS", 0.1)
    certificates = Certificates(tmp_path)
    got: asyncio.Queue[Delivery] = asyncio.Queue()
    async with running(config(tmp_path / "state")) as service:
        with front(kind, documented(kind), tmp_path, service, certificates) as proxy:
            place = proxy.endpoints
            source = ServiceSource(
                place.api_endpoint,
                place.region,
                Credentials(place.access_key_id, Secret(place.secret_access_key)),
                "pump-7",
                Path(place.ca_file),
                {},
            )
            waiting = asyncio.get_running_loop().create_task(source.run(got.put))
            mailbox = service._running.control.mailbox
            await until(lambda: mailbox.things == 1, "the thing to wait")
            client = api(place)
            destination = {"thingName": "pump-7", "services": ["SSH"]}
            await asyncio.to_thread(client.open_tunnel, destinationConfig=destination)
            client.close()
            async with asyncio.timeout(HANG):
                assert b"clientAccessToken" in (await got.get()).payload
            await until(lambda: not len(mailbox), "the acknowledgement")
            waiting.cancel()
            await asyncio.wait([waiting])
            await until(lambda: not mailbox.things, "the thing to have left")


async def test_a_proxy_that_changes_the_host_of_the_api(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    block = documented("nginx").replace("proxy_set_header Host $http_host;", "")
    async with running(config(tmp_path / "state")) as service:
        with front("nginx", block, tmp_path, service, certificates) as proxy:
            client = api(proxy.endpoints)
            with pytest.raises(ClientError) as caught:
                await asyncio.to_thread(client.list_tunnels)
            client.close()
    error = caught.value.response["Error"]
    assert error["Code"] == "InvalidSignatureException"
    assert "no proxy in between changes the header Host" in error["Message"]


UPGRADE = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;"


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ("", "HTTP/1.0"),
        ("proxy_http_version 1.1;", "Upgrade"),
        (UPGRADE, "Connection"),
        (
            f'{UPGRADE} proxy_set_header Connection upgrade; proxy_set_header access-token "";',
            "access token",
        ),
        (
            f"{UPGRADE} proxy_set_header Connection upgrade;"
            ' proxy_set_header Sec-WebSocket-Protocol "";',
            "Sec-WebSocket-Protocol",
        ),
        (
            f"{UPGRADE} proxy_set_header Connection upgrade; rewrite ^ /svc$uri break;",
            "path",
        ),
    ],
)
async def test_what_a_proxy_forgets_is_not_blamed_on_the_token(
    tmp_path: Path, settings: str, missing: str
) -> None:
    certificates = Certificates(tmp_path)
    async with running(config(tmp_path / "state")) as service:
        block = FORGETFUL.replace("SETTINGS", settings)
        with front("nginx", block, tmp_path, service, certificates) as proxy:
            arguments = ["-e", proxy.endpoints.data_endpoint, "-c", str(certificates.ca_file)]
            token = Secret("any-token")
            with proxy_process(tmp_path, "proxy", [*arguments, "-d", "SSH=9"], token) as local:
                assert await local.exit_code() == ExitCode.ALTERED
                assert "got another upgrade request than was sent" in local.fatal_line
                assert missing in local.fatal_line
                assert "a proxy in between may have" in local.fatal_line
                assert "docs/guides/intermediaries.md" in local.fatal_line
                assert "rotate" not in local.log
