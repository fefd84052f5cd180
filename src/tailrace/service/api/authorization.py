"""Whether the key that signed a request may do what it asks for."""

from __future__ import annotations

from ..identity.policy import AccessKey
from .errors import ApiError, ErrorType
from .model import Operation
from .operations import Call

__all__ = ["authorize"]


def authorize(name: str, operation: Operation, call: Call) -> None:
    """Refuse a call that the policy of its key does not allow.

    Raises:
        ApiError: AccessDeniedException.
        TunnelNotFound: there is no such tunnel.
    """
    key, policy = call.key, call.key.policy
    if not policy.allows(name, writes=operation.writes):
        raise _denied(key, name)
    # Not asked of keys for all things: it reads the store.
    if policy.things is not None and not all(map(policy.allows_thing, operation.things(call))):
        raise _denied(key, f"{name} on tunnels of this thing")


def _denied(key: AccessKey, what: str) -> ApiError:
    return ApiError(
        ErrorType.ACCESS_DENIED,
        f"Access key {key.access_key_id} is not authorized to perform {what}",
    )
