"""The command ``localproxy``, up to the moment it hands over to the proxy."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace import __version__
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.localproxy import run as runner
from tailrace.cli.localproxy.main import BANNER, main
from tailrace.cli.localproxy.settings import CommandSettings
from tailrace.cli.localproxy.settings_json import default_settings_text
from tailrace.common.secret import Secret
from tailrace.errors import AccessRefused, ListenError
from tailrace.localproxy.settings import ProxySettings

TOKEN = "AQGAAXlKn0Tqd8Vn3Cn4Zf2bPzAAQABAAdU"
HINT = "Try 'localproxy --help' for a list of options."
GOOD = ["-r", "us-east-1", "-s", "5555"]
COMMAND = [sys.executable, "-m", "tailrace.cli.localproxy.main"]
HEAVY = {
    "aiofastnet",
    "aiohttp",
    "argparse",
    "asyncio",
    "cryptography",
    "picows",
    "python_socks",
    "rich",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "uvloop",
    "websockets",
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No log, no variables and no files of our own before and after."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("AWSIOT_", "TAILRACE_")) or name.lower() in ("https_proxy", "no_proxy"):
            monkeypatch.delenv(name)
    root, package = logging.getLogger(), logging.getLogger("tailrace")
    before = (list(root.handlers), root.level, package.level)
    yield
    root.handlers[:], root_level, package_level = before
    root.setLevel(root_level)
    package.setLevel(package_level)


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWSIOT_TUNNEL_ACCESS_TOKEN", TOKEN)
    return TOKEN


class Proxy:
    """Stands in for the proxy itself, which this command only starts."""

    def __init__(self) -> None:
        self.settings: ProxySettings | None = None
        self.ends: BaseException | None = None

    def __call__(self, settings: CommandSettings) -> None:
        self.settings = settings.proxy
        token = settings.proxy.access_token
        logging.getLogger("tailrace.test").info("running with %s", token.reveal())
        if self.ends is not None:
            raise self.ends


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Proxy:
    stand_in = Proxy()
    monkeypatch.setattr(runner, "run", stand_in)
    return stand_in


def lines(text: str) -> list[str]:
    """Return the lines of a log without time and thread."""
    return [re.sub(r"^\[[^]]*\] \(0x\w+\) ", "", line) for line in text.splitlines()]


@pytest.mark.parametrize("argv", [["--version"], ["-V"], ["-V", "-h"], ["-V", "stray"]])
def test_version(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert capsys.readouterr() == (f"{BANNER}\n", "")
    assert (
        f"Running AWS IoT Secure Tunneling Local Proxy version: v{__version__}+tailrace"
    ) == BANNER


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["-kh"], ["-t", "x", "-h"]])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{BANNER}\n")
    assert "Show help message" in out
    assert err == ""


def test_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--export-default-settings", "s.json"]) == 0
    assert (tmp_path / "s.json").read_text() == default_settings_text()
    assert capsys.readouterr() == (f"{BANNER}\n", "")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no/s.json", ["[fatal] no/s.json: cannot open file (No such file or directory)"]),
        (
            "",
            [
                "[warning] SECURITY: Rejected input for 'path': empty path",
                "[fatal] Path cannot be empty",
            ],
        ),
    ],
)
def test_export_fails(path: str, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--export-default-settings", path]) == 1
    assert lines(capsys.readouterr().err) == said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], ["the option '--access-token' is required but missing"]),
        (["-Z"], ["unrecognised option '-Z'"]),
        (["-h", "-Z"], ["unrecognised option '-Z'"]),
        (["-region", "x"], ["unrecognised option '-region'", "Did you mean '--region'?"]),
        (["-mode=src"], ["unrecognised option '-mode'", "Did you mean '--mode'?"]),
        (["-S", "1"], ["unrecognised option '-S'", "Did you mean '-s'?"]),
        (["--regoin", "x"], ["unrecognised option '--regoin'", "Did you mean '--region'?"]),
        (
            ["--acces-token=x"],
            ["unrecognised option '--acces-token'", "Did you mean '--access-token'?"],
        ),
        (["-v"], ["the required argument for option '--verbose' is missing"]),
        (
            ["-t", TOKEN, "-r", "us"],
            [
                "[warning] Found access token supplied via CLI arg. Consider using environment"
                " variable AWSIOT_TUNNEL_ACCESS_TOKEN instead",
                "Must specify one of --source-listen-port/-s or --destination-app/-d or --mode",
            ],
        ),
        (
            ["--config", "nothing"],
            [
                "can not read options configuration file 'nothing'",
                "No such file or directory.",
            ],
        ),
    ],
)
def test_usage_errors(argv: list[str], said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == f"{BANNER}\n"
    assert lines(err) == [*said, HINT]


@pytest.mark.parametrize("verbosity", ["4", "1", "0"])
def test_rejected_values(verbosity: str, token: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-v", verbosity, "-r", "US", "-s", "1"]) == ExitCode.USAGE
    expected = {
        "4": [
            "[warning] SECURITY: Rejected input for 'region': invalid format",
            "[fatal] Region must contain only lowercase letters, numbers, and hyphens",
        ],
        "1": ["[fatal] Region must contain only lowercase letters, numbers, and hyphens"],
        "0": [],
    }
    assert lines(capsys.readouterr().err) == expected[verbosity]


def test_the_proxy_is_started(
    token: str, started: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(GOOD) == ExitCode.OK
    assert started.settings is not None
    assert started.settings.access_token == Secret(TOKEN)
    out, err = capsys.readouterr()
    assert out == f"{BANNER}\n"
    assert "[info] running with <redacted>" in lines(err)
    assert TOKEN not in err


def test_verbosity_of_a_file_counts(
    token: str, started: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.ini").write_text("verbose = 0\n")
    assert main([*GOOD, "--config", "c.ini"]) == 0
    assert capsys.readouterr().err == ""
    assert main([*GOOD, "--config", "c.ini", "-v", "4"]) == 0
    assert "running with" in capsys.readouterr().err


@pytest.mark.parametrize("as_variable", [False, True])
def test_with_json_standard_output_is_for_events(
    as_variable: bool,
    token: str,
    started: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if as_variable:
        monkeypatch.setenv("TAILRACE_JSON", "yes")
    assert main(GOOD if as_variable else [*GOOD, "--json"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{BANNER}\n")


def test_token_from_standard_input(
    started: Proxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TOKEN}\n"))
    assert main([*GOOD, "-t", "-"]) == 0
    assert started.settings is not None
    assert started.settings.access_token == Secret(TOKEN)
    assert TOKEN not in capsys.readouterr().err


@pytest.mark.parametrize(("user", "warned"), [(0, True), (1000, False)])
def test_root_is_warned(
    user: int,
    warned: bool,
    token: str,
    started: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert main(GOOD) == 0
    assert ("[warning] Running as root" in capsys.readouterr().err) is warned


def test_errors_of_the_proxy_are_one_line(
    token: str, started: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    started.ends = ListenError(f"Could not bind to address: 127.0.0.1:1 -- {TOKEN}")
    assert main(GOOD) == ExitCode.LISTEN
    assert lines(capsys.readouterr().err)[-1] == (
        "[fatal] Could not bind to address: 127.0.0.1:1 -- <redacted>"
    )


def test_errors_of_the_proxy_say_what_to_do(
    token: str, started: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    started.ends = AccessRefused(403, "Forbidden", "Invalid access-token")
    assert main(GOOD) == ExitCode.TOKEN_REFUSED
    assert lines(capsys.readouterr().err)[-1].startswith(
        '[fatal] HTTP/1.1 403 Forbidden: "Invalid access-token". Check that this is the source'
    )


@pytest.mark.parametrize(
    ("argv", "end", "code", "error", "words"),
    [
        (GOOD, AccessRefused(403, "Forbidden", TOKEN), 3, "AccessRefused", "Check that this is"),
        (GOOD, ZeroDivisionError(TOKEN), 1, "ZeroDivisionError", "Internal error"),
        (["-r", "US", "-s", "1"], None, 1, "RejectedInput", "Region must contain only"),
        (["-r", "us"], None, 1, "UsageError", "Must specify one of --source-listen-port/-s"),
    ],
)
def test_the_last_event_tells_of_the_failure(
    argv: list[str],
    end: Exception | None,
    code: int,
    error: str,
    words: str,
    token: str,
    started: Proxy,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started.ends = end
    assert main([*argv, "--json"]) == code
    out = capsys.readouterr().out
    assert TOKEN not in out
    event = json.loads(out)
    assert (event["event"], event["exit"], event["error"]) == ("failed", code, error)
    assert words in event["message"]


def test_internal_errors_are_logged_without_secrets(
    token: str, started: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    started.ends = ZeroDivisionError(f"by {TOKEN}")
    assert main(GOOD) == 1
    err = capsys.readouterr().err
    assert "[fatal] Internal error; please report it" in lines(err)
    assert err.endswith("ZeroDivisionError: by <redacted>\n")


def test_interrupted(token: str, started: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
    started.ends = KeyboardInterrupt()
    assert main(GOOD) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_interrupted_before_the_proxy_runs(tmp_path: Path) -> None:
    """While it waits for the token: a FIFO that nobody writes to."""
    fifo = tmp_path / "token"
    os.mkfifo(fifo)
    with (
        subprocess.Popen(
            [*COMMAND, *GOOD, "--access-token-file", str(fifo)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        fifo.open("w"),
    ):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("argv", "code"), [(["--version"], 141), (["--help"], 141), (["--export-default-settings"], 0)]
)
def test_nobody_reads_standard_output(argv: list[str], code: int, tmp_path: Path) -> None:
    """As a shell reports it where the output is all that was asked for."""
    reader, writer = os.pipe()
    os.close(reader)
    if code == 0:
        argv = [*argv, str(tmp_path / "settings.json")]
    try:
        done = subprocess.run([*COMMAND, *argv], stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (code, b"")


def test_closed_standard_streams() -> None:
    script = f"exec {' '.join(COMMAND)} -h >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", script], check=False).returncode == 0


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_the_token_leaves_the_list_of_processes(tmp_path: Path) -> None:
    """Seen from a FIFO that the command opens after it has read its arguments."""
    fifo = tmp_path / "settings"
    os.mkfifo(fifo)
    with subprocess.Popen(
        [*COMMAND, *GOOD, "-t", TOKEN, "--settings-json", str(fifo)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        with fifo.open("w") as file:
            seen = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            file.write("no JSON")
        _, err = process.communicate()
    assert TOKEN.encode() not in seen
    assert b"x" * len(TOKEN) in seen
    assert TOKEN.encode() not in err


def imported_by(argv: list[str], code: int) -> set[str]:
    """Return the modules that a call imports beyond those of a bare interpreter."""
    script = (
        "import sys; bare = set(sys.modules)\n"
        "from tailrace.cli.localproxy.main import main\n"
        f"code = main({argv!r})\n"
        f"assert code == {code}, code\n"
        "print(*sorted(set(sys.modules) - bare), file=sys.__stdout__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("argv", "code", "most"),
    [
        (["--version"], 0, 60),
        (["--help"], 0, 65),
        (["-Z"], 1, 60),
        ([], 1, 120),
        (["-t", TOKEN, "-r", "US", "-s", "1"], 1, 120),
        (["-t", TOKEN, "-r", "us", "-s", "0"], 1, 120),
    ],
)
def test_imports_little(argv: list[str], code: int, most: int) -> None:
    modules = imported_by(argv, code)
    assert not {name.partition(".")[0] for name in modules} & HEAVY
    # Later Pythons need some more for the same.
    most += 4 * (sys.version_info >= (3, 12))
    assert len(modules) <= most, sorted(modules)


def test_console_script() -> None:
    script = Path(sys.executable).with_name("localproxy")
    done = subprocess.run([script, "-V"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{BANNER}\n", "")
