from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tailrace import __version__
from tailrace.cli.tailrace import main
from tailrace.demo.runner import DemoFailed
from tailrace.errors import ExitCode


def test_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"tailrace {__version__}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for command in ("serve", "env", "demo", "config"):
        assert f"\n    {command} " in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["serve", "--no-such-option"], "--no-such-option"),
        (["config"], "ACTION"),
    ],
)
def test_usage_errors(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == ExitCode.USAGE
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_errors_are_one_line_with_their_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(say: object, stay: bool) -> int:
        raise DemoFailed("the service ended with status 1")

    monkeypatch.setattr("tailrace.demo.runner.run_demo", fail)
    assert main(["demo"]) == ExitCode.PROTOCOL
    assert capsys.readouterr().err == "tailrace demo: the service ended with status 1\n"


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch):
    def interrupted(say: object, stay: bool) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("tailrace.demo.runner.run_demo", interrupted)
    assert main(["demo"]) == 130


def test_the_demonstration_says_what_it_does_and_ends_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    stays = []

    def demo(say: object, stay: bool) -> int:
        assert callable(say)
        say("sha256 match: download upload")
        stays.append(stay)
        return 0

    monkeypatch.setattr("tailrace.demo.runner.run_demo", demo)
    assert main(["demo"]) == 0
    assert stays == [False]
    assert capsys.readouterr().out == "sha256 match: download upload\n"


def test_config_show_names_value_and_origin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("AWSIOT_TUNNEL_ACCESS_TOKEN", "secret-token-in-the-environment")
    assert main(["config", "show", "-e", "localhost:1234", "-s", "SSH=5555"]) == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in text.splitlines()}
    assert rows["port"] == ["1234", "command line -e"]
    assert rows["services"] == ["SSH=5555", "command line -s"]
    assert rows["linger"] == ["5", "default"]
    assert rows["access_token"] == ["<redacted>", "environment variable AWSIOT_TUNNEL_ACCESS_TOKEN"]
    assert "secret-token" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["-e"], "--proxy-endpoint"), (["--help"], "leave out --help")],
)
def test_config_show_reports_what_localproxy_would(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["config", "show", *arguments]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.startswith("tailrace config: ")


def test_the_installed_command_is_this_one():
    command = Path(sys.executable).parent / "tailrace"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"tailrace {__version__}\n"


def test_it_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "tailrace.cli.tailrace", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"tailrace {__version__}\n"
