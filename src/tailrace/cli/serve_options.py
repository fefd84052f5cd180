"""The options of ``tailrace serve`` that its operators need."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..common.log_floods import FloodFilter
from ..common.queued_output import QueuedHandler
from ..common.systemd import JournalFormatter, is_journal
from ..mqtt.topics import AWS_TEMPLATE
from ..service.config import DataSettings, OperationSettings, parse_address
from ..service.networks import parse_network
from ..service.notify.command import parse_command
from ..service.operation import operation_settings
from ..service.telemetry.log_format import JsonFormatter, TextFormatter

__all__ = ["add_operation_options", "data_settings", "read_operation", "start_logging"]

_FILES: Final = (
    ("--tls-cert", "PEM certificate chain to use instead of one from the service's own CA"),
    ("--tls-key", "its private key, if it is not in the same file"),
    ("--tls-ca", "CA certificates that clients need for that certificate, for tailrace env"),
    ("--audit-log", "append who did what to which tunnel, and who connected from where"),
    ("--mqtt-ca", "CA certificates to trust for mqtts:// instead of the system's"),
    ("--mqtt-cert", "client certificate for the MQTT broker, in PEM"),
    ("--mqtt-key", "its private key, if it is not in the same file"),
)


def add_operation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; :func:`read_operation` reads them."""
    group = parser.add_argument_group("operation")
    for option, text in _FILES:
        group.add_argument(option, metavar="FILE", type=Path, help=text)
    group.add_argument(
        "--metrics-listen",
        metavar="HOST:PORT",
        help="serve /metrics, /healthz and /readyz at this address, over plain HTTP "
        "(default: with the control API)",
    )
    group.add_argument(
        "--proxy-protocol",
        metavar="NETWORK",
        action="append",
        default=[],
        help="network of load balancers, such as 10.0.0.0/8, that send a PROXY header (v1 or v2) "
        "on the connections of local proxies; may be repeated",
    )
    group.add_argument(
        "--forwarded-for",
        metavar="NETWORK",
        action="append",
        default=[],
        help="network of reverse proxies, such as 10.0.0.0/8, whose X-Forwarded-For names the "
        "client, on both ports; may be repeated",
    )
    group.add_argument(
        "--allow-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="origin of web pages, such as https://console.example, whose browsers may send an "
        "access token in a cookie; may be repeated (default: none)",
    )
    group.add_argument(
        "--mqtt-url",
        metavar="URL",
        help="notify things of new tunnels through this broker: mqtt[s]://[user[:password]@]host"
        "[:port]; TAILRACE_MQTT_USER and TAILRACE_MQTT_PASSWORD keep the credentials off the "
        "command line",
    )
    group.add_argument(
        "--notify-command",
        metavar="COMMAND",
        help="notify things of new tunnels by running this command, which reads a JSON object "
        "from standard input",
    )
    group.add_argument(
        "--notify-topic",
        metavar="TEMPLATE",
        default=AWS_TEMPLATE,
        help="MQTT topic on which a thing is notified, with {thing} in place of its name "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="format of the log (default: %(default)s)",
    )


def read_operation(args: argparse.Namespace, environment: Mapping[str, str]) -> OperationSettings:
    """Return what the options say.

    Raises:
        ConfigurationError: one of them is not valid, or does not go with the others.
    """
    listen: str | None = args.metrics_listen
    command: str | None = args.notify_command
    return operation_settings(
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        tls_ca=args.tls_ca,
        metrics_listen=None if listen is None else parse_address(listen, "--metrics-listen"),
        audit_log=args.audit_log,
        mqtt_url=args.mqtt_url,
        mqtt_ca=args.mqtt_ca,
        mqtt_cert=args.mqtt_cert,
        mqtt_key=args.mqtt_key,
        notify_command=() if command is None else parse_command(command),
        notify_topic=args.notify_topic,
        environment=environment,
    )


def data_settings(args: argparse.Namespace) -> DataSettings:
    """Return what the options say about the connections of local proxies.

    Raises:
        ConfigurationError: one of them is not valid.
    """
    # It takes much with it, which agents do not need.
    from ..service.relay.handshake import parse_origin

    return DataSettings(
        proxies=tuple(parse_network(text, "--proxy-protocol") for text in args.proxy_protocol),
        forwarders=tuple(parse_network(text, "--forwarded-for") for text in args.forwarded_for),
        origins=frozenset(parse_origin(text, "--allow-origin") for text in args.allow_origin),
    )


def start_logging(args: argparse.Namespace) -> None:
    """Log to standard error as the options say."""
    handler = QueuedHandler(sys.stderr)
    formatter = JsonFormatter() if args.log_format == "json" else TextFormatter()
    in_journal = is_journal(sys.stderr, os.environ)
    handler.setFormatter(JournalFormatter(formatter) if in_journal else formatter)
    handler.addFilter(FloodFilter(logging.INFO))
    logging.basicConfig(level=args.log_level.upper(), handlers=[handler])
