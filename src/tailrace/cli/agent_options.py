"""The options of ``tailrace agent run``, which other actions share, and what they say."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..common.addresses import DEFAULT_LISTEN_HOST, AddressError, TCPAddress, parse_tcp_address
from ..common.event_loop import LoopChoice
from ..errors import ConfigurationError
from .agent_broker import add_broker_options
from .agent_device_client import add_device_client_option
from .agent_service import add_service_option
from .arguments import RESUME_TIMEOUT, RESUME_TIMEOUT_HELP, resume_timeout
from .localproxy.files import default_state_dir

if TYPE_CHECKING:
    from ..agent.map_file import MapFile
    from ..library import ServiceMap, ServiceRule

__all__ = [
    "DESTINATION",
    "LOG_LEVEL",
    "NO_WAY_IN",
    "PROCESS",
    "STATE_DIR",
    "Option",
    "add_options",
    "add_run_options",
    "agent_state_dir",
    "capath_of",
    "max_tunnels_of",
    "metrics_listen_of",
    "services_of",
]

LOG_LEVEL: Final = "info"
"""Unless an option or the configuration of Device Client says otherwise."""

NO_WAY_IN: Final = (
    "no way in for notifications: give --endpoint or --broker, --notify-file, "
    "--notify-stdin or --service-url, or join a service with tailrace join"
)

_STATE: Final = "tailrace-agent"
_MAX_TUNNELS: Final = 20
_LOG_LEVELS: Final = ("debug", "info", "warning", "error")


class Option(NamedTuple):
    """One option, as :meth:`argparse.ArgumentParser.add_argument` takes it."""

    name: str
    help: str
    settings: Mapping[str, Any] = {}


DESTINATION: Final = (
    Option(
        "--service",
        "serve service ID at TARGET: PORT, HOST:PORT or a path; * in place of ID is for all; may "
        "be repeated",
        {"metavar": "ID=TARGET", "action": "append", "default": []},
    ),
    Option(
        "--services-file",
        "serve the services of FILE, in TOML, which may change",
        {"metavar": "FILE", "type": Path},
    ),
    Option("--region", "AWS region of tunnels whose notifications name none"),
    Option(
        "--proxy-endpoint",
        "data endpoint of all tunnels, instead of that of their region (default: "
        "AWSIOT_TUNNEL_ENDPOINT)",
        {"metavar": "HOST[:PORT]"},
    ),
    Option(
        "--capath",
        "file or directory of PEM certificates to trust besides the system's",
        {"metavar": "PATH", "type": Path},
    ),
    Option(
        "--resume-timeout",
        RESUME_TIMEOUT_HELP,
        {"metavar": "SECONDS", "type": resume_timeout, "default": RESUME_TIMEOUT},
    ),
)
_WAYS_IN: Final = (
    Option(
        "--thing-name",
        "the thing that this device is; notifications for others are ignored",
        {"metavar": "THING"},
    ),
    Option(
        "--notify-file",
        "watch FILE for notifications: one, or one on each line",
        {"metavar": "FILE", "type": Path},
    ),
    Option(
        "--notify-stdin",
        "read notifications from standard input, one on each line; when it ends, and the tunnels "
        "have, so does the agent",
        {"action": "store_true"},
    ),
)
_RUNNING: Final = (
    Option(
        "--max-tunnels",
        "tunnels to serve at once (default: %(default)s)",
        {"metavar": "COUNT", "type": int, "default": _MAX_TUNNELS},
    ),
    Option(
        "--ready-file",
        "create FILE, with the status in JSON, once notifications are received",
        {"metavar": "FILE", "type": Path},
    ),
    Option(
        "--status-file",
        "keep the status in FILE, in JSON, while the agent runs",
        {"metavar": "FILE", "type": Path},
    ),
    Option(
        "--metrics-listen",
        "serve metrics for Prometheus at http://HOST:PORT/metrics (HOST: localhost)",
        {"metavar": "[HOST:]PORT"},
    ),
)
PROCESS: Final = (
    Option(
        "--loop",
        "event loop; auto is uvloop if it is installed (default: %(default)s)",
        {"choices": [each.value for each in LoopChoice], "default": LoopChoice.AUTO.value},
    ),
    Option(
        "--log-level",
        f"least severe messages to log (default: {LOG_LEVEL})",
        {"choices": _LOG_LEVELS},
    ),
    Option(
        "--log-format",
        "format of the log (default: %(default)s)",
        {"choices": ("text", "json"), "default": "text"},
    ),
)
STATE_DIR: Final = Option(
    "--state-dir",
    "directory of what the agent keeps over restarts (default: STATE_DIRECTORY/tailrace-agent "
    "or ~/.local/state/tailrace-agent)",
    {"metavar": "DIR", "type": Path},
)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add what ``tailrace agent run`` can be told."""
    for title, options in (
        ("tunnels", (*DESTINATION, *_RUNNING[:1])),
        ("notifications", _WAYS_IN),
        ("process", (STATE_DIR, *_RUNNING[1:], *PROCESS)),
    ):
        group = parser.add_argument_group(title)
        add_options(group, options)
        if options is _WAYS_IN:
            add_broker_options(group)
            add_device_client_option(group)
            add_service_option(group)


