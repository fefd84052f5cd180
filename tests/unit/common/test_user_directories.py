from __future__ import annotations

import os
from pathlib import Path

import pytest

from tailrace.common.user_directories import runtime_directory, state_directory
from tailrace.errors import ConfigurationError


def nobody() -> Path:
    raise RuntimeError("no home")


def test_what_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/mary")
    assert state_directory({"XDG_STATE_HOME": "/s"}) == Path("/s/tailrace")
    assert state_directory({"XDG_STATE_HOME": "s"}) == Path("/home/mary/.local/state/tailrace")
    assert runtime_directory({"XDG_RUNTIME_DIR": "/r"}) == Path("/r/tailrace")


def test_what_is_so_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert runtime_directory({"XDG_RUNTIME_DIR": ""}) == Path("/run/tailrace")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert runtime_directory({"XDG_STATE_HOME": "/s"}) == Path("/s/tailrace/run")
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(ConfigurationError, match="set HOME or XDG_STATE_HOME"):
        runtime_directory({})
