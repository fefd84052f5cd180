"""Whether the key that signed a request may do what it asks for."""

from __future__ import annotations

from ..identity.policy import AccessKey
from .errors import ApiError, ErrorType
from .model import Operation
from .operations import Call

__all__ = ["authorize", "authorize_operation"]


def authorize_operation(key: AccessKey, name: str, operation: Operation) -> None:
    """Refuse an operation that the policy of ``key`` does not allow, on whatever tunnel.

    Raises:
        ApiError: AccessDeniedException.
    """
    if not key.policy.allows(name, writes=operation.writes):
        raise _denied(key, name)


def authorize(name: str, operation: Operation, call: Call) -> None:
    """Refuse a call that the policy of its key does not allow.

    Raises:
        ApiError: AccessDeniedException.
        TunnelNotFound: there is no such tunnel.
    """
    key, things = call.key, call.key.policy.things
    authorize_operation(key, name, operation)
    # Not asked of keys for all things: it reads the store.
    if things is not None and not all(map(key.policy.allows_thing, operation.things(call))):
        raise _denied(key, f"{name} on tunnels of this thing")


def _denied(key: AccessKey, what: str) -> ApiError:
    return ApiError(
        ErrorType.ACCESS_DENIED,
        f"Access key {key.access_key_id} is not authorized to perform {what}",
    )
