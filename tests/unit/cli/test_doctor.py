"""``tailrace doctor`` as its users run it, against real servers that are well or ill."""

from __future__ import annotations

import argparse
import io
import json
import re
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from support.network.certificates import Certificates
from support.network.ports import free_port
from support.network.scripted_service import Peer, Script, ScriptedService, refuse
from support.network.sockets import black_hole
from support.repository import ROOT
from support.service import ServiceProcess
from tailrace.cli.doctor import add_doctor_parser
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.tailrace import main

REFUSAL = b"Invalid access-token"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def printed(session_service: ServiceProcess) -> dict[str, str]:
    """What ``tailrace env`` prints."""
    environment = session_service.shell_environment()
    return {name: environment[name] for name in environment if name.startswith(("AWS", "SSL_CERT"))}


@pytest.fixture
def shell(
    service: ServiceProcess,
    printed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    no_environment: None,
) -> ServiceProcess:
    """A shell that has evaluated it."""
    for name, value in printed.items():
        monkeypatch.setenv(name, value)
    return service


class Doctor:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.err = ""

    def __call__(self, *argv: str, code: ExitCode = ExitCode.OK) -> dict[str, dict[str, str]]:
        """Return name -> what is said, in order."""
        assert main(["doctor", "--json", *argv]) == code
        captured = self._capsys.readouterr()
        self.err = captured.err
        document: Any = json.loads(captured.out)
        assert document["ok"] is (code is ExitCode.OK)
        return {each["name"]: each for each in document["checks"]}


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    return Doctor(capsys)


def failures(found: dict[str, dict[str, str]]) -> list[str]:
    return [name for name, each in found.items() if each["verdict"] == "failed"]


def test_all_is_well(shell: ServiceProcess, doctor: Doctor) -> None:
    found = doctor()
    assert {each["verdict"] for each in found.values()} == {"ok", "skipped"}
    assert list(found)[:4] == ["clock", "data path", "endpoints", "service web proxy"]
    assert doctor.err == ""


@pytest.mark.usefixtures("shell")
def test_people_get_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "-e", f"127.0.0.1:{free_port()}"]) == ExitCode.NETWORK
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("ok    clock ")
    (failed,) = (index for index, line in enumerate(lines) if line.startswith("FAIL"))
    assert "Connection refused" in lines[failed]
    assert lines[failed + 1].lstrip().startswith("-> check -r or -e, and that the network")
    assert captured.err == "tailrace doctor: 1 of 14 checks failed, 5 skipped\n"


@pytest.mark.usefixtures("shell")
def test_a_terminal_shows_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    with black_hole() as port:
        code = main(["doctor", "-e", f"127.0.0.1:{port}", "--timeout", "0.2"])
    assert code == ExitCode.NETWORK
    assert "...   service TCP\r\x1b[KFAIL  service TCP" in terminal.getvalue()


def test_a_thing_whose_device_is_away(shell: ServiceProcess, doctor: Doctor) -> None:
    thing = f"pump-{uuid4()}"
    shell.control.call(
        "OpenTunnel", {"destinationConfig": {"thingName": thing, "services": ["SSH"]}}
    )
    found = doctor(thing, "--service", "SSH")
    assert found["tunnel"]["verdict"] == "ok"
    assert found["destination"]["verdict"] == "warning"
    found = doctor(thing, "--service", "ssh", code=ExitCode.PROTOCOL)
    assert failures(found) == ["service ids"]


def test_a_tunnel_that_was_closed(shell: ServiceProcess, doctor: Doctor, tmp_path: Path) -> None:
    opened = shell.control.call("OpenTunnel", {})
    shell.control.call("CloseTunnel", {"tunnelId": opened["tunnelId"]})
    found = doctor("--tunnel", opened["tunnelId"], code=ExitCode.TOKEN_REFUSED)
    assert failures(found) == ["tunnel"]


