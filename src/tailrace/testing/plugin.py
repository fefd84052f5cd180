"""Fixtures of pytest: a tunneling service, and tunnels through it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..aws.client import Client
    from .tunnels import ServiceInThread, TunnelFactory

__all__ = [
    "tailrace_boto3_client",
    "tailrace_client",
    "tailrace_service",
    "tailrace_service_settings",
    "tailrace_tunnel",
]


@pytest.fixture(scope="session")
def tailrace_service_settings() -> dict[str, Any]:
    """Arguments of :class:`tailrace.Service` for ``tailrace_service``; override it to choose some.

    Example::

        @pytest.fixture(scope="session")
        def tailrace_service_settings():
            return {"limits": "aws"}
    """
    return {}


@pytest.fixture(scope="session")
def tailrace_service(
    tailrace_service_settings: dict[str, Any],
) -> Iterator[ServiceInThread]:
    """A tunneling service for all tests, on free ports, with an event loop in a thread of its own.

    It has ``endpoints`` and ``environment()`` of :class:`tailrace.Service`, and
    ``control_client()``, a client of the control API whose calls block. ``cut()``, ``silence()``,
    ``throttle()`` and ``refuse()`` disturb the links of all tunnels.

    Raises:
        ConfigurationError: the extra ``[service]`` is not installed, or the settings are wrong.

    Example::

        def test_listing(tailrace_service):
            client = tailrace_service.control_client()
            assert client.call("ListTunnels", {})["tunnelSummaries"] == []
    """
    from .tunnels import service_in_thread

    with service_in_thread(tailrace_service_settings) as service:
        yield service


@pytest.fixture(scope="session")
def tailrace_boto3_client(tailrace_service: ServiceInThread) -> Iterator[Any]:
    """boto3's client of the control API of ``tailrace_service``; tests without boto3 are skipped.

    Example::

        def test_listing(tailrace_boto3_client):
            assert tailrace_boto3_client.list_tunnels()["tunnelSummaries"] == []
    """
    boto3 = pytest.importorskip("boto3", exc_type=ImportError)
    endpoints = tailrace_service.endpoints
    client = boto3.client(
        "iotsecuretunneling",
        endpoint_url=endpoints.api_endpoint,
        verify=endpoints.ca_file,
        region_name=endpoints.region,
        aws_access_key_id=endpoints.access_key_id,
        aws_secret_access_key=endpoints.secret_access_key,
    )
    yield client
    client.close()


@pytest.fixture
def tailrace_client(tailrace_service: ServiceInThread) -> Client:
    """A :class:`tailrace.Client` of ``tailrace_service``, for asynchronous tests and others.

    It need not be closed. Each of its calls may be made in another event loop, so that tests that
    are no coroutines use ``asyncio.run``.

    Example::

        async def test_opening(tailrace_client):
            opened = await tailrace_client.open(services=["SSH"])
            assert (await tailrace_client.describe(opened.tunnel_id)).services == ("SSH",)
    """
    return tailrace_service.client()


@pytest.fixture
def tailrace_tunnel(tailrace_service: ServiceInThread) -> Iterator[TunnelFactory]:
    """Open tunnels to local ports; they are closed when the test ends.

    Call it with a service id and the port, or ``"HOST:PORT"``, of an application for each service.
    What it returns has ``url("HTTP")`` and ``address("SSH")``: where clients reach the service
    through the tunnel. It also has what can go wrong: ``cut()``, ``silence()``, ``throttle()``,
    ``refuse()``, ``rotate()``, ``expire()`` and ``close()``.

    Example::

        def test_device(tailrace_tunnel, device):
            tunnel = tailrace_tunnel(HTTP=device.port)
            assert httpx.get(tunnel.url("HTTP")).status_code == 200
    """
    with tailrace_service.tunnels() as factory:
        yield factory
