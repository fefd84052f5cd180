"""Completion in shells: by the shells themselves, with what a real service knows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes.child import clean_environment, installed
from support.service import ServiceProcess, control_client
from support.waiting import HANG
from tailrace.cli.tailrace import main

SHELLS = ("bash", "zsh", "fish")
NAMES = ["--ca-bundle", "--endpoint-url", "--help", "--json", "--profile", "--region"]


def shell(name: str, script: str, **environment: str) -> list[str]:
    """Return the lines that a script prints in a shell that finds our commands."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    found = clean_environment(AWS_CONFIG_FILE="/dev/null", **environment)
    # Nothing else runs this code: it answers by descriptors that a shell has set up.
    found |= {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    found["PATH"] = f"{Path(installed('tailrace')).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [program, "-c", script],
        env=found,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def in_bash(line: str, **environment: str) -> list[str]:
    """Return what bash offers at the end of a command line, by the function that it would call."""
    script = f"""
        eval "$(tailrace completion bash)"
        COMP_LINE='{line}' COMP_POINT={len(line)} COMP_TYPE=9 COMP_WORDBREAKS=' '
        complete=$(complete -p tailrace | sed 's/.* -F \\([^ ]*\\).*/\\1/')
        $complete tailrace
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return sorted(each.strip() for each in shell("bash", script, **environment))


@pytest.fixture
def environment(service: ServiceProcess) -> dict[str, str]:
    endpoints = service.endpoints
    return {
        "AWS_ENDPOINT_URL_IOTSECURETUNNELING": endpoints.api_endpoint,
        "AWS_CA_BUNDLE": endpoints.ca_file,
        "AWS_REGION": endpoints.region,
        "AWS_ACCESS_KEY_ID": endpoints.access_key_id,
        "AWS_SECRET_ACCESS_KEY": endpoints.secret_access_key,
    }


@pytest.mark.parametrize("name", SHELLS)
def test_the_code_is_what_the_shell_reads(name: str) -> None:
    scripts = {
        "bash": 'eval "$(tailrace completion bash)"; complete -p tailrace',
        "zsh": 'autoload -U compinit && compinit -D; eval "$(tailrace completion zsh)"; '
        "echo $_comps[tailrace]",
        "fish": "tailrace completion fish | source; complete tailrace",
    }
    assert "tailrace" in " ".join(shell(name, scripts[name])) or name == "zsh"


def test_commands_and_options() -> None:
    assert in_bash("tailrace tunnel cl") == ["close"]
    assert in_bash("tailrace tunnel describe --") == NAMES
    assert in_bash("tailrace completion ") == ["--help", "bash", "fish", "zsh"]
    script = 'tailrace completion fish | source; complete --do-complete "tailrace tunnel op"'
    assert set(shell("fish", script)) == {"open\topen a tunnel and get its access tokens"}


def test_ids_and_things(environment: dict[str, str], service: ServiceProcess) -> None:
    parameters = {"destinationConfig": {"services": ["SSH"], "thingName": "completed-thing"}}
    tunnel_id = control_client(service.endpoints).call("OpenTunnel", parameters)["tunnelId"]
    assert tunnel_id in in_bash(f"tailrace tunnel close {tunnel_id[:6]}", **environment)
    assert in_bash("tailrace tunnel list --thing comp", **environment) == ["completed-thing"]
    assert in_bash("tailrace connect comp", **environment) == ["completed-thing"]
    assert in_bash("tailrace connect completed-thing S", **environment) == ["SSH"]
    assert in_bash("tailrace proxy completed-thing S", **environment) == ["SSH"]


def test_a_service_that_does_not_answer_offers_nothing(environment: dict[str, str]) -> None:
    environment["AWS_SECRET_ACCESS_KEY"] = "wrong"
    assert in_bash("tailrace tunnel close ", **environment) == sorted([*NAMES, "--delete"])


def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("argcomplete", "argcomplete.shell_integration"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["completion", "bash"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "completion needs the package argcomplete: " in err
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    with pytest.raises(SystemExit) as end:
        main(["tunnel"])
    assert end.value.code == 1
    assert capsys.readouterr() == ("", "")
