"""Checks an agent before it runs: the machine, the ways in, the applications, the way out."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from ..checks.findings import Finding, failed, ok, skipped, warning
from ..checks.machine import check_clock
from ..checks.runner import Check
from ..checks.server import Server, http_check, path_checks
from ..checks.targets import check_target
from ..common.addresses import TCPAddress, UnixAddress
from ..common.file_lock import locked
from ..common.private_files import OTHERS_MAY_WRITE, why_not_private
from ..errors import ConfigurationError, TailraceError
from ..library.application import local_service
from ..library.service_map import ServiceRule
from .check_broker import BrokerCheckSettings, broker_checks
from .kill_switch import KillSwitch, read_kill_switch
from .notification import parse_notification
from .sources.documents import delivery_of, split_documents
from .sources.file import read_notify_file
from .sources.mqtt import MqttSourceSettings

__all__ = ["AgentCheckSettings", "agent_checks", "is_running"]

_TUNNELS: Final = "tunnels"


@dataclass(frozen=True, slots=True)
class AgentCheckSettings:
    """What is to be checked of an agent."""

    state_dir: Path
    services: Sequence[tuple[str, ServiceRule]]
    """Service id or pattern, and its rule."""
    broker: MqttSourceSettings | None = None
    service: Sequence[Check] = ()
    """Steps to the service that the agent waits at."""
    notify_file: Path | None = None
    notify_stdin: bool = False
    tunnels: Server | None = None
    """Data endpoint of the tunnels; ``None``: each notification says which."""
    send_test: Callable[[], Awaitable[None]] | None = None
    """Has the service send a notification over the broker; ``None``: it is not known."""
    account: str | None = None
    """Number of the AWS account."""
    take_over: bool = False
    """Whether to connect to the broker although an agent runs, which is thrown out then."""
    warnings: Sequence[str] = ()
    """Of the configuration."""


def agent_checks(settings: AgentCheckSettings) -> list[Check]:
    """Return the steps, in order."""
    checks = [
        Check("clock", check_clock),
        Check("state", _local(partial(_check_state, settings.state_dir))),
        Check("kill switch", _local(partial(_check_switch, settings.state_dir))),
    ]
    checks += [
        Check("configuration", _local(partial(warning, each, "see docs/reference/agent.md")))
        for each in settings.warnings
    ]
    if settings.broker is not None:
        busy = ""
        if not settings.take_over and is_running(settings.state_dir):
            busy = "an agent runs with this client id, and would be thrown out"
        checks += broker_checks(
            BrokerCheckSettings(settings.broker, settings.account, settings.send_test, busy)
        )
    checks += settings.service
    if settings.notify_file is not None:
        checks.append(Check("notify file", _local(partial(_check_file, settings.notify_file))))
    if settings.notify_stdin:
        checks.append(Check("standard input", _local(_check_stdin)))
    checks += [_target_check(service_id, rule) for service_id, rule in settings.services]
    return checks + _tunnel_checks(settings.tunnels)


def _local(look: Callable[[], Finding]) -> Callable[[], Awaitable[Finding]]:
    """Return a step that looks at files only."""

    async def run() -> Finding:
        return look()

    return run


def is_running(state_dir: Path) -> bool:
    """Return whether an agent keeps its state in a directory at present."""
    lock = state_dir / "lock"
    try:
        if not lock.exists():
            return False  # nor made: it would be ours, and not the agent's
        with locked(lock, wait=False):
            return False
    except BlockingIOError:
        return True
    except (OSError, ConfigurationError):
        return False


def _check_state(directory: Path) -> Finding:
    try:
        if not directory.exists():
            return ok(f"{directory} will be made by the agent")
        reason = _why_not_private(directory)
        kept = sum(each.suffix == ".json" for each in (directory / "tunnels").glob("*"))
    except PermissionError:
        return skipped(f"{directory} belongs to another user", "run this as the user of the agent")
    if reason:
        return failed(f"{directory}: {reason}", "or choose another with --state-dir")
    runs = "an agent runs" if is_running(directory) else "no agent runs"
    return ok(f"{directory}: {runs}, {kept} tunnels kept")


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _why_not_private(directory: Path) -> str:
    """Return what is wrong with a state directory; root may look at that of another user."""
    found = directory.stat()
    if _is_root() and not found.st_mode & OTHERS_MAY_WRITE:
        return ""
    return why_not_private(directory)


def _check_switch(directory: Path) -> Finding:
    switch = read_kill_switch(directory)
    if switch is KillSwitch.OFF:
        return ok("off")
    return warning(
        f"set: {switch.value}", f"tailrace agent enable --state-dir {directory}, if tunnels may be"
    )


def _check_file(path: Path) -> Finding:
    try:
        if not path.parent.is_dir():
            return failed(f"{path.parent} is no directory", "make it, or correct --notify-file")
        if not path.exists():
            return ok(f"{path} is waited for")
        content, _ = read_notify_file(path)
    except OSError as error:
        if _is_root() and path.lstat().st_uid != 0:
            return skipped(f"{path}: {error.strerror}", "run this as the user of the agent")
        return failed(f"{path}: {error.strerror}", "let the user of the agent read it")
    notifications = split_documents(content)
    try:
        for each in notifications:
            parse_notification(delivery_of(each).payload)
    except TailraceError as error:
        return warning(f"{path}: {error}", "correct what writes it")
    return ok(f"{path} has {len(notifications)} notifications")


def _check_stdin() -> Finding:
    return skipped("what comes is known when it comes")


def _target_check(service_id: str, rule: ServiceRule) -> Check:
    async def run() -> Finding:
        target = local_service(rule.target)
        if isinstance(target, TCPAddress | UnixAddress):
            return await check_target(target, rule.allow)
        return skipped("a function of this program")

    return Check(f"service {service_id}", run)


def _tunnel_checks(server: Server | None) -> list[Check]:
    if server is None:
        return [Check(_TUNNELS, _local(_tell_no_region))]
    path = path_checks(server)
    return [*path, http_check(f"{server.label} answer", server, "/", (path[-1].name,))]


def _tell_no_region() -> Finding:
    return skipped("each notification names its region", "add --region to check one")
