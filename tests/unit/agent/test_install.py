"""Units and files of the agent: what they hold, and that nobody's changes are lost."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path, PurePosixPath

import pytest

from tailrace.agent.install import (
    NAME,
    UNIT_FILE,
    InstallSettings,
    State,
    agent_files,
    installed_agent,
    plan_changes,
    write_changes,
)
from tailrace.agent.map_file import parse_map
from tailrace.agent.service_map import parse_services
from tailrace.errors import ConfigurationError

PROGRAM = PurePosixPath("/opt/tailrace/bin/tailrace")
SETTINGS = InstallSettings(
    PROGRAM,
    (
        ("--thing-name", "pump-7"),
        ("--broker", "mqtts://broker.example"),
        ("--cert", "/etc/tailrace-agent/device.pem"),
        ("--key", "/root/device.key"),
        ("--notify-stdin", ""),
    ),
    parse_services(["SSH=22", "PLC-*=10.0.0.6:502", "DB=/run/db.sock"]),
)


def contents(settings: InstallSettings) -> dict[str, str]:
    return {each.path.name: each.content for each in agent_files(settings)}


def values(unit: str, name: str) -> list[str]:
    return re.findall(rf"(?m)^{name}=(.*)$", unit)


def test_the_unit() -> None:
    unit = contents(SETTINGS)[UNIT_FILE.name]
    assert values(unit, "ExecStart") == [
        "/opt/tailrace/bin/tailrace agent run --state-dir ${STATE_DIRECTORY}"
        " --cert ${CREDENTIALS_DIRECTORY}/cert --key ${CREDENTIALS_DIRECTORY}/key $AGENT_OPTIONS"
    ]
    assert values(unit, "LoadCredential") == [
        "cert:/etc/tailrace-agent/device.pem",
        "key:/root/device.key",
    ]
    assert values(unit, "Type") == ["notify"]
    assert values(unit, "User") == [NAME]
    assert values(unit, "WatchdogSec") == ["60"]
    assert values(unit, "Restart") == ["always"]
    assert values(unit, "RestartPreventExitStatus") == ["1"]
    assert values(unit, "StartLimitIntervalSec") == ["0"]
    assert values(unit, "RestrictAddressFamilies") == ["AF_INET AF_INET6 AF_UNIX"]
    assert "PrivateNetwork" not in unit
    assert "IPAddressDeny" not in unit
    assert values(unit, "RuntimeDirectory") == [NAME]
    assert "RUNTIME_DIRECTORY" not in unit


def test_the_options() -> None:
    files = {each.path.name: each for each in agent_files(SETTINGS)}
    options = files["agent.env"]
    assert options.mode == 0o600
    (line,) = values(options.content, "AGENT_OPTIONS")
    (words,) = shlex.split(line)
    assert shlex.split(words) == [
        *("--thing-name", "pump-7", "--broker", "mqtts://broker.example", "--notify-stdin"),
        *("--services-file", "/etc/tailrace-agent/services.toml"),
    ]


def test_the_services() -> None:
    content = contents(SETTINGS)["services.toml"]
    assert set(tomllib.loads(content)["services"]) == {"SSH", "PLC-*", "DB"}
    assert parse_map(content.encode(), "services.toml") == SETTINGS.services


def test_a_machine_that_has_joined_a_service() -> None:
    settings = InstallSettings(PROGRAM, (), joined_directory=PurePosixPath("/etc/tailrace"))
    unit = contents(settings)[UNIT_FILE.name]
    (copy,) = values(unit, "ExecStartPre")
    assert copy.startswith("+/bin/sh -c '/usr/bin/install -m 0600 -o tailrace-agent ")
    assert values(unit, "Environment") == ["TAILRACE_SERVICE_DIR=%t/tailrace-agent"]
    assert values(unit, "RuntimeDirectoryMode") == ["0700"]
    assert "services.toml" not in contents(settings)


@pytest.mark.parametrize(
    ("targets", "groups", "lines"),
    [
        (["A=22", "B=/run/db.sock"], (), None),
        (["A=/tmp/app.sock"], (), ["PrivateTmp=no"]),
        (
            ["A=/home/me/run/a.sock", "B=/run/user/1000/b.sock", "C=/home/me/run/c.sock"],
            (),
            [
                "ProtectHome=tmpfs",
                "BindReadOnlyPaths=-/home/me/run",
                "BindReadOnlyPaths=-/run/user/1000",
            ],
        ),
        (["A=/run/docker.sock"], ("docker",), ["SupplementaryGroups=docker"]),
    ],
)
def test_sockets_that_the_sandbox_hides(
    targets: list[str], groups: tuple[str, ...], lines: list[str] | None
) -> None:
    settings = InstallSettings(PROGRAM, (), parse_services(targets), socket_groups=groups)
    dropin = contents(settings).get("10-sockets.conf")
    if lines is None:
        assert dropin is None
    else:
        assert dropin is not None
        assert dropin.splitlines()[2:] == ["[Service]", *lines]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            InstallSettings(PurePosixPath("/home/me/venv/bin/tailrace"), ()),
            "the command tailrace: the agent does not see /home/me/venv/bin/tailrace, as nothing"
            " below /home; have it in /opt/tailrace",
        ),
        (
            InstallSettings(PROGRAM, (("--services-file", "/root/services.toml"),)),
            "--services-file: the agent does not see /root/services.toml",
        ),
        (InstallSettings(PROGRAM, (("--key", "/etc/my key"),)), "--key '/etc/my key'"),
        (InstallSettings(PROGRAM, (("--key", "device.key"),)), "absolute paths"),
        (InstallSettings(PROGRAM, (("--broker", "mqtt://a'b"),)), "--broker has a character"),
        (InstallSettings(PROGRAM, (("--broker", "a\nExecStart=/x"),)), "--broker has a character"),
    ],
)
def test_what_would_not_work(settings: InstallSettings, text: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        agent_files(settings)


def states(settings: InstallSettings, root: Path) -> dict[str, State]:
    return {each.path.name: each.state for each in plan_changes(agent_files(settings), root)}


def test_files_are_written_once(tmp_path: Path) -> None:
    changes = plan_changes(agent_files(SETTINGS), tmp_path)
    assert {each.state for each in changes} == {State.NEW}
    write_changes(changes)
    options = tmp_path / "etc/tailrace-agent/agent.env"
    assert options.stat().st_mode & 0o777 == 0o600
    assert set(states(SETTINGS, tmp_path).values()) == {State.SAME}
    before = options.stat().st_mtime_ns
    write_changes(plan_changes(agent_files(SETTINGS), tmp_path))
    assert options.stat().st_mtime_ns == before


def test_files_that_nobody_has_changed_are_replaced(tmp_path: Path) -> None:
    write_changes(plan_changes(agent_files(SETTINGS), tmp_path))
    other = InstallSettings(PROGRAM, SETTINGS.options[1:], SETTINGS.services)
    found = states(other, tmp_path)
    assert found["agent.env"] is State.OLD
    assert found["services.toml"] is State.SAME
    write_changes(plan_changes(agent_files(other), tmp_path))
    assert set(states(other, tmp_path).values()) == {State.SAME}


@pytest.mark.parametrize(("old", "new"), [("22", "2222"), ("# Written", "# Made"), ("\n", "\n#\n")])
def test_files_that_somebody_has_changed_are_known(tmp_path: Path, old: str, new: str) -> None:
    write_changes(plan_changes(agent_files(SETTINGS), tmp_path))
    services = tmp_path / "etc/tailrace-agent/services.toml"
    services.write_text(services.read_text().replace(old, new))
    assert states(SETTINGS, tmp_path)["services.toml"] is State.FOREIGN


def test_how_an_installed_agent_is_run(tmp_path: Path) -> None:
    write_changes(plan_changes(agent_files(SETTINGS), tmp_path))
    with (tmp_path / "etc/tailrace-agent/agent.env").open("a") as file:
        file.write("TAILRACE_MQTT_PASSWORD='a b'\nhttps_proxy=http://proxy.example:3128\n")
    installed = installed_agent(tmp_path)
    words = list(installed.words)
    for option, value in SETTINGS.options:
        at = words.index(option)
        assert value in ("", words[at + 1])
    assert "/etc/tailrace-agent/services.toml" in words
    assert installed.variables == {
        "TAILRACE_MQTT_PASSWORD": "a b",
        "https_proxy": "http://proxy.example:3128",
    }


def test_how_an_agent_is_run_that_cannot_be_read(tmp_path: Path) -> None:
    write_changes(plan_changes(agent_files(SETTINGS), tmp_path))
    options = tmp_path / "etc/tailrace-agent/agent.env"
    options.write_text('AGENT_OPTIONS="--x \'y"\n')
    with pytest.raises(ConfigurationError, match="AGENT_OPTIONS has a quote without its end"):
        installed_agent(tmp_path)
    options.unlink()
    options.mkdir()
    with pytest.raises(ConfigurationError, match="cannot read"):
        installed_agent(tmp_path)


def test_what_cannot_be_read_or_written(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("")
    with pytest.raises(ConfigurationError, match="cannot read"):
        plan_changes(agent_files(SETTINGS), tmp_path)
    changes = plan_changes(agent_files(SETTINGS), tmp_path / "other")
    (tmp_path / "other").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write"):
        write_changes(changes)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs the systemd-analyze command"
)
@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        InstallSettings(PROGRAM, (), joined_directory=PurePosixPath("/etc/tailrace")),
        InstallSettings(
            PROGRAM,
            (),
            parse_services(["A=/home/me/a.sock", "B=/tmp/b.sock"]),
            socket_groups=("docker",),
        ),
    ],
    ids=["broker", "joined", "sockets"],
)
def test_systemd_understands_them(tmp_path: Path, settings: InstallSettings) -> None:
    write_changes(plan_changes(agent_files(settings), tmp_path))
    unit = tmp_path / str(UNIT_FILE)[1:]
    # Only the program is missing on this machine.
    unit.write_text(unit.read_text().replace(str(PROGRAM), "/bin/true"))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert [line for line in result.stderr.splitlines() if NAME in line] == []


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs the systemd-analyze command"
)
def test_the_agent_is_exposed_little(tmp_path: Path) -> None:
    write_changes(plan_changes(agent_files(SETTINGS), tmp_path))
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=12", "--no-pager"]
    unit = tmp_path / str(UNIT_FILE)[1:]
    result = subprocess.run(
        [*command, str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    # The exposure, in tenths, is at most the threshold.
    assert result.returncode == 0, result.stdout[-300:] + result.stderr
