"""The options of ``tailrace agent`` by which it finds its MQTT broker."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..common.setting_errors import SettingsError
from ..errors import ConfigurationError
from ..mqtt.topics import AWS_TEMPLATE, is_thing_name, parse_topic_template
from .localproxy.files import read_text

if TYPE_CHECKING:
    from ..agent.sources.mqtt import MqttSourceSettings
    from ..mqtt.settings import BrokerSettings

__all__ = ["add_broker_options", "read_broker"]

_KEEP_ALIVE: Final = 45
_SHORTEST, _LONGEST = 5, 1200
"""Seconds between signs of life; AWS IoT Core takes 30 to 1200."""
_MAX_CLIENT_ID: Final = 128
_MAX_PORT: Final = 65_535
_NAMES: Final = {
    "alpn": "--alpn",
    "endpoint": "--endpoint",
    "mqtt_ca": "--ca",
    "mqtt_cert": "--cert",
    "mqtt_key": "--key",
    "mqtt_url": "--broker",
    "notify_topic": "--notify-topic",
}
_ONLY_WITH_A_BROKER: Final = (
    "--cert",
    "--key",
    "--ca",
    "--port",
    "--alpn",
    "--password-file",
    "--client-id",
)
_ONLY_WITH_AN_ENDPOINT: Final = ("--port", "--alpn")


def add_broker_options(group: argparse._ArgumentGroup) -> None:
    """Add the options; :func:`read_broker` reads them, and ``--thing-name``."""
    group.add_argument(
        "--endpoint",
        metavar="HOST",
        help="host of AWS IoT Core, as printed by: aws iot describe-endpoint --endpoint-type "
        "iot:Data-ATS",
    )
    group.add_argument(
        "--broker",
        metavar="URL",
        help="another MQTT broker: mqtt[s]://[user[:password]@]host[:port]; TAILRACE_MQTT_USER and "
        "TAILRACE_MQTT_PASSWORD keep the credentials off the command line",
    )
    for option, text in (
        ("--cert", "certificate of this device, in PEM"),
        ("--key", "its private key, if it is not in the same file"),
        ("--ca", "CA certificates to trust for the broker instead of the system's"),
        ("--password-file", "file with the password for the broker"),
    ):
        group.add_argument(option, metavar="FILE", type=Path, help=text)
    group.add_argument(
        "--port",
        type=int,
        help="port of the endpoint, 8883 or 443 (default: 8883)",
    )
    group.add_argument(
        "--alpn",
        metavar="NAME",
        help="protocol to offer in TLS (default: x-amzn-mqtt-ca on port 443, none elsewhere)",
    )
    group.add_argument(
        "--client-id", metavar="ID", help="MQTT client id (default: the name of the thing)"
    )
    group.add_argument(
        "--notify-topic",
        metavar="TEMPLATE",
        default=AWS_TEMPLATE,
        help="topic of the notifications, with {thing} in place of the name of the thing "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--keep-alive",
        metavar="SECONDS",
        type=int,
        default=_KEEP_ALIVE,
        help="time between signs of life of an idle connection (default: %(default)s)",
    )


def read_broker(
    args: argparse.Namespace, environment: Mapping[str, str]
) -> MqttSourceSettings | None:
    """Return what the options say, ``None`` if they name no broker.

    Raises:
        ConfigurationError: one of them is not valid, or does not go with the others.
    """
    if args.endpoint is None and args.broker is None:
        for option in _ONLY_WITH_A_BROKER:
            if _given(args, option) is not None:
                raise _wrong(option, f"{option} needs --endpoint or --broker")
        return None
    if args.endpoint is not None and args.broker is not None:
        raise _wrong("--broker", "--endpoint and --broker name two brokers; give one of them")
    thing_name: str | None = args.thing_name
    if thing_name is None:
        raise _wrong("--thing-name", "a broker needs --thing-name: whose notifications to receive")
    if not is_thing_name(thing_name):
        text = f"--thing-name {thing_name!r} is not the name of a thing: letters, digits, : _ and -"
        raise _wrong("--thing-name", text)
    client_id: str = args.client_id or thing_name
    if not client_id.isprintable() or len(client_id.encode()) > _MAX_CLIENT_ID:
        text = f"--client-id must be printable and have at most {_MAX_CLIENT_ID} bytes"
        raise _wrong("--client-id", text)
    if not _SHORTEST <= args.keep_alive <= _LONGEST:
        text = f"--keep-alive {args.keep_alive} is not from {_SHORTEST} to {_LONGEST} seconds"
        raise _wrong("--keep-alive", text)
    try:
        return _settings(args, environment, thing_name, client_id)
    except SettingsError as error:
        raise _wrong(_NAMES[error.setting], error.text(_NAMES)) from None


def _settings(
    args: argparse.Namespace, environment: Mapping[str, str], thing_name: str, client_id: str
) -> MqttSourceSettings:
    from ..agent.sources.mqtt import MqttSourceSettings
    from ..link.proxy.settings import web_proxy_for

    broker = _aws(args) if args.broker is None else _other(args, environment)
    proxy = None
    if broker.tls is not None:  # https_proxy is for what is encrypted
        proxy = web_proxy_for(broker.host, broker.port, environment)
    return MqttSourceSettings(
        broker,
        thing_name,
        client_id,
        parse_topic_template(args.notify_topic),
        args.keep_alive,
        proxy,
    )


def _aws(args: argparse.Namespace) -> BrokerSettings:
    from ..mqtt.settings import aws_broker

    if args.cert is None:
        raise _wrong("--cert", "--endpoint needs --cert: AWS IoT Core tells devices by certificate")
    if args.password_file is not None:
        raise _wrong("--password-file", "--password-file needs --broker")
    port = 8883 if args.port is None else args.port
    if not 1 <= port <= _MAX_PORT:
        raise _wrong("--port", f"--port {port} is not from 1 to {_MAX_PORT}")
    return aws_broker(
        args.endpoint, cert=args.cert, key=args.key, ca=args.ca, port=port, alpn=args.alpn
    )


def _other(args: argparse.Namespace, environment: Mapping[str, str]) -> BrokerSettings:
    from ..mqtt.settings import PASSWORD_VARIABLE, parse_mqtt_url

    for option in _ONLY_WITH_AN_ENDPOINT:
        if _given(args, option) is not None:
            raise _wrong(option, f"{option} needs --endpoint; the port of --broker is in its URL")
    if args.password_file is not None:
        password = _password(args.password_file)
        environment = {**environment, PASSWORD_VARIABLE: password}
    return parse_mqtt_url(args.broker, environment, ca=args.ca, cert=args.cert, key=args.key)


def _password(path: Path) -> str:
    try:
        password = read_text(str(path)).rstrip("\r\n")
    except OSError as error:
        text = f"--password-file {path} cannot be read: {error.strerror}"
        raise _wrong("--password-file", text) from None
    if not password:
        raise _wrong("--password-file", f"--password-file {path} is empty")
    return password


def _given(args: argparse.Namespace, option: str) -> object:
    return getattr(args, option.removeprefix("--").replace("-", "_"))


def _wrong(option: str, text: str) -> ConfigurationError:
    return ConfigurationError(text, setting=option)
