"""Error texts that end the search: what was refused or failed, and what to do about it."""

from __future__ import annotations

from typing import Final

from ..errors import (
    AccessRefused,
    ConnectFailed,
    LinkError,
    NameResolutionFailed,
    ServiceUnavailable,
    TLSFailed,
)
from ..wire import Side
from .settings import ProxySettings

__all__ = ["describe", "given_up", "refusal"]

# The beginnings of the reference's log lines, for scripts that wait for them.
_BEGINNINGS: Final[tuple[tuple[type[LinkError], str], ...]] = (
    (NameResolutionFailed, "Could not resolve DNS hostname of proxy host: "),
    (ConnectFailed, "Could not connect to proxy server: "),
    (TLSFailed, "Could not perform SSL handshake with proxy server: "),
    (ServiceUnavailable, "Proxy server rejected web socket upgrade request: "),
)


def describe(error: LinkError) -> str:
    """Return the log line for a link that failed and will be tried again."""
    for kind, beginning in _BEGINNINGS:
        if isinstance(error, kind):
            return f"{beginning}{error}"
    return str(error)


def given_up(error: LinkError, settings: ProxySettings) -> LinkError:
    """Return the failure of the last try with advice: how many there were and what to check.

    A failure that no further try could have mended is returned as it is.
    """
    if not error.retryable:
        return error
    tries = settings.connect_retry_count + 1
    text = f"{describe(error)}; gave up after {tries} {'try' if tries == 1 else 'tries'}"
    if isinstance(error, NameResolutionFailed | ConnectFailed):
        text += ": check the endpoint (-e, -r) and the network"
    told = type(error)(text)
    told.exit_code = error.exit_code
    return told


def refusal(error: AccessRefused, settings: ProxySettings) -> AccessRefused:
    """Return the refusal of an upgrade with advice: why it may be and what helps.

    The texts looked for are those AWS and ``tailrace serve`` answer with.
    """
    body = error.body.lower()
    side = settings.side
    other = Side.DESTINATION if side is Side.SOURCE else Side.SOURCE
    rotate = (
        "aws iotsecuretunneling rotate-tunnel-access-token --tunnel-id TUNNEL_ID "
        f"--client-mode {side.name}"
    )
    if "previously used" in body or "client token" in body:
        advice = (
            "An access token works only with the client token of its first use; get a new one "
            f"with: {rotate} (--state-dir keeps the client token over a restart)"
        )
    elif "closed" in body or "expired" in body:
        advice = "The tunnel has ended and cannot be reopened; open a new one"
    elif "mode" in body:
        advice = f"This looks like the token of the {other.value}; give the {side.value} token"
    elif error.status in (400, 401, 403):
        advice = (
            f"Check that this is the {side.value} token, whole and unused, that the tunnel is "
            f"open, and that it was opened in the region of {settings.host}; "
            f"for a new token: {rotate}"
        )
    else:
        advice = f"Check that {settings.host}:{settings.port} is a tunneling data endpoint (-e, -r)"
    return AccessRefused(error.status, error.reason, error.body, advice)
