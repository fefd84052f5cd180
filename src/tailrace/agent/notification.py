"""Notifications of tunnels: what a thing is told when a tunnel is opened for it; pure.

The payload is that of the AWS IoT developer guide, "Configure a remote device and use IoT agent":
a JSON object with ``clientAccessToken``, ``clientMode``, ``region`` and ``services``. Our service
adds ``tunnelId``, ``expiresAt`` and ``tokenId``; other keys are passed over. Anybody who may
publish at the broker may have written it, so everything is bounded and checked, and no text that
leaves this module repeats a value that may be the token.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from ..common.secret import Secret
from ..errors import NotificationIgnored

__all__ = ["LIFETIME", "MAX_PAYLOAD", "Notification", "load_object", "parse_notification"]

MAX_PAYLOAD: Final = 8192
"""Bytes of the longest payload that is read."""

LIFETIME: Final = 12 * 3600.0
"""Seconds that a tunnel lives at most (AWS IoT developer guide, quotas)."""

_BOM: Final = b"\xef\xbb\xbf"
_TOKEN: Final = re.compile(r"[!-~]{1,4096}")
_REGION: Final = re.compile(r"[a-z0-9-]{1,64}")
_SERVICE_ID: Final = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
_ID: Final = re.compile(r"[a-zA-Z0-9_+=:-]{1,128}")
"""Ids of tunnels and tokens, as the API has them."""
_LATEST: Final = 32_503_680_000
"""Year 3000, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Notification:
    """What a notification says: a tunnel was opened, or its token replaced by another one.

    Example::

        async for notification in agent.notifications():
            print(notification.services)
    """

    access_token: Secret
    """Access token of the destination."""
    region: str | None = None
    """AWS region of the tunnel."""
    services: tuple[str, ...] = ()
    """Service ids, each once; () when none are named."""
    tunnel_id: str | None = None
    """``None`` where the service does not tell, as AWS' does not."""
    expires_at: float | None = None
    """End of the tunnel in seconds since the epoch; ``None`` where the service does not tell."""
    token_id: str | None = None
    """Id of the access token, for logs; ``None`` where the service does not tell."""
    warnings: tuple[str, ...] = ()
    """What was odd about the payload and does no harm, a sentence each."""

    def document(self) -> dict[str, object]:
        """Return the payload as an object. It holds the token: keep it out of logs."""
        return {
            "clientAccessToken": self.access_token.reveal(),
            "clientMode": "destination",
            "region": self.region,
            "services": list(self.services),
            "tunnelId": self.tunnel_id,
            "expiresAt": self.expires_at,
            "tokenId": self.token_id,
        }


def parse_notification(payload: bytes) -> Notification:
    """Return what a payload says.

    Raises:
        NotificationIgnored: it is not a notification for a destination; the text says why.
    """
    document = load_object(payload, MAX_PAYLOAD)
    warnings: list[str] = []
    _check_mode(document, warnings)
    return Notification(
        access_token=_access_token(document),
        region=_region(document),
        services=_services(document, warnings),
        tunnel_id=_id(document, "tunnelId", warnings),
        expires_at=_expires_at(document, warnings),
        token_id=_id(document, "tokenId", warnings),
        warnings=tuple(warnings),
    )


def load_object(payload: bytes, most: int) -> dict[str, Any]:
    """Return the JSON object that a payload of ``most`` bytes is; a key stands in it once.

    Raises:
        NotificationIgnored: it is something else; the text repeats nothing of it.
    """
    if len(payload) > most:
        raise NotificationIgnored(f"it is longer than {most} bytes")
    try:
        text = payload.removeprefix(_BOM).decode()
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError:
        raise NotificationIgnored("it is nested too deeply") from None
    except ValueError:
        # The text of the error may show the token.
        raise NotificationIgnored("it is not valid JSON") from None
    if not isinstance(document, dict):
        raise NotificationIgnored("it is not a JSON object")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; two values for one key would let two readers see two notifications."""
    document = dict(pairs)
    if len(document) != len(pairs):
        raise NotificationIgnored("a key stands in it twice")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _check_mode(document: dict[str, Any], warnings: list[str]) -> None:
    if "clientMode" not in document:
        warnings.append("clientMode is missing: taken for destination")
        return
    mode = document["clientMode"]
    if mode == "source":
        raise NotificationIgnored("it is for a source (clientMode)", expected=True)
    if mode == "test":
        raise NotificationIgnored("it is a test", expected=True)
    if mode != "destination":
        raise NotificationIgnored("clientMode is not destination")


def _access_token(document: dict[str, Any]) -> Secret:
    token = document.get("clientAccessToken")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise NotificationIgnored("clientAccessToken is missing or malformed")
    return Secret(token)


def _region(document: dict[str, Any]) -> str | None:
    region = document.get("region")
    if region is None:
        return None
    # It becomes part of a host name.
    if not isinstance(region, str) or not _REGION.fullmatch(region):
        raise NotificationIgnored("region is malformed")
    return region


def _services(document: dict[str, Any], warnings: list[str]) -> tuple[str, ...]:
    services = document.get("services")
    if services is None:
        return ()
    if not isinstance(services, list) or not all(map(_is_service_id, services)):
        raise NotificationIgnored("services is malformed: a list of service ids is expected")
    found = tuple(dict.fromkeys(services))
    if len(found) < len(services):
        warnings.append("services names one twice")
    return found


def _is_service_id(value: object) -> bool:
    return isinstance(value, str) and _SERVICE_ID.fullmatch(value) is not None


def _id(document: dict[str, Any], key: str, warnings: list[str]) -> str | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not _ID.fullmatch(value):
        warnings.append(f"{key} is malformed: passed over")
        return None
    return value


def _expires_at(document: dict[str, Any], warnings: list[str]) -> float | None:
    value = document.get("expiresAt")
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _LATEST:
        warnings.append("expiresAt is malformed: passed over")
        return None
    return float(value)
