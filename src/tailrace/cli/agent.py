"""``tailrace agent`` runs the device agent, one tunnel alone, or stops agents from opening any."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..common.event_loop import LoopChoice, loop_factory, raise_descriptor_limit
from ..common.log_floods import telling_floods
from ..common.stray_exceptions import stray_exceptions_logged
from ..errors import ConfigurationError, TailraceError
from .agent_broker import add_broker_options, read_broker
from .agent_device_client import add_device_client_option, adopt_device_client
from .agent_service import add_service_option, adopt_service
from .arguments import Subparsers
from .localproxy.files import default_state_dir, read_text
from .signals import signals_handled

if TYPE_CHECKING:
    from ..agent.agent import Agent
    from ..agent.map_file import MapFile
    from ..agent.notification import Notification
    from ..agent.served_tunnel import DestinationSettings
    from ..agent.sources.base import NotificationSource
    from ..library import ServiceMap, ServiceRule

__all__ = ["add_agent_parser", "run_agent"]

_STATE: Final = "tailrace-agent"
_MAX_TUNNELS: Final = 20
_LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_LOG_LEVEL: Final = "info"
_CONSTANT: Final = "c" * 32

_log = logging.getLogger("tailrace.agent")


class _Option(NamedTuple):
    """One option, as :meth:`argparse.ArgumentParser.add_argument` takes it."""

    name: str
    help: str
    settings: Mapping[str, Any] = {}


_DESTINATION: Final = (
    _Option(
        "--service",
        "serve service ID at TARGET: PORT, HOST:PORT or a path; * in place of ID is for all; may "
        "be repeated",
        {"metavar": "ID=TARGET", "action": "append", "default": []},
    ),
    _Option(
        "--services-file",
        "serve the services of FILE, in TOML, which may change",
        {"metavar": "FILE", "type": Path},
    ),
    _Option("--region", "AWS region of tunnels whose notifications name none"),
    _Option(
        "--proxy-endpoint",
        "data endpoint of all tunnels, instead of that of their region (default: "
        "AWSIOT_TUNNEL_ENDPOINT)",
        {"metavar": "HOST[:PORT]"},
    ),
    _Option(
        "--capath",
        "file or directory of PEM certificates to trust besides the system's",
        {"metavar": "PATH", "type": Path},
    ),
)
_WAYS_IN: Final = (
    _Option(
        "--thing-name",
        "the thing that this device is; notifications for others are ignored",
        {"metavar": "THING"},
    ),
    _Option(
        "--notify-file",
        "watch FILE for notifications: one, or one on each line",
        {"metavar": "FILE", "type": Path},
    ),
    _Option(
        "--notify-stdin",
        "read notifications from standard input, one on each line; when it ends, and the tunnels "
        "have, so does the agent",
        {"action": "store_true"},
    ),
)
_RUNNING: Final = (
    _Option(
        "--max-tunnels",
        "tunnels to serve at once (default: %(default)s)",
        {"metavar": "COUNT", "type": int, "default": _MAX_TUNNELS},
    ),
    _Option(
        "--ready-file",
        "create FILE, with the status in JSON, once notifications are received",
        {"metavar": "FILE", "type": Path},
    ),
    _Option(
        "--status-file",
        "keep the status in FILE, in JSON, while the agent runs",
        {"metavar": "FILE", "type": Path},
    ),
)
_PROCESS: Final = (
    _Option(
        "--loop",
        "event loop; auto is uvloop if it is installed (default: %(default)s)",
        {"choices": [each.value for each in LoopChoice], "default": LoopChoice.AUTO.value},
    ),
    _Option(
        "--log-level",
        f"least severe messages to log (default: {_LOG_LEVEL})",
        {"choices": _LOG_LEVELS},
    ),
    _Option(
        "--log-format",
        "format of the log (default: %(default)s)",
        {"choices": ("text", "json"), "default": "text"},
    ),
)
_STATE_DIR: Final = _Option(
    "--state-dir",
    "directory of what the agent keeps over restarts (default: STATE_DIRECTORY/tailrace-agent "
    "or ~/.local/state/tailrace-agent)",
    {"metavar": "DIR", "type": Path},
)


def add_agent_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``agent``; its arguments go to :func:`run_agent`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "agent",
        help="serve the tunnels of which a device is notified",
        description="Serve the tunnels of which a device is notified: the device agent.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    running = _add_action(actions, "run", "wait for notifications, and serve their tunnels", _run)
    for title, options in (
        ("tunnels", (*_DESTINATION, *_RUNNING[:1])),
        ("notifications", _WAYS_IN),
        ("process", (_STATE_DIR, *_RUNNING[1:], *_PROCESS)),
    ):
        group = running.add_argument_group(title)
        _add_options(group, options)
        if options is _WAYS_IN:
            add_broker_options(group)
            add_device_client_option(group)
            add_service_option(group)
    once = _add_action(actions, "once", "serve one tunnel, and end with it", _once)
    once.add_argument(
        "token", metavar="TOKEN-FILE", help="file with a destination token, or a notification"
    )
    _add_options(once, (*_DESTINATION, _STATE_DIR, *_PROCESS))
    disabling = _add_action(
        actions, "disable", "open no tunnels from now on, also after a restart", _disable
    )
    disabling.add_argument("--now", action="store_true", help="also end the tunnels that are up")
    enabling = _add_action(actions, "enable", "open tunnels again", _enable)
    for each in (disabling, enabling):
        _add_options(each, (_STATE_DIR,))
    return parser


def _add_options(container: argparse._ActionsContainer, options: Iterable[_Option]) -> None:
    for option in options:
        container.add_argument(option.name, help=option.help, **option.settings)


def _add_action(
    actions: Subparsers, name: str, text: str, function: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    parser.set_defaults(run_action=function)
    return parser


def run_agent(args: argparse.Namespace) -> None:
    """Run one of the actions.

    Raises:
        TailraceError: it cannot be done.
    """
    args.run_action(args)


# -- run ------------------------------------------------------------------------------------------


@stray_exceptions_logged()
def _run(args: argparse.Namespace) -> None:
    from ..agent.agent import Agent

    adopted = adopt_device_client(args, os.environ)
    sources = _sources(args)
    waiting = adopt_service(args, os.environ, has_other=bool(sources))
    if waiting is not None:
        sources.append(waiting)
    if not sources:
        raise ConfigurationError(
            "no way in for notifications: give --endpoint or --broker, --notify-file, "
            "--notify-stdin or --service-url, or join a service with tailrace join"
        )
    services, file = _services(args, adopted.services)
    agent = Agent(
        services,
        thing_name=args.thing_name,
        region=args.region,
        endpoint=args.proxy_endpoint,
        ca=_capath(args),
        max_tunnels=_max_tunnels(args),
        state_dir=_state_dir(args),
    )
    _start(args, lambda: _serve(agent, sources, file, args), adopted.warnings)


def _start(args: argparse.Namespace, main: Callable[[], Any], warnings: Iterable[str] = ()) -> None:
    from .serve_options import start_logging

    make_loop = loop_factory(LoopChoice(args.loop))
    args.log_level = args.log_level or _LOG_LEVEL
    start_logging(args)
    for warning in warnings:
        _log.warning("%s", warning)
    raise_descriptor_limit()
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main())


async def _serve(
    agent: Agent,
    sources: list[NotificationSource],
    file: MapFile | None,
    args: argparse.Namespace,
) -> None:
    from ..agent.status_file import status_shown

    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def reload() -> None:
        if file is not None:
            file.reload()
        agent.log_status()

    with telling_floods(loop), signals_handled(stopping.set, reload):
        async with agent:
            with ExitStack() as stack:
                if file is not None:
                    stack.callback(loop.create_task(file.watch()).cancel)
                running = loop.create_task(agent.run(*sources))
                await asyncio.sleep(0)  # the sources are part of the status from here on
                agent.log_status()
                for path in (args.status_file, args.ready_file):
                    if path is not None:
                        stack.enter_context(status_shown(agent, path))
                await _first_of(running, stopping)


async def _first_of(running: asyncio.Task[None], stopping: asyncio.Event) -> None:
    """Wait for the end of a task, or end it when that is asked for.

    Raises:
        TailraceError: the task has failed.
    """
    waiting = asyncio.get_running_loop().create_task(stopping.wait())
    await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if stopping.is_set():
        _log.info("ending, as asked")
        running.cancel()
    await asyncio.wait([running, waiting])
    if not running.cancelled():
        running.result()


def _sources(args: argparse.Namespace) -> list[NotificationSource]:
    from ..agent.sources.file import FileSource
    from ..agent.sources.stdin import StdinSource

    sources: list[NotificationSource] = []
    broker = read_broker(args, os.environ)
    if broker is not None:
        from ..agent.sources.mqtt import MqttSource

        sources.append(MqttSource(broker))
    if args.notify_file is not None:
        sources.append(FileSource(args.notify_file))
    if args.notify_stdin:
        sources.append(StdinSource())
    return sources


# -- once -----------------------------------------------------------------------------------------


@stray_exceptions_logged()
def _once(args: argparse.Namespace) -> None:
    from ..agent.notification import LIFETIME
    from ..agent.served_tunnel import ServedTunnel
    from ..agent.state import KeptTunnel
    from ..localproxy.client_token import kept_client_token

    notification = _notification(args.token)
    settings = _destination_settings(args, notification)
    directory = _state_dir(args) / "once"
    with kept_client_token(directory, notification.access_token) as client_token:
        kept = KeptTunnel(notification, client_token, time.time())
        served = ServedTunnel(kept, settings, LIFETIME, lambda kept: None, lambda: None)
        _start(args, lambda: _serve_one(served.run))


async def _serve_one(serve: Callable[[], Any]) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    async def run() -> None:
        _log.info("the tunnel has ended: %s", await serve())

    with telling_floods(loop), signals_handled(stopping.set, lambda: None):
        await _first_of(loop.create_task(run()), stopping)


def _notification(path: str) -> Notification:
    """Return what a file with a token, or with a notification, says.

    Raises:
        ConfigurationError: it cannot be read, or holds neither.
    """
    from ..agent.notification import parse_notification

    try:
        text = read_text(path).strip()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    if not text.startswith("{"):
        text = json.dumps({"clientAccessToken": text, "clientMode": "destination"})
    try:
        return parse_notification(text.encode(errors="surrogateescape"))
    except TailraceError as error:
        raise ConfigurationError(f"{path} holds no token: {error}") from None


def _destination_settings(
    args: argparse.Namespace, notification: Notification
) -> DestinationSettings:
    from ..agent.served_tunnel import DestinationSettings, destination
    from ..agent.state import KeptTunnel
    from ..common.secret import Secret
    from ..library import endpoint_in

    region, endpoint = args.region, args.proxy_endpoint
    if region is None and endpoint is None and notification.region is None:
        region, endpoint = endpoint_in(os.environ)
    settings = DestinationSettings(
        services=_services(args, {})[0], region=region, endpoint=endpoint, ca=_capath(args)
    )
    # Raises here what would otherwise be taken for a fault that may pass.
    destination(KeptTunnel(notification, Secret(_CONSTANT), 0), settings)
    return settings


# -- kill switch ----------------------------------------------------------------------------------


def _disable(args: argparse.Namespace) -> None:
    from ..agent.kill_switch import KillSwitch

    _switch(args, KillSwitch.NONE if args.now else KillSwitch.NO_NEW)


def _enable(args: argparse.Namespace) -> None:
    from ..agent.kill_switch import KillSwitch

    _switch(args, KillSwitch.OFF)


def _switch(args: argparse.Namespace, switch: Any) -> None:
    from ..agent.kill_switch import set_kill_switch

    directory = _state_dir(args)
    set_kill_switch(directory, switch)
    print(f"agents with their state in {directory}: kill switch {switch.value}")


# -- values ---------------------------------------------------------------------------------------


def _services(
    args: argparse.Namespace, otherwise: Mapping[str, ServiceRule]
) -> tuple[ServiceMap, MapFile | None]:
    """Return the map of the options, and what keeps it as the file says if there is one.

    Without either, it is what ``otherwise`` has.
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


def _capath(args: argparse.Namespace) -> Path | None:
    path: Path | None = args.capath
    if path is not None and not path.exists():
        raise ConfigurationError(f"--capath {path}: there is no such file or directory")
    return path


def _max_tunnels(args: argparse.Namespace) -> int:
    count: int = args.max_tunnels
    if count < 1:
        raise ConfigurationError(f"--max-tunnels {count} is less than 1")
    return count


def _state_dir(args: argparse.Namespace) -> Path:
    chosen: Path | None = args.state_dir or default_state_dir(os.environ, _STATE)
    if chosen is None:
        raise ConfigurationError("this user has no home directory: give --state-dir DIR")
    return chosen.absolute()
