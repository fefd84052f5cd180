"""The audit log: complete, private, appended to, never a token."""

import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
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
    handle = audit.open_again()
    audit.expired("still old")
    audit.switch(handle)
    audit.expired("new")
    audit.close()
    assert len(lines(moved)) == 2
    assert len(lines(path)) == 1


def test_without_a_file() -> None:
    audit = AuditLog(None, lambda: 0.0)
    audit.expired("t")
    audit.link("connected", "t1", "source", "[::1]:99", "c1")
    audit.switch(audit.open_again())
    audit.end_interval()
    audit.close()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="audit_log: cannot write"):
        AuditLog(tmp_path / "missing" / "audit.jsonl", lambda: 0.0)


def test_what_is_no_file_of_its_own(path: Path) -> None:
    def refusal() -> str:
        with pytest.raises(ConfigurationError) as caught:
            AuditLog(path, lambda: 0.0)
        return str(caught.value)

    path.symlink_to("elsewhere")
    assert refusal().startswith(f"audit_log: cannot write {path}: it is a symbolic link")
    assert not path.with_name("elsewhere").exists()
    path.unlink()
    os.mkfifo(path, 0o600)
    assert refusal().endswith("it is not a regular file")
    path.unlink()
    path.touch()
    for mode in (0o660, 0o606, 0o604):
        path.chmod(mode)
        assert refusal().endswith(f"it is open to other users: chmod {mode & 0o640:o} {path}")
    # Those who collect logs may be its group.
    path.chmod(0o640)
    AuditLog(path, lambda: 0.0).close()


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """A disk on which files of this many bytes are full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_lines_are_never_glued_and_losses_are_told(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audit = AuditLog(path, lambda: 0.0)
    audit.expired("t1")
    with disk_of(path.stat().st_size + 10):
        for lost in ("t2", "t3"):
            audit.expired(lost)
    # Room for the end of the line that was torn, and a line that is torn again.
    with disk_of(path.stat().st_size + 1):
        audit.expired("t4")
    audit.expired("t5")
    audit.close()
    first, torn, last, rest = path.read_text().split("\n")
    assert [json.loads(line)["tunnelId"] for line in (first, last)] == ["t1", "t5"]
    assert (len(torn), rest) == (10, "")
    assert len(caplog.messages) == 3
    for lost, message in zip(("t2", "t3", "t4"), caplog.messages, strict=True):
        assert message.startswith(f"audit log {path}: File too large; not in it: {{")
        assert f'"tunnelId": "{lost}"' in message


def test_a_line_that_an_earlier_service_has_torn_is_ended(path: Path) -> None:
    path.write_text('{"time": "19')
    path.chmod(0o600)
    for name in ("t1", "t2"):
        audit = AuditLog(path, lambda: 0.0)
        audit.expired(name)
        audit.close()
    torn, *others = path.read_text().splitlines()
    assert torn == '{"time": "19'
    assert [json.loads(line)["tunnelId"] for line in others] == ["t1", "t2"]


def test_refused_handshakes(path: Path) -> None:
    audit = AuditLog(path, lambda: 0.0)
    audit.refused("unknown_token", "192.0.2.1:7", "c1", "source", None)
    audit.refused("bad_request", "192.0.2.1:8", "c2", None, None)
    audit.refused("token_used", "192.0.2.1:9", "c3", "source", "t1")
    audit.close()
    time = {"time": "1970-01-01T00:00:00.000Z", "event": "refused"}
    assert lines(path) == [
        time
        | {"side": "source", "reason": "unknown_token"}
        | {"address": "192.0.2.1:7", "channel": "c1"},
        time | {"reason": "bad_request", "address": "192.0.2.1:8", "channel": "c2"},
        time
        | {"tunnelId": "t1", "side": "source", "reason": "token_used"}
        | {"address": "192.0.2.1:9", "channel": "c3"},
    ]


def test_floods_are_counted(path: Path) -> None:
    audit = AuditLog(path, lambda: 0.0)
    for number in range(1000):
        audit.refused("unknown_token", f"192.0.2.1:{number}", "c", "source", None)
        audit.link("connected", "t1", "source", "a", "c")
        audit.link("disconnected", "t1", "source", "a", "c")
    audit.link("connected", "t2", "source", "a", "c")
    assert len(lines(path)) == 61
    audit.end_interval()
    assert [line | {"time": ""} for line in lines(path)[61:]] == [
        {"time": "", "event": "refused", "side": "source", "reason": "unknown_token", "more": 980},
        {"time": "", "event": "connected", "tunnelId": "t1", "side": "source", "more": 980},
        {"time": "", "event": "disconnected", "tunnelId": "t1", "side": "source", "more": 980},
    ]
    for _ in range(21):
        audit.link("connected", "t1", "source", "a", "c")
    audit.close()
    assert len(lines(path)) == 85
    assert lines(path)[-1]["more"] == 1


def test_operations_that_are_refused_again_and_again_are_counted(path: Path) -> None:
    audit = AuditLog(path, lambda: 0.0)
    for _ in range(100):
        record(audit, "OpenTunnel", {}, outcome="AccessDeniedException")
        record(audit, "OpenTunnel", {}, tunnel="t1")
    audit.close()
    written = lines(path)
    assert [line["outcome"] for line in written].count("ok") == 100
    assert len(written) == 121
    assert {name: written[-1][name] for name in ("event", "key", "outcome", "more")} == {
        "event": "OpenTunnel",
        "key": "AKIA",
        "outcome": "AccessDeniedException",
        "more": 80,
    }


def test_a_line_is_bounded(path: Path) -> None:
    audit = AuditLog(path, lambda: 0.0)
    ids = [f"s{number}" for number in range(200_000)]
    record(audit, "OpenTunnel", {"destinationConfig": {"services": ids}}, outcome="x")
    audit.close()
    (line,) = lines(path)
    assert line["services"] == [*ids[:200], "and 199800 more"]


def test_very_many_kinds_are_others(path: Path) -> None:
    audit = AuditLog(path, lambda: 0.0)
    for number in range(100_100):
        audit.link("connected", f"t{number}", "source", "a", "c")
    audit.close()
    last = lines(path)[-1]
    assert (last["event"], last["more"]) == ("others", 80)


def test_timestamps() -> None:
    assert timestamp(0.0) == "1970-01-01T00:00:00.000Z"
