"""Checks of an agent: its state, its ways in, its services and its way out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.network.applications import application, echo
from support.plugins.fixtures import session_service
from support.service import ServiceProcess
from tailrace.agent.agent import Agent
from tailrace.agent.check import AgentCheckSettings, agent_checks, is_running
from tailrace.agent.kill_switch import KillSwitch, set_kill_switch
from tailrace.agent.sources.mqtt import MqttSourceSettings
from tailrace.checks.findings import Finding, Verdict
from tailrace.checks.runner import run_checks
from tailrace.checks.server import Server
from tailrace.common.addresses import TCPAddress
from tailrace.library import ServiceRule
from tailrace.link.endpoint import NetworkEndpoint, TLSOptions
from tailrace.localproxy.endpoints import parse_endpoint
from tailrace.mqtt.settings import BrokerSettings

__all__ = ["session_service"]

NOTIFICATION = '{"clientAccessToken": "secret-1", "region": "eu-west-1", "services": ["SSH"]}'


async def checked(settings: AgentCheckSettings) -> dict[str, Finding]:
    return {each.name: each.finding async for each in run_checks(agent_checks(settings))}


async def test_the_least_that_there_is(tmp_path: Path) -> None:
    found = await checked(AgentCheckSettings(tmp_path / "state", ()))
    assert [(name, each.verdict.value) for name, each in found.items()] == [
        ("clock", "ok"),
        ("state", "ok"),
        ("kill switch", "ok"),
        ("tunnels", "skipped"),
    ]
    assert found["tunnels"].fix == "add --region to check one"
    assert not (tmp_path / "state").exists()


async def test_an_agent_that_runs(tmp_path: Path) -> None:
    state = tmp_path / "state"
    broker = MqttSourceSettings(BrokerSettings("127.0.0.1", 1), "pump-7")
    settings = AgentCheckSettings(state, (), broker)
    assert not is_running(state)
    async with Agent({"SSH": 22}, region="eu-west-1", state_dir=state):
        assert is_running(state)
        found = await checked(settings)
        assert "an agent runs, 0 tunnels kept" in found["state"].figure
    assert not is_running(state)
    found = await checked(settings)
    assert "no agent runs" in found["state"].figure


async def test_a_state_directory_that_others_may_write_to(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    finding = (await checked(AgentCheckSettings(tmp_path, ())))["state"]
    assert finding.verdict is Verdict.FAILED
    assert "chmod 755" in finding.figure


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_root_looks_at_the_state_of_another_user(tmp_path: Path) -> None:
    state = tmp_path / "state"
    os.mkdir(state, 0o700)
    os.chown(state, 12345, 12345)
    assert (await checked(AgentCheckSettings(state, ())))["state"].verdict is Verdict.OK


async def test_a_lock_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    assert not is_running(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
async def test_a_state_directory_of_another_user(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0)
    finding = (await checked(AgentCheckSettings(tmp_path / "state", ())))["state"]
    os.chmod(tmp_path, 0o700)
    assert finding.verdict is Verdict.SKIPPED


async def test_a_kill_switch_that_is_set(tmp_path: Path) -> None:
    set_kill_switch(tmp_path, KillSwitch.NO_NEW)
    finding = (await checked(AgentCheckSettings(tmp_path, ())))["kill switch"]
    assert finding.verdict is Verdict.WARNING
    assert finding.figure == "set: no new tunnels"
    assert finding.fix.startswith("tailrace agent enable")


async def test_warnings_of_the_configuration(tmp_path: Path) -> None:
    settings = AgentCheckSettings(tmp_path, (), warnings=("jobs stay with Device Client",))
    finding = (await checked(settings))["configuration"]
    assert finding.verdict is Verdict.WARNING
    assert finding.figure == "jobs stay with Device Client"


@pytest.mark.parametrize(
    ("content", "verdict", "figure"),
    [
        (None, Verdict.OK, "is waited for"),
        ("", Verdict.OK, "has 0 notifications"),
        (f"{NOTIFICATION}\n\n{NOTIFICATION}\n", Verdict.OK, "has 2 notifications"),
        (json.dumps(json.loads(NOTIFICATION), indent=1), Verdict.OK, "has 1 notifications"),
        (f'{{"notification": {NOTIFICATION}}}', Verdict.OK, "has 1 notifications"),
        (f"{NOTIFICATION}\nsecret-2", Verdict.WARNING, "it is not valid JSON"),
    ],
)
async def test_a_file_of_notifications(
    tmp_path: Path, content: str | None, verdict: Verdict, figure: str
) -> None:
    path = tmp_path / "notify"
    if content is not None:
        path.write_text(content)
    finding = (await checked(AgentCheckSettings(tmp_path, (), notify_file=path)))["notify file"]
    assert finding.verdict is verdict
    assert figure in finding.figure
    assert "secret" not in repr(finding)


async def test_files_that_cannot_be_waited_for(tmp_path: Path) -> None:
    settings = AgentCheckSettings(tmp_path, (), notify_file=tmp_path / "a" / "b")
    assert (await checked(settings))["notify file"].figure == f"{tmp_path}/a is no directory"
    (tmp_path / "c").mkdir()
    settings = AgentCheckSettings(tmp_path, (), notify_file=tmp_path / "c")
    figure = (await checked(settings))["notify file"].figure
    assert figure == f"{tmp_path}/c: it is not a regular file"
    os.mkfifo(tmp_path / "d")
    settings = AgentCheckSettings(tmp_path, (), notify_file=tmp_path / "d")
    assert (await checked(settings))["notify file"].verdict is Verdict.FAILED
    (tmp_path / "e").touch()
    (tmp_path / "e").chmod(0o666)
    settings = AgentCheckSettings(tmp_path, (), notify_file=tmp_path / "e")
    assert "chmod 644" in (await checked(settings))["notify file"].figure


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_root_cannot_judge_a_file_of_another_user(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    path.touch()
    os.chown(path, 12345, -1)
    finding = (await checked(AgentCheckSettings(tmp_path, (), notify_file=path)))["notify file"]
    assert finding.verdict is Verdict.SKIPPED
    assert "belongs to another user" in finding.figure


async def test_standard_input_is_not_looked_at(tmp_path: Path) -> None:
    found = await checked(AgentCheckSettings(tmp_path, (), notify_stdin=True))
    assert found["standard input"].verdict is Verdict.SKIPPED


async def test_services(tmp_path: Path) -> None:
    async def handler(reader: object, writer: object) -> None:
        raise AssertionError("it is not called")

    async with application(echo, TCPAddress("127.0.0.1", 0)) as at:
        rules = (
            ("SSH", ServiceRule(at)),
            ("*", ServiceRule("unix:/nonexistent")),
            ("CMD", ServiceRule(handler)),
        )
        found = await checked(AgentCheckSettings(tmp_path, rules))
    assert found["service SSH"].verdict is Verdict.OK
    assert found["service *"].verdict is Verdict.FAILED
    assert found["service CMD"].verdict is Verdict.SKIPPED


async def test_the_data_endpoint_of_a_service(
    tmp_path: Path, session_service: ServiceProcess
) -> None:
    endpoints = session_service.endpoints
    host, port = parse_endpoint(endpoints.data_endpoint)
    tls = TLSOptions(authorities=Path(endpoints.ca_file))
    tunnels = Server("tunnels", NetworkEndpoint(host=host, port=port, tls=tls))
    found = await checked(AgentCheckSettings(tmp_path, (), tunnels=tunnels))
    assert found["tunnels TLS"].verdict is Verdict.OK
    assert found["tunnels answer"].verdict is Verdict.OK
    assert found["tunnels answer"].figure.startswith("HTTP 4")
