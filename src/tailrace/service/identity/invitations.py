"""Invitations: one-time codes by which a machine gets an access key of its own.

An invitation is kept with the digest of its code, in a file beside the keys. Redeeming it adds
the key, whose id the invitation names, and then marks it as used: a crash in between leaves it
open, and the next attempt adds the key with that id again.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

from ...common.enrolment import Role, new_code
from ...common.secret import Secret
from ...errors import ConfigurationError
from ..errors import ServiceError
from .key_store import KeyFile, new_key_id
from .policy import AccessKey, Policy
from .state_file import Signature, StateFile

__all__ = [
    "MOST_OPEN",
    "Invitation",
    "InvitationBook",
    "InvitationFile",
    "InvitationRefused",
    "InvitationState",
    "invitations_file",
    "new_invitation",
]

MOST_OPEN: Final = 1000
"""Invitations that may be open at the same time."""
_KEPT_SECONDS: Final = 7 * 86400.0
"""How long an invitation is listed after its end."""
_MOST_KEPT: Final = 5000


class InvitationState(Enum):
    """What has become of an invitation."""

    OPEN = "open"
    USED = "used"
    EXPIRED = "expired"
    REVOKED = "revoked"


class InvitationRefused(ServiceError):
    """A code is not good; ``reason`` is a word, ``invitation_id`` that of a known one or ""."""

    def __init__(self, reason: str, invitation_id: str = "") -> None:
        super().__init__(f"the code is {reason}")
        self.reason = reason
        self.invitation_id = invitation_id


@dataclass(frozen=True, slots=True)
class Invitation:
    """One invitation; times are in seconds since the epoch."""

    invitation_id: str
    code_digest: str
    """SHA-256 of the code in hexadecimal."""
    role: Role
    name: str
    """The thing, or what the key of an operator is called."""
    host: str
    """Name or address under which the machine reaches the service."""
    creator: str
    """The user who made it."""
    created_at: float
    expires_at: float
    policy: Policy
    """Of the key."""
    access_key_id: str
    """Of the key, which exists once the invitation was used."""
    used_at: float | None = None
    used_from: str = ""
    secret_digest: str = ""
    """SHA-256 of the secret key of the machine that has used it."""
    revoked_at: float | None = None

    def state(self, now: float) -> InvitationState:
        """Return what has become of it."""
        if self.used_at is not None:
            return InvitationState.USED
        if self.revoked_at is not None:
            return InvitationState.REVOKED
        return InvitationState.EXPIRED if self.expires_at <= now else InvitationState.OPEN

    def refusal(self, secret_key: Secret, now: float) -> str:
        """Return why a machine with ``secret_key`` may not use it, in a word; "" if it may.

        The machine that has used it may ask again until it expires: its answer may be lost.
        """
        state = self.state(now)
        is_lost = state is InvitationState.USED and now < self.expires_at
        is_same = hmac.compare_digest(self.secret_digest, secret_key.digest)
        return "" if state is InvitationState.OPEN or (is_lost and is_same) else str(state.value)

    def key(self, secret_key: Secret, now: float) -> AccessKey:
        """Return the access key of the machine."""
        return AccessKey(
            self.access_key_id,
            secret_key,
            name=self.name,
            created_at=now,
            policy=self.policy,
            joined=True,
        )

    def to_document(self) -> dict[str, Any]:
        """Return the invitation as a JSON object, without what it does not have."""
        document = asdict(self) | {"role": self.role.value, "policy": self.policy.to_document()}
        return {name: value for name, value in document.items() if value not in (None, "")}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Invitation:
        """Return the invitation that :meth:`to_document` made ``document`` of.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is none.
        """
        invitation = cls(
            **document
            | {"role": Role(document["role"]), "policy": Policy.from_document(document["policy"])}
        )
        times = (invitation.created_at, invitation.expires_at, invitation.used_at or 0.0)
        if not all(isinstance(each, int | float) for each in times):
            raise TypeError
        return invitation


def new_invitation(
    role: Role,
    name: str,
    policy: Policy,
    *,
    host: str,
    creator: str,
    now: float,
    seconds: float,
) -> tuple[Invitation, Secret]:
    """Return a new invitation that is good for ``seconds``, and its code."""
    code = new_code()
    invitation = Invitation(
        invitation_id=f"inv-{secrets.token_hex(4)}",
        code_digest=code.digest,
        role=role,
        name=name,
        host=host,
        creator=creator,
        created_at=now,
        expires_at=now + seconds,
        policy=policy,
        access_key_id=new_key_id(),
    )
    return invitation, code


def invitations_file(state_dir: Path) -> Path:
    """Return the path of a service's file of invitations."""
    return state_dir / "invitations.json"


