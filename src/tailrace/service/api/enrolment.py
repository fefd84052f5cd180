"""The door for machines that have nothing but an invitation.

Who knocks is a stranger. A request is small, and is looked at only while its address, and all
addresses together, have not had too many refused. What is refused costs one look into a table;
only a code that is good takes a thread, a lock and a write, and that once. All that is not good
gets the same answer; the audit log, the log and ``tailrace invite list`` tell which it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ...common.enrolment import AUTHORITY_PATH, JOIN_PATH, MAX_REQUEST, is_secret_key, read_code
from ...common.log_floods import flood_kind
from ...common.secret import Secret
from ...errors import ConfigurationError
from ...flow.token_bucket import Buckets
from ..identity.invitations import Invitation, InvitationBook, InvitationRefused, InvitationState
from ..identity.key_store import KeyFile
from ..limits import Limits, network
from ..networks import Network
from ..telemetry.audit import OK, AuditLog
from ..telemetry.counters import Counters
from .body_budget import BodyBudget
from .errors import ApiError, ErrorType
from .operations import Document
from .request_body import address_of, check_length, read_body
from .responses import error_response, json_response
from .shapes import Structure, Text
from .validation import read_parameters

__all__ = ["Enrolment"]

_log = logging.getLogger(__name__)

_NAME: Final = "Join"
"""In metrics."""
_REFUSED_PER_SECOND: Final = 1.0
_REFUSED_AT_ONCE: Final = 10.0
"""Refused requests of one address."""
_ALL_PER_SECOND: Final = 50.0
_ALL_AT_ONCE: Final = 200.0
"""Those of all addresses together."""
_SHAPE: Final = Structure({"code": Text(), "secretKey": Text()}, ("code", "secretKey"))
_REFUSAL: Final = "The code is not good: it is unknown, was used, or has expired"

_EVENTS: Final = {
    InvitationState.OPEN: "invited",
    InvitationState.REVOKED: "invitation_revoked",
}
"""Changes by others than the service -> events of the audit log."""


class Enrolment:
    """Lets invited machines join, and notes what becomes of invitations.

    ``places`` is called for what a machine has to know of the service, ``authorities`` for the
    certificates in PEM by which it verifies it.
    """

    def __init__(
        self,
        book: InvitationBook,
        keys: KeyFile,
        places: Callable[[Invitation], Document],
        authorities: Callable[[], bytes],
        *,
        clock: Callable[[], float],
        request_id: Callable[[], str],
        counters: Counters,
        audit: AuditLog,
        limits: Limits,
        forwarders: Collection[Network],
    ) -> None:
        self._book = book
        self._keys = keys
        self._places = places
        self._authorities = authorities
        self._clock = clock
        self._request_id = request_id
        self._counters = counters
        self._audit = audit
        self._seconds = limits.handshake_seconds
        self._forwarders = forwarders
        self._refused = Buckets(_REFUSED_PER_SECOND, _REFUSED_AT_ONCE)
        self._all_refused = Buckets(_ALL_PER_SECOND, _ALL_AT_ONCE)
        self._bodies = BodyBudget(MAX_REQUEST)
        self._turn = asyncio.Lock()
        self._failure = ""
        """Why the invitations could not be read at the last look."""

    def routes(self) -> list[BaseRoute]:
        """Return the routes of the control API's port by which machines join."""
        return [
            Route(AUTHORITY_PATH, self._show_authorities, methods=["GET"]),
            Route(JOIN_PATH, self._join, methods=["POST"]),
        ]

    def look(self) -> None:
        """Record what ``tailrace invite`` has changed; to be called now and then."""
        try:
            changed = self._book.refresh()
        except ConfigurationError as error:
            if str(error) != self._failure:
                self._failure = str(error)
                _log.error("the invitations stay as they were: %s", error)
            return
        self._failure = ""
        for each in changed:
            event = _EVENTS.get(each.state(self._clock()))
            if event is not None:
                self._audit.invitation(event, _about(each) | {"creator": each.creator})

    async def _show_authorities(self, _: Request) -> Response:
        return Response(self._authorities(), media_type="application/x-pem-file")

    async def _join(self, request: Request) -> Response:
        request_id = self._request_id()
        address = address_of(request, self._forwarders)
        try:
            invitation = await self._redeem(request, address)
        except ApiError as error:
            self._counters.requests[_NAME, error.type] += 1
            return error_response(error, request_id)
        except ClientDisconnect:
            return Response(status_code=400)
        self._counters.requests[_NAME, OK] += 1
        document = self._places(invitation) | {
            "role": invitation.role.value,
            "name": invitation.name,
            "accessKeyId": invitation.access_key_id,
            "certificateAuthorities": self._authorities().decode("ascii", "replace"),
        }
        return json_response(document, 200, {"x-amzn-RequestId": request_id})

    async def _redeem(self, request: Request, address: str) -> Invitation:
        """Return the invitation that a request has used up.

        Raises:
            ApiError: it has not.
        """
        owner, now = network(address), time.monotonic()
        if self._refused.is_empty(owner, now) or self._all_refused.is_empty("", now):
            raise ApiError(ErrorType.THROTTLING, "Too many requests were refused")
        try:
            code, secret_key = await self._receive(request, owner)
            return await self._judge(code, secret_key, address)
        except ApiError:
            self._refused.try_take(owner, now)
            self._all_refused.try_take("", now)
            raise

    async def _receive(self, request: Request, owner: str) -> tuple[Secret | None, Secret]:
        check_length(request, MAX_REQUEST)
        with self._bodies.share(owner) as share:
            body = await read_body(request, self._seconds, share)
        try:
            parameters = read_parameters(body, _SHAPE)
        except ApiError:
            # Without its text, which may quote what was sent.
            parameters = {"code": "", "secretKey": ""}
        if not is_secret_key(parameters["secretKey"]):
            raise ApiError(ErrorType.VALIDATION, "The request has no code and secretKey")
        return read_code(parameters["code"]), Secret(parameters["secretKey"])

    async def _judge(self, code: Secret | None, secret_key: Secret, address: str) -> Invitation:
        self.look()
        try:
            found = None if code is None else self._book.find(code)
            if code is None or found is None:
                raise InvitationRefused("unknown")
            reason = found.refusal(secret_key, self._clock())
            if reason:
                raise InvitationRefused(reason, found.invitation_id)
            if found.used_at is not None:
                # By the same machine, which may ask as often as it likes.
                return found
            async with self._turn:
                # The file decides: other processes change it, too.
                redeemed = await asyncio.to_thread(
                    self._book.file.redeem,
                    code,
                    secret_key,
                    self._keys,
                    now=self._clock(),
                    address=address,
                )
        except InvitationRefused as refused:
            self._tell_refused(refused, address)
            raise ApiError(ErrorType.ACCESS_DENIED, _REFUSAL) from None
        except ConfigurationError as error:
            _log.error("a machine at %s cannot join: %s", address, error, extra=flood_kind())
            raise ApiError(ErrorType.INTERNAL, "The service cannot use its files") from None
        _log.info(
            "%s %s has joined from %s with the key %s",
            redeemed.role.value,
            redeemed.name,
            address,
            redeemed.access_key_id,
        )
        about = _about(redeemed) | {"creator": redeemed.creator, "key": redeemed.access_key_id}
        self._audit.invitation("joined", about | {"address": address})
        return redeemed

    def _tell_refused(self, refused: InvitationRefused, address: str) -> None:
        known = f" (invitation {refused.invitation_id})" if refused.invitation_id else ""
        _log.warning(
            "a machine at %s may not join: its code is %s%s",
            address,
            refused.reason,
            known,
            extra=flood_kind(f"code {refused.reason}", refused.invitation_id),
        )
        self._audit.join_refused(refused.reason, refused.invitation_id, address)


def _about(invitation: Invitation) -> dict[str, str]:
    return {
        "invitation": invitation.invitation_id,
        "role": invitation.role.value,
        "name": invitation.name,
    }
