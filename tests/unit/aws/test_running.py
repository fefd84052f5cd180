"""The service that this user runs: where it is found, and what is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.service import config, running
from tailrace.aws.credentials import Credentials
from tailrace.aws.joined import JoinedService
from tailrace.aws.running import find_running
from tailrace.common.enrolment import Role
from tailrace.common.secret import Secret

DOCUMENT = {
    "api_endpoint": "https://localhost:7443",
    "data_endpoint": "localhost:7444",
    "ca_file": "/state/tls/ca.pem",
    "ca_dir": "/state/tls/ca",
    "region": "us-east-1",
    "access_key_id": "AK",
    "secret_access_key": "SK",
    "pid": os.getpid(),
}


def write(directory: Path, document: object, mode: int = 0o600) -> dict[str, str]:
    """Write a ready file; return the environment in which it is found."""
    (directory / "tailrace").mkdir(exist_ok=True)
    path = directory / "tailrace" / "ready.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    path.chmod(mode)
    return {"XDG_STATE_HOME": str(directory)}


async def test_a_service_that_runs_in_the_default_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_running({}) is None
    state_dir = tmp_path / ".local" / "state" / "tailrace"
    state_dir.parent.mkdir(parents=True)
    async with running(config(state_dir)) as service:
        endpoints = service.endpoints
        assert find_running({}) == JoinedService(
            Role.OPERATOR,
            "default",
            endpoints.api_endpoint,
            endpoints.data_endpoint,
            endpoints.region,
            Path(endpoints.ca_file),
            Credentials(endpoints.access_key_id, Secret(endpoints.secret_access_key)),
        )
        assert find_running({"XDG_STATE_HOME": str(tmp_path / "none")}) is None
    assert find_running({}) is None


@pytest.mark.parametrize(
    "document",
    [
        DOCUMENT | {"secret_access_key": ""},
        DOCUMENT | {"api_endpoint": "http://localhost"},
        DOCUMENT | {"pid": 2**70},
        DOCUMENT | {"access_key_id": 7},
        {},
        [],
        "{",
    ],
)
def test_what_is_no_service(tmp_path: Path, document: Any) -> None:
    assert find_running(write(tmp_path, DOCUMENT)) is not None
    assert find_running(write(tmp_path, document)) is None


def test_one_that_has_ended_or_is_open_to_others(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert find_running(write(tmp_path, DOCUMENT | {"pid": ended.pid})) is None
    assert find_running(write(tmp_path, DOCUMENT, mode=0o644)) is None


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", nowhere)
    assert find_running({}) is None
