"""Programs that use the library as its page shows it, against a service of their own."""

from __future__ import annotations

import ast
import asyncio
import re
import shutil
import subprocess
import sys
import textwrap
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

import tailrace
from support.processes.child import clean_environment, process
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


@pytest.fixture(scope="module", params=["this environment", "a fresh environment"])
def programs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The directory with the commands and the Python of an environment that has the package."""
    if request.param == "this environment":
        yield Path(sys.executable).parent
        return
    directory = tmp_path_factory.mktemp("fresh")
    # What builds the package comes from an index, as all else does.
    builder = ("install", "--target", str(directory / "builder"), "--no-deps", "hatchling")
    if pip("--retries", "0", "--timeout", "5", *builder).returncode != 0:
        pytest.skip("pip reaches no package index")
    venv.create(directory / "venv", symlinks=True)
    fresh = directory / "venv" / "bin"
    installing = pip("--python", str(fresh / "python"), "install", f"{ROOT}[service]")
    assert installing.returncode == 0, installing.stderr
    where = [str(fresh / "python"), "-c", "import tailrace; print(tailrace.__file__)"]
    found = subprocess.run(where, capture_output=True, text=True, check=True, cwd=directory)
    assert found.stdout.startswith(f"{directory}/venv/"), found.stdout
    yield fresh
    shutil.rmtree(directory)


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    environment = clean_environment() | {"TAILRACE_FAST": "0"}  # compiling would take long
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_examples_of_the_page_are_python() -> None:
    page = (ROOT / "docs" / "reference" / "library.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == page.count("```python") > 3
    for example in examples:
        compile(example, "docs/reference/library.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_snippets_word_for_word(programs: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reference" / "library.md").read_text()
    for snippet in (SOURCE, DESTINATION):
        assert snippet.replace("; ", "\n    ") in page
    with service_process(tmp_path, command=str(programs / "tailrace")) as service:
        variables = service.shell_environment()

        def command(body: str) -> list[str]:
            program = PROGRAM.format(body=textwrap.indent(body, "    "))
            return [str(programs / "python"), "-c", program]

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
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device starts as soon as there is a tunnel for it, as its agent would."""
    assert CONNECT in (ROOT / "docs" / "reference" / "library.md").read_text()
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
    with service_process(tmp_path, command=str(programs / "tailrace")) as service:
        variables = service.shell_environment()
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
                    str(programs / "python"),
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
