"""Errors as AWS SDKs parse them: a type, a message, an HTTP status.

Only ResourceNotFoundException and LimitExceededException are modelled for this
service; the others are the errors common to all AWS APIs.
"""

from __future__ import annotations

from http import HTTPStatus

from ..errors import ServiceError

__all__ = ["ApiError", "ErrorType"]


class ErrorType:
    """Names of errors and the HTTP status each one is sent with."""

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
    INTERNAL = ("InternalFailure", HTTPStatus.INTERNAL_SERVER_ERROR)


class ApiError(ServiceError):
    """A request is answered with an error; ``type_and_status`` is one of :class:`ErrorType`."""

    def __init__(self, type_and_status: tuple[str, HTTPStatus], message: str) -> None:
        super().__init__(message)
        self.type, self.status = type_and_status
        self.message = message
