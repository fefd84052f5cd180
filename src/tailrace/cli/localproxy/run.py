"""Run a local proxy as a process: event loop, signals, reporters."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from ...common.event_loop import loop_factory, raise_descriptor_limit
from ...common.log_floods import telling_floods
from ...common.loop_signals import loop_signals
from ...common.queued_output import QueuedOutput
from ...common.redaction import register_secrets
from ...common.secret import Secret
from ...common.stray_exceptions import stray_exceptions_logged
from ...common.systemd import ServiceManager
from ...control.documents import tunnel_document
from ...control.server import told
from ...errors import AccessRefused, ConfigurationError, HandshakeAltered
from ...localproxy.client_token import kept_client_token
from ...localproxy.proxy import LocalProxy
from ...localproxy.settings import ProxySettings
from .reporters import JSONReporter, LogReporter, ReadyFile, SystemdNotifier, dropped_events
from .settings import CommandSettings

__all__ = ["run", "tunnel_name"]

logger = logging.getLogger(__name__)

_SHOWN_DIGEST: Final = 16
_PATIENCE: Final = 2.0
"""Seconds that a proxy with the same access token has to end, as in ``kill PID; localproxy``."""


@stray_exceptions_logged()
def run(settings: CommandSettings) -> None:
    """Run a local proxy until its tunnel ends or a signal comes.

    SIGTERM and SIGINT end it in order, a second one at once.

    Raises:
        TailraceError: the proxy cannot start or go on.
    """
    raise_descriptor_limit()
    tunnel = tunnel_name(settings.proxy)
    with ExitStack() as stack:
        if settings.proxy.client_token is None and settings.state_dir is not None:
            token = _kept_token(settings, settings.state_dir, stack)
            settings = replace(settings, proxy=replace(settings.proxy, client_token=token))
        out = QueuedOutput(sys.stdout, partial(dropped_events, tunnel))
        stack.callback(out.close)
        runner = asyncio.Runner(loop_factory=loop_factory(settings.loop))
        stack.enter_context(runner).run(_serve(settings, tunnel, JSONReporter(out, tunnel)))


async def _serve(settings: CommandSettings, tunnel: str, reporter: JSONReporter) -> None:
    side = settings.proxy.side
    proxy = LocalProxy(settings.proxy)
    register_secrets(proxy.client_token)
    proxy.subscribe(LogReporter(side))
    if settings.json_events:
        proxy.subscribe(reporter)
    ready = ReadyFile(settings.ready_file, side) if settings.ready_file else None
    if ready is not None:
        proxy.subscribe(ready)
    manager = ServiceManager(os.environ)
    if manager.is_there:
        proxy.subscribe(SystemdNotifier(manager))
    loop = asyncio.get_running_loop()
    ending = {number: partial(_end, proxy, number) for number in (signal.SIGTERM, signal.SIGINT)}

    def details() -> dict[str, Any]:
        return {"tunnels": [tunnel_document(tunnel, proxy.status())]}

    try:
        async with told(
            "localproxy",
            details,
            os.environ,
            at_socket=settings.control,
            metrics_listen=settings.metrics_listen,
        ):
            with telling_floods(loop), manager.watchdog(loop), loop_signals(ending):
                await proxy.run()
    except (AccessRefused, HandshakeAltered) as error:
        logger.error(
            'Proxy server rejected web socket upgrade request: (HTTP/1.1 %d %s) "%s"',
            error.status,
            error.reason,
            error.body,
        )
        raise
    finally:
        if ready is not None:
            ready.remove()


def tunnel_name(settings: ProxySettings) -> str:
    """Return what tells this end of its tunnel from others, and stays the same over restarts.

    It is the beginning of the digest of the access token: the id of a tunnel is not told to its
    ends.
    """
    return settings.access_token.digest[:_SHOWN_DIGEST]


def _end(proxy: LocalProxy, number: signal.Signals) -> None:
    logger.info("Ending on %s", number.name)
    proxy.stop()


def _kept_token(settings: CommandSettings, directory: Path, stack: ExitStack) -> Secret | None:
    """Return the client token that is kept for the access token, until ``stack`` is closed."""
    token = kept_client_token(directory, settings.proxy.access_token, _PATIENCE)
    try:
        return stack.enter_context(token)
    except ConfigurationError as error:
        if settings.state_needed or error.setting != "state_dir":
            raise
        logger.warning(
            "%s; the access token will be refused after a restart of this command, unless"
            " --state-dir names a directory (--no-state asks for none)",
            error,
        )
        return None
