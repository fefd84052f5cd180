"""The service as a whole: its parts built from the configuration, started and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from ..common.atomic_files import make_private_directory, write_file
from ..common.exposition import Exposition
from ..common.file_lock import locked
from ..common.periodic import every
from ..common.uninterrupted import uninterrupted
from ..errors import ConfigurationError
from .api.app import ControlApi
from .api.enrolment import Enrolment
from .api.health import health_routes, metrics_routes
from .api.model import SIGNING_NAME
from .api.server import HttpServer
from .api.sigv4 import Verifier
from .api.waiting_room import WaitingRoom
from .config import Address, Endpoints, ServiceConfig
from .control import ControlPlane
from .errors import SettingUnusable, StoreFailed
from .expiry import Expiry
from .identity.invitations import Invitation, InvitationBook, InvitationFile, invitations_file
from .identity.key_store import KeyFile, KeyRing, credentials_file
from .listening import bind
from .loop_faults import early_leavers_counted
from .notify.announcer import Announcer
from .notify.base import NotificationQueue
from .notify.command import CommandNotifier
from .notify.mailbox import Mailbox
from .notify.mqtt import MqttNotifier
from .notify.outbox import Outbox
from .notify.reminders import Reminders
from .relay.data_listener import DataListener
from .relay.switchboard import Switchboard
from .telemetry.audit import AuditLog
from .telemetry.counters import Counters
from .telemetry.prometheus import service_metrics
from .telemetry.status import service_status
from .tls.authority import Certificates, certificate_names, ensure_certificates
from .tls.server_certificate import ServerTls, given_certificates
from .tunnels.checkpoints import Checkpoints
from .tunnels.queries import TunnelQueries
from .tunnels.rules import RandomIds, Tunnels
from .tunnels.sqlite_store import SqliteStore
from .tunnels.unstored import Unstored

__all__ = ["TunnelingService"]

_log = logging.getLogger(__name__)

_Clock = Callable[[], float]

_AT_ONCE: Final = 1000
"""Changes stored at once when the service stops."""
_RENEWAL_SECONDS: Final = 3600.0
"""Interval in which the service looks whether its own certificate ends soon."""
_AUDIT_SECONDS: Final = 60.0
"""Interval in which the audit log counts what there is too much of."""
_LOOK_SECONDS: Final = 10.0
"""Interval in which invitations that were made or revoked get into the audit log."""


@dataclass(frozen=True, slots=True)
class _State:
    """What the service keeps in files."""

    store: SqliteStore
    key_file: KeyFile
    keys: KeyRing
    invitations: InvitationBook
    tls: ServerTls
    audit: AuditLog


@dataclass(frozen=True, slots=True)
class _Control:
    """The parts that change tunnels and notify things."""

    plane: ControlPlane
    tunnels: Tunnels
    outboxes: tuple[Outbox, ...]
    reminders: tuple[Reminders, ...]
    expiry: Expiry


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a running service that its methods use."""

    state: _State
    control: ControlPlane
    counters: Counters
    expiry: Expiry
    api: HttpServer
    endpoints: Endpoints
    metrics_address: Address | None


