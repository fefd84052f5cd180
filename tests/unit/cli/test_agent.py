"""``tailrace agent``: what it takes, what it says, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.network.ports import free_port
from support.plugins.fixtures import session_service
from support.processes.child import Process, clean_environment, installed, process
from support.processes.systemd import Systemd
from support.repository import ROOT
from support.service.process import ServiceProcess
from support.tunnel import tunnel_of
from support.tunnel.agent import payload, payload_of
from support.waiting import wait_until
from tailrace.agent.sources import stdin
from tailrace.agent.sources.base import Receive
from tailrace.agent.sources.stdin import StdinSource
from tailrace.aws import joined
from tailrace.cli import agent_options
from tailrace.cli.agent import add_agent_parser
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.parser import CommandParser
from tailrace.cli.tailrace import main
from tailrace.wire import Side

__all__ = ["session_service"]

TOKEN = "AQGAAXhT1-secret-of-the-destination"


def result(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Run the command in this process; return status, output and errors."""
    try:
        status = main(["agent", *argv])
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWSIOT_TUNNEL_ENDPOINT", "AWSIOT_TUNNEL_REGION", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(joined, "_SYSTEM", tmp_path / "none")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))


# -- mistakes -------------------------------------------------------------------------------------

RUN = ["run", "--notify-file", "notify", "--service", "SSH=22"]


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "tailrace agent: the following arguments are required: ACTION"),
        (["rnu"], "did you mean run?"),
        (["run"], "tailrace agent run: no way in for notifications: give --endpoint or --broker"),
        (["run", "--notify-stdin"], "no services: give --service ID=TARGET, as SSH=22, or"),
        (["run", "--notify-stdin", "--service", "22"], "write ID=TARGET"),
        (["run", "--notify-stdin", "--service", "SSH=0"], "port"),
        ([*RUN, "--service", "SSH=23"], "service 'SSH' is given twice"),
        ([*RUN, "--services-file", "/nonexistent"], "/nonexistent: No such file"),
        ([*RUN, "--max-tunnels", "0"], "--max-tunnels 0 is less than 1"),
        ([*RUN, "--max-tunnels", "x"], "argument --max-tunnels: invalid int value: 'x'"),
        ([*RUN, "--capath", "/nonexistent"], "--capath /nonexistent: there is no such file"),
        ([*RUN, "--region", "../x"], "Region must contain only"),
        ([*RUN, "--proxy-endpoint", "a b"], "Proxy endpoint contains invalid characters"),
        ([*RUN, "--broker", "mqtt://h"], "--thing-name"),
        ([*RUN, "--state-dir", "/dev/null/x"], "cannot make the directory /dev/null/x"),
        (["once", "/nonexistent", "--service", "SSH=22"], "cannot read /nonexistent: No such file"),
        (["disable", "--state-dir", "/nonexistent"], "no agent keeps its state in /nonexistent"),
        (["enable", "--now"], "unrecognized arguments: --now"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], argv: list[str], text: str
) -> None:
    status, out, err = result(capsys, *argv)
    assert (status, out, err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert text in err


@pytest.mark.parametrize("content", ["", "two words", '{"a": 1', '{"clientMode": "source"}'])
def test_a_file_without_a_token_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str
) -> None:
    (tmp_path / "token").write_text(content)
    argv = ["once", str(tmp_path / "token"), "--service", "SSH=22", "--region", "eu-west-1"]
    status, _, err = result(capsys, *argv)
    assert (status, err.count("\n")) == (ExitCode.USAGE, 1)
    assert "two words" not in err


def test_a_user_without_a_home_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_options, "default_state_dir", lambda environ, name: None)
    assert "give --state-dir DIR" in result(capsys, *RUN)[2]


# -- the documents --------------------------------------------------------------------------------


def test_each_option_is_documented() -> None:
    parser = CommandParser(prog="tailrace")
    agent = add_agent_parser(parser.add_subparsers())
    (actions,) = (each.choices for each in agent._actions if isinstance(each.choices, dict))
    options = {
        option
        for action in actions.values()
        for each in action._actions
        for option in each.option_strings
        if option.startswith("--") and option != "--help"
    }
    pages = [
        (ROOT / "docs" / name).read_text()
        for name in ("reference/agent.md", "guides/agent-install.md", "reference/agent-mqtt.md")
    ]
    documented = set(re.findall(r"`(--[a-z-]+)", "\n".join(pages)))
    assert options - documented == set()


# -- kill switch ----------------------------------------------------------------------------------


