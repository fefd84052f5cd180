"""``tailrace agent install``: files for this machine or for an image, and what it refuses."""

from __future__ import annotations

import grp
import json
import os
import re
import socket
from pathlib import Path

import pytest

from tailrace.aws import Credentials, joined
from tailrace.cli import agent_install as command
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.tailrace import main
from tailrace.common.enrolment import Role
from tailrace.common.secret import Secret

RUN = ["--program", "/opt/tailrace/bin/tailrace", "--notify-file", "/run/notify"]
SSH = [*RUN, "--service", "SSH=22"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def result(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main(["agent", "install", *argv])
    out, err = capsys.readouterr()
    return status, out, err


def options(text: str) -> str:
    (found,) = re.findall(r'(?m)^AGENT_OPTIONS="(.*)"$', text)
    assert isinstance(found, str)
    return found


def test_a_dry_run_prints_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, err = result(
        capsys,
        *("--dry-run", "--root", str(tmp_path), *SSH, "--thing-name", "pump-7"),
        *("--endpoint", "a1-ats.iot.eu-west-1.amazonaws.com", "--cert", "device.pem"),
        *("--notify-topic", "$aws/things/{thing}/x", "--max-tunnels", "3"),
    )
    assert (status, err) == (ExitCode.OK, "")
    assert [line for line in out.splitlines() if line.startswith("---")] == [
        "--- /etc/sysusers.d/tailrace-agent.conf (mode 0644)",
        "--- /etc/tailrace-agent/agent.env (mode 0600)",
        "--- /etc/tailrace-agent/services.toml (mode 0644)",
        "--- /etc/systemd/system/tailrace-agent.service (mode 0644)",
    ]
    assert options(out) == (
        "--max-tunnels 3 --thing-name pump-7 --notify-file /run/notify"
        " --endpoint a1-ats.iot.eu-west-1.amazonaws.com --notify-topic '$aws/things/{thing}/x'"
        " --services-file /etc/tailrace-agent/services.toml"
    )
    assert f"LoadCredential=cert:{Path.cwd()}/device.pem\n" in out
    assert list(tmp_path.iterdir()) == []


def test_an_image(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, _ = result(capsys, "--root", str(tmp_path), *SSH)
    assert status == ExitCode.OK
    unit = tmp_path / "etc/systemd/system/tailrace-agent.service"
    assert f"new              {unit}\n" in out
    assert "ExecStart=/opt/tailrace/bin/tailrace agent run " in unit.read_text()
    # Again: nothing to do.
    _, out, _ = result(capsys, "--root", str(tmp_path), *SSH)
    assert [line.split()[0] for line in out.splitlines()] == ["unchanged"] * 4
    # With other answers, and none of the services of before.
    services = tmp_path / "services.toml"
    services.write_text("[services]\nSSH = 22\n")
    _, out, _ = result(
        capsys, "--root", str(tmp_path), *RUN, "--services-file", "/etc/agent/services.toml"
    )
    states = {Path(line.split()[1]).name: line.split()[0] for line in out.splitlines()}
    assert states == {
        "tailrace-agent.conf": "unchanged",
        "agent.env": "replaced",
        "tailrace-agent.service": "unchanged",
        "services.toml": "removed",
    }


def test_what_was_changed_by_hand_stays(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result(capsys, "--root", str(tmp_path), *SSH)
    services = tmp_path / "etc/tailrace-agent/services.toml"
    changed = services.read_text() + "WEB = 80\n"
    services.write_text(changed)
    options_file = tmp_path / "etc/tailrace-agent/agent.env"
    before = options_file.read_text()
    status, out, err = result(capsys, "--root", str(tmp_path), *SSH, "--max-tunnels", "3")
    assert (status, out) == (ExitCode.USAGE, "")
    assert err == (
        f"tailrace agent install: changed by hand, and nothing was written: {services}; --force"
        " replaces it, and --dry-run prints what with\n"
    )
    assert (services.read_text(), options_file.read_text()) == (changed, before)
    assert result(capsys, "--root", str(tmp_path), *SSH, "--force")[0] == ExitCode.OK
    assert services.read_text() != changed


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "no services"),
        ([*SSH, "--state-dir", "/x"], "--state-dir: the unit has a state directory of its own"),
        ([*SSH, "--notify-stdin"], "--notify-stdin: a unit has no standard input"),
        ([*SSH, "--max-tunnels", "0"], "--max-tunnels 0 is less than 1"),
        ([*SSH, "--broker", "mqtts://me:secret@b"], "everybody would see the password"),
        ([*SSH, "--program", "/home/me/bin/tailrace"], "the agent does not see /home/me"),
    ],
)
def test_answers_that_do_not_go_with_a_unit(
    capsys: pytest.CaptureFixture[str], argv: list[str], text: str
) -> None:
    status, out, err = result(capsys, "--dry-run", *argv)
    assert (status, out) == (ExitCode.USAGE, "")
    assert text in err
    assert err.count("\n") == 1
    assert "secret" not in err


def test_a_machine_that_joins_a_service(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, _, _ = result(capsys, "--root", str(tmp_path), *RUN[:2], "--service", "SSH=22")
    assert status == ExitCode.OK
    unit = (tmp_path / "etc/systemd/system/tailrace-agent.service").read_text()
    assert "/etc/tailrace/service.json /etc/tailrace/ca-*.pem" in unit


def test_a_machine_that_has_joined_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(command, "_SYSTEMD", tmp_path)
    monkeypatch.setattr(joined, "_SYSTEM", tmp_path / "none")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    assert "no way in" in result(capsys, *RUN[:2], "--service", "SSH=22")[2]


def test_a_machine_that_has_joined_one(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    commands: Path,
) -> None:
    place = ("https://a:1", "a:2", "us-east-1", Path(), Credentials("AK", Secret("SK")))
    service = joined.JoinedService(Role.DEVICE, "pump-7", *place)
    joined.write_joined(tmp_path / "etc-tailrace", service, b"")
    monkeypatch.setenv("TAILRACE_SERVICE_DIR", str(tmp_path / "etc-tailrace"))
    status, _, err = result(capsys, *RUN[:2], "--service", "SSH=22")
    assert status == ExitCode.OK, err
    unit = (tmp_path / "root/etc/systemd/system/tailrace-agent.service").read_text()
    assert f"{tmp_path}/etc-tailrace/service.json" in unit


@pytest.mark.usefixtures("commands")
def test_on_this_machine_the_files_are_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    broker = ["--broker", "mqtts://b", "--thing-name", "pump-7", "--ca", "/nonexistent"]
    status, _, err = result(capsys, *SSH, *broker)
    assert status == ExitCode.USAGE
    assert "--ca /nonexistent: No such file" in err


def test_the_web_proxy_is_taken_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example:3128")
    monkeypatch.setenv("no_proxy", "10.0.0.0/8")
    _, out, _ = result(capsys, "--dry-run", *SSH)
    assert 'https_proxy="http://me:***@proxy.example:3128"\n' in out
    assert 'no_proxy="10.0.0.0/8"\n' in out


def test_a_device_is_moved_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    configuration = tmp_path / "dc.conf"
    document = {
        "endpoint": "a1-ats.iot.eu-west-1.amazonaws.com",
        "cert": "/etc/dc/device.pem",
        "key": "/etc/dc/device.key",
        "thing-name": "pump-7",
    }
    configuration.write_text(json.dumps(document))
    status, out, err = result(
        capsys,
        *("--dry-run", "--program", "/opt/tailrace/bin/tailrace"),
        *("--device-client-config", str(configuration)),
    )
    assert status == ExitCode.OK, err
    assert "jobs" in err
    assert "--thing-name pump-7" in options(out)
    assert "LoadCredential=key:/etc/dc/device.key\n" in out
    assert '"VNC" = "5900"' in out
    assert "dc.conf" not in out


def test_groups_of_sockets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    gid = next((each.gr_gid for each in grp.getgrall() if each.gr_name == "audio"), None)
    if os.geteuid() != 0 or gid is None:
        pytest.skip("needs root and a group")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0o660)
        os.chown(path, 0, gid)
        _, out, _ = result(capsys, "--dry-run", *RUN, "--service", f"A={path}")
        assert "SupplementaryGroups=audio\n" in out
        path.chmod(0o666)
        _, out, _ = result(capsys, "--dry-run", *RUN, "--service", f"A={path}", "--service", "B=1")
        assert "SupplementaryGroups" not in out


def test_the_command_beside_this_python_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = result(capsys, "--dry-run", *SSH[2:])
    assert "/bin/tailrace agent run" in out or "does not see" in err


def test_a_single_file_is_run_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "single_file", lambda: Path("/opt/tailrace.pyz"))
    assert "/opt/tailrace.pyz agent run" in result(capsys, "--dry-run", *SSH[2:])[1]


