"""Checks of the way in over ``tailrace serve`` itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from ..aws import ControlAPI, JoinedService
from ..checks.findings import Finding, ok
from ..checks.runner import Check
from ..checks.server import Server, path_checks
from ..link.endpoint import NetworkEndpoint, TLSOptions
from ..link.proxy.settings import web_proxy_for
from .sources.service import ServiceSource

__all__ = ["sender_of_tests", "service_checks"]

_HTTPS_PORT: Final = 443
_SEND_TEST: Final = "SendTestNotification"


def sender_of_tests(
    joined: JoinedService, thing_name: str, environment: Mapping[str, str]
) -> Callable[[], Awaitable[None]]:
    """Return what has a service send a thing a notification that only shows that it arrives."""

    async def send() -> None:
        place = (joined.api_endpoint, joined.region, joined.credentials, joined.ca_file)
        api = ControlAPI(*place, environment=environment)
        try:
            await api.call(_SEND_TEST, {"thingName": thing_name})
        finally:
            await api.close()

    return send


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
