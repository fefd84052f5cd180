"""The audit lets no known vulnerability through, and never passes in silence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

import audit_gate

GOOD = {"name": "picows", "version": "2.3.1", "vulns": []}
BAD = {
    "name": "starlette",
    "version": "1.7.0",
    "vulns": [
        {"id": "PYSEC-2026-1", "fix_versions": ["1.7.1", "1.8"]},
        {"id": "PYSEC-2026-2", "fix_versions": []},
    ],
}
UNKNOWN = {"name": "tailrace", "skip_reason": "distribution marked as editable"}


class _Database(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/there" else 404)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def database() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Database) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("dependencies", "status", "text"),
    [
        ([GOOD, GOOD], 0, "audit: no known vulnerability in 2 packages"),
        (
            [GOOD, UNKNOWN],
            0,
            "audit: no known vulnerability in 1 package; nothing is known about 1 more",
        ),
        ([UNKNOWN], 0, "audit SKIPPED: the database knows none of the packages"),
        (
            [GOOD, BAD],
            1,
            "Known vulnerabilities:\n"
            "  starlette 1.7.0: PYSEC-2026-1, mended in 1.7.1, 1.8\n"
            "  starlette 1.7.0: PYSEC-2026-2, mended in no version",
        ),
    ],
)
def test_reports(dependencies: list[dict[str, Any]], status: int, text: str) -> None:
    assert audit_gate.judge({"dependencies": dependencies, "fixes": []}) == (status, text)


def test_a_database_that_answers_is_asked(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert audit_gate.is_reachable(f"{database}/there")
    assert not audit_gate.is_reachable(f"{database}/elsewhere")


def test_a_silent_database_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    url = "http://127.0.0.1:9/"
    assert audit_gate.main([url]) == 0
    assert capsys.readouterr().out == f"audit SKIPPED: {url} does not answer\n"


def test_a_name_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def wait(url: str, timeout: float) -> None:
        released.wait(60)
        raise TimeoutError

    monkeypatch.setattr("urllib.request.urlopen", wait)
    assert not audit_gate.is_reachable("http://somewhere.example/", 0.05)
    released.set()


def test_an_audit_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_gate, "COMMAND", ("sleep", "60"))
    monkeypatch.setattr(audit_gate, "PATIENCE", 0.05)
    assert audit_gate.audit() == (0, "audit SKIPPED: pip-audit took longer than 0.05 s")


def test_a_failure_of_the_tool_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ("sh", "-c", "echo 'first line' >&2; echo 'no network' >&2; exit 1")
    monkeypatch.setattr(audit_gate, "COMMAND", broken)
    assert audit_gate.audit() == (0, "audit SKIPPED: pip-audit failed: no network")


def test_its_report_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    report = '{"dependencies": [{"name": "x", "version": "1", "vulns": []}], "fixes": []}'
    monkeypatch.setattr(audit_gate, "COMMAND", ("echo", report))
    assert audit_gate.audit() == (0, "audit: no known vulnerability in 1 package")
