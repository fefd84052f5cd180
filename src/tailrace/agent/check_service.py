"""Checks of the way in over ``tailrace serve`` itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from ..checks.findings import Finding, ok
from ..checks.runner import Check
from ..checks.server import Server, path_checks
from ..link.endpoint import NetworkEndpoint, TLSOptions
from ..link.proxy.settings import web_proxy_for
from .sources.service import ServiceSource

__all__ = ["service_checks"]

_HTTPS_PORT: Final = 443


def service_checks(source: ServiceSource, environment: Mapping[str, str]) -> list[Check]:
    """Return the steps to the control API, and whether the thing may wait there.

    Raises:
        ConfigurationError: the environment names a web proxy that is none.
    """
    parts = urlsplit(source.name)
    host, port = parts.hostname or "", parts.port or _HTTPS_PORT
    server = Server(
        "service",
        NetworkEndpoint(host=host, port=port, tls=TLSOptions(capath=source.ca)),
        web_proxy=web_proxy_for(host, port, environment),
        address_option="--service-url",
        trust_option="join the service again, or set AWS_CA_BUNDLE",
    )

    async def wait() -> Finding:
        thing_name = await source.try_once()
        return ok(f"the key may wait for notifications of {thing_name}")

    path = path_checks(server)
    return [*path, Check("key", wait, (path[-1].name,))]
