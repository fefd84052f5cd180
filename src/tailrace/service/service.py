"""The service as a whole: listeners, store, certificates and timers, started and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from starlette.applications import Starlette

from ..common.atomic_files import make_private_directory, write_file
from ..errors import ConfigurationError, ListenError
from .api.app import build_app
from .api.health import build_monitoring_app, health_routes, metrics_routes
from .api.server import ConnectionGuard, GuardedProtocol
from .api.sigv4 import Verifier
from .config import EVERY_ADDRESS, Address, Endpoints, ServiceConfig
from .control import ControlPlane
from .errors import StoreFailed
from .identity.key_store import KeyRing, credentials_file
from .limits import Limits
from .notify import Announcer, CommandNotifier, MqttNotifier, Notifier, Outbox
from .relay.data_listener import DataListener
from .relay.switchboard import Switchboard
from .telemetry.audit import AuditLog
from .telemetry.counters import Counters
from .telemetry.prometheus import Metrics
from .tls.authority import Certificates, certificate_names, ensure_certificates
from .tls.server_certificate import ServerTls, given_certificates
from .tunnels.queries import TunnelQueries
from .tunnels.rules import RandomIds, Tunnels
from .tunnels.sqlite_store import SqliteStore

__all__ = ["Service"]

_log = logging.getLogger(__name__)

_SIGNING_NAME: Final = "IoTSecuredTunneling"
_API_STOP_SECONDS: Final = 3
_EXPIRY_CHECK_SECONDS: Final = 1.0
"""At the latest: the wall clock may be set, the machine may sleep, and CLOSED tunnels
have to go. A look costs some microseconds."""

_EXPIRY_RETRY_SECONDS: Final = 30.0
"""After the store could not be asked."""


class Service:
    """One tunneling service in this process.

    Create, :meth:`start`, and :meth:`stop` it in one event loop. Stopping keeps all
    tunnels; clients whose links are dropped come back to the next start.
    """

    def __init__(self, config: ServiceConfig, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._running = contextlib.AsyncExitStack()
        self._endpoints: Endpoints | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._accepting = False
        self.metrics_address: Address | None = None
        """Where metrics are served, when that is not the control API."""
        self._control: ControlPlane
        self._tls: ServerTls
        self._audit: AuditLog
        self._api_done: asyncio.Task[None]

    @property
    def endpoints(self) -> Endpoints:
        """How clients reach the service, while it runs."""
        if self._endpoints is None:
            raise RuntimeError("the service is not running")
        return self._endpoints

    @property
    def queries(self) -> TunnelQueries:
        """Reads of the service's state."""
        return self._control.queries

    async def start(self) -> None:
        """Open the state directory, listen, and write the ready files.

        Raises:
            ConfigurationError: the state directory cannot be used, or another
                service uses it.
            ListenError: an address cannot be bound.
        """
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self._running = stack.pop_all()

    async def stop(self) -> None:
        """Stop accepting, finish API requests, drop all links without a close frame.

        Takes a few seconds at most. Notifications that cannot be delivered are given up.
        """
        self._accepting = False
        await self._running.aclose()
        self._endpoints = None

    def reload(self) -> None:
        """Load the certificates again, and go on in a new audit log if the old one was moved.

        Connections that are open keep theirs.

        Raises:
            ConfigurationError: something cannot be used; the service goes on as it was.
        """
        self._tls.reload()
        self._audit.reopen()
        _log.info("certificates and audit log were loaded again")

    async def failed(self) -> None:
        """Return when the control API has ended without being asked to."""
        await asyncio.wait([self._api_done])

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        config = self._config
        make_private_directory(config.state_dir)
        stack.enter_context(_lock(config))
        store = SqliteStore.open(config.database)
        stack.callback(store.close)
        credentials = KeyRing.open(
            credentials_file(config.state_dir), config.environment, self._clock()
        )
        self._tls = ServerTls(self._certificates)
        self._audit = AuditLog(config.operation.audit_log, self._clock)
        stack.callback(self._audit.close)
        api_socket = _bind(config.api_listen, "--api-listen")
        stack.callback(api_socket.close)
        data_socket = _bind(config.data_listen, "--data-listen")
        stack.callback(data_socket.close)

        ids = RandomIds()
        switchboard = Switchboard()
        queries = TunnelQueries(store, config.region, config.account_id)
        tunnels = Tunnels(store, ids, config.limits)
        tunnels.start(self._clock())
        self._control = ControlPlane(tunnels, queries, switchboard, ids, self._clock)
        self._control.schedule = self._schedule_expiry
        self._control.expired = self._audit.expired

        counters = Counters(time.monotonic)
        counters.lag.start()
        stack.callback(counters.lag.stop)
        outboxes = self._start_notifying(stack)
        metrics = Metrics(counters, queries, outboxes)
        listener = DataListener(
            self._control,
            switchboard,
            config.data,
            config.limits,
            counters,
            self._audit,
        )
        stack.callback(_forget_links, tunnels, self._clock)
        stack.push_async_callback(listener.stop)
        await listener.start(data_socket, self._tls.context)
        await self._start_http(stack, api_socket, credentials, counters, metrics)
        self._expire()
        stack.callback(self._stop_expiry)
        self._accepting = True
        certificates = self._tls.certificates
        self._publish(stack, _endpoints(config, api_socket, data_socket, certificates, credentials))

    def _certificates(self) -> Certificates:
        config, operation = self._config, self._config.operation
        directory = config.state_dir / "tls"
        if operation.tls_cert is not None:
            return given_certificates(
                directory, operation.tls_cert, operation.tls_key, operation.tls_ca
            )
        return ensure_certificates(
            directory, certificate_names(config.certificate_hosts), self._clock()
        )

    def _start_notifying(self, stack: contextlib.AsyncExitStack) -> list[Outbox]:
        operation = self._config.operation
        notifiers: list[Notifier] = []
        if operation.mqtt is not None:
            notifiers.append(MqttNotifier(operation.mqtt))
        if operation.notify_command:
            notifiers.append(CommandNotifier(operation.notify_command))
        outboxes = [Outbox(notifier, self._clock) for notifier in notifiers]
        for outbox in outboxes:
            outbox.start()
            stack.push_async_callback(outbox.stop)
        self._control.announcements = Announcer(outboxes, self._config.region)
        return outboxes

    async def _start_http(
        self,
        stack: contextlib.AsyncExitStack,
        api_socket: socket.socket,
        credentials: KeyRing,
        counters: Counters,
        metrics: Metrics,
    ) -> None:
        """Serve the control API, health and metrics."""
        limits = self._config.limits
        routes = health_routes(self._control.queries, lambda: self._accepting)
        address = self._config.operation.metrics_listen
        if address is None:
            routes += metrics_routes(metrics)
        else:
            metrics_socket = _bind(address, "--metrics-listen")
            stack.callback(metrics_socket.close)
            app = build_monitoring_app([*routes, *metrics_routes(metrics)])
            await _serve_http(stack, metrics_socket, app, None, limits)
            self.metrics_address = Address(address.host, metrics_socket.getsockname()[1])
        verifier = Verifier(self._config.region, _SIGNING_NAME, credentials.find)
        app = build_app(self._control, verifier, counters, self._audit, routes, limits=limits)
        self._api_done = await _serve_http(stack, api_socket, app, self._tls.context, limits)

    def _publish(self, stack: contextlib.AsyncExitStack, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        # The one that was asked for comes last: whoever waits for it finds the other too.
        paths = (self._config.own_ready_file, self._config.ready_file)
        for path in dict.fromkeys(path for path in paths if path is not None):
            write_file(path, endpoints.to_json())
            stack.callback(path.unlink, missing_ok=True)
        _log.info(
            "service is ready: api %s, data %s", endpoints.api_endpoint, endpoints.data_endpoint
        )

    # Expiry

    def _schedule_expiry(self) -> None:
        asyncio.get_running_loop().call_soon(self._expire)

    def _expire(self) -> None:
        self._stop_expiry()
        delay = _EXPIRY_CHECK_SECONDS
        try:
            due = self._control.expire()
        except StoreFailed as failed:
            _log.error("%s", failed)
            delay = _EXPIRY_RETRY_SECONDS
        else:
            if due is not None:
                delay = min(delay, max(0.0, due - self._clock()))
        self._expiry = asyncio.get_running_loop().call_later(delay, self._expire)

    def _stop_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None


class _HttpProtocol(GuardedProtocol):
    """One HTTP connection."""

    def shutdown(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        super().shutdown()
        if idle:
            # Kept alive by the client; it would not answer the end of TLS.
            self.transport.abort()


class _HttpServer(uvicorn.Server):
    """uvicorn without signal handlers, and with a way to wait until it accepts requests."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve_http(
    stack: contextlib.AsyncExitStack,
    listening: socket.socket,
    app: Starlette,
    tls: ssl.SSLContext | None,
    limits: Limits,
) -> asyncio.Task[None]:
    """Serve an application until the stack unwinds; return once it accepts requests."""
    server = _HttpServer(
        uvicorn.Config(
            app,
            http=_HttpProtocol.guarded_by(ConnectionGuard(limits, time.monotonic)),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_API_STOP_SECONDS,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
    )
    loop = asyncio.get_running_loop()
    done = loop.create_task(server.serve([listening]))
    stack.push_async_callback(_stop_http, server, done)
    waiter = loop.create_task(server.ready.wait())
    await asyncio.wait([done, waiter], return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if done.done():
        done.result()
        raise ListenError("the HTTP server could not be started")
    return done


async def _stop_http(server: _HttpServer, task: asyncio.Task[None]) -> None:
    server.should_exit = True
    await asyncio.wait([task])


def _forget_links(tunnels: Tunnels, clock: Callable[[], float]) -> None:
    """Record in one go that no local proxy is connected any more."""
    try:
        tunnels.start(clock())
    except StoreFailed as failed:
        _log.error("connection states not recorded: %s", failed)


@contextlib.contextmanager
def _lock(config: ServiceConfig) -> Iterator[None]:
    """Keep a second service out of the state directory."""
    path = config.state_dir / "lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
    try:
        _lock_file(handle, config)
        yield
    finally:
        os.close(handle)


def _lock_file(handle: int, config: ServiceConfig) -> None:
    try:
        import fcntl
    except ImportError:  # not POSIX: SQLite's own locks have to do
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigurationError(
            f"another service uses {config.state_dir}; stop it, or choose another --state-dir"
        ) from None


def _bind(address: Address, option: str) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, target = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address.host == "::":
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listening.bind(target)
            # Already here, so that an address in use is found before anything starts.
            listening.listen(1024)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise ListenError(
            f"cannot listen on {address} ({option}): {error.strerror or error}"
        ) from error
    return listening


def _endpoints(
    config: ServiceConfig,
    api_socket: socket.socket,
    data_socket: socket.socket,
    certificates: Certificates,
    credentials: KeyRing,
) -> Endpoints:
    api = _advertised(config, config.api_listen.host, api_socket)
    data = _advertised(config, config.data_listen.host, data_socket)
    return Endpoints(
        api_endpoint=f"https://{api}",
        data_endpoint=str(data),
        ca_file=str(certificates.ca_file.absolute()),
        ca_dir=str(certificates.ca_dir.absolute()),
        region=config.region,
        access_key_id=credentials.own.access_key_id,
        secret_access_key=credentials.own.secret_access_key.reveal(),
        pid=os.getpid(),
    )


def _advertised(config: ServiceConfig, host: str, listening: socket.socket) -> Address:
    """Return an address that clients can use and that the certificate names."""
    if host in EVERY_ADDRESS:
        host = config.host_names[0] if config.host_names else "localhost"
    return Address(host, listening.getsockname()[1])
