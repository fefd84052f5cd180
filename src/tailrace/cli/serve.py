"""``tailrace serve`` runs the tunneling service.

Nothing of the extra ``[service]`` is imported before :func:`run_serve` needs it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..common.event_loop import LoopChoice, loop_factory, raise_descriptor_limit
from ..common.log_floods import telling_floods
from ..common.queued_output import QueuedOutput
from ..common.setting_errors import SettingsError
from ..common.stray_exceptions import stray_exceptions_logged
from ..common.systemd import ServiceManager
from ..control.server import told
from ..errors import ListenError, TailraceError
from ..service.config import (
    Endpoints,
    ServiceConfig,
    parse_address,
)
from ..service.extra import require_extra
from .arguments import Subparsers, add_state_dir, state_dir_of
from .limits import add_limit_options, read_limits
from .serve_options import add_operation_options, data_settings, read_operation, start_logging
from .signals import signals_handled

if TYPE_CHECKING:
    from ..service.tunneling_service import TunnelingService

__all__ = [
    "add_serve_parser",
    "error_text",
    "run_serve",
]

_LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_OPTIONS: Final = {
    "api_listen": "--api-listen",
    "audit_log": "--audit-log",
    "data_listen": "--data-listen",
    "host_names": "--host-name",
    "metrics_listen": "--metrics-listen",
    "mqtt_ca": "--mqtt-ca",
    "mqtt_cert": "--mqtt-cert",
    "mqtt_key": "--mqtt-key",
    "mqtt_url": "--mqtt-url",
    "notify_topic": "--notify-topic",
    "notify_command": "--notify-command",
    "region": "--region",
    "state_dir": "--state-dir",
    "tls_ca": "--tls-ca",
    "tls_cert": "--tls-cert",
    "tls_key": "--tls-key",
}
"""Settings as the errors of the service name them -> options."""

_log = logging.getLogger(__name__)


def add_serve_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``serve``; its arguments go to :func:`run_serve`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve",
        help="run a tunneling service",
        description="Run a tunneling service that AWS SDKs, the AWS CLI and local proxies can use.",
    )
    add_state_dir(parser)
    parser.add_argument(
        "--api-listen",
        metavar="HOST:PORT",
        default="127.0.0.1:7443",
        help="address of the control API; port 0 picks one (default: %(default)s)",
    )
    parser.add_argument(
        "--data-listen",
        metavar="HOST:PORT",
        default="127.0.0.1:7444",
        help="address for local proxies; port 0 picks one (default: %(default)s)",
    )
    parser.add_argument(
        "--ready-file",
        metavar="FILE",
        type=Path,
        help="create FILE, with the endpoints and an access key, once requests are accepted",
    )
    parser.add_argument(
        "--host-name",
        metavar="NAME",
        action="append",
        default=[],
        help="name or address by which clients reach this service; may be repeated",
    )
    parser.add_argument(
        "--region", default="us-east-1", help="AWS region to emulate (default: %(default)s)"
    )
    parser.add_argument(
        "--loop",
        choices=[choice.value for choice in LoopChoice],
        default=LoopChoice.AUTO.value,
        help="event loop; auto is uvloop if it is installed (default: %(default)s)",
    )
    parser.add_argument(
        "--log-level",
        choices=_LOG_LEVELS,
        default="info",
        help="least severe messages to log (default: %(default)s)",
    )
    add_operation_options(parser)
    add_limit_options(parser)
    return parser


@stray_exceptions_logged()
def run_serve(args: argparse.Namespace) -> None:
    """Run a service until SIGTERM or SIGINT.

    Raises:
        TailraceError: the service cannot start or go on.
    """
    require_extra()
    config = _config(args)
    make_loop = loop_factory(LoopChoice(args.loop))
    start_logging(args)
    raise_descriptor_limit()
    out = QueuedOutput(sys.stdout, "({} lines were dropped)\n".format)
    try:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(_serve(config, out))
    finally:
        out.close()


def error_text(error: TailraceError) -> str:
    """Return the text of an error, with the options of the settings that it names."""
    return error.text(_OPTIONS) if isinstance(error, SettingsError) else str(error)


def _config(args: argparse.Namespace) -> ServiceConfig:
    return ServiceConfig(
        state_dir=state_dir_of(args),
        api_listen=parse_address(args.api_listen, "--api-listen"),
        data_listen=parse_address(args.data_listen, "--data-listen"),
        ready_file=args.ready_file,
        region=args.region,
        host_names=tuple(args.host_name),
        environment=os.environ,
        data=data_settings(args),
        operation=read_operation(args, os.environ),
        limits=read_limits(args),
    )


async def _serve(config: ServiceConfig, out: QueuedOutput) -> None:
    from ..service.tunneling_service import TunnelingService

    loop, manager = asyncio.get_running_loop(), ServiceManager(os.environ)
    service = TunnelingService(config)
    started, stopping = asyncio.Event(), asyncio.Event()

    def reload() -> None:
        if started.is_set():
            with manager.reloading():
                _reload(service)

    with telling_floods(loop), signals_handled(stopping.set, reload):
        await service.start()
        started.set()
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            _log.warning("Running as root; this command needs no privileges")
        try:
            _announce(service.endpoints, config.state_dir, out)
            endpoints = service.endpoints
            manager.ready(f"API {endpoints.api_endpoint}, local proxies {endpoints.data_endpoint}")
            with manager.watchdog(loop):
                async with told("serve", service.status, os.environ):
                    await _wait(service, stopping)
        finally:
            manager.stopping()
            await service.stop()


def _announce(endpoints: Endpoints, state_dir: Path, out: QueuedOutput) -> None:
    """Print where the service is; it runs on if that goes to a full disk or to nobody."""
    shell = f"tailrace env --state-dir {shlex.quote(str(state_dir))}"
    out.write(
        f"API {endpoints.api_endpoint}\n"
        f"local proxies {endpoints.data_endpoint}\n"
        f'for a shell: eval "$({shell})"\n'
    )
    if out.failure is not None:
        _log.warning("standard output: %s", out.failure.strerror)


def _reload(service: TunnelingService) -> None:
    try:
        service.reload()
    except TailraceError as error:
        _log.error("not reloaded, nothing has changed: %s", error_text(error))


async def _wait(service: TunnelingService, stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    waiters = [loop.create_task(stopping.wait()), loop.create_task(service.failed())]
    await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    for waiter in waiters:
        waiter.cancel()
    if not stopping.is_set():
        raise ListenError("the control API has ended unexpectedly")
