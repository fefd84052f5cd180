"""Access keys and what they allow. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, Final

from ...common.secret import Secret
from ..limits import COMMON_QUOTAS, Quotas

__all__ = [
    "ACKNOWLEDGE",
    "EVERYTHING",
    "RECEIVE",
    "SEND_TEST",
    "AccessKey",
    "Policy",
    "device_policy",
]

RECEIVE: Final = "ReceiveNotifications"
ACKNOWLEDGE: Final = "AcknowledgeNotifications"
SEND_TEST: Final = "SendTestNotification"
"""Operations by which a thing waits for its notifications, and finds out whether it would get any.
They are none of AWS' control API."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a key allows: everything that no member forbids."""

    operations: tuple[str, ...] | None = None
    """Names of the operations that are allowed, ``None`` for all."""
    things: tuple[str, ...] | None = None
    """Patterns with ``*`` and ``?``, one of which the thing name of a tunnel must match;
    ``None`` for all tunnels, including those without a thing."""
    read_only: bool = False
    """Whether operations that change something are forbidden."""

    def allows(self, operation: str, *, writes: bool) -> bool:
        """Return whether an operation, which ``writes`` or only reads, is allowed on any tunnel."""
        if self.read_only and writes:
            return False
        return self.operations is None or operation in self.operations

    def allows_thing(self, thing_name: str | None) -> bool:
        """Return whether tunnels for this thing are allowed; ``None`` is a tunnel without one."""
        if self.things is None:
            return True
        return thing_name is not None and any(
            # fnmatch knows sets of characters, too, which policies do not.
            fnmatchcase(thing_name, pattern.replace("[", "[[]"))
            for pattern in self.things
        )

    def to_document(self) -> dict[str, Any]:
        """Return the members that forbid something, as a JSON object."""
        document: dict[str, Any] = {}
        if self.operations is not None:
            document["operations"] = list(self.operations)
        if self.things is not None:
            document["things"] = list(self.things)
        if self.read_only:
            document["read_only"] = True
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Policy:
        """Return the policy that :meth:`to_document` made ``document`` of.

        Raises:
            TypeError: it is none.
        """
        return cls(
            _texts(document.get("operations")),
            _texts(document.get("things")),
            document.get("read_only", False) is not False,
        )

    @property
    def is_unlimited(self) -> bool:
        """Whether nothing is forbidden."""
        return self.operations is None and self.things is None and not self.read_only


EVERYTHING: Final = Policy()


def device_policy(thing_name: str) -> Policy:
    """Return what a device may do: wait for the notifications of its own thing."""
    return Policy(operations=(RECEIVE, ACKNOWLEDGE, SEND_TEST), things=(thing_name,))


_QUOTAS: Final = tuple(field.name for field in fields(Quotas))


@dataclass(frozen=True, slots=True)
class AccessKey:
    """One access key; times are in seconds since the epoch.

    With a ``session_token`` it is temporary: requests must carry the token, and are refused
    from ``expires_at`` on.
    """

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret | None = None
    expires_at: float | None = None
    name: str = ""
    created_at: float = 0.0
    policy: Policy = EVERYTHING
    quotas: Quotas = COMMON_QUOTAS
    joined: bool = False
    """Whether it was made for another machine: then the service does not use it as its own."""

    @property
    def is_privileged(self) -> bool:
        """Whether nothing but quotas limits the key."""
        return self.policy.is_unlimited and self.expires_at is None

    def has_expired(self, now: float) -> bool:
        """Return whether the key is temporary and its time is over."""
        return self.expires_at is not None and self.expires_at <= now

    def to_document(self) -> dict[str, Any]:
        """Return the key as a JSON object, secrets included."""
        document: dict[str, Any] = {
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key.reveal(),
            "name": self.name,
            "created_at": self.created_at,
        }
        if self.session_token is not None:
            document["session_token"] = self.session_token.reveal()
        if self.expires_at is not None:
            document["expires_at"] = self.expires_at
        document |= self.policy.to_document()
        if self.joined:
            document["joined"] = True
        for name in _QUOTAS:
            value = getattr(self.quotas, name)
            if value is not None:
                document[f"max_{name}"] = value
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> AccessKey:
        """Return the key that :meth:`to_document` made ``document`` of.

        Raises:
            ValueError: it is not a key; the text holds no value of it.
        """
        try:
            return cls(
                access_key_id=_text(document["access_key_id"]),
                secret_access_key=Secret(_text(document["secret_access_key"])),
                session_token=_secret(document.get("session_token")),
                expires_at=_number(document.get("expires_at")),
                name=_text(document.get("name", "")),
                created_at=_number(document.get("created_at")) or 0.0,
                policy=Policy.from_document(document),
                quotas=Quotas(**{name: _count(document.get(f"max_{name}")) for name in _QUOTAS}),
                joined=document.get("joined", False) is not False,
            )
        except (KeyError, TypeError, AttributeError):
            raise ValueError("not an access key") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _secret(value: object) -> Secret | None:
    return None if value is None else Secret(_text(value))


def _number(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _count(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError
    return value


def _texts(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise TypeError
    return tuple(_text(item) for item in value)