def test_no_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "give --program FILE" in result(capsys, "--dry-run", *SSH[2:])[2]


# -- this machine ---------------------------------------------------------------------------------


def test_only_root_may(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    status, _, err = result(capsys, *SSH)
    assert status == ExitCode.USAGE
    assert err == (
        "tailrace agent install: only root may do that: sudo; --dry-run prints the files\n"
    )


def test_a_machine_without_systemd(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(command, "_SYSTEMD", tmp_path / "gone")
    assert "systemd does not run this machine" in result(capsys, *SSH)[2]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of systemd that write down how they were called, on a machine of its own."""
    log = tmp_path / "called"
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "systemd-sysusers"):
        script = programs / name
        script.write_text(f'#!/bin/sh\necho {name} "$@" >>{log}\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(command, "_SYSTEMD", tmp_path)
    monkeypatch.setattr(command, "_ROOT", tmp_path / "root")
    return log


def test_the_agent_is_started(capsys: pytest.CaptureFixture[str], commands: Path) -> None:
    status, out, err = result(capsys, *SSH)
    assert status == ExitCode.OK, err
    assert out.splitlines()[-1].startswith("the agent runs: systemctl status tailrace-agent")
    assert commands.read_text().splitlines() == [
        "systemd-sysusers /etc/sysusers.d/tailrace-agent.conf",
        "systemctl daemon-reload",
        "systemctl enable tailrace-agent.service",
        "systemctl restart tailrace-agent.service",
    ]
    result(capsys, *SSH)
    assert commands.read_text().splitlines()[-1] == "systemctl start tailrace-agent.service"
    result(capsys, *SSH, "--max-tunnels", "3", "--no-start")
    assert commands.read_text().splitlines()[-1] == "systemctl enable tailrace-agent.service"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo no >&2; echo dbus is away >&2; exit 3", "systemctl daemon-reload: dbus is away"),
        ("exit 3", "systemctl daemon-reload: status 3"),
    ],
)
def test_systemd_fails(
    capsys: pytest.CaptureFixture[str], commands: Path, script: str, text: str
) -> None:
    (commands.parent / "bin" / "systemctl").write_text(f"#!/bin/sh\n{script}\n")
    status, _, err = result(capsys, *SSH)
    assert status == ExitCode.USAGE
    assert err == f"tailrace agent install: {text}\n"


def test_a_command_is_missing(
    capsys: pytest.CaptureFixture[str], commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "systemd-sysusers /etc/sysusers.d" in result(capsys, *SSH)[2]
