"""The options of ``tailrace serve`` for those who operate it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError
from ..service.config import OperationSettings, parse_address
from ..service.notify.command import parse_command
from ..service.notify.mqtt import parse_mqtt_url
from ..service.relay.proxy_protocol import Network, parse_network
from ..service.telemetry.json_log import TEXT_FORMAT, JsonFormatter

__all__ = ["add_operation_options", "operation_settings", "proxy_networks", "start_logging"]

_FILES: Final = (
    ("--tls-cert", "certificate with its chain, in PEM, instead of the service's own authority's"),
    ("--tls-key", "its private key; may be in the same file"),
    ("--tls-ca", "what clients of that certificate have to trust, for tailrace env"),
    ("--audit-log", "append who did what to which tunnel, and who connected from where"),
    ("--mqtt-ca", "authorities to trust for mqtts:// instead of the system's"),
    ("--mqtt-cert", "client certificate for the MQTT broker, in PEM"),
    ("--mqtt-key", "its private key; may be in the same file"),
)


def add_operation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; :func:`operation_settings` reads them."""
    group = parser.add_argument_group("operation")
    for option, text in _FILES:
        group.add_argument(option, metavar="FILE", type=Path, help=text)
    group.add_argument(
        "--metrics-listen",
        metavar="HOST:PORT",
        help="serve /metrics, /healthz and /readyz there, over plain HTTP "
        "(default: with the control API)",
    )
    group.add_argument(
        "--proxy-protocol",
        metavar="NETWORK",
        action="append",
        default=[],
        help="network of a load balancer, such as 10.0.0.0/8, that puts a PROXY header (v1 or "
        "v2) in front of connections of local proxies; may be repeated",
    )
    group.add_argument(
        "--mqtt-url",
        metavar="URL",
        help="tell things of their tunnels through this broker: mqtt[s]://[user[:password]@]host"
        "[:port]; better give user and password in TAILRACE_MQTT_USER, TAILRACE_MQTT_PASSWORD",
    )
    group.add_argument(
        "--notify-command",
        metavar="COMMAND",
        help="tell things of their tunnels through this command, which gets a JSON object as "
        "standard input",
    )
    group.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="default: %(default)s"
    )


def operation_settings(
    args: argparse.Namespace, environment: Mapping[str, str]
) -> OperationSettings:
    """Return what the options say.

    Raises:
        ConfigurationError: one of them cannot be used, or does not fit the others.
    """
    _check_belonging(args)
    mqtt = None
    if args.mqtt_url is not None:
        mqtt = parse_mqtt_url(
            args.mqtt_url, environment, ca=args.mqtt_ca, cert=args.mqtt_cert, key=args.mqtt_key
        )
    return OperationSettings(
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        tls_ca=args.tls_ca,
        metrics_listen=(
            None
            if args.metrics_listen is None
            else parse_address(args.metrics_listen, "--metrics-listen")
        ),
        audit_log=args.audit_log,
        mqtt=mqtt,
        notify_command=(() if args.notify_command is None else parse_command(args.notify_command)),
    )


def _check_belonging(args: argparse.Namespace) -> None:
    for option, owner in (
        ("--tls-key", "--tls-cert"),
        ("--tls-ca", "--tls-cert"),
        ("--mqtt-ca", "--mqtt-url"),
        ("--mqtt-cert", "--mqtt-url"),
        ("--mqtt-key", "--mqtt-url"),
    ):
        if _value(args, option) is not None and _value(args, owner) is None:
            raise ConfigurationError(f"{option} needs {owner}")


def _value(args: argparse.Namespace, option: str) -> object:
    value: object = getattr(args, option.removeprefix("--").replace("-", "_"))
    return value


def proxy_networks(args: argparse.Namespace) -> tuple[Network, ...]:
    """Return the networks whose connections begin with a PROXY header.

    Raises:
        ConfigurationError: one of them is not a network.
    """
    return tuple(parse_network(text, "--proxy-protocol") for text in args.proxy_protocol)


def start_logging(args: argparse.Namespace) -> None:
    """Log to standard error as the options say."""
    handler = logging.StreamHandler(sys.stderr)
    json_wanted = args.log_format == "json"
    handler.setFormatter(JsonFormatter() if json_wanted else logging.Formatter(TEXT_FORMAT))
    logging.basicConfig(level=args.log_level.upper(), handlers=[handler])
