"""``tailrace serve`` runs the tunneling service, ``tailrace env`` tells shells about it.

Nothing of the extra ``[service]`` is imported before :func:`run_serve` needs it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ..errors import ConfigurationError, TailraceError
from ..service.config import (
    DataSettings,
    Endpoints,
    ServiceConfig,
    default_state_dir,
    parse_address,
)
from ..service.errors import SettingsError
from ..service.tls.ca_bundle import write_bundle
from .exit_codes import ExitCode, exit_code_of
from .limits import add_limit_options, read_limits
from .serve_options import add_operation_options, operation_settings, proxy_networks, start_logging

if TYPE_CHECKING:
    from ..service.service import Service

__all__ = ["add_env_parser", "add_serve_parser", "run_env", "run_serve"]

_EXTRA: Final = (
    "aiofastnet",
    "cryptography",
    "picows",
    "prometheus_client",
    "starlette",
    "uvicorn",
)
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
    "notify_command": "--notify-command",
    "state_dir": "--state-dir",
}
"""Settings as the errors of the service name them -> options."""

_log = logging.getLogger(__name__)

_Subparsers: TypeAlias = "argparse._SubParsersAction[Any]"
_LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]


def add_serve_parser(subparsers: _Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``serve``; its arguments go to :func:`run_serve`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve",
        help="run a tunneling service",
        description="Run a tunneling service that AWS SDKs, the AWS CLI and local proxies can use.",
    )
    _add_state_dir(parser)
    parser.add_argument(
        "--api-listen",
        metavar="HOST:PORT",
        default="127.0.0.1:7443",
        help="where the control API listens; port 0 picks one (default: %(default)s)",
    )
    parser.add_argument(
        "--data-listen",
        metavar="HOST:PORT",
        default="127.0.0.1:7444",
        help="where local proxies connect; port 0 picks one (default: %(default)s)",
    )
    parser.add_argument(
        "--ready-file",
        metavar="FILE",
        type=Path,
        help="file to write endpoints and the access key to, once requests are accepted",
    )
    parser.add_argument(
        "--host-name",
        metavar="NAME",
        action="append",
        default=[],
        help="a name or address by which clients reach this service; may be repeated",
    )
    parser.add_argument(
        "--region", default="us-east-1", help="AWS region to play (default: %(default)s)"
    )
    parser.add_argument(
        "--loop",
        choices=("auto", "asyncio", "uvloop"),
        default="auto",
        help="event loop; auto takes uvloop where it is installed",
    )
    parser.add_argument(
        "--log-level", choices=_LOG_LEVELS, default="info", help="default: %(default)s"
    )
    add_operation_options(parser)
    add_limit_options(parser)
    return parser


def add_env_parser(subparsers: _Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``env``; its arguments go to :func:`run_env`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "env",
        help="print shell exports that point AWS tools and local proxies to a running service",
        description='Use it as: eval "$(tailrace env)"',
    )
    _add_state_dir(parser)
    return parser


def _add_state_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        type=Path,
        help="directory of the service's files (default: ~/.local/state/tailrace)",
    )


def run_serve(args: argparse.Namespace) -> int:
    """Run a service until SIGTERM or SIGINT; return the exit status."""
    try:
        _check_extra()
        config = _config(args)
        loop_factory = _loop_factory(args.loop)
        start_logging(args)
        _raise_open_files()
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(_serve(config))
    except TailraceError as error:
        print(f"tailrace serve: {_error_text(error)}", file=sys.stderr)
        return int(exit_code_of(error))


def _error_text(error: TailraceError) -> str:
    return error.text(_OPTIONS) if isinstance(error, SettingsError) else str(error)


def run_env(args: argparse.Namespace) -> int:
    """Print shell exports for the running service; return the exit status."""
    try:
        state_dir = _state_dir(args)
        endpoints = _read_endpoints(state_dir)
        _check_running(endpoints, state_dir)
        bundle = state_dir / "tls" / "bundle.pem"
        write_bundle(bundle, Path(endpoints.ca_file))
    except TailraceError as error:
        print(f"tailrace env: {error}", file=sys.stderr)
        return int(exit_code_of(error))
    for name, value in _variables(endpoints, bundle).items():
        print(f"export {name}={shlex.quote(value)}")
    # A token of other credentials would be sent along with ours, and refused.
    print("unset AWS_SESSION_TOKEN")
    return int(ExitCode.OK)


def _read_endpoints(state_dir: Path) -> Endpoints:
    path = state_dir / "ready.json"
    try:
        return Endpoints.read(path)
    except ConfigurationError as error:
        if path.exists():
            raise
        hint = f"start one with: tailrace serve --state-dir {state_dir}"
        raise ConfigurationError(f"{error}; {hint}") from None


def _variables(endpoints: Endpoints, bundle: Path) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL_IOTSECURETUNNELING": endpoints.api_endpoint,
        "AWS_CA_BUNDLE": str(bundle),
        "AWS_ACCESS_KEY_ID": endpoints.access_key_id,
        "AWS_SECRET_ACCESS_KEY": endpoints.secret_access_key,
        "AWS_REGION": endpoints.region,
        "AWS_DEFAULT_REGION": endpoints.region,
        "AWSIOT_TUNNEL_ENDPOINT": endpoints.data_endpoint,
        "SSL_CERT_FILE": str(bundle),
    }


def _state_dir(args: argparse.Namespace) -> Path:
    chosen: Path = args.state_dir or default_state_dir(os.environ)
    return chosen.absolute()


def _config(args: argparse.Namespace) -> ServiceConfig:
    return ServiceConfig(
        state_dir=_state_dir(args),
        api_listen=parse_address(args.api_listen, "--api-listen"),
        data_listen=parse_address(args.data_listen, "--data-listen"),
        ready_file=args.ready_file,
        region=args.region,
        host_names=tuple(args.host_name),
        environment=os.environ,
        data=DataSettings(proxies=proxy_networks(args)),
        operation=operation_settings(args, os.environ),
        limits=read_limits(args),
    )


def _check_extra() -> None:
    if any(importlib.util.find_spec(name) is None for name in _EXTRA):
        raise ConfigurationError("tailrace serve needs the extra: pip install 'tailrace[service]'")


def _check_running(endpoints: Endpoints, state_dir: Path) -> None:
    try:
        os.kill(endpoints.pid, 0)
    except PermissionError:
        pass
    except OSError:
        raise ConfigurationError(
            f"the service in {state_dir} is not running any more (pid {endpoints.pid}); "
            f"start it with: tailrace serve --state-dir {state_dir}"
        ) from None


def _raise_open_files() -> None:
    """Use all descriptors that the system allows: each link needs one."""
    try:
        import resource
    except ImportError:  # not POSIX
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    _log.debug("open files: %d", soft)


def _loop_factory(choice: str) -> _LoopFactory | None:
    if choice == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        if choice == "uvloop":
            raise ConfigurationError(
                "--loop uvloop: uvloop is not installed here; use --loop asyncio"
            ) from None
        return None
    return uvloop.new_event_loop


async def _serve(config: ServiceConfig) -> int:
    from ..service.service import Service

    service = Service(config)
    stopping = asyncio.Event()
    with _Signals(stopping.set, lambda: _reload(service)) as signals:
        await service.start()
        signals.started = True
        try:
            shell = f"tailrace env --state-dir {shlex.quote(str(config.state_dir))}"
            print(f"API {service.endpoints.api_endpoint}", flush=True)
            print(f"local proxies {service.endpoints.data_endpoint}", flush=True)
            print(f'for a shell: eval "$({shell})"', flush=True)
            return await _wait(service, stopping)
        finally:
            await service.stop()


def _reload(service: Service) -> None:
    try:
        service.reload()
    except TailraceError as error:
        _log.error("not reloaded, everything stays as it was: %s", _error_text(error))


async def _wait(service: Service, stopping: asyncio.Event) -> int:
    loop = asyncio.get_running_loop()
    waiters = [loop.create_task(stopping.wait()), loop.create_task(service.failed())]
    await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    for waiter in waiters:
        waiter.cancel()
    if stopping.is_set():
        return int(ExitCode.OK)
    print("tailrace serve: the control API has ended unexpectedly", file=sys.stderr)
    return int(ExitCode.LISTEN)


class _Signals:
    """Calls ``stop`` on the first SIGTERM or SIGINT; a second one ends the process.

    SIGHUP calls ``reload`` once ``started`` is set, and does nothing before.
    """

    def __init__(self, stop: Callable[[], None], reload: Callable[[], None]) -> None:
        self._stop = stop
        self._reload = reload
        self._previous: dict[signal.Signals, Any] = {}
        self.started = False

    def __enter__(self) -> _Signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handle(number, self._first)
        if hasattr(signal, "SIGHUP"):
            self._handle(signal.SIGHUP, self._hang_up)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: signal.Signals, action: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._previous[number] = signal.getsignal(number)
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(action))

    def _first(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        self._stop()

    def _hang_up(self) -> None:
        if self.started:
            self._reload()