class TunnelingService:
    """One tunneling service in this process.

    Create, :meth:`start`, and :meth:`stop` it in one event loop. Stopping keeps all
    tunnels; clients whose links are dropped come back to the next start.
    """

    def __init__(self, config: ServiceConfig, clock: _Clock = time.time) -> None:
        self._config = config
        self._clock = clock
        self._stack = contextlib.AsyncExitStack()
        self._parts: _Parts | None = None
        self._accepting = False

    @property
    def endpoints(self) -> Endpoints:
        """How clients reach the service, while it runs."""
        return self._running.endpoints

    @property
    def metrics_address(self) -> Address | None:
        """Where metrics are served, when that is not the control API."""
        return self._running.metrics_address

    @property
    def queries(self) -> TunnelQueries:
        """Reads of the service's state."""
        return self._running.control.queries

    def status(self) -> dict[str, Any]:
        """Return what the service does, for JSON: counts, endpoints, and a summary of them."""
        parts = self._running
        return service_status(parts.counters, parts.control.queries, parts.endpoints)

    @property
    def tls_context(self) -> ssl.SSLContext:
        """What the listeners show to clients, for others that take their place in tests."""
        return self._running.state.tls.context

    @property
    def _running(self) -> _Parts:
        if self._parts is None:
            raise RuntimeError("the service is not running")
        return self._parts

    async def start(self) -> None:
        """Open the state directory, listen, and write the ready files.

        Raises:
            ConfigurationError: the state directory cannot be used, or another
                service uses it.
            ListenError: an address cannot be bound.
        """
        stack = contextlib.AsyncExitStack()
        try:
            self._parts = await self._start(stack)
        except BaseException:
            await uninterrupted(stack.aclose())
            raise
        self._stack = stack

    async def stop(self) -> None:
        """Stop accepting, finish API requests, drop all links without a close frame.

        Takes a few seconds at most, also when it is cancelled. Notifications that cannot be
        delivered are given up.
        """
        self._accepting = False
        stack, self._stack = self._stack, contextlib.AsyncExitStack()
        try:
            await uninterrupted(stack.aclose())
        finally:
            self._parts = None

    def reload(self) -> None:
        """Load certificates and access keys again, and go on in a new audit log.

        The audit log is another one when the old one was moved. Connections that are open keep
        the certificate they were made with.

        Raises:
            ConfigurationError: something cannot be used; the service goes on as it was.
        """
        state = self._running.state
        # All or nothing: what can fail comes before what cannot.
        certificates, keys = state.tls.load(), state.keys.load()
        audit = state.audit.open_again()
        with contextlib.ExitStack() as undo:
            if audit >= 0:
                undo.callback(os.close, audit)
            state.tls.switch(certificates)
            undo.pop_all()
        state.keys.switch(keys)
        state.audit.switch(audit)
        _log.info("certificates, access keys and audit log were loaded again")

    def expire(self, tunnel_id: str) -> None:
        """End a tunnel as if its time were over, which tests cannot wait for.

        Raises:
            TunnelNotFound: there is no such tunnel.
            TunnelClosed: it has ended.
            StoreFailed: the store cannot write.
        """
        self._running.expiry.expire(tunnel_id)

    async def failed(self) -> None:
        """Return when the control API has ended without being asked to."""
        await self._running.api.ended()

    async def _start(self, stack: contextlib.AsyncExitStack) -> _Parts:
        """Build the parts and start them in order; ``stack`` stops them in reverse."""
        # Files and addresses first: what is in use by others is noticed before anything runs.
        config, clock = self._config, self._clock
        state = _open_state(stack, config, clock)
        api_socket = stack.enter_context(bind(config.api_listen, "api_listen"))
        data_socket = stack.enter_context(bind(config.data_listen, "data_listen"))
        endpoints = _endpoints(config, state, api_socket, data_socket)
        switchboard, counters = Switchboard(), Counters(time.monotonic)
        control = _build_control(config, clock, state, switchboard)
        _start_upkeep(stack, config, state, counters, (api_socket, data_socket))

        # What requests and links need comes before them; the API, which lets tunnels be
        # opened, after the links.
        _start_control(stack, config, clock, control)
        listener = DataListener(
            control.plane,
            switchboard,
            config.data,
            config.limits,
            counters=counters,
            audit=state.audit,
        )
        stack.push_async_callback(listener.stop)
        await listener.start(data_socket, state.tls.context)
        routes = health_routes(control.plane.queries, lambda: self._accepting)
        metrics = service_metrics(
            counters, control.plane.queries, control.outboxes, control.plane.mailbox
        )
        metrics_address = await _start_metrics(stack, config, metrics, routes)
        api = await _start_api(
            stack, config, state, control.plane, counters, endpoints, routes, api_socket
        )
        control.expiry.start()
        stack.callback(control.expiry.stop)

        self._accepting = True
        _publish(stack, config, endpoints)
        return _Parts(
            state, control.plane, counters, control.expiry, api, endpoints, metrics_address
        )


def _open_state(stack: contextlib.AsyncExitStack, config: ServiceConfig, clock: _Clock) -> _State:
    """Open, or make, everything in the state directory; only one service may use it."""
    make_private_directory(config.state_dir)
    try:
        stack.enter_context(locked(config.state_dir / "lock", wait=False))
    except OSError:
        raise SettingUnusable(
            "another service uses {path}; stop it, or choose another {0}",
            "state_dir",
            path=config.state_dir,
        ) from None
    store = stack.enter_context(contextlib.closing(SqliteStore.open(config.database)))
    key_file = KeyFile(credentials_file(config.state_dir))
    keys = KeyRing(key_file, config.environment, clock())
    invitations = InvitationBook(InvitationFile(invitations_file(config.state_dir)))
    tls = ServerTls(lambda: _certificates(config, clock()))
    audit = AuditLog(config.operation.audit_log, clock)
    stack.callback(audit.close)
    return _State(store, key_file, keys, invitations, tls, audit)


