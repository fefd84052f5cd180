"""A service inside a program that blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.errors import ConfigurationError, LimitExceeded
from tailrace.sync.service import Service
from tailrace.sync.shared_loop import SHARED


def test_a_service_for_as_long_as_the_block_lasts(tmp_path: Path) -> None:
    service = Service(tmp_path, limits="aws")
    for _ in range(2):
        with service as entered:
            assert entered is service
            assert service.environment()["AWS_REGION"] == service.endpoints.region
            with service.client(timeout=10) as client:
                opened = client.open(services=["SSH"])
                with pytest.raises(LimitExceeded):
                    client.open(services=["A", "B", "C", "D"])
                assert opened.tunnel_id in [each.tunnel_id for each in client.list()]
            with pytest.raises(RuntimeError, match="in use already"):
                service.__enter__()
        with pytest.raises(RuntimeError, match="not running"):
            service.client()
    assert SHARED._loop is None


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="api_port"):
        Service(api_port=-1)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError):
        Service(tmp_path / "file").__enter__()
