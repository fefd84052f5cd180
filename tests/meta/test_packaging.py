"""What is packaged starts a service that our command line understands, and gives it no rights."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from support.network.ports import free_port
from support.processes.child import server_process
from support.repository import ROOT
from tailrace.cli.agent import add_agent_parser
from tailrace.cli.localproxy.argv import parse_argv
from tailrace.cli.serve import add_serve_parser

PACKAGING = ROOT / "packaging"
UNITS = ("tailrace.service", "localproxy@.service")
BIN = str(Path(sys.executable).parent)
UNIT = PACKAGING / "systemd" / "tailrace.service"
DOCKERFILE = PACKAGING / "docker" / "Dockerfile"
COMPOSE = PACKAGING / "docker" / "compose.yaml"


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
@pytest.mark.parametrize("name", UNITS)
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


@dataclass(frozen=True)
class Image:
    """What the Dockerfile says of a target, with the stages that it is built on."""

    text: str

    def said(self, instruction: str) -> str:
        """Return what follows an instruction; the last one counts."""
        return re.findall(rf"(?m)^{instruction} (.*)$", self.text)[-1]

    @property
    def args(self) -> argparse.Namespace:
        return parsed(json.loads(self.said("ENTRYPOINT")))

    @property
    def health_check(self) -> list[str]:
        words: list[str] = json.loads(self.said("HEALTHCHECK").partition(" CMD ")[2])
        return words


def image(target: str) -> Image:
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    stages = {
        found[2]: (found[1], found[3])
        for found in re.finditer(r"(?ms)^FROM (\S+) AS (\S+)$(.*?)(?=^FROM |\Z)", text)
    }
    base, own = stages[target]
    return Image((image(base).text if base in stages else "") + own)


@pytest.mark.parametrize("target", ["localproxy", "agent", "serve"])
def test_images_run_without_rights(target: str) -> None:
    made = image(target)
    assert not made.said("USER").startswith(("0", "root"))
    # All that is written is in the volume, so the rest may be read-only.
    assert made.said("VOLUME") == "/state"
    assert "XDG_STATE_HOME=/state " in made.said("ENV")
    compile(made.health_check[2], "HEALTHCHECK", "exec")


def test_the_service_is_the_image_without_a_target() -> None:
    assert re.findall(r"(?m)^FROM .* AS (\S+)$", DOCKERFILE.read_text())[-1] == "serve"


def test_the_image_of_the_service() -> None:
    made = image("serve")
    assert str(made.args.state_dir) == "/state"
    listening = (made.args.api_listen, made.args.data_listen, made.args.metrics_listen)
    ports = made.said("EXPOSE").split()
    assert ports == [address.rpartition(":")[2] for address in listening]
    assert f"http://127.0.0.1:{ports[-1]}/healthz" in made.health_check[2]


def test_the_image_of_the_agent() -> None:
    made = image("agent")
    assert str(made.args.state_dir) == "/state"
    # What the health check looks at.
    assert f"'{made.args.status_file}'" in made.health_check[2]


def test_the_image_of_the_local_proxy() -> None:
    made = image("localproxy")
    assert json.loads(made.said("ENTRYPOINT")) == ["localproxy"]


@pytest.mark.parametrize(("is_there", "status"), [(True, 0), (False, 1)])
def test_the_health_of_a_local_proxy(tmp_path: Path, is_there: bool, status: int) -> None:
    command = tmp_path / "tailrace"
    processes = '[{"kind": "localproxy", "pid": 1}]' if is_there else "[]"
    command.write_text(f"#!/bin/sh\necho '{{\"processes\": {processes}}}'\n")
    command.chmod(0o755)
    check = [sys.executable, *image("localproxy").health_check[1:]]
    done = subprocess.run(check, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert done.returncode == status


def test_what_the_images_take_is_not_ignored() -> None:
    kept = re.findall(r"(?m)^!(.+)$", (ROOT / ".dockerignore").read_text())
    copied = {
        word.removeprefix("./")
        for line in re.findall(r"(?m)^COPY (?!--from)(.+)$", DOCKERFILE.read_text())
        for word in line.split()[:-1]
    }
    assert copied == set(kept)


def test_the_composition_gives_options_that_are_understood() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    agent = image("agent")
    args = parsed([*json.loads(agent.said("ENTRYPOINT")), *services["agent"]["command"]])
    serve = parsed([*json.loads(image("serve").said("ENTRYPOINT")), *services["serve"]["command"]])
    assert args.broker == serve.mqtt_url == "mqtt://broker:1883"
    assert args.proxy_endpoint == f"{serve.host_name[0]}:{serve.data_listen.rpartition(':')[2]}"
    for name in ("serve", "agent", "web"):
        built = services[name]["build"]
        assert (COMPOSE.parent / built["context"] / built["dockerfile"]).resolve() == DOCKERFILE
        image(built["target"])
        assert services[name]["read_only"]
        assert services[name]["cap_drop"] == ["ALL"]


@pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not installed")
def test_the_broker_of_the_composition_takes_its_file(tmp_path: Path) -> None:
    port = free_port()
    text = (COMPOSE.parent / "mosquitto.conf").read_text()
    file = tmp_path / "mosquitto.conf"
    file.write_text(text.replace("listener 1883", f"listener {port} 127.0.0.1"))
    with server_process("mosquitto", ["mosquitto", "-c", str(file)], tmp_path, port):
        pass


@pytest.mark.skipif(
    shutil.which("hadolint", path=BIN) is None, reason="no hadolint for this system"
)
def test_a_linter_finds_nothing_in_the_dockerfile() -> None:
    done = subprocess.run([f"{BIN}/hadolint", DOCKERFILE], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


def test_a_schema_describes_the_composition() -> None:
    check = [f"{BIN}/check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", UNITS)
def test_systemd_is_told_by_what_it_runs(name: str) -> None:
    unit = settings((PACKAGING / "systemd" / name).read_text())
    assert (unit["Type"], unit["WatchdogSec"]) == ("notify", "60")


def test_the_unit_of_a_local_proxy() -> None:
    unit = settings((PACKAGING / "systemd" / "localproxy@.service").read_text())
    words = shlex.split(unit["ExecStart"])
    assert words.pop() == "$LOCALPROXY_OPTIONS"
    command = parse_argv(words[1:])
    assert (command["access-token-file"], command["state-dir"]) != (None, None)
    assert unit["DynamicUser"] == unit["NoNewPrivileges"] == "yes"
