"""The command ``tailrace``: mistakes end in one line, and each exit status means something."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tailrace import __version__, errors
from tailrace.cli import env, serve
from tailrace.cli.exit_codes import ExitCode, exit_code_of
from tailrace.cli.tailrace import main
from tailrace.demo import runner
from tailrace.demo.measurements import DemoFailed
from tailrace.errors import ConfigurationError, TailraceError

HANG = 30.0
COMMAND = [sys.executable, "-m", "tailrace.cli.tailrace"]
TOKEN = "AQGAAXlKn0Tqd8Vn3Cn4Zf2bPzAAQABAAdU"


def result(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Run the command in this process; return status, output and errors."""
    try:
        status = main(argv)
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "tailrace: the following arguments are required: COMMAND; try tailrace --help"),
        (["--nope"], "tailrace: unrecognized arguments: --nope; try tailrace --help"),
        (["--vesion"], "tailrace: unrecognized arguments: --vesion; did you mean --version?; try"),
        (
            ["demo", "--nope"],
            "tailrace demo: unrecognized arguments: --nope; try tailrace demo --help",
        ),
        (["demo", "x"], "tailrace demo: unrecognized arguments: x; try tailrace demo --help"),
        (
            ["tunnel", "open", "--lifetme=3", "x"],
            "tailrace tunnel open: unrecognized arguments: --lifetme=3 x; "
            "did you mean --lifetime?; try tailrace tunnel open --help",
        ),
        (["tunnel", "--jsn"], "tailrace tunnel: unrecognized arguments: --jsn; try"),
        (["sevre"], "tailrace: argument COMMAND: invalid choice: 'sevre' (choose from "),
        (["dance"], "tailrace: argument COMMAND: invalid choice: 'dance' (choose from "),
        (["serve", "--loop", "x"], "tailrace serve: argument --loop: invalid choice: 'x'"),
        (["serve", "--state-dir"], "tailrace serve: argument --state-dir: expected one argument"),
        (["config"], "tailrace config: the following arguments are required: ACTION; "),
    ],
)
def test_usage_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], argv: list[str], line: str
) -> None:
    status, out, err = result(capsys, *argv)
    assert status == ExitCode.USAGE
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1
    assert err.endswith(" --help\n")


@pytest.mark.parametrize(
    ("argv", "guess"),
    [
        (["sevre"], "serve"),
        (["tunnel", "opne"], "open"),
        (["tunnel", "rotate", "t", "--mode", "destinaton"], "destination"),
        (["serve", "--log-level", "warn"], "warning"),
    ],
)
def test_what_may_be_meant(capsys: pytest.CaptureFixture[str], argv: list[str], guess: str) -> None:
    assert f"; did you mean {guess}?; try tailrace" in result(capsys, *argv)[2]


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert result(capsys, option) == (0, f"tailrace {__version__}\n", "")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["serve"],
        ["env"],
        ["exec"],
        ["keys"],
        *(["keys", action] for action in ("add", "list", "revoke")),
        ["tunnel"],
        *(["tunnel", action] for action in ("open", "list", "describe", "rotate", "close")),
        ["demo"],
        ["config"],
        ["config", "show"],
        ["completion"],
        ["help"],
    ],
    ids=" ".join,
)
def test_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    status, out, err = result(capsys, *argv, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: {' '.join(['tailrace', *argv])} ")
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("argv", [[], ["serve"], ["tunnel", "open"], ["config", "show"]])
def test_help_is_a_command_too(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert result(capsys, "help", *argv) == result(capsys, *argv, "--help")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["tunnel", "opne"], "tailrace tunnel has no command 'opne'; did you mean open?"),
        (["config", "x"], "tailrace config has no command 'x'; its commands are show"),
        (["serve", "x"], "tailrace serve has no command 'x'"),
    ],
)
def test_help_about_a_command_that_does_not_exist(
    capsys: pytest.CaptureFixture[str], argv: list[str], line: str
) -> None:
    assert result(capsys, "help", *argv) == (ExitCode.USAGE, "", f"tailrace help: {line}\n")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    out = result(capsys, "--help")[1]
    for name in ("serve", "env", "demo", "config"):
        assert f"\n    {name} " in out


def raising(error: BaseException) -> Callable[..., None]:
    def run_demo(say: Callable[[str], None], stay: bool) -> None:
        raise error

    return run_demo


KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, TailraceError)
    and kind.__init__ is TailraceError.__init__
]


@pytest.mark.parametrize("kind", [*KINDS, DemoFailed])
def test_an_error_becomes_its_line_and_its_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: type[TailraceError]
) -> None:
    monkeypatch.setattr(runner, "run_demo", raising(kind("the reason")))
    code = exit_code_of(kind("the reason"))
    assert result(capsys, "demo") == (code, "", "tailrace demo: the reason\n")


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("loop", f"; use --loop auto, or install it: {sys.executable} -m pip install uvloop"),
        ("state_dir", "; choose another with --state-dir"),
        ("unheard_of", ""),
    ],
)
def test_an_error_names_the_option_of_its_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, setting: str, hint: str
) -> None:
    error = ConfigurationError("the reason", setting=setting)
    monkeypatch.setattr(runner, "run_demo", raising(error))
    assert result(capsys, "demo")[2] == f"tailrace demo: the reason{hint}\n"


