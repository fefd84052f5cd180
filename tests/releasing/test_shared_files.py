"""Manual pages, which man(1) reads, and completions, which shells use."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from release import commands
from release.commands import Command, Option, Takes
from release.completions import completion_files
from release.manual import manual_pages
from release.shared_files import main

import tailrace
from support.processes.terminals import on_terminal
from support.waiting import HANG
from tailrace.cli.exit_codes import ExitCode
from tailrace.cli.localproxy.options import OPTIONS

PAGES = manual_pages("1.2.3")
LOCALPROXY, TAILRACE = commands.localproxy(), commands.tailrace()


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all files."""
    home = tmp_path_factory.mktemp("share")
    main(str(home))
    return home


def run(*command: str, stdin: str = "") -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=HANG, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# Commands


def test_all_options_of_localproxy_are_there() -> None:
    named = {names for each in LOCALPROXY.options for names in each.names}
    assert {f"--{each.name}" for each in OPTIONS} <= named
    assert {f"-{each.short}" for each in OPTIONS if each.short} <= named
    token = next(each for each in LOCALPROXY.options if "-t" in each.names)
    assert (token.metavar, token.environment) == ("TOKEN", "AWSIOT_TUNNEL_ACCESS_TOKEN")


def test_commands_of_tailrace() -> None:
    assert [each.words for each in TAILRACE.all if each.words[1:2] == ("keys",)] == [
        ("tailrace", "keys"),
        ("tailrace", "keys", "add"),
        ("tailrace", "keys", "list"),
        ("tailrace", "keys", "revoke"),
    ]
    (run_agent,) = (each for each in TAILRACE.all if each.words[1:] == ("agent", "run"))
    options = {each.names[-1]: each for each in run_agent.options}
    assert options["--log-format"].choices == ("text", "json")
    assert options["--state-dir"].takes is Takes.DIRECTORY
    assert options["--cert"] == Option(
        ("--cert",), "certificate of this device, in PEM", "FILE", Takes.FILE
    )
    assert all(each.takes is Takes.NOTHING for each in options.values() if not each.metavar)


def test_exit_statuses() -> None:
    found = commands.exit_statuses()
    assert set(found) == set(ExitCode)
    assert found[ExitCode.LISTEN] == "A local port or socket path could not be bound."


# Manual pages


def test_there_is_a_page_for_each_command() -> None:
    below = {f"tailrace-{each.words[1]}.1" for each in TAILRACE.commands}
    assert set(PAGES) == {"localproxy.1", "tailrace.1", *below}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_man_shows_a_page(name: str) -> None:
    text = run("man", "--warnings=w", "-l", "-", stdin=PAGES[name])
    assert "NAME\n" in text
    assert "tailrace 1.2.3" in text
    for status in ExitCode:
        assert f"\n       {status:d} " in text


def test_a_page_shows_an_option_as_it_is_written() -> None:
    shown = run("man", "-l", "-", stdin=PAGES["tailrace-agent.1"])
    assert "AGENT RUN\n" in shown
    assert "\n       --notify-topic TEMPLATE\n" in shown
    assert "tailrace agent once [OPTION ...] TOKEN-FILE" in shown


# Completions


