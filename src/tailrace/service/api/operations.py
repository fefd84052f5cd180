"""The operations of the control API: checked parameters in, a response document out."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from ...wire import Side
from ..control import ControlPlane
from ..errors import InvalidCursor, TunnelClosed, TunnelLimitReached, TunnelNotFound
from ..identity.policy import AccessKey, Policy
from ..tunnels.rules import DEFAULT_LIFETIME_MINUTES, Destination, TunnelSpec
from ..tunnels.store import ConnectionState, TunnelRecord
from .authorization import authorize
from .errors import ApiError, ErrorType
from .model import OPERATIONS

__all__ = ["Operations"]

_Document: TypeAlias = dict[str, Any]

_MODES: Final[Mapping[str, tuple[Side, ...]]] = {
    "SOURCE": (Side.SOURCE,),
    "DESTINATION": (Side.DESTINATION,),
    "ALL": tuple(Side),
}

_PAGE: Final = 100
"""Tunnels per page when the request does not say."""


class Operations:
    """Carries out operations by name."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control
        self._handlers: Mapping[str, Callable[[_Document], _Document]] = {
            "CloseTunnel": self._close_tunnel,
            "DescribeTunnel": self._describe_tunnel,
            "ListTagsForResource": self._list_tags,
            "OpenTunnel": self._open_tunnel,
            "RotateTunnelAccessToken": self._rotate_tokens,
            "TagResource": self._tag,
            "UntagResource": self._untag,
        }

    def __contains__(self, name: str) -> bool:
        return name in OPERATIONS

    def call(self, name: str, parameters: _Document, key: AccessKey) -> _Document:
        """Carry out one operation for the bearer of an access key.

        Raises:
            ApiError: a modelled error of the operation, or the key does not allow it.
            StoreFailed: the store cannot be read or written.
        """
        try:
            authorize(key, name, parameters, self._control.queries)
            if name == "ListTunnels":
                return self._list_tunnels(parameters, key.policy)
            return self._handlers[name](parameters)
        except (TunnelNotFound, TunnelClosed) as error:
            # The only error that the model knows for operations on one tunnel.
            raise ApiError(ErrorType.RESOURCE_NOT_FOUND, str(error)) from None
        except TunnelLimitReached as error:
            raise ApiError(ErrorType.LIMIT_EXCEEDED, str(error)) from None

    def _rotate_tokens(self, parameters: _Document) -> _Document:
        mode, config = parameters["clientMode"], parameters.get("destinationConfig")
        if config is not None and mode == "SOURCE":
            raise ApiError(
                ErrorType.VALIDATION, "destinationConfig cannot be used with clientMode SOURCE"
            )
        rotated = self._control.rotate(
            parameters["tunnelId"],
            _MODES[mode],
            _read_destination(config) if config is not None else None,
        )
        document = {"tunnelArn": self._control.queries.arn(rotated.tunnel.tunnel_id)}
        for side, token in rotated.tokens.items():
            document[f"{side}AccessToken"] = token.reveal()
        return document

    def _tag(self, parameters: _Document) -> _Document:
        tunnel_id = self._control.queries.tunnel_id(parameters["resourceArn"])
        self._control.tag(tunnel_id, dict(_read_tags(parameters["tags"])))
        return {}

    def _untag(self, parameters: _Document) -> _Document:
        tunnel_id = self._control.queries.tunnel_id(parameters["resourceArn"])
        self._control.untag(tunnel_id, parameters["tagKeys"])
        return {}

    def _list_tags(self, parameters: _Document) -> _Document:
        tunnel_id = self._control.queries.tunnel_id(parameters["resourceArn"])
        return {"tags": _write_tags(self._control.queries.describe(tunnel_id))}

    def _open_tunnel(self, parameters: _Document) -> _Document:
        destination = _read_destination(parameters.get("destinationConfig", {}))
        timeout = parameters.get("timeoutConfig", {})
        spec = TunnelSpec(
            description=parameters.get("description"),
            thing_name=destination.thing_name,
            services=destination.services,
            lifetime_minutes=timeout.get("maxLifetimeTimeoutMinutes", DEFAULT_LIFETIME_MINUTES),
            tags=_read_tags(parameters.get("tags", [])),
        )
        opened = self._control.open_tunnel(spec)
        return {
            "tunnelId": opened.tunnel.tunnel_id,
            "tunnelArn": self._control.queries.arn(opened.tunnel.tunnel_id),
            "sourceAccessToken": opened.source_token.reveal(),
            "destinationAccessToken": opened.destination_token.reveal(),
        }

    def _close_tunnel(self, parameters: _Document) -> _Document:
        self._control.close_tunnel(parameters["tunnelId"], delete=parameters.get("delete", False))
        return {}

    def _describe_tunnel(self, parameters: _Document) -> _Document:
        tunnel = self._control.queries.describe(parameters["tunnelId"])
        document = self._summary(tunnel) | {
            "sourceConnectionState": _connection(tunnel.source),
            "destinationConnectionState": _connection(tunnel.destination),
            "timeoutConfig": {"maxLifetimeTimeoutMinutes": tunnel.lifetime_minutes},
        }
        if tunnel.services:
            document["destinationConfig"] = {"services": list(tunnel.services)}
            if tunnel.thing_name is not None:
                document["destinationConfig"]["thingName"] = tunnel.thing_name
        if tunnel.tags:
            document["tags"] = _write_tags(tunnel)
        return {"tunnel": document}

    def _list_tunnels(self, parameters: _Document, policy: Policy) -> _Document:
        """List what the policy lets see; so a page may have less than was asked for."""
        try:
            page = self._control.queries.page(
                parameters.get("thingName"),
                _read_next_token(parameters.get("nextToken")),
                parameters.get("maxResults", _PAGE),
            )
        except InvalidCursor as error:
            raise ApiError(ErrorType.VALIDATION, str(error)) from None
        document: _Document = {
            "tunnelSummaries": [
                self._summary(tunnel)
                for tunnel in page.tunnels
                if policy.allows_thing(tunnel.thing_name)
            ]
        }
        if page.cursor is not None:
            document["nextToken"] = urlsafe_b64encode(page.cursor.encode()).decode()
        return document

    def _summary(self, tunnel: TunnelRecord) -> _Document:
        document: _Document = {
            "tunnelId": tunnel.tunnel_id,
            "tunnelArn": self._control.queries.arn(tunnel.tunnel_id),
            "status": tunnel.status.value,
            "createdAt": round(tunnel.created_at, 3),
            "lastUpdatedAt": round(tunnel.last_updated_at, 3),
        }
        if tunnel.description is not None:
            document["description"] = tunnel.description
        return document


def _connection(state: ConnectionState) -> _Document:
    return {"status": state.status.value, "lastUpdatedAt": round(state.last_updated_at, 3)}


def _read_destination(config: _Document) -> Destination:
    return Destination(tuple(dict.fromkeys(config.get("services", ()))), config.get("thingName"))


def _write_tags(tunnel: TunnelRecord) -> list[_Document]:
    return [{"key": key, "value": value} for key, value in tunnel.tags]


def _read_tags(tags: list[dict[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return tags as pairs; the last value of a repeated key wins."""
    return tuple({tag["key"]: tag["value"] for tag in tags}.items())


def _read_next_token(token: str | None) -> str | None:
    if token is None:
        return None
    try:
        return urlsafe_b64decode(token).decode("ascii")
    except ValueError:
        raise InvalidCursor("nextToken is not one that was returned by ListTunnels") from None