def test_ctrl_c(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "run_demo", raising(KeyboardInterrupt()))
    assert result(capsys, "demo") == (128 + signal.SIGINT, "", "")


def test_a_bug_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "run_demo", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


@pytest.mark.parametrize("terminal", [False, True])
def test_the_demo_stays_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    def run_demo(say: Callable[[str], None], stay: bool) -> None:
        say(f"stay: {stay}")

    monkeypatch.setattr(runner, "run_demo", run_demo)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert result(capsys, "demo") == (0, f"stay: {terminal}\n", "")


@pytest.mark.parametrize(
    ("argv", "module", "function"),
    [(["serve", "--region", "x"], serve, "run_serve"), (["env"], env, "run_env")],
)
def test_other_commands_are_handed_over(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], module: ModuleType, function: str
) -> None:
    given: list[argparse.Namespace] = []

    monkeypatch.setattr(module, function, given.append)
    assert main(argv) == 0
    assert given[0].command == argv[0]


# -- config show -----------------------------------------------------------------------------


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("AWSIOT_", "TAILRACE_")) or name.lower() in ("https_proxy", "no_proxy"):
            monkeypatch.delenv(name)


def test_config_show(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, no_settings: None
) -> None:
    monkeypatch.setenv("AWSIOT_TUNNEL_ACCESS_TOKEN", TOKEN)
    status, out, err = result(capsys, "config", "show", "-r", "eu-west-1", "-s", "5555", "-v", "5")
    assert (status, err) == (0, "")
    assert TOKEN not in out
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert "data.tunneling.iot.eu-west-1.amazonaws.com" in rows["host"]
    assert "AWSIOT_TUNNEL_ACCESS_TOKEN" in rows["access_token"]
    # Three columns, each of one width: where the third begins, a blank goes before.
    start = rows["host"].index(rows["host"].split("  ")[-1])
    assert all(line[start - 1] == " " and line[start] != " " for line in out.splitlines())


def test_config_show_with_a_mistake(capsys: pytest.CaptureFixture[str], no_settings: None) -> None:
    status, out, err = result(capsys, "config", "show", "-r", "eu-west-1")
    assert status == ExitCode.USAGE
    assert out == ""
    assert err.startswith("tailrace config show: ")
    assert "--source-listen-port/-s" in err


@pytest.mark.parametrize(
    ("argv", "origin"),
    [
        ([], "default"),
        (["--access-token-file", "missing"], "command line --access-token-file"),
        (["-t", "-"], "command line -t"),
    ],
)
def test_config_show_needs_no_token(
    capsys: pytest.CaptureFixture[str], no_settings: None, argv: list[str], origin: str
) -> None:
    status, out, err = result(capsys, "config", "show", "-r", "eu-west-1", "-s", "5555", *argv)
    assert (status, err) == (ExitCode.OK, "")
    (row,) = [line for line in out.splitlines() if line.startswith("access_token ")]
    assert row.split(maxsplit=2)[1:] == ["-", origin]


@pytest.mark.parametrize("option", ["--version"])
def test_config_show_shows_settings_only(
    capsys: pytest.CaptureFixture[str], no_settings: None, option: str
) -> None:
    status, _, err = result(capsys, "config", "show", option)
    assert status == ExitCode.USAGE
    assert err == (
        "tailrace config show: leave out --help, --version and --export-default-settings\n"
    )


# -- as a process ----------------------------------------------------------------------------


def test_as_a_module() -> None:
    done = subprocess.run(
        [*COMMAND, "-V"], capture_output=True, text=True, timeout=HANG, check=True
    )
    assert done.stdout == f"tailrace {__version__}\n"


def test_a_mistake_loads_no_service_and_no_event_loop() -> None:
    code = (
        "import sys; from tailrace.cli.tailrace import main;"
        " assert main(['ssh-config', '--things', '/']) == 1;"
        " assert not {'asyncio', 'tailrace.service'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.returncode == 0
    assert done.stderr == "tailrace ssh-config: --things '/' is not a pattern of names, as pump-*\n"


@pytest.mark.parametrize(
    "argv",
    [
        ["config", "show", "-r", "eu-west-1", "-s", "5555"],
        ["--help"],
        ["serve", "--help"],
        ["--version"],
        ["keys", "list"],
    ],
    ids=" ".join,
)
def test_an_output_that_nobody_reads(tmp_path: Path, argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {
        **os.environ,
        "AWSIOT_TUNNEL_ACCESS_TOKEN": TOKEN,
        "XDG_STATE_HOME": str(tmp_path),
    }
    subprocess.run([*COMMAND, "keys", "add"], env=environment, capture_output=True, check=True)
    done = subprocess.run(
        [*COMMAND, *argv],
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment,
        timeout=HANG,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_takes_nothing(unbuffered: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "--version"],
            stdout=full,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stderr=subprocess.PIPE,
            text=True,
            timeout=HANG,
            check=False,
        )
    assert done.returncode == ExitCode.USAGE
    assert done.stderr == "tailrace: cannot write to standard output: No space left on device\n"