def test_a_token_is_looked_at_and_not_used(
    shell: ServiceProcess, doctor: Doctor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = shell.control.call("OpenTunnel", {})
    token = tmp_path / "source.token"
    token.write_text(opened["sourceAccessToken"])
    token.chmod(0o600)
    report = tmp_path / "report.json"
    log = tmp_path / "proxy.log"
    log.write_text(f"used {opened['sourceAccessToken']} there\n")
    given = ["--tunnel", opened["tunnelId"], "--access-token-file", str(token)]
    found = doctor(*given, "--report", str(report), "--log", str(log))
    assert found["token"]["verdict"] == "ok"
    assert doctor.err == f"tailrace doctor: wrote {report}; look through it before you send it\n"
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    document = json.loads(report.read_text())
    assert document["log"] == ["used <redacted> there"]
    assert [each["name"] for each in document["checks"]] == list(found)
    for secret in (opened["sourceAccessToken"], shell.endpoints.secret_access_key):
        assert secret not in report.read_text()
    described = shell.control.call("DescribeTunnel", {"tunnelId": opened["tunnelId"]})
    assert described["tunnel"]["sourceConnectionState"]["status"] == "DISCONNECTED"


@pytest.mark.usefixtures("shell")
def test_a_token_file_that_is_not_there(doctor: Doctor, tmp_path: Path) -> None:
    missing, report = str(tmp_path / "nothing"), str(tmp_path / "report")
    found = doctor("--access-token-file", missing, "--report", report, code=ExitCode.USAGE)
    assert failures(found) == ["token file"]


@pytest.mark.usefixtures("shell")
def test_measuring(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.operator.doctor.measure._ENOUGH", 0.01)
    found = doctor("--measure")
    assert "MB/s from source to destination" in found["throughput"]["figure"]


@pytest.mark.usefixtures("shell")
def test_keys_that_are_refused(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    found = doctor(code=ExitCode.USAGE)
    assert failures(found) == ["control API rights"]


def test_a_key_with_few_rights(
    shell: ServiceProcess,
    doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state_dir = Path(shell.endpoints.ca_file).parents[1]
    keys = ["keys", "--state-dir", str(state_dir)]
    assert main([*keys, "add", "--operation", "OpenTunnel"]) == ExitCode.OK
    printed = dict(re.findall(r"(?m)^(?:export )?(AWS\w+)=(\S+)$", capsys.readouterr().out))
    for name, value in printed.items():
        monkeypatch.setenv(name, value)
    try:
        found = doctor()
        assert found["control API rights"]["verdict"] == "warning"
        assert "may not ListTunnels, DescribeTunnel" in found["control API rights"]["figure"]
        # Who asks for a thing needs them.
        found = doctor("pump-7", code=ExitCode.USAGE)
        assert failures(found) == ["control API rights"]
        assert found["tunnel"]["figure"] == "not without: control API rights"
    finally:
        main([*keys, "revoke", printed["AWS_ACCESS_KEY_ID"]])
        capsys.readouterr()


@pytest.mark.usefixtures("no_environment")
def test_no_service(doctor: Doctor) -> None:
    found = doctor(code=ExitCode.USAGE)
    assert failures(found) == ["endpoints"]


@pytest.mark.usefixtures("no_environment")
def test_a_name_that_does_not_exist(doctor: Doctor) -> None:
    found = doctor("-e", "nowhere.invalid", code=ExitCode.NETWORK)
    assert failures(found) == ["service name"]


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize(
    ("script", "certificate", "code", "name"),
    [
        (refuse("403 Forbidden", REFUSAL), "stranger", ExitCode.TLS, "service TLS"),
        (refuse("403 Forbidden", REFUSAL), "wrong_host", ExitCode.TLS, "service TLS"),
        (refuse("403 Forbidden", REFUSAL), "expired", ExitCode.TLS, "service TLS"),
        (refuse("302 Found", more="Location: http://hotel.example/\r\n"), "cert", None, ""),
        (refuse("200 OK", b"<html>Please log in"), "cert", None, ""),
        (refuse("426 Upgrade Required"), "cert", ExitCode.ALTERED, "service upgrade"),
        (refuse("503 Service Unavailable"), "cert", None, ""),
        (Peer.reset, "cert", None, ""),
    ],
)
def test_what_may_stand_in_between(
    doctor: Doctor,
    certificates: Certificates,
    script: Script,
    certificate: str,
    code: ExitCode | None,
    name: str,
) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    expired = certificates.ca.issue_cert("localhost", not_after=past)
    shown = expired if certificate == "expired" else getattr(certificates, certificate)
    with ScriptedService(certificates, script, cert=shown) as server:
        endpoint = f"localhost:{server.port}"
        given = ["-e", endpoint, "--ca-bundle", str(certificates.ca_file), "--timeout", "5"]
        found = doctor(*given, code=code or ExitCode.NETWORK)
    assert failures(found)[0] == (name or "service upgrade")


@pytest.fixture
def web_proxy(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A web proxy that refuses."""
    with ScriptedService(certificates, refuse("403 Forbidden", b"no"), plain=True) as server:
        monkeypatch.setenv("https_proxy", f"http://me:pass@127.0.0.1:{server.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        yield


@pytest.mark.usefixtures("no_environment", "web_proxy")
def test_a_web_proxy_that_refuses(doctor: Doctor, tmp_path: Path) -> None:
    report = tmp_path / "report"
    found = doctor("-e", "tunnel.example", "--report", str(report), code=ExitCode.NETWORK)
    assert failures(found) == ["service web proxy"]
    assert "403" in found["service web proxy"]["figure"]
    assert "pass@" not in report.read_text()


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["-r", "eu-west-1", "-e", "x"], "--region and --proxy-endpoint exclude each other"),
        (["pump-7", "--tunnel", "x"], "exclude each other: name one of them"),
        (["--service", "SSH"], "--service needs a thing or --tunnel"),
        (["--log", "x"], "--log needs --report"),
        (["--report", "/"], "--report: / is a directory"),
        (["--report", "x", "--log", "/no/such/log"], "cannot read /no/such/log: No such file"),
    ],
)
def test_options_that_do_not_fit(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *argv]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("text", ["0", "-1", "301", "nan", "soon"])
def test_times_that_cannot_be(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--timeout", text])
    assert ended.value.code == ExitCode.USAGE
    assert f"'{text}' is no number of seconds up to 300" in capsys.readouterr().err


def test_the_page_has_each_option() -> None:
    parser = argparse.ArgumentParser()
    options = add_doctor_parser(parser.add_subparsers())._option_string_actions
    page = (ROOT / "docs" / "guides" / "doctor.md").read_text()
    named = {each for each in options if each.startswith("--") and each != "--help"}
    written = set(re.findall(r"(?<![\w-])--[a-z-]+", page))
    assert named - {"--region", "--proxy-endpoint"} <= written
    assert "`-r REGION`" in page
    assert "`-e HOST[:PORT]`" in page
