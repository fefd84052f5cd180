"""The option of ``tailrace agent run`` that takes over the settings of AWS IoT Device Client."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..agent.device_client import DeviceClientSettings
    from ..library import ServiceRule

__all__ = ["Adopted", "add_device_client_option", "adopt_device_client"]

_PROXY_VARIABLE: Final = "https_proxy"


class Adopted:
    """What is taken over beside the options: the services, and what is to be logged."""

    def __init__(
        self, services: Mapping[str, ServiceRule] | None = None, warnings: tuple[str, ...] = ()
    ) -> None:
        self.services = services or {}
        self.warnings = warnings


def add_device_client_option(group: argparse._ArgumentGroup) -> None:
    """Add the option; :func:`adopt_device_client` reads it."""
    group.add_argument(
        "--device-client-config",
        metavar="FILE",
        type=Path,
        help="take what no option says from the configuration of AWS IoT Device Client, which must "
        "not run",
    )


def adopt_device_client(args: argparse.Namespace, environment: MutableMapping[str, str]) -> Adopted:
    """Put the settings of Device Client in place of options that were not given.

    Its web proxy goes to ``environment``, where MQTT and tunnels look for it.

    Raises:
        ConfigurationError: the files cannot be used, or Device Client runs with the client id.
    """
    if args.device_client_config is None:
        return Adopted()
    from ..agent.device_client import check_device_client_is_not_running, read_device_client

    home = environment.get("HOME")
    if not home:
        raise ConfigurationError("--device-client-config needs HOME, which is not set")
    found = read_device_client(args.device_client_config, environment, Path(home))
    if args.client_id is None and args.broker is None:
        check_device_client_is_not_running()
    if args.broker is None and args.cert is None:
        _adopt(args, endpoint=found.endpoint, ca=found.root_ca)
        _adopt(args, cert=found.certificate, key=found.key)
    _adopt(args, thing_name=found.thing_name, log_level=found.log_level)
    _adopt(args, capath=found.root_ca, proxy_endpoint=found.tunneling_endpoint)
    _adopt_proxy(found, environment)
    return Adopted(found.services, found.warnings)


def _adopt(args: argparse.Namespace, **values: object) -> None:
    for name, value in values.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _adopt_proxy(found: DeviceClientSettings, environment: MutableMapping[str, str]) -> None:
    proxy = found.web_proxy
    if proxy is None or _PROXY_VARIABLE in environment or _PROXY_VARIABLE.upper() in environment:
        return
    environment[_PROXY_VARIABLE] = proxy.url
