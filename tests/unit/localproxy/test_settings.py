"""The configuration object."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from tailrace.common.addresses import TCPAddress, UnixAddress
from tailrace.common.secret import Secret
from tailrace.localproxy.settings import PeerVersion, ProxySettings
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


@pytest.mark.parametrize(
    ("side", "changes", "can_resume"),
    [
        (Side.SOURCE, {}, True),
        (Side.SOURCE, {"peer_version": PeerVersion.V3}, True),
        (Side.SOURCE, {"peer_version": PeerVersion.V2}, False),
        (Side.SOURCE, {"peer_version": PeerVersion.V1}, False),
        (Side.SOURCE, {"resume_timeout": 0.0}, False),
        (Side.DESTINATION, {}, True),
        (Side.DESTINATION, {"resume_timeout": 0.0}, False),
    ],
)
def test_connections_outlive_links_unless_an_older_version_or_no_time_was_given(
    side: Side, changes: dict[str, Any], can_resume: bool
) -> None:
    settings = ProxySettings(side=side, host="x", access_token=Secret("t0ken"), **changes)
    assert settings.can_resume is can_resume