def in_bash(share: Path, line: str) -> list[str]:
    """Return what bash offers at the end of a line."""
    words = line.split(" ")
    script = f"""
        source '{share}/bash-completion/completions/{words[0]}'
        compopt() {{ :; }}  # for the shell that reads a line
        COMP_WORDS=({" ".join(f"'{word}'" for word in words)}) COMP_CWORD={len(words) - 1}
        _{words[0]}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return sorted(run("bash", "-c", script).split())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tailrace ag", ["agent"]),
        ("tailrace agent en", ["enable"]),
        ("tailrace tunnel cl", ["close"]),
        ("tailrace agent run --notify-t", ["--notify-topic"]),
        ("tailrace agent run --log-format ", ["json", "text"]),
        ("tailrace agent run --log-format = j", ["json"]),
        ("tailrace agent run --thing-name ", []),
        ("tailrace completion f", ["fish"]),
        ("tailrace ssh agent --ke", ["--keep"]),
        ("localproxy --link ", ["auto", "picows", "websockets"]),
        ("localproxy --export", ["--export-default-settings"]),
    ],
)
def test_bash_completes(share: Path, line: str, offered: list[str]) -> None:
    assert in_bash(share, line) == offered


def test_bash_completes_files(share: Path, tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    (tmp_path / "directory").mkdir()
    both = [str(tmp_path / "directory"), str(tmp_path / "token")]
    assert in_bash(share, f"localproxy --access-token-file {tmp_path}/") == both
    assert in_bash(share, f"localproxy --access-token-file = {tmp_path}/t") == both[1:]
    assert in_bash(share, f"localproxy --state-dir {tmp_path}/") == both[:1]
    assert in_bash(share, f"tailrace agent once {tmp_path}/") == both
    assert in_bash(share, "tailrace agent once --regi") == ["--region"]


def in_fish(share: Path, line: str) -> dict[str, str]:
    """Return what fish offers at the end of a line, with descriptions."""
    file = share / "fish" / "vendor_completions.d" / f"{line.split()[0]}.fish"
    shown = run("fish", "-c", f"source {file}; complete --do-complete '{line}'")
    return dict(each.partition("\t")[::2] for each in shown.splitlines())


def test_fish_completes(share: Path, tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    assert in_fish(share, "tailrace tunnel op") == {
        "open": "open a tunnel and get its access tokens"
    }
    assert in_fish(share, "tailrace agent ena") == {"enable": "open tunnels again"}
    assert set(in_fish(share, "tailrace agent run --log-format ")) == {"text", "json"}
    assert list(in_fish(share, "localproxy --ready-f")) == ["--ready-file"]
    assert f"{tmp_path}/token" in in_fish(share, f"localproxy --access-token-file {tmp_path}/t")
    assert in_fish(share, "tailrace agent run --thing-name pump") == {}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("tailrace agent ena", "agent enable"),
        ("tailrace agent run --log-format j", "--log-format json"),
        ("tailrace tunnel rotate --tok", "rotate --tokens-to"),
        ("localproxy --link web", "--link websockets"),
        ("localproxy --ready-f", "--ready-file"),
    ],
)
def test_zsh_completes(share: Path, tmp_path: Path, typed: str, shown: str) -> None:
    setup = f"PS1=; fpath=({share}/zsh/site-functions $fpath); autoload -U compinit; compinit -D -u"
    zsh = shutil.which("zsh") or ""
    with on_terminal(
        [zsh, "-f", "-i"], {"PATH": os.environ["PATH"], "TERM": "xterm"}, tmp_path
    ) as shell:
        shell.type(f"{setup}; echo rea''dy\n")
        shell.wait_for("ready")
        before = len(shell.shown)
        shell.type(f"{typed}\t")
        shell.wait_for(shown, after=before)


@pytest.mark.parametrize("name", ["localproxy", "tailrace"])
def test_zsh_reads_its_files(share: Path, name: str) -> None:
    run("zsh", "-n", str(share / "zsh" / "site-functions" / f"_{name}"))


def test_nothing_in_a_help_text_is_for_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    nasty = 'it\'s [a] $(touch x) `y` : \\ "z"'
    command = Command(
        ("localproxy",), nasty, nasty, groups={"G": (Option(("--nasty",), nasty, "TEXT"),)}
    )
    monkeypatch.setattr("release.completions.localproxy", lambda: command)
    files = completion_files()
    run("bash", "-n", "-c", files["bash-completion/completions/localproxy"])
    run("zsh", "-n", "-c", files["zsh/site-functions/_localproxy"])
    shown = run(
        "fish",
        "-c",
        files["fish/vendor_completions.d/localproxy.fish"]
        + "complete --do-complete 'localproxy --n'",
    )
    assert shown.partition("\t")[2].strip() == nasty


def test_the_version_is_that_of_the_sources(share: Path) -> None:
    page = (share / "man" / "man1" / "localproxy.1").read_text()
    assert f'"tailrace {tailrace.__version__}"' in page
