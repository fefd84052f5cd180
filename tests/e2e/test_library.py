"""Programs that use the library as its page shows it, against a service of their own."""

from __future__ import annotations

import ast
import asyncio
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import tailrace
from support.processes.child import clean_environment, installed, process
from support.repository import ROOT
from support.service.process import service_process
from support.tunnel import open_tunnel
from support.waiting import HANG, POLL, wait_until
from tailrace.wire import Side

SOURCE = """\
async with tailrace.Tunnel.source(token) as tunnel:
    await tunnel.wait_peer(timeout=30); server = await tunnel.listen("HTTP", "127.0.0.1", 0)
"""
CONNECT = """\
async with tailrace.connect("pump-7", services=["SSH"]) as tunnel:
    reader, writer = await tunnel.open_connection("SSH")
"""
DESTINATION = """\
async with tailrace.Tunnel.destination(token, {"SSH": "localhost:22", "CMD": handler}) as tunnel:
    await tunnel.wait_closed()
"""

PROGRAM = """\
import asyncio, os, sys
import tailrace

token = os.environ["TOKEN"]

async def handler(reader, writer):
    writer.write(b"you said " + await reader.readline())

async def main():
{body}

asyncio.run(main())
print("done", flush=True)
"""

CALL = """\
async with tailrace.Tunnel.source(token) as tunnel:
    await tunnel.wait_peer(timeout=30)
    reader, writer = await tunnel.open_connection("CMD")
    writer.write(b"hello\\n")
    print((await reader.read()).decode().strip())
    writer.close()
"""

FETCH = """\
    from urllib.request import urlopen
    url = f"http://{server.host}:{server.port}/"
    print(await asyncio.to_thread(lambda: urlopen(url).read().decode()))
"""

WEB_SERVER = """\
async def web(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.0 200 OK\\r\\n\\r\\nhello from the device")

async with tailrace.Tunnel.destination(token, {"HTTP": web}) as tunnel:
    await tunnel.wait_closed()
"""


def environment(directory: Path) -> dict[str, str]:
    """Return the environment of a shell that has evaluated what ``tailrace env`` prints."""
    printed = subprocess.run(
        [installed("tailrace"), "env", "--state-dir", str(directory / "state")],
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(),
    )
    dumped = subprocess.run(
        ["/bin/sh", "-c", 'eval "$1"; exec env -0', "sh", printed.stdout],
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(),
    )
    return dict(line.split("=", 1) for line in dumped.stdout.split("\0") if line)


def test_the_examples_of_the_page_are_python() -> None:
    page = (ROOT / "docs" / "library.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == page.count("```python") > 3
    for example in examples:
        compile(example, "docs/library.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_snippets_word_for_word(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "library.md").read_text()
    for snippet in (SOURCE, DESTINATION):
        assert snippet.replace("; ", "\n    ") in page
    with service_process(tmp_path) as service:
        variables = environment(tmp_path)

        def command(body: str) -> list[str]:
            program = PROGRAM.format(body=textwrap.indent(body, "    "))
            return [sys.executable, "-c", program]

        for services, far, near, answer in (
            (("SSH", "CMD"), DESTINATION, CALL, "you said hello"),
            (("HTTP",), WEB_SERVER, SOURCE + FETCH, "hello from the device"),
        ):
            tunnel = open_tunnel(service.endpoints, service.control, *services)
            tokens = {side: {"TOKEN": tunnel.tokens[side].reveal()} for side in Side}
            with process(
                services[0], command(far), tmp_path, variables | tokens[Side.DESTINATION]
            ) as device:
                done = subprocess.run(
                    command(near),
                    capture_output=True,
                    text=True,
                    timeout=4 * HANG,
                    env=variables | tokens[Side.SOURCE],
                )
                assert (done.returncode, done.stderr) == (0, ""), done.stderr
                assert done.stdout == f"{answer}\ndone\n"
                tunnel.close()
                wait_until(lambda: not device.running, "the end of the device")
                assert device.wait() == 0, device.log
                assert (device.output, device.log) == ("done\n", "")


async def test_the_snippet_of_connect_word_for_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device starts as soon as there is a tunnel for it, as its agent would."""
    assert CONNECT in (ROOT / "docs" / "library.md").read_text()
    tokens: list[tailrace.Secret] = []
    program = """\
import asyncio, os, sys
import tailrace

async def main():
{body}
        writer.write(b"hello\\n")
        print((await reader.read()).decode().strip())
        writer.close()

asyncio.run(main())
"""
    with service_process(tmp_path) as service:
        variables = environment(tmp_path)
        for name, value in variables.items():
            if name.startswith("AWS") or name == "SSL_CERT_FILE":
                monkeypatch.setenv(name, value)

        async def device(client: tailrace.Client) -> None:
            found: list[tailrace.TunnelSummary] = []
            while not found:
                found = [each async for each in client.list(thing="pump-7")]
                await asyncio.sleep(POLL)
            side = tailrace.Side.DESTINATION
            rotated = await client.rotate(found[0].tunnel_id, side)
            assert rotated.destination_token is not None
            tokens.append(rotated.destination_token)
            async with tailrace.Tunnel.destination(rotated.destination_token, {"SSH": said}) as far:
                await far.wait_closed()

        async with tailrace.Client() as client, asyncio.timeout(4 * HANG):
            async with asyncio.TaskGroup() as group:
                group.create_task(device(client))
                running = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-c",
                    program.format(body=textwrap.indent(CONNECT, "    ")),
                    env=variables,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                output, errors = await running.communicate()
                assert (running.returncode, errors.decode()) == (0, "")
                assert output == b"you said hello\n"
            (tunnel,) = [each async for each in client.list(thing="pump-7")]
            assert tunnel.state is tailrace.TunnelState.CLOSED
        assert service.process.running
    assert all(token.reveal() not in service.process.log for token in tokens)


async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"you said " + await reader.readline())
