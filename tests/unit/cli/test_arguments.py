"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tailrace.cli.arguments import RESUME_TIMEOUT, add_state_dir, resume_timeout, state_dir_of
from tailrace.library import settings
from tailrace.operator.wish import WantedTunnel


def read(*argv: str) -> Path:
    parser = argparse.ArgumentParser()
    add_state_dir(parser)
    return state_dir_of(parser.parse_args(argv))


def test_the_state_directory_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("--state-dir", "x") == tmp_path / "x"
    assert read("--state-dir", "/x") == Path("/x")


def test_the_default_is_that_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert read() == tmp_path / "tailrace"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--state-dir", "/x", "list"], "/x"),
        (["list", "--state-dir", "/y"], "/y"),
        (["--state-dir", "/x", "list", "--state-dir", "/y"], "/y"),
    ],
)
def test_it_stands_before_or_behind_a_command(argv: list[str], expected: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_subparsers().add_parser("list")
    add_state_dir(parser)
    assert state_dir_of(parser.parse_args(argv)) == Path(expected)


def test_connections_wait_as_long_as_those_of_the_library() -> None:
    wanted = WantedTunnel("pump-7", ("SSH",), Path())
    assert RESUME_TIMEOUT == wanted.resume_timeout == settings.RESUME_TIMEOUT


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("0.5", 0.5), ("86400", 86_400.0)])
def test_seconds_to_resume(text: str, seconds: float) -> None:
    assert resume_timeout(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "inf", "86401"])
def test_what_is_no_time_to_resume(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number of seconds, 0 to 86400"):
        resume_timeout(text)
