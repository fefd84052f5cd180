"""What to do about a failed link: the reasons are the engine's, the names of settings the caller's.

The texts that are looked for are those that AWS and ``tailrace serve`` answer with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..common.addresses import format_host_port
from ..errors import AccessRefused, CertificateFault
from .settings import ProxySettings

__all__ = [
    "ALTERED_ADVICE",
    "SettingNames",
    "certificate_advice",
    "endpoint_advice",
    "refusal_advice",
    "stranger_advice",
]

ALTERED_ADVICE: Final = (
    "A proxy in between has to pass WebSocket upgrades on as they are: HTTP/1.1, Upgrade, "
    "Connection, Sec-WebSocket-*, access-token and the path (docs/guides/intermediaries.md)"
)
_CONTROL_API: Final = "UnknownOperationException"
"""In what the control API answers to the upgrade, AWS' or that of ``tailrace serve``."""
_AWS_API: Final = "api.tunneling.iot."
_AWS_DATA: Final = "data.tunneling.iot."
"""What the names of AWS' two endpoints begin with; the region follows."""


@dataclass(frozen=True, slots=True)
class SettingNames:
    """How the user writes a setting: as an option, or as an argument of a function."""

    endpoint: str
    region: str
    authority: str
    """More trusted certificates."""
    kept: str
    """A clause that says where the client token of the first use is."""


def certificate_advice(fault: CertificateFault, names: SettingNames) -> str:
    """Return what to do about a certificate that does not verify."""
    remedies: Mapping[CertificateFault, str] = {
        CertificateFault.UNTRUSTED: f"add the CA that signed it with {names.authority}",
        CertificateFault.WRONG_NAME: "check the endpoint's name",
        CertificateFault.OUT_OF_DATE: "check this machine's clock",
    }
    return remedies[fault]


def refusal_advice(error: AccessRefused, settings: ProxySettings, names: SettingNames) -> str:
    """Return why an upgrade may have been refused and what helps."""
    body = error.body.lower()
    side = settings.side
    rotate = (
        "aws iotsecuretunneling rotate-tunnel-access-token --tunnel-id TUNNEL_ID "
        f"--client-mode {side.name}"
    )
    if settings.host.startswith(_AWS_API):
        return stranger_advice(_CONTROL_API, settings, names)
    if "previously used" in body or "client token" in body:
        return (
            "An access token works only with the client token of its first use; get a new one "
            f"with: {rotate} ({names.kept})"
        )
    if "closed" in body or "expired" in body:
        return "The tunnel has ended and cannot be reopened; open a new one"
    if "mode" in body:
        return f"This looks like the token of the {side.other.value}; give the {side.value} token"
    if error.status in (400, 401, 403):
        return (
            f"Check that this is the {side.value} token, whole and unused, that the tunnel is "
            f"open, and that it was opened in the region of {settings.host}; "
            f"for a new token: {rotate}"
        )
    return endpoint_advice(settings, names)


def stranger_advice(answer: str, settings: ProxySettings, names: SettingNames) -> str:
    """Return what to do about an answer of something that is no tunneling service."""
    if _CONTROL_API not in answer:
        return f"{endpoint_advice(settings, names)}, and that this network wants no login"
    place = format_host_port(settings.host, settings.port)
    if settings.host.startswith(_AWS_API):
        data_host = _AWS_DATA + settings.host.removeprefix(_AWS_API)
        data = f"give {data_host}, or its region with {names.region}"
    else:
        data = 'give the address behind "local proxies" in the output of tailrace serve'
    return f"{place} is the control API, not the data endpoint; {data} ({names.endpoint})"


def endpoint_advice(settings: ProxySettings, names: SettingNames) -> str:
    """Return what to check about the endpoint."""
    place = format_host_port(settings.host, settings.port)
    return f"Check that {place} is a tunneling data endpoint ({names.endpoint}, {names.region})"
