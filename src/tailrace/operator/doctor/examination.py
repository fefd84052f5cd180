"""All checks of ``tailrace doctor``, in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from ...checks.findings import Finding, failed, skipped
from ...checks.machine import check_clock, check_data_path
from ...checks.runner import Check
from ...checks.server import Server, path_checks
from ...checks.upgrade import packets_check, upgrade_check
from ...errors import ConfigurationError
from ...library import Side
from .measure import LoopMeasurement, Place, ThingMeasurement
from .rights import check_rights
from .subject import DoctorSettings, Subject
from .token import TokenChecks
from .tunnel import TunnelChecks

__all__ = ["doctor_checks"]

_SUBJECT: Final = "endpoints"
_RIGHTS: Final = "control API rights"
_TUNNEL: Final = "tunnel"
_STEPS: Final = 5
"""Of a check of the way, at most: name, TCP, web proxy, TLS, request."""
_MEASURING: Final = 90.0
"""Seconds that a measurement may take: connecting, waiting for a device, transfers."""


def doctor_checks(settings: DoctorSettings, subject: Subject) -> list[Check]:
    """Return the checks; the order is that in which a connection fails."""
    checks = [
        Check("clock", check_clock),
        Check("data path", check_data_path),
        Check(_SUBJECT, _known(subject.finding)),
    ]
    ways = [] if subject.data is None else _data_checks(subject.data)
    controls, rights = _control_checks(settings, subject)
    tunnel = _tunnel(settings, subject)
    checks += [*ways, *controls]
    if tunnel is not None:
        checks += [
            Check(_TUNNEL, tunnel.check_tunnel, rights, _STEPS * settings.timeout),
            Check("service ids", tunnel.check_services, (_TUNNEL,)),
            Check("source", lambda: tunnel.check_side(Side.SOURCE), (_TUNNEL,)),
            Check("destination", lambda: tunnel.check_side(Side.DESTINATION), (_TUNNEL,)),
        ]
    checks += _token_checks(settings, tunnel, rights)
    if settings.measure:
        needs = (*rights, *(each.name for each in ways[-2:-1]))
        checks += _measurements(settings, subject, tunnel, needs)
    return checks


def _data_checks(server: Server) -> list[Check]:
    path = path_checks(server)
    last = (path[-1].name,)
    checks = [*path, upgrade_check(server, last), packets_check(server, last)]
    return [_bounded(each, server) for each in checks]


def _bounded(check: Check, server: Server) -> Check:
    """Bound a check by more than its steps together, which have better words for it."""
    return replace(check, timeout=(_STEPS + 1) * server.endpoint.connect_timeout)


def _control_checks(
    settings: DoctorSettings, subject: Subject
) -> tuple[list[Check], tuple[str, ...]]:
    """Return the checks of the control API, and what needs its calls needs."""
    client, control = subject.client, subject.control
    if client is None or control is None:
        text = subject.no_control or "not known without the service"
        finding = skipped(text)
        if settings.needs_control:
            finding = failed(text, _CREDENTIALS, cause=ConfigurationError(text))
        return [Check(_RIGHTS, _known(finding))], (_RIGHTS,)
    needed = set()
    if settings.thing is not None:
        needed |= {"ListTunnels", "DescribeTunnel"}
    if settings.tunnel_id is not None:
        needed.add("DescribeTunnel")
    path = path_checks(control)
    rights = Check(_RIGHTS, lambda: check_rights(client, settings.thing, needed), (path[-1].name,))
    return [_bounded(each, control) for each in (*path, rights)], (_RIGHTS,)


_CREDENTIALS: Final = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile, and name the control API with"
    " --endpoint-url if it is not that of AWS; or eval the output of tailrace env"
)


def _tunnel(settings: DoctorSettings, subject: Subject) -> TunnelChecks | None:
    if settings.thing is None and settings.tunnel_id is None:
        return None
    if subject.client is None:
        return None
    return TunnelChecks(subject.client, settings.thing, settings.tunnel_id, settings.services)


def _token_checks(
    settings: DoctorSettings, tunnel: TunnelChecks | None, rights: tuple[str, ...]
) -> list[Check]:
    if settings.token_file is None:
        return []
    token = TokenChecks(settings.token_file, settings.side, settings.state_dir, tunnel)
    file = "token file"
    return [
        Check(file, token.check_file),
        Check("token", token.check_token, (file, *(rights if tunnel is not None else ()))),
    ]


def _measurements(
    settings: DoctorSettings,
    subject: Subject,
    tunnel: TunnelChecks | None,
    needs: tuple[str, ...],
) -> list[Check]:
    client, data = subject.client, subject.data
    if client is None or data is None:
        return []
    place = Place(data.endpoint.authority, data.endpoint.tls.capath, 3 * settings.timeout)
    loop = LoopMeasurement(client, place)
    checks = [
        Check("round trip", loop.check_round_trip, needs, _MEASURING),
        Check("throughput", loop.check_throughput, ("round trip",)),
    ]
    if tunnel is not None:
        thing = ThingMeasurement(client, place, tunnel, settings.thing, settings.services)
        peer = Check("peer", thing.check_peer, (*needs, "service ids"), _MEASURING)
        checks = [peer, Check("application", thing.check_answer, ("peer",)), *checks]
    return checks


def _known(finding: Finding) -> Callable[[], Awaitable[Finding]]:
    async def check() -> Finding:
        return finding

    return check
