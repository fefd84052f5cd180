"""The configuration object."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from tailrace.common.addresses import TCPAddress, UnixAddress
from tailrace.common.secret import Secret
from tailrace.localproxy.settings import ProxySettings
from tailrace.wire import Side


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (TCPAddress("", 22), "22"),
        (TCPAddress("localhost", 22), "localhost:22"),
        (TCPAddress("::1", 22), "[::1]:22"),
        (UnixAddress("/run/x"), "/run/x"),
    ],
)
def test_addresses_print(address: TCPAddress | UnixAddress, text: str) -> None:
    assert str(address) == text


def test_settings_are_frozen_and_show_no_token() -> None:
    settings = ProxySettings(side=Side.SOURCE, host="x", access_token=Secret("hunter2"))
    with pytest.raises(FrozenInstanceError):
        setattr(settings, fields(settings)[0].name, Side.DESTINATION)
    assert "hunter2" not in repr(settings)
