"""The service that runs in a state directory, as other commands find it."""

from __future__ import annotations

from pathlib import Path

from ..common.process_ids import is_running
from ..errors import ConfigurationError
from ..service.config import Endpoints, ServiceConfig

__all__ = ["endpoints_if_running", "running_endpoints"]


def running_endpoints(state_dir: Path) -> Endpoints:
    """Return the endpoints of the service that runs in a state directory.

    Raises:
        ConfigurationError: none does.
    """
    path = ServiceConfig(state_dir).own_ready_file
    try:
        endpoints = Endpoints.read(path)
        _check_running(endpoints, state_dir)
        return endpoints
    except ConfigurationError as error:
        if path.exists():
            raise
        hint = f"start one with: tailrace serve --state-dir {state_dir}"
        raise ConfigurationError(f"{error}; {hint}") from None


def endpoints_if_running(state_dir: Path) -> Endpoints | None:
    """Return the endpoints of the service that runs there, ``None`` if none does."""
    try:
        return running_endpoints(state_dir)
    except ConfigurationError:
        return None


def _check_running(endpoints: Endpoints, state_dir: Path) -> None:
    if not is_running(endpoints.pid):
        raise ConfigurationError(
            f"the service in {state_dir} is no longer running (pid {endpoints.pid}); "
            f"start it with: tailrace serve --state-dir {state_dir}"
        )
