"""Which calls of the control API the credentials may make, found out by such as change nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Container
from typing import Any, Final

from ...aws import Client
from ...checks.findings import Finding, failed, ok, warning
from ...errors import CallRefused, ControlError, CredentialsRefused

__all__ = ["check_rights"]

_NO_TUNNEL: Final = "tailrace-doctor"
"""An id that no tunnel has."""
_ARN: Final = "arn:aws:iot:{}:000000000000:tunnel/tailrace-doctor"
_FIXES: Final = {
    "UnrecognizedClientException": "this key is not known there: check AWS_ACCESS_KEY_ID and"
    " region; keys of AWS and of tailrace serve are not the same",
    "InvalidClientTokenId": "this key is not known there: check AWS_ACCESS_KEY_ID and region",
    "ExpiredTokenException": "the credentials have expired: get new ones, as with aws sso login",
    "RequestExpired": "set the clock of this machine: timedatectl set-ntp true",
    "InvalidSignatureException": "check AWS_SECRET_ACCESS_KEY, and the clock of this machine",
}
"""Code of a refusal that is about the key, not about its rights -> what to do."""
_DENIED: Final = "AccessDeniedException"


async def check_rights(client: Client, thing: str | None, needed: Container[str]) -> Finding:
    """Make each call that only reads; a refusal for another reason than rights is as good.

    ``needed`` are the operations without which it is a failure.
    """
    began = time.monotonic()
    parameters: dict[str, Any] = {"maxResults": 1}
    if thing is not None:
        parameters["thingName"] = thing
    try:
        listed = await _try(client, "ListTunnels", parameters)
        tunnel = _first_tunnel(listed)
        described = await _try(
            client, "DescribeTunnel", {"tunnelId": tunnel.get("tunnelId", _NO_TUNNEL)}
        )
        arn = tunnel.get("tunnelArn") or _ARN.format(client.region)
        tagged = await _try(client, "ListTagsForResource", {"resourceArn": arn})
    except CredentialsRefused as error:
        return failed(str(error), _FIXES.get(error.code, error.advice), cause=error)
    except ControlError as error:
        return failed(str(error), error.advice, cause=error)
    took = (time.monotonic() - began) * 1000
    calls = {"ListTunnels": listed, "DescribeTunnel": described, "ListTagsForResource": tagged}
    denied = {name: each for name, each in calls.items() if isinstance(each, CredentialsRefused)}
    allowed = ", ".join(name for name in calls if name not in denied)
    text = f"these credentials may {allowed or 'do nothing that was tried'} ({took:.0f} ms)"
    if not denied:
        return ok(f"{text}; what changes tunnels was not tried")
    text += f", and may not {', '.join(denied)}"
    fix = "allow that in the policy of the key; for tailrace serve: tailrace keys"
    first = next((each for name, each in denied.items() if name in needed), None)
    if first is not None:
        return failed(text, fix, _policy(list(denied)), cause=first)
    return warning(text, fix)


async def _try(
    client: Client, operation: str, parameters: dict[str, Any]
) -> dict[str, Any] | CredentialsRefused:
    """Return the result of a call, {} if it was refused for what it names, or that it may not be.

    Raises:
        CredentialsRefused: the key itself is refused.
        ControlError: the service cannot be reached, or fails.
    """
    try:
        return await client.api.call(operation, parameters)
    except CredentialsRefused as error:
        if error.code == _DENIED:
            return error
        raise
    except CallRefused:
        return {}  # there is no such tunnel, and who may not ask would not be told


def _first_tunnel(listed: dict[str, Any] | CredentialsRefused) -> dict[str, Any]:
    if isinstance(listed, CredentialsRefused):
        return {}
    found = listed.get("tunnelSummaries")
    first = found[0] if isinstance(found, list) and found else None
    return first if isinstance(first, dict) else {}


def _policy(operations: list[str]) -> str:
    statement = {
        "Effect": "Allow",
        "Action": [f"iot:{each}" for each in operations],
        "Resource": "*",
    }
    return json.dumps(statement, indent=2)
