"""Which checks there are for what is asked, in which order, and what they need."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.network.ports import free_port
from support.repository import ROOT
from support.service import ServiceProcess
from tailrace.aws import Client
from tailrace.checks.findings import CheckResult, Verdict, ok
from tailrace.checks.runner import run_checks
from tailrace.checks.server import server_at
from tailrace.errors import ConfigurationError, ConnectFailed
from tailrace.operator.doctor.examination import doctor_checks
from tailrace.operator.doctor.subject import DoctorSettings, Subject

WAY = ["web proxy", "name", "TCP", "TLS"]
SERVICE = [f"service {each}" for each in (*WAY, "upgrade", "MTU")]
CONTROL = [f"control API {each}" for each in (*WAY, "rights")]
TUNNEL = ["tunnel", "service ids", "source", "destination"]


@pytest.fixture
def subject(service: ServiceProcess, client: Client) -> Subject:
    """The service of the tests."""
    ca = Path(service.endpoints.ca_file)
    data, api = (
        each.removeprefix("https://").rpartition(":")
        for each in (service.endpoints.data_endpoint, service.endpoints.api_endpoint)
    )
    return Subject(
        server_at("service", data[0], int(data[2]), {}, ca=ca),
        server_at("control API", api[0], int(api[2]), {}, ca=ca),
        client,
        ok("these two"),
    )


async def examined(subject: Subject, **settings: Any) -> dict[str, CheckResult]:
    checks = doctor_checks(DoctorSettings(**settings), subject)
    return {each.name: each async for each in run_checks(checks, at_once=True)}


async def test_the_way_to_a_service(subject: Subject) -> None:
    found = await examined(subject)
    assert list(found) == ["clock", "data path", "endpoints", *SERVICE, *CONTROL]
    assert {each.finding.verdict for each in found.values()} == {Verdict.OK, Verdict.SKIPPED}


async def test_a_tunnel_with_its_token(subject: Subject, tmp_path: Path) -> None:
    assert subject.client is not None
    opened = await subject.client.open(services=["SSH"])
    path = tmp_path / "token"
    path.write_text(opened.source_token.reveal())
    found = await examined(subject, tunnel_id=opened.tunnel_id, services=("SSH",), token_file=path)
    names = ["clock", "data path", "endpoints", *SERVICE, *CONTROL, *TUNNEL, "token file", "token"]
    assert list(found) == names
    assert found["tunnel"].finding.verdict is Verdict.OK
    assert found["token"].finding.verdict is Verdict.OK


async def test_a_token_of_a_closed_tunnel(subject: Subject, tmp_path: Path) -> None:
    assert subject.client is not None
    opened = await subject.client.open(services=["SSH"])
    await subject.client.close(opened.tunnel_id)
    path = tmp_path / "token"
    path.write_text(opened.source_token.reveal())
    found = await examined(subject, tunnel_id=opened.tunnel_id, token_file=path)
    assert found["source"].finding.verdict is Verdict.SKIPPED
    assert found["token"].finding.figure == "it is refused: its tunnel is closed"


async def test_measurements(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.operator.doctor.measure._ENOUGH", 0.01)
    found = await examined(subject, measure=True)
    assert list(found)[-2:] == ["round trip", "throughput"]
    assert found["throughput"].finding.verdict is Verdict.OK
    checks = doctor_checks(DoctorSettings(measure=True, thing="pump-7"), subject)
    assert [each.name for each in checks][-4:] == [
        "peer",
        "application",
        "round trip",
        "throughput",
    ]


async def test_no_tunnel_is_opened_where_there_is_no_way(subject: Subject) -> None:
    assert subject.client is not None
    before = [each async for each in subject.client.list()]
    lost = Subject(
        server_at("service", "127.0.0.1", free_port(), {}),
        subject.control,
        subject.client,
        ok("these two"),
    )
    found = await examined(lost, measure=True, thing="pump-7", services=("SSH",))
    assert isinstance(found["service TCP"].finding.cause, ConnectFailed)
    for name in ("peer", "application", "round trip", "throughput"):
        assert found[name].finding.verdict is Verdict.SKIPPED
    assert [each async for each in subject.client.list()] == before


async def test_without_a_control_api(subject: Subject) -> None:
    alone = Subject(subject.data, None, None, ok("this one"), "no region")
    found = await examined(alone)
    assert list(found) == ["clock", "data path", "endpoints", *SERVICE, "control API rights"]
    assert found["control API rights"].finding.figure == "no region"
    assert found["control API rights"].finding.verdict is Verdict.SKIPPED
    # A thing is looked up there.
    finding = (await examined(alone, thing="pump-7", measure=True))["control API rights"].finding
    assert finding.verdict is Verdict.FAILED
    assert isinstance(finding.cause, ConfigurationError)


def test_the_page_has_each_line(subject: Subject) -> None:
    settings = DoctorSettings(thing="pump-7", token_file=Path("token"), measure=True)
    page = (ROOT / "docs" / "guides" / "doctor.md").read_text()
    rows = re.findall(
        r"^\| ((?:`[^`|]+`(?:, )?)+) \| [a-z]", page.partition("## The lines")[2], re.M
    )
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    checks = [each.name for each in doctor_checks(settings, subject)]
    assert sorted(named) == sorted(checks)


async def test_nothing_is_known() -> None:
    found = await examined(Subject(None, None, None, ok("nothing"), ""))
    assert list(found) == ["clock", "data path", "endpoints", "control API rights"]
    assert found["control API rights"].finding.figure == "not known without the service"


def test_each_step_has_its_time(subject: Subject) -> None:
    """The bound of a check comes after those of its steps, which say more."""
    assert subject.data is not None
    slow = replace(subject.data, endpoint=replace(subject.data.endpoint, connect_timeout=100.0))
    checks = doctor_checks(DoctorSettings(), replace(subject, data=slow))
    bounds = {each.name: each.timeout for each in checks}
    assert all(bounds[name] > 500 for name in SERVICE)
    assert all(bounds[name] < 100 for name in CONTROL)
