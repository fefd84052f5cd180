"""``tailrace.Client``: the control API with types, configured as every AWS tool is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from ..common.escaping import LONGEST_LINE, cut
from ..errors import ConfigurationError, ControlError
from ..wire import Side
from .control_api import ControlAPI, CredentialSource, Document
from .credentials import Credentials, find_credentials
from .joined import JoinedService, find_joined, unless_named
from .profile import aws_endpoint, read_profile
from .results import (
    OpenedTunnel,
    RotatedTokens,
    TunnelDescription,
    TunnelSummary,
    opened_tunnel,
    rotated_tokens,
    tags_of,
    tunnel_description,
    tunnel_summary,
)
from .running import find_running

__all__ = ["Client"]

R = TypeVar("R")


class Client:
    """Opens, lists, describes, rotates and closes tunnels, of AWS or of ``tailrace serve``.

    What is not given is found as boto3 finds it: in the environment, which may be what
    ``tailrace env`` prints, and in the profile of the AWS configuration files. Where neither
    arguments nor the environment name a service, one that was joined comes before those files
    (``tailrace join``), and one that this user runs here (``tailrace serve``) where they name no
    region either.

    One TLS connection is kept between calls, for 20 s; calls at the same time take turns. A
    client belongs to one event loop; :meth:`aclose`, or ``async with``, closes its connection.

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

    All methods raise :class:`~tailrace.errors.ControlError`: a
    :class:`~tailrace.errors.CallRefused` for what another attempt would not change, and otherwise
    after the last attempt. A web proxy that refuses raises :class:`~tailrace.errors.LinkError`,
    and credentials that boto3 does not find :class:`~tailrace.errors.ConfigurationError`.

    Example::

        async with tailrace.Client() as client:
            opened = await client.open(thing="pump-7", services=["SSH"])
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
        target = _target(profile, region, endpoint, credentials, None if ca is None else Path(ca))
        region, endpoint, credentials, bundle = target
        self.region = region
        """The AWS region, given or found."""
        self.endpoint = endpoint
        """The control API that is called, an ``https`` URL."""
        self.ca = bundle
        """CA certificates that are trusted in addition to the system's, ``None`` if none are."""
        self.api = ControlAPI(
            endpoint,
            region,
            credentials,
            bundle,
            timeout=timeout,
            attempts=attempts,
            environment=os.environ,
        )
        """The calls as they are, with documents instead of types."""

    async def __aenter__(self) -> Client:
        """Return this client; its connection is made by its first call."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, or let it end with a call under way; another would make a new one.

        Example::

            client = tailrace.Client()
            try:
                await client.describe(tunnel_id)
            finally:
                await client.aclose()
        """
        await self.api.close()

    async def open(
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
            opened = await client.open(thing="pump-7", services=["SSH"], lifetime=hour)
        """
        parameters = _destination(thing, services)
        if thing is not None and not parameters["destinationConfig"].get("services"):
            raise ConfigurationError(
                "a thing needs services: name those of the thing", setting="services"
            )
        if description is not None:
            parameters["description"] = description
        if lifetime is not None:
            parameters["timeoutConfig"] = {"maxLifetimeTimeoutMinutes": _minutes(lifetime)}
        if tags:
            parameters["tags"] = _tags(tags)
        return await self._call("OpenTunnel", parameters, opened_tunnel)

    async def describe(self, tunnel_id: str) -> TunnelDescription:
        """Return what the service tells about a tunnel.

        Raises:
            TunnelNotFound: there is no such tunnel.
            ControlError, ConfigurationError: see :class:`Client`.

        Example::

            tunnel = await client.describe(tunnel_id)
            print(tunnel.state, tunnel.destination.is_connected)
        """
        return await self._call("DescribeTunnel", {"tunnelId": tunnel_id}, tunnel_description)

    async def list(
        self, *, thing: str | None = None, limit: int | None = None
    ) -> AsyncIterator[TunnelSummary]:
        """Yield tunnels, newest first; pages are asked for as they are needed.

        Args:
            thing: only tunnels of this thing.
            limit: at most so many; all if none is given.

        Raises:
            ControlError, ConfigurationError: see :class:`Client`.

        Example::

            async for tunnel in client.list(thing="pump-7"):
                print(tunnel.tunnel_id, tunnel.state)
        """
        async for document in self.api.summaries(thing, limit):
            yield _parse("ListTunnels", document, tunnel_summary)

    async def rotate(
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

            rotated = await client.rotate(tunnel_id, Side.SOURCE)
        """
        if side is not None and not isinstance(side, Side):
            raise ConfigurationError(
                f"side {side!r} is not a tailrace.Side, as Side.SOURCE", setting="side"
            )
        mode = "ALL" if side is None else side.name
        parameters = {"tunnelId": tunnel_id, "clientMode": mode} | _destination(thing, services)
        return await self._call("RotateTunnelAccessToken", parameters, rotated_tokens)

    async def close(self, tunnel_id: str, *, delete: bool = False) -> None:
        """Close a tunnel; ``delete`` deletes its record immediately.

        The client itself is closed by :meth:`aclose`.

        Raises:
            TunnelNotFound: there is no such tunnel.
            ControlError, ConfigurationError: see :class:`Client`.

        Example::

            await client.close(opened.tunnel_id)
        """
        await self.api.call("CloseTunnel", {"tunnelId": tunnel_id, "delete": delete})

    async def tag(self, tunnel: str, tags: Mapping[str, str]) -> None:
        """Add tags to a tunnel, or change their values.

        Args:
            tunnel: its ARN; or its id, which costs a call more.

        Raises:
            TunnelNotFound: there is no such tunnel.
            ControlError, ConfigurationError: see :class:`Client`.

        Example::

            await client.tag(opened.arn, {"ticket": "4711"})
        """
        parameters = {"resourceArn": await self._arn(tunnel), "tags": _tags(tags)}
        await self.api.call("TagResource", parameters)

    async def untag(self, tunnel: str, keys: Iterable[str]) -> None:
        """Remove tags from a tunnel; keys that it does not have do not matter.

        Args:
            tunnel: its ARN; or its id, which costs a call more.

        Raises:
            TunnelNotFound: there is no such tunnel.
            ControlError, ConfigurationError: see :class:`Client`.

        Example::

            await client.untag(opened.arn, ["ticket"])
        """
        parameters = {"resourceArn": await self._arn(tunnel), "tagKeys": _several("keys", keys)}
        await self.api.call("UntagResource", parameters)

    async def tags(self, tunnel: str) -> dict[str, str]:
        """Return the tags of a tunnel, key -> value.

        Args:
            tunnel: its ARN; or its id, which costs a call more.

        Raises:
            TunnelNotFound: there is no such tunnel.
            ControlError, ConfigurationError: see :class:`Client`.

        Example::

            ticket = (await client.tags(opened.arn)).get("ticket")
        """
        parameters = {"resourceArn": await self._arn(tunnel)}
        return await self._call("ListTagsForResource", parameters, tags_of)

    async def _call(
        self, operation: str, parameters: Document, parse: Callable[[Mapping[str, Any]], R]
    ) -> R:
        return _parse(operation, await self.api.call(operation, parameters), parse)

    async def _arn(self, tunnel: str) -> str:
        return tunnel if tunnel.startswith("arn:") else (await self.describe(tunnel)).arn


def _parse(
    operation: str, document: Mapping[str, Any], parse: Callable[[Mapping[str, Any]], R]
) -> R:
    try:
        return parse(document)
    except ValueError as error:
        text = cut(str(error), LONGEST_LINE)  # it may quote the response
        raise ControlError("", f"{operation}: the response makes no sense: {text}") from None


def _destination(thing: str | None, services: Iterable[str]) -> Document:
    destination: Document = {}
    if thing is not None:
        destination["thingName"] = thing
    if ids := _several("services", services):
        destination["services"] = ids
    return {"destinationConfig": destination} if destination else {}


def _several(name: str, values: Iterable[str]) -> tuple[str, ...]:
    """Refuse a single string, whose letters would be taken for values."""
    if isinstance(values, str):
        raise ConfigurationError(f"{name} is {values!r}: give a list, [{values!r}]", setting=name)
    return tuple(values)


def _minutes(lifetime: timedelta) -> int:
    if not isinstance(lifetime, timedelta):
        raise ConfigurationError(
            f"lifetime {lifetime!r} is not a timedelta: give timedelta(minutes=60), for example",
            setting="lifetime",
        )
    minutes, rest = divmod(lifetime, timedelta(minutes=1))
    if rest or minutes < 1:
        raise ConfigurationError(
            f"lifetime {lifetime} is not a number of whole minutes", setting="lifetime"
        )
    return minutes


def _tags(tags: Mapping[str, str]) -> tuple[Document, ...]:
    return tuple({"key": key, "value": value} for key, value in tags.items())


_Target: TypeAlias = tuple[str, str, Credentials | CredentialSource, Path | None]
"""Region, control API, credentials, and certificates to trust besides the system's."""


def _target(
    profile: str | None,
    region: str | None,
    endpoint: str | None,
    credentials: Credentials | CredentialSource | None,
    bundle: Path | None,
) -> _Target:
    """Return what is called, and how: as given, and the rest as it is found.

    Raises:
        ConfigurationError: there is no region, or something that was found is not valid.
    """
    is_told = bool(profile or region or endpoint or credentials)
    joined = None if is_told else unless_named(os.environ, find_joined)
    if joined is not None:
        return _target_of(joined, bundle)
    if region and endpoint and credentials and bundle:
        return region, endpoint, credentials, bundle
    found = read_profile(os.environ, profile)
    region = region or found.region
    if not (is_told or region or found.endpoint):
        running = unless_named(os.environ, find_running)
        if running is not None:
            return _target_of(running, bundle)
    if not region:
        raise ConfigurationError("no region: give one, or set AWS_REGION", setting="region")
    return (
        region,
        endpoint or found.endpoint or aws_endpoint(region),
        credentials or find_credentials(found, profile),
        bundle or found.ca_bundle,
    )


def _target_of(service: JoinedService, bundle: Path | None) -> _Target:
    return service.region, service.api_endpoint, service.credentials, bundle or service.ca_file
