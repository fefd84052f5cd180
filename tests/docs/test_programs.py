"""The programs of the pages that have no test of their own, run as they stand there.

Addresses, ports and files are those of this machine.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
from pathlib import Path

import pytest

import tailrace
from support.documents import PAGES, blocks
from support.repository import ROOT
from support.service import ServiceProcess
from support.waiting import POLL

REFERENCE = ROOT / "docs" / "reference"

RUN_BY = {
    "README.md": "tests/e2e/test_library.py",
    "docs/guides/embedding.md": "tests/meta/test_embedding.py",
    "docs/guides/from-device-client.md": "",
    "docs/guides/testing.md": "tests/meta/test_embedding.py",
    "docs/reference/agent.md": "tests/docs/test_programs.py",
    "docs/reference/control-client.md": "tests/e2e/test_control_client.py",
    "docs/reference/library.md": "tests/docs/test_programs.py",
    "docs/reference/service.md": "tests/docs/test_programs.py",
    "docs/reference/sync.md": "tests/e2e/test_sync.py",
}
"""Page with programs -> the test that runs them, besides those of the same page elsewhere. That of
Greengrass takes AWS' SDK and a core device: it is compiled only."""


def test_every_page_with_programs_has_a_test() -> None:
    pages = {
        str(page.relative_to(ROOT))
        for page in PAGES
        if any(block.language == "python" for block in blocks(page))
    }
    assert pages == set(RUN_BY)
    for test in filter(None, RUN_BY.values()):
        assert (ROOT / test).is_file()


def program(page: str, part: str) -> str:
    """Return the only program of a page that has a part."""
    (found,) = (
        block.text
        for block in blocks(REFERENCE / page)
        if block.language == "python" and part in block.text
    )
    return found


async def run(source: str, **names: object) -> dict[str, object]:
    """Run a program that may await; return its names."""
    code = compile(source, "<page>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names = {"tailrace": tailrace, "asyncio": asyncio, **names}
    result = eval(code, names)
    if inspect.isawaitable(result):
        await result
    return names


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-device\n")


@pytest.fixture
def client(service: ServiceProcess, monkeypatch: pytest.MonkeyPatch) -> tailrace.Client:
    """A client of a service that programs find in the environment, as after `tailrace env`."""
    endpoints = service.endpoints
    for name, value in {
        "AWS_ACCESS_KEY_ID": endpoints.access_key_id,
        "AWS_SECRET_ACCESS_KEY": endpoints.secret_access_key,
        "AWS_REGION": endpoints.region,
        "AWS_DEFAULT_REGION": endpoints.region,
        "AWS_CA_BUNDLE": endpoints.ca_file,
        "AWS_ENDPOINT_URL_IOTSECURETUNNELING": endpoints.api_endpoint,
        "AWSIOT_TUNNEL_ENDPOINT": endpoints.data_endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    return tailrace.Client()


async def test_the_first_program(
    client: tailrace.Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with client:
        opened = await client.open(services=["SSH"])
        async with tailrace.Tunnel.destination(opened.destination_token, {"SSH": greet}):
            monkeypatch.setenv("SOURCE_TOKEN", opened.source_token.reveal())
            source = program("library.md", "SOURCE_TOKEN")
            source = source.replace(', region="eu-central-1"', "")
            await run(source.replace("asyncio.run(main())", "await main()"))
        assert "SSH-2.0-device" in capsys.readouterr().out
        await client.close(opened.tunnel_id)


async def test_a_map_that_changes(client: tailrace.Client) -> None:
    async with client:
        opened = await client.open(services=["SSH", "WEB", "PLC-1"])
        names = await run(program("library.md", "services.replace"), token=opened.destination_token)
        services = names["services"]
        assert isinstance(services, tailrace.ServiceMap)
        assert set(services.rules) == {"SSH", "WEB", "PLC-*"}
        await client.close(opened.tunnel_id)


async def test_events(client: tailrace.Client, capsys: pytest.CaptureFixture[str]) -> None:
    source = program("library.md", "tunnel.events")
    async with client, asyncio.TaskGroup() as tasks:
        opened = await client.open(services=["SSH"])
        async with tailrace.Tunnel.source(opened.source_token) as tunnel:
            tasks.create_task(run(source, tunnel=tunnel))
            async with tailrace.Tunnel.destination(opened.destination_token, {"SSH": greet}):
                await tunnel.wait_peer(timeout=30)
        await client.close(opened.tunnel_id)
    assert capsys.readouterr().out == "the device is there\n"


async def test_boto3(client: tailrace.Client) -> None:
    async with client:
        source = program("service.md", "boto3")
        names = await asyncio.to_thread(lambda: asyncio.run(run(source)))
        opened = names["tunnel"]
        assert isinstance(opened, dict)
        await client.close(opened["tunnelId"])


def notification(directory: Path, token: str) -> Path:
    """Return a file with a notification that has this token."""
    file = directory / "tunnel.json"
    members = {"clientAccessToken": token, "clientMode": "destination"}
    file.write_text(json.dumps(members | {"region": "eu-west-1", "services": ["SSH"]}))
    file.chmod(0o600)
    return file


async def test_an_agent_in_a_program(
    client: tailrace.Client, service: ServiceProcess, tmp_path: Path
) -> None:
    async with (
        client,
        await asyncio.start_server(greet, "127.0.0.1") as device,
        asyncio.TaskGroup() as tasks,
    ):
        opened = await client.open(services=["SSH"])
        source = program("agent.md", "agent.run")
        for written, meant in (
            ('"SSH": 22', f'"SSH": {device.sockets[0].getsockname()[1]}'),
            ('region="eu-west-1"', f'endpoint="{service.endpoints.data_endpoint}"'),
            ("/var/lib/pump", str(tmp_path / "state")),
            ("/run/tunnel.json", str(notification(tmp_path, opened.destination_token.reveal()))),
        ):
            assert written in source
            source = source.replace(written, meant)
        agent = tasks.create_task(run(source))
        async with tailrace.Tunnel.source(opened.source_token) as tunnel:
            await tunnel.wait_peer(timeout=30)
            reader, writer = await tunnel.open_connection("SSH")
            assert await reader.readline() == b"SSH-2.0-device\n"
            writer.close()
        agent.cancel()
        await client.close(opened.tunnel_id)


async def test_notifications_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = program("agent.md", "tailrace.notifications")
    source = source.replace("/run/tunnel.json", str(notification(tmp_path, "a-token")))
    printed = ""
    async with asyncio.TaskGroup() as tasks:
        taking = tasks.create_task(run(source))
        while not printed:
            await asyncio.sleep(POLL)
            printed = capsys.readouterr().out
        taking.cancel()
    assert "SSH" in printed
    assert "eu-west-1" in printed
