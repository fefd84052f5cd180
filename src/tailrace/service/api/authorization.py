"""Whether a signer may do what a request asks for."""

from __future__ import annotations

from typing import Any

from ..identity.policy import AccessKey
from ..tunnels.queries import TunnelQueries
from .errors import ApiError, ErrorType

__all__ = ["authorize"]


def authorize(
    key: AccessKey, operation: str, parameters: dict[str, Any], queries: TunnelQueries
) -> None:
    """Refuse what the policy of ``key`` does not allow; ``parameters`` have been checked.

    ListTunnels without a thing name passes: its answer has to be filtered.

    Raises:
        ApiError: AccessDeniedException.
        TunnelNotFound: there is no such tunnel.
    """
    policy = key.policy
    allowed = policy.allows(operation)
    if allowed and policy.things is not None:
        things = _things(operation, parameters, queries)
        allowed = all(policy.allows_thing(thing) for thing in things)
    if not allowed:
        raise ApiError(
            ErrorType.ACCESS_DENIED,
            f"Access key {key.access_key_id} is not authorized to perform {operation}"
            + (" on tunnels of this thing" if policy.allows(operation) else ""),
        )


def _things(operation: str, parameters: dict[str, Any], queries: TunnelQueries) -> list[str | None]:
    """Return the thing names that a request concerns, now and when it is done."""
    if operation == "ListTunnels":
        return [parameters["thingName"]] if "thingName" in parameters else []
    things: list[str | None] = []
    if "tunnelId" in parameters:
        things.append(queries.describe(parameters["tunnelId"]).thing_name)
    if "resourceArn" in parameters:
        tunnel_id = queries.tunnel_id(parameters["resourceArn"])
        things.append(queries.describe(tunnel_id).thing_name)
    if operation == "OpenTunnel" or "destinationConfig" in parameters:
        things.append(parameters.get("destinationConfig", {}).get("thingName"))
    return things
