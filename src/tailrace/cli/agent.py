"""``tailrace agent`` runs the device agent, one tunnel alone, or stops agents from opening any."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from ..common.event_loop import LoopChoice, loop_factory, raise_descriptor_limit
from ..common.log_floods import telling_floods
from ..common.periodic import every
from ..common.stray_exceptions import stray_exceptions_logged
from ..common.systemd import ServiceManager
from ..control.documents import tunnel_document
from ..control.server import told
from ..errors import ConfigurationError, TailraceError
from .agent_broker import read_broker
from .agent_check import add_check_parser
from .agent_device_client import adopt_device_client
from .agent_install import add_install_parser
from .agent_options import (
    DESTINATION,
    LOG_LEVEL,
    NO_WAY_IN,
    PROCESS,
    STATE_DIR,
    add_options,
    add_run_options,
    agent_state_dir,
    capath_of,
    max_tunnels_of,
    metrics_listen_of,
    services_of,
)
from .agent_service import adopt_service
from .arguments import Subparsers
from .localproxy.files import read_text
from .signals import signals_handled

if TYPE_CHECKING:
    from ..agent.agent import Agent
    from ..agent.kill_switch import KillSwitch
    from ..agent.map_file import MapFile
    from ..agent.notification import Notification
    from ..agent.served_tunnel import DestinationSettings, ServedTunnel
    from ..agent.sources.base import NotificationSource

__all__ = ["add_agent_parser", "run_agent"]

_STATUS_PERIOD: Final = 10.0
"""Seconds between two looks at what systemd is told: how long a way in has been connected."""
_CONSTANT: Final = "c" * 32

_log = logging.getLogger("tailrace.agent")


def add_agent_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``agent``; its arguments go to :func:`run_agent`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "agent",
        help="serve the tunnels of which a device is notified",
        description="Serve the tunnels of which a device is notified: the device agent.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    running = _add_action(actions, "run", "wait for notifications, and serve their tunnels", _run)
    add_run_options(running)
    once = _add_action(actions, "once", "serve one tunnel, and end with it", _once)
    once.add_argument(
        "token", metavar="TOKEN-FILE", help="file with a destination token, or a notification"
    )
    add_options(once, (*DESTINATION, STATE_DIR, *PROCESS))
    add_check_parser(actions)
    add_install_parser(actions)
    disabling = _add_action(
        actions, "disable", "open no tunnels from now on, also after a restart", _disable
    )
    disabling.add_argument("--now", action="store_true", help="also end the tunnels that are up")
    enabling = _add_action(actions, "enable", "open tunnels again", _enable)
    for each in (disabling, enabling):
        add_options(each, (STATE_DIR,))
    return parser


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
        raise ConfigurationError(NO_WAY_IN)
    services, file = services_of(args, adopted.services)
    agent = Agent(
        services,
        thing_name=args.thing_name,
        region=args.region,
        endpoint=args.proxy_endpoint,
        ca=capath_of(args),
        max_tunnels=max_tunnels_of(args),
        resume_timeout=args.resume_timeout,
        state_dir=agent_state_dir(args),
    )
    _start(args, lambda: _serve(agent, sources, file, args), adopted.warnings)


def _start(args: argparse.Namespace, main: Callable[[], Any], warnings: Iterable[str] = ()) -> None:
    from .serve_options import start_logging

    make_loop = loop_factory(LoopChoice(args.loop))
    args.log_level = args.log_level or LOG_LEVEL
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
    from ..agent.idle import released_when_idle
    from ..agent.status_file import status_shown

    loop, manager = asyncio.get_running_loop(), ServiceManager(os.environ)
    stopping = asyncio.Event()

    def reload() -> None:
        with manager.reloading():
            if file is not None:
                file.reload()
            agent.log_status()

    with telling_floods(loop), signals_handled(stopping.set, reload):
        telling = told(
            "agent",
            lambda: _details(agent),
            os.environ,
            metrics_listen=metrics_listen_of(args),
        )
        async with agent, telling:
            with ExitStack() as stack:
                if file is not None:
                    stack.callback(loop.create_task(file.watch()).cancel)
                running = loop.create_task(agent.run(*sources))
                await asyncio.sleep(0)  # the sources are part of the status from here on
                agent.log_status()
                for path in (args.status_file, args.ready_file):
                    if path is not None:
                        stack.enter_context(status_shown(agent, path))
                stack.enter_context(_told_to_systemd(agent, manager, loop))
                stack.enter_context(released_when_idle(agent))
                await _first_of(running, stopping)


def _details(agent: Agent) -> dict[str, Any]:
    from ..agent.agent import status_text

    status = agent.status()
    return {
        "summary": status_text(status),
        "agent": {
            "sources": dict(status.sources),
            "kill_switch": status.kill_switch,
            "max_tunnels": status.max_tunnels,
        },
        "tunnels": [tunnel_document(name, each) for name, each in agent.destinations().items()],
    }


@contextmanager
def _told_to_systemd(
    agent: Agent, manager: ServiceManager, loop: asyncio.AbstractEventLoop
) -> Iterator[None]:
    """Tell systemd how the agent is doing.

    It is ready before any broker answers: a device may start without a network.
    """
    from ..agent.agent import status_text

    if not manager.is_there:
        yield
        return

    def tell() -> None:
        manager.status(status_text(agent.status()))

    manager.ready(status_text(agent.status()))
    unsubscribe = agent.subscribe(tell)
    try:
        with manager.watchdog(loop), every(loop, _STATUS_PERIOD, tell):
            yield
    finally:
        unsubscribe()
        manager.stopping()


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
    from ..agent.kill_switch import KillSwitch, read_kill_switch
    from ..agent.notification import LIFETIME
    from ..agent.served_tunnel import ServedTunnel
    from ..agent.state import KeptTunnel
    from ..localproxy.client_token import kept_client_token

    notification = _notification(args.token)
    settings = _destination_settings(args, notification)
    directory = agent_state_dir(args)
    if read_kill_switch(directory) is not KillSwitch.OFF:
        raise ConfigurationError(
            f"tunnels are disabled in {directory}; to allow them: tailrace agent enable"
        )
    with kept_client_token(directory / "once", notification.access_token) as client_token:
        kept = KeptTunnel(notification, client_token, time.time())
        served = ServedTunnel(kept, settings, LIFETIME, lambda kept: None, lambda: None)
        _start(args, lambda: _serve_one(served))


async def _serve_one(served: ServedTunnel) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    async def run() -> None:
        _log.info("the tunnel has ended: %s", await served.run())

    def details() -> dict[str, Any]:
        status = served.status()
        return {"tunnels": [] if status is None else [tunnel_document(served.label, status)]}

    with telling_floods(loop), signals_handled(stopping.set, lambda: None):
        async with told("agent", details, os.environ):
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
        services=services_of(args, {})[0],
        region=region,
        endpoint=endpoint,
        ca=capath_of(args),
        resume_timeout=args.resume_timeout,
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


def _switch(args: argparse.Namespace, switch: KillSwitch) -> None:
    from ..agent.kill_switch import set_kill_switch

    directory = agent_state_dir(args)
    set_kill_switch(directory, switch)
    print(f"agents with their state in {directory}: kill switch {switch.value}")