def _certificates(config: ServiceConfig, now: float) -> Certificates:
    directory, operation = config.state_dir / "tls", config.operation
    if operation.tls_cert is not None:
        return given_certificates(
            directory, operation.tls_cert, operation.tls_key, operation.tls_ca
        )
    return ensure_certificates(directory, certificate_names(config.certificate_hosts), now)


def _renew(tls: ServerTls) -> None:
    try:
        if tls.renew():
            _log.info("the certificate would have ended soon, connections get a new one")
    except ConfigurationError as error:
        _log.error("cannot see whether the certificate ends soon, it stays in use: %s", error)


def _build_control(
    config: ServiceConfig, clock: _Clock, state: _State, switchboard: Switchboard
) -> _Control:
    operation = config.operation
    by_broker = [] if operation.mqtt is None else [Outbox(MqttNotifier(operation.mqtt), clock)]
    by_command = []
    if operation.notify_command:
        by_command.append(Outbox(CommandNotifier(operation.notify_command), clock))
    # A command has handed it to the thing when it ends; a broker has only taken it.
    reminders = tuple(map(Reminders, by_broker))
    mailbox = Mailbox()
    queues: tuple[NotificationQueue, ...] = (*reminders, *by_command, mailbox)
    announcer = Announcer(queues, config.region, operation.notify_topic)
    ids = RandomIds()
    unstored = Unstored()
    tunnels = Tunnels(state.store, unstored, ids, config.limits)
    queries = TunnelQueries(state.store, unstored, clock, config.region, config.account_id)
    expiry = Expiry(tunnels, switchboard, announcer, state.audit, clock)
    plane = ControlPlane(
        tunnels, queries, switchboard, ids, clock, announcer, mailbox, expiry.sweep_soon
    )
    return _Control(plane, tunnels, (*by_broker, *by_command), reminders, expiry)


def _start_upkeep(
    stack: contextlib.AsyncExitStack,
    config: ServiceConfig,
    state: _State,
    counters: Counters,
    listening: Sequence[socket.socket],
) -> None:
    """Start what runs beside requests and links: counts, and looks at the clock."""
    loop = asyncio.get_running_loop()
    ports = {each.getsockname()[1] for each in listening}
    stack.enter_context(early_leavers_counted(loop, ports, counters.refusals))
    stack.enter_context(every(loop, _AUDIT_SECONDS, state.audit.end_interval))
    if config.operation.tls_cert is None:
        stack.enter_context(every(loop, _RENEWAL_SECONDS, lambda: _renew(state.tls)))
    counters.lag.start()
    stack.callback(counters.lag.stop)


def _start_control(
    stack: contextlib.AsyncExitStack, config: ServiceConfig, clock: _Clock, control: _Control
) -> None:
    """Start delivering notifications, and make the store ready: nothing is connected yet."""
    for outbox in control.outboxes:
        outbox.start()
        stack.push_async_callback(outbox.stop)
    for reminders in control.reminders:
        stack.callback(reminders.stop)
    checkpoints = Checkpoints(config.database)
    checkpoints.start()
    stack.push_async_callback(checkpoints.stop)
    _begin(control.tunnels, config, clock)
    stack.callback(_reset_connections, control.tunnels, clock)


async def _start_metrics(
    stack: contextlib.AsyncExitStack,
    config: ServiceConfig,
    metrics: Exposition,
    routes: list[BaseRoute],
) -> Address | None:
    """Serve metrics and ``routes`` on an address of their own, or add metrics to ``routes``."""
    address = config.operation.metrics_listen
    if address is None:
        routes += metrics_routes(metrics)
        return None
    listening = stack.enter_context(bind(address, "metrics_listen"))
    app = Starlette(routes=[*routes, *metrics_routes(metrics)])
    server = HttpServer(app, config.limits, None, "metrics")
    stack.push_async_callback(server.stop)
    await server.start(listening)
    return Address(address.host, listening.getsockname()[1])