def add_options(container: argparse._ActionsContainer, options: Iterable[Option]) -> None:
    """Add some of the options."""
    for option in options:
        container.add_argument(option.name, help=option.help, **option.settings)


def services_of(
    args: argparse.Namespace, otherwise: Mapping[str, ServiceRule]
) -> tuple[ServiceMap, MapFile | None]:
    """Return the map of the options, and what keeps it as the file says if there is one.

    Without either, it is what ``otherwise`` has.

    Raises:
        ConfigurationError: an option or the file is not valid, or there are no services.
    """
    from ..agent.map_file import MapFile
    from ..agent.service_map import parse_services
    from ..library import ServiceMap

    rules = parse_services(args.service)
    if not rules and args.services_file is None:
        rules = dict(otherwise)
    services = ServiceMap(rules)
    file = None
    if args.services_file is not None:
        file = MapFile(args.services_file, services, rules)
        file.load()
    if not services.rules:
        raise ConfigurationError(
            "no services: give --service ID=TARGET, as SSH=22, or --services-file FILE"
        )
    return services, file


def capath_of(args: argparse.Namespace) -> Path | None:
    """Return the certificates to trust for tunnels.

    Raises:
        ConfigurationError: there are none where the option says.
    """
    path: Path | None = args.capath
    if path is not None and not path.exists():
        raise ConfigurationError(f"--capath {path}: there is no such file or directory")
    return path


def metrics_listen_of(args: argparse.Namespace) -> TCPAddress | None:
    """Return where Prometheus finds metrics.

    Raises:
        ConfigurationError: that is no address.
    """
    if args.metrics_listen is None:
        return None
    try:
        return parse_tcp_address(args.metrics_listen, DEFAULT_LISTEN_HOST, minimum_port=0)
    except AddressError as error:
        raise ConfigurationError(f"--metrics-listen: {error}") from None


def max_tunnels_of(args: argparse.Namespace) -> int:
    """Return how many tunnels there may be.

    Raises:
        ConfigurationError: less than one.
    """
    count: int = args.max_tunnels
    if count < 1:
        raise ConfigurationError(f"--max-tunnels {count} is less than 1")
    return count


def agent_state_dir(args: argparse.Namespace) -> Path:
    """Return the absolute path of the state directory of the agent.

    Raises:
        ConfigurationError: there is no home directory to have it in.
    """
    chosen: Path | None = args.state_dir or default_state_dir(os.environ, _STATE)
    if chosen is None:
        raise ConfigurationError("this user has no home directory: give --state-dir DIR")
    return chosen.absolute()