class InvitationFile(StateFile):
    """The invitations of a service, those that have ended for a week, too."""

    def read(self) -> tuple[Invitation, ...]:
        """Return all, oldest first; none when the file does not exist.

        Raises:
            ConfigurationError: the file cannot be read, is open to other users, or is not one
                of invitations.
        """
        content = self.read_bytes()
        if content is None:
            return ()
        try:
            return tuple(map(Invitation.from_document, json.loads(content)["invitations"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ConfigurationError(
                f"{self.path} is not a file of invitations; remove it, and invite again"
            ) from None

    def add(self, invitation: Invitation, now: float) -> None:
        """Add one, and forget those that ended a week ago.

        Raises:
            ConfigurationError: there are too many, or the file cannot be read or written.
        """
        with self.locked():
            known = self.read()
            if sum(each.state(now) is InvitationState.OPEN for each in known) >= MOST_OPEN:
                raise ConfigurationError(
                    f"{MOST_OPEN} invitations are open; revoke some: tailrace invite revoke"
                )
            kept = [each for each in known if now < each.expires_at + _KEPT_SECONDS]
            self._write([*kept[1 - _MOST_KEPT :], invitation])

    def revoke(self, invitation_id: str, now: float) -> Invitation | None:
        """Revoke one that is open, and return it as it was; ``None`` when there is none.

        Raises:
            ConfigurationError: the file cannot be read or written.
        """
        with self.locked():
            known = self.read()
            found = next((each for each in known if each.invitation_id == invitation_id), None)
            if found is not None and found.state(now) is InvitationState.OPEN:
                self._change(known, replace(found, revoked_at=now))
            return found

    def redeem(
        self, code: Secret, secret_key: Secret, keys: KeyFile, *, now: float, address: str
    ) -> Invitation:
        """Use the invitation with this code up, and add the key to ``keys``.

        Raises:
            InvitationRefused: there is none, or it is not open to who has ``secret_key``.
            ConfigurationError: a file cannot be read or written.
        """
        with self.locked():
            known = self.read()
            found = next((each for each in known if each.code_digest == code.digest), None)
            if found is None:
                raise InvitationRefused("unknown")
            reason = found.refusal(secret_key, now)
            if reason:
                raise InvitationRefused(reason, found.invitation_id)
            if found.used_at is None:
                keys.add(found.key(secret_key, now), now)
                found = replace(
                    found, used_at=now, used_from=address, secret_digest=secret_key.digest
                )
                self._change(known, found)
            return found

    def _change(self, known: Sequence[Invitation], changed: Invitation) -> None:
        self._write(
            [changed if each.invitation_id == changed.invitation_id else each for each in known]
        )

    def _write(self, invitations: Sequence[Invitation]) -> None:
        document = {"invitations": [each.to_document() for each in invitations]}
        self.replace(json.dumps(document, indent=2).encode() + b"\n")


class InvitationBook:
    """The invitations as a service knows them, read again when their file has changed."""

    def __init__(self, file: InvitationFile) -> None:
        """Read the file.

        Raises:
            ConfigurationError: it cannot be read.
        """
        self.file = file
        self._signature: Signature | None = None
        self._known: dict[str, Invitation] = {}
        """By the digest of their code."""
        self.refresh()

    def find(self, code: Secret) -> Invitation | None:
        """Return the invitation with this code, ``None`` if there is none.

        Raises:
            ConfigurationError: the file has changed, and cannot be read.
        """
        self.refresh()
        return self._known.get(code.digest)

    def refresh(self) -> list[Invitation]:
        """Read the file if it has changed; return those that are new or were changed.

        Raises:
            ConfigurationError: it cannot be read.
        """
        # Before the file: a change in between is noticed by the next look.
        signature = self.file.signature()
        if signature == self._signature:
            return []
        known = {each.code_digest: each for each in self.file.read()}
        changed = [each for digest, each in known.items() if self._known.get(digest) != each]
        self._known, self._signature = known, signature
        return changed
