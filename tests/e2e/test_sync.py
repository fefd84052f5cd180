"""``tailrace.sync`` in scripts, as its page shows it, and where they end before their time."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import tailrace
from support.processes.child import clean_environment
from support.repository import ROOT
from support.service import ServiceProcess
from support.waiting import HANG, wait_until

PAGE = (ROOT / "docs" / "reference" / "sync.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
CONNECT, SOCKET, LISTENER, HANDLER, CLIENT, SERVICE, EVENTS = SNIPPETS


@pytest.fixture
def variables(service: ServiceProcess, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What ``tailrace env`` prints, as far as clients need it; set for this process, too."""
    endpoints = service.endpoints
    found = {
        "AWS_ACCESS_KEY_ID": endpoints.access_key_id,
        "AWS_SECRET_ACCESS_KEY": endpoints.secret_access_key,
        "AWS_REGION": endpoints.region,
        "AWS_ENDPOINT_URL_IOTSECURETUNNELING": endpoints.api_endpoint,
        "AWSIOT_TUNNEL_ENDPOINT": endpoints.data_endpoint,
        "SSL_CERT_FILE": endpoints.ca_file,
    }
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def client(variables: dict[str, str]) -> tailrace.sync.Client:
    return tailrace.sync.Client()


def run(snippet: str, **names: Any) -> None:
    exec(compile(snippet, "docs/reference/sync.md", "exec"), {"tailrace": tailrace, **names})


def tunnels(client: tailrace.sync.Client, thing: str) -> list[tailrace.TunnelSummary]:
    return [each for each in client.list(thing=thing) if each.state is tailrace.TunnelState.OPEN]


def greet(sock: socket.socket) -> None:
    sock.sendall(b"hello from the device\n")


def web(sock: socket.socket) -> None:
    with sock.makefile("rb") as file:
        while file.readline().strip():
            pass
    sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello from the web\n")


@contextmanager
def device(client: tailrace.sync.Client, thing: str) -> Iterator[None]:
    """A device that serves the next tunnel of a thing, until it is closed."""
    # Other tests use the same service, and the pages the same few names.
    before = tunnels(client, thing)

    def following() -> list[tailrace.TunnelSummary]:
        return [each for each in tunnels(client, thing) if each not in before]

    def serve() -> None:
        wait_until(following, "a tunnel")
        side = tailrace.Side.DESTINATION
        token = client.rotate(following()[0].tunnel_id, side).destination_token
        assert token is not None
        services: dict[str, tailrace.sync.Application] = {"SSH": greet}
        with tailrace.sync.Tunnel.destination(token, services, timeout=HANG) as far:
            far.wait_closed(timeout=HANG)

    serving = threading.Thread(target=serve)
    serving.start()
    yield
    serving.join()