def test_the_kill_switch_is_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    switch = tmp_path / "disabled"
    for argv, content in ((["disable"], ""), (["disable", "--now"], "now\n"), (["enable"], None)):
        status, out, err = result(capsys, *argv, "--state-dir", str(tmp_path))
        assert (status, err) == (ExitCode.OK, "")
        assert out.startswith(f"agents with their state in {tmp_path}: kill switch ")
        assert (switch.read_text() if switch.exists() else None) == content


def test_one_tunnel_alone_heeds_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "disabled").touch()
    argv = ["once", str(tmp_path / "token"), "--service", "SSH=22", "--region", "eu-west-1"]
    status, _, err = result(capsys, *argv, "--state-dir", str(tmp_path))
    assert (status, err.count("\n")) == (ExitCode.USAGE, 1)
    assert "to allow them: tailrace agent enable" in err


# -- processes ------------------------------------------------------------------------------------

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path, session_service: ServiceProcess) -> Iterator[Start]:
    """Start a command of the agent, for the service of the session."""
    with contextlib.ExitStack() as stack:

        def run(action: str, *argv: str, **environment: str) -> Process:
            endpoints = session_service.endpoints
            line = [
                installed("tailrace"),
                "agent",
                action,
                *argv,
                "--state-dir",
                str(tmp_path / "s"),
            ]
            line += ["--proxy-endpoint", endpoints.data_endpoint, "--service", "SSH=22"]
            variables = clean_environment(SSL_CERT_FILE=endpoints.ca_file, **environment)
            return stack.enter_context(process("agent", line, tmp_path, variables))

        yield run


def test_it_runs_until_it_is_told_to_end(
    start: Start, tmp_path: Path, session_service: ServiceProcess
) -> None:
    ready, status, notify = (tmp_path / name for name in ("ready", "status", "notify"))
    services = tmp_path / "services.toml"
    services.write_text("[services]\nWEB = 80\n")
    agent = start(
        "run",
        *("--notify-file", str(notify), "--thing-name", "pump-7", "--ready-file", str(ready)),
        *("--status-file", str(status), "--services-file", str(services)),
    )
    wait_until(lambda: ready.exists() or not agent.running)
    assert agent.running, agent.log
    assert list(json.loads(ready.read_text())["sources"]) == [f"file {notify}"]
    with tunnel_of(session_service, "SSH") as opened:
        notify.touch(0o600)
        notify.write_bytes(payload_of(opened))
        wait_until(lambda: '"phase": "up"' in status.read_text())
        services.write_text("[services]\nDB = 5432\n")
        agent.signal(signal.SIGHUP)
        wait_until(lambda: "+DB" in agent.log)
        agent.terminate()
        assert agent.wait() == ExitCode.OK
        assert not ready.exists()
        assert not status.exists()
        assert opened.tokens[Side.DESTINATION].reveal() not in agent.log
    assert agent.output == ""
    assert "Traceback" not in agent.log


def test_it_ends_with_standard_input(tmp_path: Path) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    rest = ["--service", "SSH=22", "--proxy-endpoint", endpoint]
    rest += ["--state-dir", str(tmp_path / "s"), "--log-format", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "tailrace", "agent", "run", "--notify-stdin", *rest],
        input=b"junk\n" + payload(TOKEN, "NOPE") + b"\n",
        capture_output=True,
        env=clean_environment(),
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (ExitCode.OK, b"")
    messages = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert "a notification is ignored: it is not valid JSON" in messages
    assert "a notification is ignored: no service of it is mapped: NOPE" in messages
    assert messages[-1] == "standard input has ended; no more notifications come from there"


def test_systemd_is_told(start: Start, tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "notify.sock"))
    broker = ["--broker", f"mqtt://127.0.0.1:{free_port()}", "--thing-name", "pump-7"]
    agent = start("run", *broker, **systemd.environment, WATCHDOG_USEC="60000000")
    # Whatever the broker does: a device may start without a network.
    status = systemd.hears("READY=1")
    assert status.startswith(
        "READY=1\nSTATUS=0 of 0 tunnels up, 20 allowed; broker mqtt://127.0.0.1"
    )
    assert systemd.hears("WATCHDOG=1")
    agent.signal(signal.SIGHUP)
    assert systemd.hears("READY=1")
    agent.terminate()
    assert agent.wait() == ExitCode.OK
    assert systemd.told()[-1] == "STOPPING=1"
    systemd.close()


