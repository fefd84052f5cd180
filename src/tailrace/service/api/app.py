"""The HTTP side of the control API: one signed POST, dispatched by ``X-Amz-Target``."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ...common.escaping import cut
from ...common.log_floods import flood_kind
from ...flow.token_bucket import Buckets
from ..control import ControlPlane
from ..errors import StoreFailed, TunnelNotFound
from ..identity.policy import AccessKey
from ..limits import Limits, network
from ..networks import Network
from ..telemetry.audit import OK, AuditLog
from ..telemetry.counters import Counters
from .authorization import authorize_operation
from .body_budget import BodyBudget
from .dispatch import perform
from .errors import LONGEST_QUOTE, ApiError, ErrorType
from .model import CALLS, SIGNING_NAME
from .operations import Document
from .request_body import address_of, check_length, read_body
from .responses import error_response, json_response
from .server import mark_known
from .sigv4 import RequestHead, Verifier
from .validation import read_parameters

__all__ = ["ControlApi"]

_log = logging.getLogger(__name__)

_TARGET_PREFIX: Final = f"{SIGNING_NAME}."


class ControlApi:
    """Answers the requests of the control API."""

    def __init__(
        self,
        control: ControlPlane,
        verifier: Verifier,
        counters: Counters,
        audit: AuditLog,
        limits: Limits,
        forwarders: Collection[Network],
    ) -> None:
        """Prepare; ``forwarders`` are trusted to name their clients in ``X-Forwarded-For``."""
        self._control = control
        self._verifier = verifier
        self._counters = counters
        self._audit = audit
        self._limits = limits
        self._forwarders = forwarders
        self._throttle = _Throttle(limits.request_rate)
        self._strangers = BodyBudget(limits.request_bytes)
        self._clients = BodyBudget(limits.request_bytes)

    def application(self, routes: Sequence[BaseRoute]) -> Starlette:
        """Return the ASGI application; ``routes`` are served besides the control API."""
        return Starlette(
            routes=[Route("/", self._handle, methods=["POST"]), *routes],
            exception_handlers={HTTPException: self._handle_other},
        )

    async def _handle(self, request: Request) -> Response:
        request_id = self._control.request_id()
        about = _About(address_of(request, self._forwarders))
        try:
            name, key, body = await self._receive(request, about)
            began = time.perf_counter()
            document = await self._respond(name, key, body, request_id, about)
            self._counters.request_seconds += time.perf_counter() - began
        except ApiError as error:
            _log.warning(
                "request %s: %s; %s",
                request_id,
                error.shown,
                about,
                extra=flood_kind(error.type),
            )
            self._count(request, error.type)
            if error.quota:
                self._counters.quotas[error.quota] += 1
            return error_response(error, request_id)
        except ClientDisconnect:
            return Response(status_code=400)
        except StoreFailed as failed:
            _log.error("request %s: %s; %s", request_id, failed, about)
            self._count(request, ErrorType.INTERNAL.code)
            return error_response(
                ApiError(ErrorType.INTERNAL, "The service cannot reach its store"), request_id
            )
        self._count(request, OK)
        return json_response(document, 200, {"x-amzn-RequestId": request_id})

    async def _receive(self, request: Request, about: _About) -> tuple[str, AccessKey, bytearray]:
        """Return operation, signer and body of a request.

        A body is read only if nothing in the head speaks against it, and counts for the address
        it comes from until a signature shows whose it is.
        """
        address = network(about.address)
        with self._throttle.of_address(address):
            check_length(request, self._limits.request_bytes)
            claim = self._verifier.judge(_head(request), self._control.clock())
            name = _operation_name(request)
            if name not in CALLS:
                raise ApiError(ErrorType.UNKNOWN_OPERATION, "The operation is not known")
            if claim.body_hash is None:
                share = self._strangers.share(address)
            else:
                share = self._clients.share(claim.key.access_key_id)
            with share:
                body = await read_body(request, self._limits.handshake_seconds, share)
            key = claim.prove(body)
        about.key, about.operation = key.access_key_id, name
        mark_known(request.scope)
        self._throttle.of_key(key)
        return name, key, body

    def judge(self, request: Request, address: str) -> AccessKey:
        """Return who has signed a request without a body that is no call.

        Raises:
            ApiError: the request is not signed as it must be, or there are too many.
        """
        owner = network(address)
        with self._throttle.of_address(owner):
            check_length(request, 0)
            claim = self._verifier.judge(_head(request), self._control.clock())
            key = claim.prove(b"")
        mark_known(request.scope)
        self._throttle.of_key(key)
        return key

    async def _handle_other(self, _: Request, __: Exception) -> Response:
        """Answer requests for other paths and methods in the form that SDKs parse."""
        other = ApiError(ErrorType.UNKNOWN_OPERATION, "Requests must be POST /")
        return error_response(other, self._control.request_id())

    def _count(self, request: Request, outcome: str) -> None:
        # Only names that exist: a label for each made-up one would fill the memory.
        name = _operation_name(request)
        self._counters.requests[name if name in CALLS else "unknown", outcome] += 1

    async def _respond(
        self, name: str, key: AccessKey, body: bytearray, request_id: str, about: _About
    ) -> Document:
        """Carry out an operation for a key; what changes something is audited."""
        operation = CALLS[name]
        outcome, parameters, document = ErrorType.INTERNAL.code, Document(), Document()
        try:
            # Before anything is spent on the parameters.
            authorize_operation(key, name, operation)
            parameters = read_parameters(body, operation.input)
            self._name_tunnel(about, parameters)
            document = await perform(self._control, name, parameters, key)
            outcome = OK
        except ApiError as error:
            outcome = error.type
            raise
        finally:
            if operation.writes:
                self._audit.request(
                    name,
                    parameters,
                    key=key.access_key_id,
                    address=about.address,
                    request=request_id,
                    outcome=outcome,
                    tunnel=document.get("tunnelId"),
                )
        about.tunnel = document.get("tunnelId", about.tunnel)
        _log.info("request %s: %s", request_id, about, extra=flood_kind(per=f"{name} {about.key}"))
        return document

    def _name_tunnel(self, about: _About, parameters: Document) -> None:
        """Note, before it may be gone, the tunnel that ``parameters`` name, and its thing."""
        queries = self._control.queries
        with suppress(TunnelNotFound, StoreFailed):
            about.tunnel = parameters.get("tunnelId", "")
            if "resourceArn" in parameters:
                about.tunnel = queries.tunnel_id(parameters["resourceArn"])
            if about.tunnel:
                about.thing = queries.describe(about.tunnel).thing_name
        destination = parameters.get("destinationConfig", parameters)
        about.thing = destination.get("thingName", about.thing)


@dataclass(slots=True)
class _About:
    """What is known of a request, for logs; the key only when it has signed the request."""

    address: str
    operation: str = ""
    key: str = ""
    tunnel: str = ""
    thing: str | None = None

    def __str__(self) -> str:
        signed = f"{self.operation or 'request'} by {self.key} " if self.key else ""
        tunnel = f", tunnel {cut(self.tunnel, LONGEST_QUOTE)}" if self.tunnel else ""
        thing = f", thing {self.thing}" if self.thing is not None else ""
        return f"{signed}from {self.address}{tunnel}{thing}"


class _Throttle:
    """Requests per second of each key, and refused requests per second of each address.

    A request is charged to a key only when its signature is that key's. One that is refused
    before is charged to the address it comes from, so that nobody can use up the share of a
    key by knowing its id.
    """

    def __init__(self, rate: float) -> None:
        self._keys = Buckets(rate, rate)
        self._addresses = Buckets(rate, rate)

    @contextmanager
    def of_address(self, address: str) -> Iterator[None]:
        """Charge ``address`` when the request, received within this context, is refused.

        Raises:
            ApiError: ThrottlingException, or what the body raises.
        """
        if self._addresses.is_empty(address, time.monotonic()):
            raise ApiError(ErrorType.THROTTLING, "Too many requests were refused")
        try:
            yield
        except ApiError:
            self._addresses.try_take(address, time.monotonic())
            raise

    def of_key(self, key: AccessKey) -> None:
        """Charge a key.

        Raises:
            ApiError: ThrottlingException.
        """
        if not self._keys.try_take(key.access_key_id, time.monotonic()):
            raise ApiError(ErrorType.THROTTLING, "Rate exceeded")


def _operation_name(request: Request) -> str:
    return request.headers.get("x-amz-target", "").removeprefix(_TARGET_PREFIX)


def _head(request: Request) -> RequestHead:
    raw_path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return RequestHead(
        request.method,
        raw_path.decode("latin-1"),
        request.scope["query_string"].decode("latin-1"),
        [
            (name.decode("latin-1").lower(), value.decode("utf-8", "surrogateescape"))
            for name, value in request.headers.raw
        ],
    )
