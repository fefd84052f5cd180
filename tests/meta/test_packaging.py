"""What is packaged starts a service that our command line understands, and gives it no rights."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tailrace.cli.agent import add_agent_parser
from tailrace.cli.serve import add_serve_parser

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
UNIT = PACKAGING / "systemd" / "tailrace.service"
DOCKERFILE = PACKAGING / "docker" / "Dockerfile"


def parsed(words: list[str]) -> argparse.Namespace:
    assert Path(words[0]).name == "tailrace"
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    add_serve_parser(commands)
    add_agent_parser(commands)
    return parser.parse_args(words[1:])


def settings(text: str) -> dict[str, str]:
    """Return the settings of a unit; the last one of a name wins."""
    return dict(re.findall(r"(?m)^([A-Za-z]+)=(.*)$", text))


def test_the_unit_starts_the_service_without_rights() -> None:
    unit = settings(UNIT.read_text())
    words = [word for word in shlex.split(unit["ExecStart"]) if word != "$SERVE_OPTIONS"]
    args = parsed(words)
    assert str(args.state_dir) == "${STATE_DIRECTORY}"
    assert str(args.audit_log) == "${LOGS_DIRECTORY}/audit.jsonl"
    assert unit["DynamicUser"] == unit["NoNewPrivileges"] == unit["PrivateDevices"] == "yes"
    assert unit["ProtectSystem"] == "strict"
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == ""
    assert unit["ExecReload"].endswith("-HUP $MAINPID")
    assert unit["KillSignal"] == "SIGTERM"


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs the systemd-analyze command"
)
@pytest.mark.parametrize("name", ["tailrace.service", "localproxy@.service"])
def test_systemd_understands_the_units(tmp_path: Path, name: str) -> None:
    # Only the program is missing on this machine.
    text = (PACKAGING / "systemd" / name).read_text()
    unit = tmp_path / name
    unit.write_text(re.sub(r"/opt/tailrace/bin/\w+", "/bin/true", text))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert [line for line in result.stderr.splitlines() if name in line] == []


def test_the_image_starts_the_service_without_rights() -> None:
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    last = text[text.rindex("\nFROM ") :]
    (user,) = re.findall(r"(?m)^USER (\S+)", last)
    assert not user.startswith(("0", "root"))
    (entry,) = re.findall(r"(?m)^ENTRYPOINT (\[.*\])", last)
    args = parsed(json.loads(entry))
    # All that it writes is in the volume, so the rest may be read-only.
    assert str(args.state_dir) == "/state"
    assert re.search(r"(?m)^VOLUME /state$", last)
    (ports,) = re.findall(r"(?m)^EXPOSE (.*)", last)
    listening = (args.api_listen, args.data_listen, args.metrics_listen)
    assert ports.split() == [address.rpartition(":")[2] for address in listening]


def test_the_image_of_the_agent_runs_it_without_rights() -> None:
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    stage = text[text.index(" AS agent\n") :].partition("\nFROM ")[0]
    (user,) = re.findall(r"(?m)^USER (\S+)", stage)
    assert not user.startswith(("0", "root"))
    (entry,) = re.findall(r"(?m)^ENTRYPOINT (\[.*\])", stage)
    args = parsed(json.loads(entry))
    assert str(args.state_dir) == "/state"
    assert re.search(r"(?m)^VOLUME /state$", stage)
    # What the health check looks at.
    (health,) = re.findall(r"(?m)^HEALTHCHECK .* CMD (\[.*\])", stage)
    assert f"'{args.status_file}'" in json.loads(health)[2]


def test_systemd_is_told_by_the_service() -> None:
    unit = settings(UNIT.read_text())
    assert (unit["Type"], unit["WatchdogSec"]) == ("notify", "60")
