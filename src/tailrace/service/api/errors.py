"""Errors as AWS SDKs parse them: a type, a message, an HTTP status.

Only ResourceNotFoundException and LimitExceededException are modelled for this
service; the others are the errors common to all AWS APIs.
"""

from __future__ import annotations

from enum import Enum
from http import HTTPStatus
from typing import Final

from ...common.escaping import cut
from ..errors import ServiceError

__all__ = ["LONGEST_QUOTE", "ApiError", "ErrorType"]

LONGEST_QUOTE: Final = 200
"""Characters of what a client has sent in a line of the log."""


class ErrorType(Enum):
    """Kinds of errors: the name by which SDKs know each, and its HTTP status."""

    LIMIT_EXCEEDED = ("LimitExceededException", HTTPStatus.BAD_REQUEST)
    RESOURCE_NOT_FOUND = ("ResourceNotFoundException", HTTPStatus.BAD_REQUEST)
    VALIDATION = ("ValidationException", HTTPStatus.BAD_REQUEST)
    SERIALIZATION = ("SerializationException", HTTPStatus.BAD_REQUEST)
    UNKNOWN_OPERATION = ("UnknownOperationException", HTTPStatus.NOT_FOUND)
    TOO_LARGE = ("RequestEntityTooLargeException", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    MISSING_AUTHENTICATION = ("MissingAuthenticationTokenException", HTTPStatus.FORBIDDEN)
    INCOMPLETE_SIGNATURE = ("IncompleteSignatureException", HTTPStatus.FORBIDDEN)
    INVALID_SIGNATURE = ("InvalidSignatureException", HTTPStatus.FORBIDDEN)
    UNRECOGNIZED_CLIENT = ("UnrecognizedClientException", HTTPStatus.FORBIDDEN)
    REQUEST_EXPIRED = ("RequestExpired", HTTPStatus.FORBIDDEN)
    EXPIRED_TOKEN = ("ExpiredTokenException", HTTPStatus.FORBIDDEN)
    ACCESS_DENIED = ("AccessDeniedException", HTTPStatus.FORBIDDEN)
    THROTTLING = ("ThrottlingException", HTTPStatus.TOO_MANY_REQUESTS)
    REQUEST_TIMEOUT = ("RequestTimeoutException", HTTPStatus.REQUEST_TIMEOUT)
    LENGTH_REQUIRED = ("MissingContentLength", HTTPStatus.LENGTH_REQUIRED)
    UNAVAILABLE = ("ServiceUnavailable", HTTPStatus.SERVICE_UNAVAILABLE)
    INTERNAL = ("InternalFailure", HTTPStatus.INTERNAL_SERVER_ERROR)

    def __init__(self, code: str, status: HTTPStatus) -> None:
        self.code = code
        self.status = status


class ApiError(ServiceError):
    """A request is answered with an error."""

    def __init__(self, kind: ErrorType, message: str, *, quota: str = "") -> None:
        super().__init__(message)
        self.quota = quota
        """The quota of the key that is used up, if that is the error."""
        self.type = kind.code
        self.status = kind.status
        self.message = message

    @property
    def shown(self) -> str:
        """Type and message for a log; the message may quote the client, and is cut."""
        return f"{self.type}: {cut(self.message, LONGEST_QUOTE)}"
