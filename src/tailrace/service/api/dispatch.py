"""Carry out an operation of the control API for the key that signed the request."""

from __future__ import annotations

from ..control import ControlPlane
from ..errors import EndNotStored, TunnelClosed, TunnelLimitReached, TunnelNotFound
from ..identity.policy import AccessKey
from .authorization import authorize
from .errors import ApiError, ErrorType
from .model import CALLS
from .operations import Call, Document

__all__ = ["perform"]


async def perform(
    control: ControlPlane, name: str, parameters: Document, key: AccessKey
) -> Document:
    """Carry out the operation ``name``; its ``parameters`` have been checked.

    Waits for a store that is busy. An operation changes nothing before it changes the store, so
    that it can be tried again. Only a tunnel ends at once, and its end is stored later.

    Raises:
        ApiError: a modelled error of the operation, or the key does not allow it.
        StoreFailed: the store cannot be read or written.
    """
    operation = CALLS[name]
    call = Call(control, parameters, key)

    is_ended = False

    async def attempt() -> Document:
        nonlocal is_ended
        if not is_ended:
            authorize(name, operation, call)
        try:
            return await operation.handler(call)
        except EndNotStored:
            # A tunnel that is to be removed cannot be found to authorize the next attempt.
            is_ended = True
            raise

    try:
        return await control.patience.run(attempt)
    except (TunnelNotFound, TunnelClosed) as error:
        if is_ended:
            # The sweep has stored it meanwhile.
            return Document()
        # The only error that the model has for operations on one tunnel.
        raise ApiError(ErrorType.RESOURCE_NOT_FOUND, str(error)) from None
    except TunnelLimitReached as error:
        raise ApiError(ErrorType.LIMIT_EXCEEDED, str(error), quota=error.quota) from None
    except EndNotStored as error:
        raise ApiError(ErrorType.INTERNAL, str(error)) from None
