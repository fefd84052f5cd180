"""``tailrace things``."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.network.certificates import Certificates
from support.network.https_server import answer, scripted_https
from support.service import config, running
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.tailrace import main
from tailrace.service.notify.mailbox import Waiter
from tailrace.service.tunneling_service import TunnelingService


@pytest.fixture
async def service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[TunnelingService]:
    async with running(config(tmp_path / "state")) as service:
        for name, value in (
            ("AWS_ENDPOINT_URL_IOTSECURETUNNELING", service.endpoints.api_endpoint),
            ("AWS_CA_BUNDLE", service.endpoints.ca_file),
            ("AWS_REGION", service.endpoints.region),
            ("AWS_ACCESS_KEY_ID", service.endpoints.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", service.endpoints.secret_access_key),
        ):
            monkeypatch.setenv(name, value)
        yield service


async def test_a_table_and_json(
    service: TunnelingService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox = service._running.control.mailbox
    for thing in ("pump-7", "lamp"):
        mailbox.attach(Waiter(thing, "AKEXAMPLE", "192.0.2.1", time.time()))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert await asyncio.to_thread(main, ["things"]) == ExitCode.OK
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["THING", "SINCE", "ADDRESS", "KEY", "UNREAD"]
    assert [row.split()[0] for row in rows] == ["lamp", "pump-7"]
    assert all(row.split()[-3:] == ["192.0.2.1", "AKEXAMPLE", "0"] for row in rows)
    assert await asyncio.to_thread(main, ["things", "lamp", "--json"]) == ExitCode.OK
    document = json.loads(capsys.readouterr().out)
    assert [each["thingName"] for each in document["waitingThings"]] == ["lamp"]


@pytest.mark.parametrize("found", [None, [7], [{}], [{"since": "x"}]])
async def test_an_answer_that_makes_no_sense(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    found: object,
) -> None:
    certificates = Certificates(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    async with scripted_https(certificates) as server:
        server.answers = [answer({"waitingThings": found})]
        argv = ["things", "--endpoint-url", server.url, "--region", "us-east-1"]
        argv += ["--ca-bundle", str(certificates.ca_file)]
        assert await asyncio.to_thread(main, argv) == ExitCode.NETWORK
    assert "the response makes no sense" in capsys.readouterr().err
