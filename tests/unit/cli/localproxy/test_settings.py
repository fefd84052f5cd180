"""The settings of a call."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from tailrace.cli.localproxy.settings import CommandSettings
from tailrace.common.secret import Secret
from tailrace.localproxy.settings import ProxySettings
from tailrace.wire import Side


def test_settings_are_frozen_and_show_no_token() -> None:
    proxy = ProxySettings(side=Side.SOURCE, host="x", access_token=Secret("hunter2"))
    settings = CommandSettings(proxy=proxy)
    with pytest.raises(FrozenInstanceError):
        setattr(settings, fields(settings)[0].name, proxy)
    assert "hunter2" not in repr(settings)


def test_no_name_means_two_things() -> None:
    """Both kinds are described side by side."""
    names = [item.name for item in (*fields(ProxySettings), *fields(CommandSettings))]
    assert len(names) == len(set(names))
