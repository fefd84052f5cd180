"""``tailrace.sync.Client``: the control API for code that blocks."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from .. import aws
from ..aws import (
    Credentials,
    OpenedTunnel,
    RotatedTokens,
    TunnelDescription,
    TunnelSummary,
)
from ..aws.control_api import CredentialSource
from ..common.background_loop import BackgroundLoop
from ..errors import ConfigurationError, LocalProtocolError
from ..wire import Side
from .shared_loop import SHARED

__all__ = ["Client", "asynchronous", "client_around"]

_Result = TypeVar("_Result")


class Client:
    """Opens, lists, describes, rotates and closes tunnels, of AWS or of ``tailrace serve``.

    It is :class:`tailrace.Client` for code that blocks, and takes, finds and raises the same. In a
    ``with`` block, one TLS connection is kept between calls. Without one, each call makes its own.
    Its methods may be called from any thread; calls at the same time take turns.

    Args:
        profile: a profile of the AWS configuration files; then credentials in the environment do
            not count.
        region: an AWS region, such as ``eu-west-1``.
        endpoint: the control API, ``https://HOST`` or ``https://HOST:PORT``.
        credentials: an access key; or a function that is called in a thread, before each attempt,
            for one that changes.
        ca: a file of CA certificates in PEM, or a directory hashed for OpenSSL, to trust in
            addition to the system's.
        timeout: seconds for each of name resolution, TCP, TLS, and request with response.
        attempts: how often a call is made at most when it is throttled, or the service fails.

    Raises:
        ConfigurationError: there is no region, no credentials are found without asking boto3, or a
            value, file or variable is not valid.

    Example::

        with tailrace.sync.Client() as client:
            opened = client.open(thing="pump-7", services=["SSH"])
    """

    def __init__(
        self,
        *,
        profile: str | None = None,
        region: str | None = None,
        endpoint: str | None = None,
        credentials: Credentials | CredentialSource | None = None,
        ca: str | os.PathLike[str] | None = None,
        timeout: float = 30.0,
        attempts: int = 3,
    ) -> None:
        self._begin(
            aws.Client(
                profile=profile,
                region=region,
                endpoint=endpoint,
                credentials=credentials,
                ca=ca,
                timeout=timeout,
                attempts=attempts,
            )
        )

    def _begin(self, client: aws.Client) -> None:
        self._client = client
        self.region = client.region
        """The AWS region, given or found."""
        self.endpoint = client.endpoint
        """The control API that is called, an ``https`` URL."""
        # Reentrant: garbage that is collected where it is held may end an iteration of list().
        self._lock = threading.RLock()
        self._entered = 0
        self._loop: BackgroundLoop | None = None

    def __enter__(self) -> Self:
        """Keep a connection between calls from now on."""
        if self._loop is not None and not self._loop.is_of_this_process:
            raise LocalProtocolError(
                "the client was in use when this process was forked: make another one here"
            )
        loop = SHARED.hold()
        with self._lock:
            self._entered += 1
            self._loop = loop
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection, if nobody else is inside of a block of this client."""
        with self._lock:
            loop = self._loop
            if loop is None or not loop.is_of_this_process:
                return
            self._entered -= 1
            is_last = not self._entered
            if is_last:
                self._loop = None
        try:
            if is_last:
                loop.run(self._client.aclose())
        finally:
            SHARED.release(loop)

    def open(
        self,
        *,
        thing: str | None = None,
        services: Iterable[str] = (),
        description: str | None = None,
        lifetime: timedelta | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> OpenedTunnel:
        """Open a tunnel and return it with its tokens.

        It is not repeated when its response is lost
        (:class:`~tailrace.errors.ResponseLost`): then a tunnel may be open, see :meth:`list`.

        Args:
            thing: the thing that is sent the destination's token; needs ``services``.
            services: service ids, such as ``SSH``.
            lifetime: whole minutes, 1 to 720, after which the tunnel is closed; the longest if
                none is given.

        Raises:
            LimitExceeded: there are as many tunnels as there may be.
            ControlError, ConfigurationError: see :class:`Client`.

        Example::

            hour = timedelta(hours=1)
            opened = client.open(thing="pump-7", services=["SSH"], lifetime=hour)
        """
        return self._run(
            self._client.open(
                thing=thing,
                services=services,
                description=description,
                lifetime=lifetime,
                tags=tags,
            )
        )

    def describe(self, tunnel_id: str) -> TunnelDescription:
        """Return what the service tells about a tunnel.

        Raises:
            TunnelNotFound: there is no such tunnel.
            ControlError, ConfigurationError: see :class:`Client`.

        Example::

            tunnel = client.describe(tunnel_id)
            print(tunnel.state, tunnel.destination.is_connected)
        """
        return self._run(self._client.describe(tunnel_id))

    def list(
        self, *, thing: str | None = None, limit: int | None = None
    ) -> Iterator[TunnelSummary]:
        """Yield tunnels, newest first; pages are asked for as they are needed.

        Args:
            thing: only tunnels of this thing.
            limit: at most so many; all if none is given.

        Raises:
            ControlError, ConfigurationError: see :class:`Client`.

        Example::

            for tunnel in client.list(thing="pump-7"):
                print(tunnel.tunnel_id, tunnel.state)
        """
        with self:
            found = self._client.list(thing=thing, limit=limit)
            while (each := self._run(_next(found))) is not None:
                yield each

    def rotate(
        self,
        tunnel_id: str,
        side: Side | None = None,
        *,
        thing: str | None = None,
        services: Iterable[str] = (),
    ) -> RotatedTokens:
        """Replace tokens of a tunnel; who uses the old ones is disconnected.

        Args:
            side: whose token is replaced; both if none is given.
            thing: the thing that is sent the destination's token.
            services: service ids of the destination.

        Raises:
            TunnelNotFound: there is no such tunnel.
            ControlError, ConfigurationError: see :class:`Client`.

        Example::

            rotated = client.rotate(tunnel_id, Side.SOURCE)
        """
        return self._run(self._client.rotate(tunnel_id, side, thing=thing, services=services))

    def close(self, tunnel_id: str, *, delete: bool = False) -> None:
        """Close a tunnel; ``delete`` deletes its record immediately.

        Raises:
            TunnelNotFound: there is no such tunnel.
            ControlError, ConfigurationError: see :class:`Client`.

        Example::

            client.close(opened.tunnel_id)
        """
        self._run(self._client.close(tunnel_id, delete=delete))

    def tag(self, tunnel: str, tags: Mapping[str, str]) -> None:
        """Add tags to a tunnel, or change their values.

        Args:
            tunnel: its ARN; or its id, which costs a call more.

        Raises:
            TunnelNotFound: there is no such tunnel.
            ControlError, ConfigurationError: see :class:`Client`.

        Example::

            client.tag(opened.arn, {"ticket": "4711"})
        """
        self._run(self._client.tag(tunnel, tags))

    def untag(self, tunnel: str, keys: Iterable[str]) -> None:
        """Remove tags from a tunnel; keys that it does not have do not matter.

        Args:
            tunnel: its ARN; or its id, which costs a call more.

        Raises:
            TunnelNotFound: there is no such tunnel.
            ControlError, ConfigurationError: see :class:`Client`.

        Example::

            client.untag(opened.arn, ["ticket"])
        """
        self._run(self._client.untag(tunnel, keys))

    def tags(self, tunnel: str) -> dict[str, str]:
        """Return the tags of a tunnel, key -> value.

        Args:
            tunnel: its ARN; or its id, which costs a call more.

        Raises:
            TunnelNotFound: there is no such tunnel.
            ControlError, ConfigurationError: see :class:`Client`.

        Example::

            ticket = client.tags(opened.arn).get("ticket")
        """
        return self._run(self._client.tags(tunnel))

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        try:
            self.__enter__()
        except BaseException:
            work.close()
            raise
        with contextlib.ExitStack() as stack:
            stack.push(self)
            assert self._loop is not None
            return self._loop.run(work)


def client_around(client: aws.Client) -> Client:
    """Return the blocking twin of a client."""
    twin = Client.__new__(Client)
    twin._begin(client)
    return twin


def asynchronous(client: Client) -> aws.Client:
    """Return the client whose twin this one is.

    Raises:
        ConfigurationError: it is none of :mod:`tailrace.sync`.
    """
    if not isinstance(client, Client):
        raise ConfigurationError(f"client={client!r} is no tailrace.sync.Client")
    return client._client


async def _next(found: AsyncIterator[TunnelSummary]) -> TunnelSummary | None:
    return await anext(found, None)
