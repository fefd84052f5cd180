from __future__ import annotations

import os
from pathlib import Path

import pytest

from tailrace.common.user_directories import runtime_directory, state_directory
from tailrace.errors import ConfigurationError


def test_where_the_variables_say() -> None:
    environment = {"XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r"}
    assert state_directory(environment) == Path("/s/tailrace")
    assert runtime_directory(environment) == Path("/r/tailrace")


@pytest.mark.parametrize("base", [None, "", "relative"])
def test_without_them(base: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"XDG_STATE_HOME": base, "XDG_RUNTIME_DIR": base} if base is not None else {}
    monkeypatch.setattr(Path, "home", lambda: Path("/h"))
    assert state_directory(environment) == Path("/h/.local/state/tailrace")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert runtime_directory(environment) == Path("/h/.local/state/tailrace/run")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert runtime_directory(environment) == Path("/run/tailrace")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(ConfigurationError, match="set HOME or XDG_STATE_HOME"):
        state_directory({})