def test_one_tunnel_alone(start: Start, tmp_path: Path, session_service: ServiceProcess) -> None:
    log = tmp_path / "agent.log"

    def connected(token: Path) -> Process:
        seen = log.stat().st_size if log.exists() else 0
        once = start("once", str(token))
        wait_until(lambda: "connected to" in once.log[seen:] or not once.running)
        return once

    with tunnel_of(session_service, "SSH") as opened:
        token = tmp_path / "token"
        token.write_text(f"{opened.tokens[Side.DESTINATION].reveal()}\n")
        for _ in range(2):  # the second time with the client token of the first
            once = connected(token)
            once.terminate()
            assert once.wait() == ExitCode.OK, once.log
        token.write_bytes(payload_of(opened))
        once = connected(token)
        opened.close()
        assert once.wait() == ExitCode.OK
        assert "the tunnel has ended: closed, or expired" in once.log


def test_a_refused_token_has_its_status(start: Start, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    once = start("once", str(tmp_path / "token"))
    assert once.wait() == ExitCode.TOKEN_REFUSED
    assert once.log.startswith("tailrace agent once: HTTP/1.1 4")
    assert TOKEN not in once.log


def test_the_command_starts_without_packages_of_the_service() -> None:
    code = (
        "import sys, tailrace.cli.tailrace, tailrace.agent.agent\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"cryptography", "starlette", "uvicorn", "prometheus_client"} & set(
        done.stdout.split()
    )


# -- in this process, where coverage is measured --------------------------------------------------


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, session_service: ServiceProcess
) -> list[str]:
    """Return the options that lead to the service of the session."""
    monkeypatch.setenv("SSL_CERT_FILE", session_service.endpoints.ca_file)
    options = ["--state-dir", str(tmp_path / "state"), "--service", "SSH=22"]
    return [*options, "--proxy-endpoint", session_service.endpoints.data_endpoint]


def test_a_run_ends_with_its_ways_in(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    here: list[str],
    session_service: ServiceProcess,
) -> None:
    services, ready = tmp_path / "services.toml", tmp_path / "ready"
    services.write_text("[services]\nWEB = 80\n")
    with tunnel_of(session_service, "SSH") as opened:
        opened.close()
        (tmp_path / "input").write_bytes(payload_of(opened))
        handle = os.open(tmp_path / "input", os.O_RDONLY)
        monkeypatch.setattr(stdin, "StdinSource", lambda: StdinSource(handle))
        argv = ["run", "--notify-stdin", "--ready-file", str(ready), *here]
        assert main(["agent", *argv, "--services-file", str(services)]) == ExitCode.OK
        os.close(handle)
    assert not ready.exists()
    assert opened.tokens[Side.DESTINATION].digest in (tmp_path / "state" / "seen").read_text()


def test_a_run_ends_when_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    here: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    class Impatient(StdinSource):
        async def run(self, receive: Receive) -> None:
            for number in (signal.SIGHUP, signal.SIGTERM):
                os.kill(os.getpid(), number)
                await asyncio.sleep(0.05)
            await asyncio.get_running_loop().create_future()

    (tmp_path / "services.toml").write_text("[services]\nWEB = 80\n")
    monkeypatch.setattr(stdin, "StdinSource", Impatient)
    argv = ["run", "--notify-stdin", "--services-file", str(tmp_path / "services.toml"), *here]
    argv += ["--broker", f"mqtt://127.0.0.1:{free_port()}", "--thing-name", "pump-7"]
    assert main(["agent", *argv]) == ExitCode.OK
    assert "services: unchanged" in caplog.messages
    assert "ending, as asked" in caplog.messages


def test_once_tells_that_its_tunnel_has_ended(
    tmp_path: Path,
    here: list[str],
    session_service: ServiceProcess,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with tunnel_of(session_service, "SSH") as opened:
        (tmp_path / "token").write_bytes(payload_of(opened))
        opened.close()
        status, _, err = result(capsys, "once", str(tmp_path / "token"), *here)
    assert status == ExitCode.TOKEN_REFUSED
    assert err.startswith("tailrace agent once: HTTP/1.1 4")


def test_the_environment_of_once_may_name_the_service(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    session_service: ServiceProcess,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", session_service.endpoints.ca_file)
    monkeypatch.setenv("AWSIOT_TUNNEL_ENDPOINT", session_service.endpoints.data_endpoint)
    (tmp_path / "token").write_text(TOKEN)
    argv = ["once", str(tmp_path / "token"), "--service", "SSH=22"]
    status, _, err = result(capsys, *argv)
    assert status == ExitCode.TOKEN_REFUSED
    assert TOKEN not in err