def test_connecting_as_the_page_shows(
    client: tailrace.sync.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tunnels(client, "pump-7")
    with device(client, "pump-7"):
        run(CONNECT)
    assert capsys.readouterr().out == "b'hello from the device\\n'\n"
    assert tunnels(client, "pump-7") == before


@pytest.mark.parametrize(
    ("snippet", "said"),
    [
        (SOCKET, "b'hello from the device\\n'\n"),
        (LISTENER, "b'hello from the web\\n'\n"),
        (EVENTS, "Ended("),
    ],
)
def test_a_source_as_the_page_shows(
    client: tailrace.sync.Client, capsys: pytest.CaptureFixture[str], snippet: str, said: str
) -> None:
    opened = client.open(services=["SSH", "HTTP"])
    services: dict[str, tailrace.sync.Application] = {"SSH": greet, "HTTP": web}
    before = set(threading.enumerate())
    with tailrace.sync.Tunnel.destination(opened.destination_token, services, timeout=HANG):
        run(snippet, token=opened.source_token)
        for each in set(threading.enumerate()) - before:
            if not each.daemon:
                each.join(HANG)  # the reader of events
    assert said in capsys.readouterr().out


def test_a_destination_as_the_page_shows(client: tailrace.sync.Client) -> None:
    opened = client.open(services=["SSH", "CMD"])
    token = opened.destination_token
    serving = threading.Thread(target=lambda: run(HANDLER, token=token))
    serving.start()
    with tailrace.sync.Tunnel.source(opened.source_token, timeout=HANG) as tunnel:
        tunnel.wait_peer(timeout=HANG)
        with tunnel.open_connection("CMD") as connection:
            for line in (b"one\n", b"two\n"):
                connection.write(line)
                assert connection.readline() == b"you said " + line
    client.close(opened.tunnel_id)
    serving.join(HANG)
    assert not serving.is_alive()


def test_a_client_as_the_page_shows(
    client: tailrace.sync.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    run(CLIENT)
    newest = capsys.readouterr().out.splitlines()[0].split()
    assert newest[1] == "OPEN"
    assert client.describe(newest[0]).state is tailrace.TunnelState.CLOSED


def test_a_service_as_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    run(SERVICE)
    assert capsys.readouterr().out.strip()


# -- ends before their time ------------------------------------------------------------------------

WAITING = """
import tailrace
with tailrace.sync.connect("{thing}", services=["SSH"], timeout=None):
    print("never")
"""
INSIDE = """
import time, tailrace
with tailrace.sync.connect("{thing}", services=["SSH"]) as tunnel:
    print("ready", flush=True)
    {inside}
"""


def script(program: str, variables: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(**variables),
    )


def interrupted(running: subprocess.Popen[str]) -> str:
    """Press Ctrl-C; return the last line of the traceback."""
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=HANG)
    assert running.returncode == -signal.SIGINT, errors
    assert "never" not in output
    return errors.splitlines()[-1]


def test_ctrl_c_while_waiting_for_the_device(
    client: tailrace.sync.Client, variables: dict[str, str]
) -> None:
    with script(WAITING.format(thing="s-1"), variables) as running:
        wait_until(lambda: tunnels(client, "s-1"), "a tunnel")
        assert interrupted(running) == "KeyboardInterrupt"
    assert tunnels(client, "s-1") == []


@pytest.mark.parametrize(
    "inside",
    ["tunnel.wait_closed()", "list(tunnel.events())", "time.sleep(99)"],
)
def test_ctrl_c_inside(
    client: tailrace.sync.Client, variables: dict[str, str], inside: str
) -> None:
    with device(client, "s-2"), script(INSIDE.format(thing="s-2", inside=inside), variables) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == "ready\n"
        assert interrupted(it) == "KeyboardInterrupt"
    assert tunnels(client, "s-2") == []


HELD = """
import tailrace
block = tailrace.sync.connect("{thing}", services=["SSH"])
tunnel = block.__enter__()
print(tunnel.open_connection("SSH").readline())
"""
HELD_BY_A_THREAD = """
import threading, tailrace
ready = threading.Event()
def hold():
    with tailrace.sync.connect("{thing}", services=["SSH"]) as tunnel:
        ready.set()
        tunnel.wait_closed()
threading.Thread(target=hold, daemon=True).start()
assert ready.wait(60)
"""
HELD_BY_A_GENERATOR = """
import tailrace
def lines():
    with tailrace.sync.connect("{thing}", services=["SSH"]) as tunnel:
        yield from tunnel.open_connection("SSH")
reader = lines()
print(next(reader))
"""


@pytest.mark.parametrize("program", [HELD, HELD_BY_A_THREAD, HELD_BY_A_GENERATOR])
def test_a_program_that_ends_without_leaving(
    client: tailrace.sync.Client, variables: dict[str, str], program: str
) -> None:
    with device(client, "s-3"), script(program.format(thing="s-3"), variables) as running:
        _, errors = running.communicate(timeout=HANG)
        assert (running.returncode, errors) == (0, "")
    assert tunnels(client, "s-3") == []
