"""``tailrace agent check`` as a command."""

from __future__ import annotations

import argparse
import json
import os
import socket
from pathlib import Path

import pytest

from support.network.certificates import Certificates
from support.network.ports import free_port
from support.processes.mosquitto import broker, needs_mosquitto
from tailrace.agent.sources.mqtt import MqttSourceSettings
from tailrace.aws import Credentials, joined
from tailrace.checks.server import Server
from tailrace.cli import agent_check as command
from tailrace.cli.agent_check import add_check_parser
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.tailrace import main
from tailrace.common.enrolment import Role
from tailrace.common.secret import Secret
from tailrace.mqtt.settings import BrokerSettings


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWSIOT_TUNNEL_ENDPOINT", "AWSIOT_TUNNEL_REGION", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(joined, "_SYSTEM", tmp_path / "none")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))


Documents = dict[str, dict[str, str]]


def checked(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, Documents]:
    """Run it in this process; return the status, and the results by name."""
    status = main(["agent", "check", "--json", *argv])
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is (status == ExitCode.OK)
    return status, {each["name"]: each for each in document["checks"]}


def test_all_is_well(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        service = f"SSH={listening.getsockname()[1]}"
        options = ("--notify-file", str(tmp_path / "notify"), "--service", service)
        status, found = checked(capsys, *options)
        assert status == ExitCode.OK
        assert list(found) == [
            "clock",
            "state",
            "kill switch",
            "notify file",
            "service SSH",
            "tunnels",
        ]
        assert main(["agent", "check", *options]) == ExitCode.OK
    assert capsys.readouterr().out.splitlines()[0].startswith("ok    clock        20")


def test_something_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--notify-file", str(tmp_path / "notify"), "--service", "SSH=/nonexistent"]
    assert main(["agent", "check", *options]) == ExitCode.CHECK_FAILED
    out, err = capsys.readouterr()
    assert "FAIL  service SSH  /nonexistent: No such file or directory\n" in out
    assert err == "tailrace agent check: 1 of 6 checks failed, 1 skipped\n"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "no way in for notifications"),
        (["--notify-stdin"], "no services"),
        (["--broker", "mqtt://h", "--service", "SSH=22"], "--thing-name"),
        (["--notify-stdin", "--service", "SSH=22", "--capath", "/nonexistent"], "--capath"),
    ],
)
def test_a_mistake_is_a_finding(
    capsys: pytest.CaptureFixture[str], argv: list[str], text: str
) -> None:
    if "--capath" in argv:
        argv = [*argv, "--region", "eu-west-1"]
    status, found = checked(capsys, *argv)
    assert status == ExitCode.CHECK_FAILED
    assert text in found["configuration"]["figure"]


@pytest.mark.parametrize(
    ("argv", "endpoint"),
    [
        (["--proxy-endpoint", "tunnel.example:7444"], "tunnel.example"),
        (["--region", "nowhere-1"], "data.tunneling.iot.nowhere-1.amazonaws.com"),
        (["--region", "cn-north-1"], "data.tunneling.iot.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_where_tunnels_lead(argv: list[str], endpoint: str) -> None:
    server = tunnels_of(*argv)
    assert server is not None
    assert server.endpoint.host == endpoint


def test_the_region_of_the_broker_is_that_of_tunnels() -> None:
    host = "a1-ats.iot.eu-west-1.amazonaws.com"
    broker = MqttSourceSettings(BrokerSettings(host, 8883, is_aws=True), "pump-7")
    server = tunnels_of(broker=broker)
    assert server is not None
    assert server.endpoint.host == "data.tunneling.iot.eu-west-1.amazonaws.com"


def test_the_environment_says_where_tunnels_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWSIOT_TUNNEL_ENDPOINT", "tunnel.example:7444")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    server = tunnels_of()
    assert server is not None
    assert server.endpoint.authority == "tunnel.example:7444"
    assert server.web_proxy is not None


def tunnels_of(*argv: str, broker: MqttSourceSettings | None = None) -> Server | None:
    parser = argparse.ArgumentParser()
    add_check_parser(parser.add_subparsers())
    args = parser.parse_args(["check", *argv])
    return command._tunnels(args, broker, os.environ)


@needs_mosquitto
def test_a_broker(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with broker(tmp_path) as running:
        options = ["--broker", f"mqtt://127.0.0.1:{running.port}", "--thing-name", "pump-7"]
        status, found = checked(capsys, *options, "--service", "SSH=/nonexistent")
    assert status == ExitCode.CHECK_FAILED
    assert found["client id"]["verdict"] == "ok"
    assert found["subscription"]["verdict"] == "warning"


def test_a_joined_service(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at = f"localhost:{free_port()}"
    place = (f"https://{at}", at, "us-east-1", Path(), Credentials("AK", Secret("SK")))
    service = joined.JoinedService(Role.DEVICE, "pump-7", *place)
    pem = Certificates(tmp_path).ca_file.read_bytes()
    joined.write_joined(tmp_path / "joined", service, pem)
    monkeypatch.setenv("TAILRACE_SERVICE_DIR", str(tmp_path / "joined"))
    status, found = checked(capsys, "--service", "SSH=/nonexistent")
    assert status == ExitCode.CHECK_FAILED
    assert found["service TCP"]["verdict"] == found["tunnels TCP"]["verdict"] == "failed"
    assert found["key"]["verdict"] == "skipped"


def install(root: Path, *argv: str) -> None:
    program = ("--program", "/opt/tailrace/bin/tailrace")
    assert main(["agent", "install", "--root", str(root), *program, *argv]) == ExitCode.OK


def test_an_installed_agent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "_ROOT", tmp_path)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    services = tmp_path / "services.toml"
    services.write_text("[services]\nSSH = '/nonexistent'\n")
    notify = str(tmp_path / "notify")
    install(tmp_path, "--notify-file", notify, "--services-file", str(services))
    monkeypatch.delenv("https_proxy")
    capsys.readouterr()
    status, found = checked(capsys, "--installed", "--region", "nowhere-1")
    assert status == ExitCode.CHECK_FAILED
    assert found["state"]["figure"].startswith("/var/lib/tailrace-agent ")
    assert found["notify file"]["figure"] == f"{notify} is waited for"
    assert found["service SSH"]["verdict"] == "failed"
    assert "proxy.example" in found["tunnels web proxy"]["figure"]


def test_no_installed_agent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "_ROOT", tmp_path)
    figure = checked(capsys, "--installed")[1]["configuration"]["figure"]
    assert figure == (f"no agent is installed: there is no {tmp_path}/etc/tailrace-agent/agent.env")