def _endpoints(
    config: ServiceConfig, state: _State, api_socket: socket.socket, data_socket: socket.socket
) -> Endpoints:
    api = config.advertised(config.api_listen.host, api_socket.getsockname()[1])
    data = config.advertised(config.data_listen.host, data_socket.getsockname()[1])
    certificates = state.tls.certificates
    return Endpoints(
        api_endpoint=f"https://{api}",
        data_endpoint=str(data),
        ca_file=str(certificates.ca_file.absolute()),
        ca_dir=str(certificates.ca_dir.absolute()),
        region=config.region,
        access_key_id=state.keys.own.access_key_id,
        secret_access_key=(
            "" if state.keys.own_is_given else state.keys.own.secret_access_key.reveal()
        ),
        pid=os.getpid(),
        api_listen=config.api_listen.host,
        data_listen=config.data_listen.host,
    )


async def _start_api(
    stack: contextlib.AsyncExitStack,
    config: ServiceConfig,
    state: _State,
    plane: ControlPlane,
    counters: Counters,
    endpoints: Endpoints,
    routes: Sequence[BaseRoute],
    api_socket: socket.socket,
) -> HttpServer:
    """Serve the control API, machines that join, things that wait, and ``routes``."""
    forwarders = config.data.forwarders
    verifier = Verifier(config.region, SIGNING_NAME, state.keys.find)
    app = ControlApi(plane, verifier, counters, state.audit, config.limits, forwarders)
    enrolment = _build_enrolment(config, state, plane, counters, endpoints)
    stack.callback(enrolment.look)
    stack.enter_context(every(asyncio.get_running_loop(), _LOOK_SECONDS, enrolment.look))
    waiting = _build_waiting_room(config, state, plane, counters, app)
    application = app.application([*routes, *enrolment.routes(), *waiting.routes()])
    api = HttpServer(application, config.limits, state.tls.context, "API", forwarders)
    stack.push_async_callback(api.stop)
    await api.start(api_socket)
    # Before the server: it waits for their streams.
    stack.callback(waiting.close)
    return api


def _build_enrolment(
    config: ServiceConfig,
    state: _State,
    plane: ControlPlane,
    counters: Counters,
    endpoints: Endpoints,
) -> Enrolment:
    def places(invitation: Invitation) -> dict[str, object]:
        data = endpoints.data_endpoint_for(invitation.host)
        return {"region": config.region, "dataEndpoint": data}

    return Enrolment(
        state.invitations,
        state.key_file,
        places,
        lambda: state.tls.authorities,
        clock=plane.clock,
        request_id=plane.request_id,
        counters=counters,
        audit=state.audit,
        limits=config.limits,
        forwarders=config.data.forwarders,
    )


def _build_waiting_room(
    config: ServiceConfig,
    state: _State,
    plane: ControlPlane,
    counters: Counters,
    api: ControlApi,
) -> WaitingRoom:
    def count(operation: str, outcome: str) -> None:
        counters.requests[operation, outcome] += 1

    return WaitingRoom(
        plane.mailbox,
        api.judge,
        state.keys.find,
        clock=plane.clock,
        request_id=plane.request_id,
        count=count,
        limits=config.limits,
        forwarders=config.data.forwarders,
    )


def _publish(stack: contextlib.AsyncExitStack, config: ServiceConfig, endpoints: Endpoints) -> None:
    """Write the ready files; they are removed first when the service stops."""
    # The one in the state directory comes first, and is complete when the other appears.
    paths = (config.own_ready_file, config.ready_file)
    for path in dict.fromkeys(path for path in paths if path is not None):
        write_file(path, endpoints.to_json())
        stack.callback(path.unlink, missing_ok=True)
    _log.info("service is ready: api %s, data %s", endpoints.api_endpoint, endpoints.data_endpoint)


def _begin(tunnels: Tunnels, config: ServiceConfig, clock: _Clock) -> None:
    """Forget the connections of a service that was killed; a store must be good for that."""
    try:
        tunnels.reset_connections(clock())
    except StoreFailed as failed:
        raise ConfigurationError(f"{config.database}: {failed}") from None


def _reset_connections(tunnels: Tunnels, clock: _Clock) -> None:
    """Record that no local proxy is connected any more, and what could not be stored before."""
    try:
        while tunnels.store_again(_AT_ONCE):
            pass
        tunnels.reset_connections(clock())
    except StoreFailed as failed:
        _log.error("connection states not recorded: %s", failed)
