"""What one scenario has at hand: a service to script, proxies, clients, applications."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import re
import signal
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from cryptography import x509

from conformance.progress import Progress, waiting
from conformance.sockets import Application, Socket, connect
from conformance.stage import Stage
from conformance.targets import Target
from support.network.certificates import Certificates
from support.network.sockets import black_hole
from support.processes.child import Process, process
from support.service import ServiceProcess, service_process
from tailrace.service.tls.authority import subject_hash

__all__ = ["ACCESS_TOKEN", "Lab", "Proxy", "Settings", "Shared"]

ACCESS_TOKEN: Final = "AQGAAXiU2n3bQ7kVexampleexampleexampleACAAAQABAAdU"

_POLL: Final = 0.02
_GRACE: Final = 0.7
"""Seconds after which a proxy that nobody expected to end is the outcome."""
_LOG_TAIL: Final = 25
_LAST_WORDS: Final = re.compile(r"(?:\[fatal\] |: (?=Assertion `))([^\[\n]{1,100})")

Settings = Mapping[str, str | int]


class Proxy(Process):
    """A running local proxy."""

    def __init__(self, inner: Process) -> None:
        super().__init__(inner.name, inner._popen, inner._directory)
        self.may_end = False

    async def ended(self) -> int:
        """Wait for its end and return the exit status."""
        self.may_end = True
        waiting("the end of the proxy")
        while self.running:
            await asyncio.sleep(_POLL)
        return self._popen.wait()

    async def said(self, text: str) -> None:
        """Wait for ``text`` in its log."""
        waiting(f"{text!r} in the log")
        while text not in self.log:
            await asyncio.sleep(_POLL)

    async def port(self, service: str) -> int:
        """Wait until it logs which port it took for a service."""
        line = re.compile(rf"\] {re.escape(service)} = (?:\S+:)?([1-9]\d*)$", re.MULTILINE)
        waiting(f"the port of service {service!r} in the log")
        while not (found := line.findall(self.log)):
            await asyncio.sleep(_POLL)
        return int(found[-1])

    def lines(self, text: str) -> int:
        """Return how many lines of the log hold ``text``."""
        return sum(text in line for line in self.log.splitlines())

    def death(self) -> str:
        """Return how it ended, if it ended unexpectedly."""
        if self.running or self.may_end:
            return ""
        status = self._popen.wait()
        name = f" ({signal.Signals(-status).name})" if status < 0 else ""
        return f"the proxy ended with status {status}{name}{self._last_words()}"

    def _last_words(self) -> str:
        """Return what the log gives as the reason of the end, if it does."""
        words = _LAST_WORDS.findall(self.log)
        return f": {words[-1].strip()}" if words else ""


class Shared:
    """What all scenarios of a session share."""

    def __init__(self, directory: Path, full: bool) -> None:
        self.full = full
        self.directory = directory
        self.certificates = Certificates(directory)
        self.context = self.certificates.server_context()
        self.ca_dir = directory / "ca"
        self.ca_dir.mkdir()
        pem = self.certificates.ca_file.read_bytes()
        name = f"{subject_hash(x509.load_pem_x509_certificate(pem))}.0"
        (self.ca_dir / name).write_bytes(pem)
        self._service: asyncio.Future[ServiceProcess] | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    async def service(self) -> ServiceProcess:
        """Return the one ``tailrace serve`` of the session."""
        if self._service is None:
            self._service = asyncio.get_running_loop().create_future()
            directory = self.directory / "service"
            directory.mkdir()
            starting = service_process(directory)
            self._service.set_result(await asyncio.to_thread(self._stack.enter_context, starting))
        return await self._service


class Lab:
    """One scenario's workplace; all it starts is gone when the scenario ends."""

    def __init__(
        self,
        shared: Shared,
        target: Target,
        directory: Path,
        stack: contextlib.AsyncExitStack,
    ) -> None:
        self.target = target
        self.full = shared.full
        """Whether sizes and counts are to be those of the documents."""
        self.certificates = shared.certificates
        self.ca_dir = shared.ca_dir
        self.directory = directory
        self.service = shared.service
        self._context = shared.context
        self._stack = stack
        self._proxies: list[Proxy] = []
        self._tasks: list[asyncio.Task[None]] = []
        directory.mkdir()

    # -- running ----------------------------------------------------------------------

    async def perform(self, script: Callable[[Lab], Awaitable[None]]) -> None:
        """Run a scenario; fails as soon as a proxy has ended that should not."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as watch:
            watcher = loop.create_task(self._watch(watch))
            try:
                await script(self)
            finally:
                watcher.cancel()
                for task in self._tasks:
                    task.cancel()
                results = await asyncio.gather(watcher, *self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, AssertionError):
                raise result
        for proxy in self._proxies:
            said = proxy.log + proxy.output
            assert "Traceback" not in said, "a traceback in the log"
            assert ACCESS_TOKEN not in said, "the access token in the log"

    async def _watch(self, watch: asyncio.Timeout) -> None:
        while not any(proxy.death() for proxy in self._proxies):
            await asyncio.sleep(_GRACE / 2)
        await asyncio.sleep(_GRACE)  # the scenario may be about to ask for it
        if any(proxy.death() for proxy in self._proxies):
            watch.reschedule(asyncio.get_running_loop().time())

    async def deaths(self, notice: float) -> list[str]:
        """Return how proxies have ended that should not, ``notice`` seconds from now."""
        if self._proxies:
            await asyncio.sleep(notice)
        return [death for proxy in self._proxies if (death := proxy.death())]

    def logs(self) -> list[str]:
        """Return the last lines of each proxy's log."""
        return [
            "\n".join([f"--- {proxy.name} ---", *proxy.log.splitlines()[-_LOG_TAIL:]])
            for proxy in self._proxies
        ]

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something meanwhile; cancelled when the scenario ends."""
        # What it waits for is not what the scenario waits for.
        aside = contextvars.copy_context()
        aside.run(Progress)
        self._tasks.append(asyncio.get_running_loop().create_task(work, context=aside))

    def on_exit(self, close: Callable[[], Awaitable[None]]) -> None:
        """Do something when the scenario ends."""
        self._stack.push_async_callback(close)

    # -- the service ------------------------------------------------------------------

    def stage(
        self,
        *,
        plain: bool = False,
        context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        name: str = "",
        buffer: int = 0,
    ) -> Stage:
        """A service to script; ``name`` is what proxies are to call its host."""
        stage = Stage(None if plain else context or self._context, host, port, name, buffer)
        self._stack.push_async_callback(stage.aclose)
        return stage

    # -- proxies ----------------------------------------------------------------------

    def proxy(
        self,
        *arguments: str,
        settings: Settings | None = None,
        ours: tuple[str, ...] = (),
        token: str = ACCESS_TOKEN,
        trusted: Path | None = None,
        prefix: tuple[str, ...] = (),
        **environment: str,
    ) -> Proxy:
        """Start the command under test.

        Args:
            settings: for ``--settings-json``, keys without ``tunneling.proxy.``.
            ours: options that only our command has.
            trusted: the certificates of the system, so to speak.
            prefix: command that starts the command.
        """
        name = f"proxy-{len(self._proxies) + 1}"
        command = [*prefix, *self.target.command, *arguments]
        if self.target.is_ours:
            command += ours
        if settings:
            file = self.directory / f"{name}.settings.json"
            file.write_text(json.dumps(_tree(settings)))
            command += ["--settings-json", str(file)]
        if token:
            environment["AWSIOT_TUNNEL_ACCESS_TOKEN"] = token
        trust = trusted or self.certificates.ca_file
        started = process(
            name, command, self.directory, self.target.environment(trust, **environment)
        )
        proxy = Proxy(self._stack.enter_context(started))
        self._proxies.append(proxy)
        return proxy

    # -- clients and applications ---------------------------------------------------------

    async def client(self, port: int, **options: Any) -> Socket:
        """Connect to a port, once somebody listens there; ``options`` of ``sockets.connect``."""
        sock = await connect(port, **options)
        self._stack.callback(sock.close)
        return sock

    def application(self, port: int = 0, host: str = "127.0.0.1", buffer: int = 0) -> Application:
        """A listening application."""
        application = Application(port, host, buffer)
        self._stack.callback(application.close)
        return application

    def black_hole(self) -> int:
        """Return a port that answers nothing."""
        return self._stack.enter_context(black_hole())


def _tree(settings: Settings) -> dict[str, Any]:
    """Return dotted keys as the nested objects of a settings file."""
    root: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = f"tunneling.proxy.{key}".split(".")
        at = root
        for name in path:
            at = at.setdefault(name, {})
        at[last] = str(value)
    return root
