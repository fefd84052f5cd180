"""The audit log: complete, private, appended to, never a token."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tailrace.errors import ConfigurationError
from tailrace.service.telemetry.audit import AuditLog, timestamp


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def record(audit: AuditLog, operation: str, parameters: dict[str, Any], **more: Any) -> None:
    values: dict[str, Any] = {"key": "AKIA", "address": "192.0.2.1", "request": "r1"}
    values |= {"outcome": "ok", "tunnel": None} | more
    audit.request(operation, parameters, **values)


def test_operations_and_links(path: Path) -> None:
    audit = AuditLog(path, lambda: 1_700_000_000.25)
    destination = {"thingName": "lamp", "services": ["SSH"]}
    parameters = {"description": "not kept", "destinationConfig": destination}
    record(audit, "OpenTunnel", parameters, tunnel="t1")
    record(audit, "CloseTunnel", {"tunnelId": "t1", "delete": True}, outcome="AccessDenied")
    audit.link("connected", "t1", "source", "[::1]:99", "c1")
    audit.expired("t2")
    audit.close()
    audit.close()
    assert lines(path) == [
        {
            "time": "2023-11-14T22:13:20.250Z",
            "event": "OpenTunnel",
            "key": "AKIA",
            "address": "192.0.2.1",
            "request": "r1",
            "thingName": "lamp",
            "services": ["SSH"],
            "tunnelId": "t1",
            "outcome": "ok",
        },
        {
            "time": "2023-11-14T22:13:20.250Z",
            "event": "CloseTunnel",
            "key": "AKIA",
            "address": "192.0.2.1",
            "request": "r1",
            "tunnelId": "t1",
            "delete": True,
            "outcome": "AccessDenied",
        },
        {
            "time": "2023-11-14T22:13:20.250Z",
            "event": "connected",
            "tunnelId": "t1",
            "side": "source",
            "address": "[::1]:99",
            "channel": "c1",
        },
        {"time": "2023-11-14T22:13:20.250Z", "event": "expired", "tunnelId": "t2"},
    ]


def test_the_file_is_private_and_appended_to(path: Path) -> None:
    for number in range(2):
        previous = os.umask(0)
        try:
            audit = AuditLog(path, lambda: 0.0)
        finally:
            os.umask(previous)
        audit.expired(f"t{number}")
        audit.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [line["tunnelId"] for line in lines(path)] == ["t0", "t1"]


def test_log_rotation(path: Path) -> None:
    audit = AuditLog(path, lambda: 0.0)
    audit.expired("old")
    moved = path.with_suffix(".1")
    path.rename(moved)
    audit.expired("still old")
    audit.reopen()
    audit.expired("new")
    audit.close()
    audit.reopen()
    assert len(lines(moved)) == 2
    assert len(lines(path)) == 1


def test_without_a_file() -> None:
    audit = AuditLog(None, lambda: 0.0)
    audit.expired("t")
    audit.reopen()
    audit.close()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="audit_log: cannot write"):
        AuditLog(tmp_path / "missing" / "audit.jsonl", lambda: 0.0)


def test_a_full_disk_is_logged_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    audit = AuditLog(Path("/dev/full"), lambda: 0.0)
    audit.expired("t")
    audit.close()
    assert "audit log /dev/full: No space left on device" in caplog.text


def test_timestamps() -> None:
    assert timestamp(0.0) == "1970-01-01T00:00:00.000Z"
