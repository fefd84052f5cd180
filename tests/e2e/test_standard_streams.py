"""Standard streams as their parents leave them: closed, or pipes that nobody reads."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.network.applications import application, exchange, mirror
from support.processes.child import Process, clean_environment, installed, process
from support.service import ServiceProcess, control_client
from support.tunnel import arguments_for, read_ready_file, tunnel_of
from support.waiting import until, wait_until
from tailrace.cli.exit_codes import ExitCode
from tailrace.service.config import Endpoints
from tailrace.wire import Side

CLOSED = "<&- >&- 2>&-"


@pytest.fixture
def unread(tmp_path: Path) -> Iterator[str]:
    """Redirections into a pipe that is open, full and not read."""
    path = tmp_path / "unread"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(size))
    yield f">{path} 2>&1"
    os.close(reader)
    os.close(writer)


@contextlib.contextmanager
def redirected(
    directory: Path, name: str, command: Sequence[str], redirections: str, **env: str
) -> Iterator[Process]:
    """A command whose standard streams a shell has redirected."""
    shell = ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *command]
    with process(name, shell, directory, clean_environment(**env)) as started:
        yield started


@contextlib.contextmanager
def redirected_proxy(directory: Path, side: Side, arguments: list[str], token: str, how: str):
    ready = directory / f"{side.value}.json"
    command = [installed("localproxy"), *arguments, "--ready-file", str(ready)]
    environment = {"AWSIOT_TUNNEL_ACCESS_TOKEN": token}
    with redirected(directory, side.value, command, how, **environment) as started:
        yield started, ready


def redirections(kind: str, request: pytest.FixtureRequest) -> str:
    return CLOSED if kind == "closed" else request.getfixturevalue("unread")


@pytest.mark.parametrize("json_events", [False, True])
@pytest.mark.parametrize("kind", ["closed", "unread"])
async def test_both_proxies(
    service: ServiceProcess,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    kind: str,
    json_events: bool,
) -> None:
    """They carry connections, and end when they are told to."""
    how = redirections(kind, request)
    options = ["--json"] if json_events else []
    with tunnel_of(service, "SSH") as tunnel, contextlib.ExitStack() as stack:
        async with application(mirror) as where:
            started = {}
            for side, services in ((Side.DESTINATION, {"SSH": where}), (Side.SOURCE, None)):
                arguments = [*arguments_for(tunnel, side, services), *options]
                token = tunnel.tokens[side].reveal()
                started[side] = stack.enter_context(
                    redirected_proxy(tmp_path, side, arguments, token, how)
                )
                _, ready = started[side]
                await until(ready.exists, f"readiness of {side.value}")
            at = read_ready_file(started[Side.SOURCE][1])["SSH"]
            for seed in range(20):
                await exchange(at, 1000, seed)
            for proxy, _ in started.values():
                proxy.terminate()
            for proxy, _ in started.values():
                assert await proxy.exit_code() == ExitCode.OK


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("kind", ["closed", "unread"])
def test_serve(tmp_path: Path, request: pytest.FixtureRequest, kind: str, loop: str) -> None:
    ready = tmp_path / "ready"
    command = [
        *(installed("tailrace"), "serve", "--state-dir", str(tmp_path / "state")),
        *("--api-listen", "127.0.0.1:0", "--data-listen", "127.0.0.1:0"),
        *("--ready-file", str(ready), "--loop", loop, "--log-level", "debug"),
    ]
    with redirected(tmp_path, "serve", command, redirections(kind, request)) as serve:
        wait_until(lambda: ready.exists() or not serve.running, "readiness of the service")
        control = control_client(Endpoints.read(ready))
        for _ in range(20):
            assert control.call("ListTunnels", {}) == {"tunnelSummaries": []}
        serve.terminate()
        assert serve.wait() == ExitCode.OK


def test_an_error_of_serve_waits_for_nobody(tmp_path: Path, unread: str) -> None:
    command = [installed("tailrace"), "serve", "--state-dir", str(tmp_path / "file" / "state")]
    (tmp_path / "file").write_text("")
    with redirected(tmp_path, "serve", command, unread) as serve:
        assert serve.wait() == ExitCode.USAGE


SHORT = [
    (["localproxy", "--version"], ExitCode.OK),
    (["localproxy", "--help"], ExitCode.OK),
    (["localproxy", "--nonsense"], ExitCode.USAGE),
    (["tailrace", "--version"], ExitCode.OK),
    (["tailrace", "--help"], ExitCode.OK),
    (["tailrace", "serve", "--help"], ExitCode.OK),
    (["tailrace", "keys", "list"], ExitCode.OK),
    (["tailrace", "env"], ExitCode.USAGE),
    (["tailrace", "tunnel", "list"], ExitCode.USAGE),
    (["tailrace", "config", "show"], ExitCode.USAGE),
    (["tailrace", "--nonsense"], ExitCode.USAGE),
]


@pytest.mark.parametrize(("command", "status"), SHORT, ids=lambda value: str(value))
def test_short_commands_without_standard_streams(
    tmp_path: Path, command: list[str], status: ExitCode
) -> None:
    words = [installed(command[0]), *command[1:]]
    environment = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    with redirected(tmp_path, "short", words, CLOSED, **environment) as started:
        assert started.wait() == status


def test_log_and_events_of_who_reads_them_are_whole_and_in_order(
    service: ServiceProcess, tmp_path: Path
) -> None:
    """Standard output and standard error have each their own."""
    with tunnel_of(service, "SSH") as tunnel:
        ready = tmp_path / "ready"
        proxy = subprocess.Popen(
            [
                *(installed("localproxy"), *arguments_for(tunnel, Side.SOURCE), "--json"),
                *("--ready-file", str(ready)),
            ],
            env=clean_environment(AWSIOT_TUNNEL_ACCESS_TOKEN=tunnel.tokens[Side.SOURCE].reveal()),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(ready.exists, "readiness of the source")
        proxy.send_signal(signal.SIGTERM)
        out, log = proxy.communicate()
    assert proxy.returncode == ExitCode.OK
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert events[:5] == ["started", "connecting", "connected", "services", "listening"]
    lines = log.splitlines()
    assert lines[0].startswith("Running AWS IoT Secure Tunneling Local Proxy")
    places = [
        next(number for number, line in enumerate(lines) if text in line)
        for text in ("Starting proxy", "Attempting", "Successfully", "Listening for new")
    ]
    assert places == sorted(places)
