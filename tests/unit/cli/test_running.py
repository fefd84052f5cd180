"""The running service, as other commands find it. More is in ``test_serve.py``."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tailrace.cli.running import endpoints_if_running, running_endpoints
from tailrace.errors import ConfigurationError
from tailrace.service.config import Endpoints

ENDPOINTS = Endpoints("https://a:1", "a:2", "ca.pem", "ca", "us-east-1", "AK", "SK", os.getpid())


def test_a_service_that_runs_and_one_that_was_killed(tmp_path: Path) -> None:
    assert endpoints_if_running(tmp_path) is None
    path = tmp_path / "ready.json"
    path.write_bytes(ENDPOINTS.to_json())
    assert running_endpoints(tmp_path) == endpoints_if_running(tmp_path) == ENDPOINTS
    path.write_bytes(replace(ENDPOINTS, pid=2**22 + 1).to_json())
    with pytest.raises(ConfigurationError, match="is no longer running"):
        running_endpoints(tmp_path)
    assert endpoints_if_running(tmp_path) is None
