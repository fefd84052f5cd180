"""The packages that a service needs beyond those of a local proxy."""

from __future__ import annotations

import importlib.util
from typing import Final

from ..common.installing import how_to_install_extra
from ..errors import ConfigurationError

__all__ = ["require_extra"]

_PACKAGES: Final = (
    "aiofastnet",
    "cryptography",
    "picows",
    "prometheus_client",
    "starlette",
    "uvicorn",
)


def require_extra() -> None:
    """Check that the extra ``[service]`` is installed, without importing it.

    Raises:
        ConfigurationError: it is not; the text says how to install it.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"packages are not installed: {', '.join(missing)}; "
            f"install them: {how_to_install_extra('service')}"
        )
