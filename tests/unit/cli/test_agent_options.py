"""What the options of the agent say."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tailrace.cli.agent_options import (
    add_run_options,
    agent_state_dir,
    capath_of,
    max_tunnels_of,
    services_of,
)
from tailrace.errors import ConfigurationError
from tailrace.library.settings import RESUME_TIMEOUT


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    return parser.parse_args(argv)


def test_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    args = parse()
    assert max_tunnels_of(args) == 20
    assert args.resume_timeout == RESUME_TIMEOUT
    assert parse("--resume-timeout", "0").resume_timeout == 0
    assert capath_of(args) is None
    assert agent_state_dir(args) == tmp_path / "tailrace-agent"
    with pytest.raises(ConfigurationError, match="no services"):
        services_of(args, {})


def test_services_of_options_and_file(tmp_path: Path) -> None:
    path = tmp_path / "services.toml"
    path.write_text("[services]\nWEB = 80\n")
    services, file = services_of(parse("--service", "SSH=22", "--services-file", str(path)), {})
    assert set(services.rules) == {"SSH", "WEB"}
    assert file is not None
    otherwise = services.rules
    assert set(services_of(parse(), otherwise)[0].rules) == {"SSH", "WEB"}
    assert set(services_of(parse("--service", "A=1"), otherwise)[0].rules) == {"A"}


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--max-tunnels", "0"], "--max-tunnels 0 is less than 1"),
        (["--capath", "/nonexistent"], "--capath /nonexistent"),
    ],
)
def test_what_is_not_valid(argv: list[str], text: str) -> None:
    args = parse(*argv)
    with pytest.raises(ConfigurationError, match=text):
        capath_of(args), max_tunnels_of(args)


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = "tailrace.cli.agent_options.default_state_dir"
    monkeypatch.setattr(module, lambda environ, name: None)
    with pytest.raises(ConfigurationError, match="give --state-dir DIR"):
        agent_state_dir(parse())
    monkeypatch.chdir(tmp_path)
    assert agent_state_dir(parse("--state-dir", "here")) == tmp_path / "here"
