"""The options of ``tailrace agent run`` for devices that wait at ``tailrace serve`` itself."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..agent.sources.service import ServiceSource

__all__ = ["add_service_option", "adopt_service"]


def add_service_option(container: argparse._ActionsContainer) -> None:
    """Add the option; :func:`adopt_service` reads it."""
    container.add_argument(
        "--service-url",
        metavar="URL",
        help="wait at the tailrace serve whose control API this is (default: the service that "
        "tailrace join has joined, or that this user runs here, where no other way in is given)",
    )


def adopt_service(
    args: argparse.Namespace, environment: Mapping[str, str], *, has_other: bool
) -> ServiceSource | None:
    """Return the source for the service to wait at, ``None`` if there is none.

    What the joined service tells takes the place of options that are not given: the thing, the
    data endpoint, the certificates. ``has_other`` says that notifications come in another way, too.

    Raises:
        ConfigurationError: something is missing, or cannot be used.
    """
    from ..agent.sources.service import service_source
    from ..aws import find_joined, find_running
    from ..common.enrolment import Role
    from ..library import endpoint_in

    url: str | None = args.service_url
    if url is None and has_other:
        return None
    joined = find_joined(environment)
    if joined is None and (url is not None or args.thing_name is not None):
        joined = find_running(environment)
    elif url is None and (joined is None or joined.role is not Role.DEVICE):
        return None
    if url is None and joined is None:
        return None
    source = service_source(url, args.thing_name, environment)
    if joined is not None and joined.role is Role.DEVICE:
        args.thing_name = args.thing_name or joined.name
    if args.proxy_endpoint is not None or endpoint_in(environment)[1] is not None:
        return source
    if joined is None or joined.api_endpoint != source.name:
        raise ConfigurationError(
            f"where do local proxies connect to the service of {source.name}? Give "
            "--proxy-endpoint HOST:PORT, or join it with tailrace join"
        )
    args.proxy_endpoint = joined.data_endpoint
    args.capath = args.capath or joined.ca_file
    return source
