"""The packages of the extra."""

import importlib.util

import pytest

from tailrace.common.installing import how_to_install_extra
from tailrace.errors import ConfigurationError
from tailrace.service.extra import require_extra


def test_all_are_installed() -> None:
    require_extra()


def test_some_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    missing = {"picows", "uvicorn"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else find_spec(name)
    )
    with pytest.raises(ConfigurationError) as caught:
        require_extra()
    assert str(caught.value) == (
        "packages are not installed: picows, uvicorn; install them: "
        f"{how_to_install_extra('service')}"
    )
