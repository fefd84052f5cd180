"""What the command says about an error: the C++ command's words, and what to do about it.

Errors come with facts from below; the names of options are added here.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final

from ...common.addresses import (
    LocalAddress,
    TCPAddress,
    format_local_address,
    format_service_map,
)
from ...common.installing import how_to_install
from ...errors import (
    AccessRefused,
    CertificateRejected,
    ConfigurationError,
    ConnectFailed,
    HandshakeAltered,
    LinkError,
    ListenError,
    NameResolutionFailed,
    NotTunnelingService,
    ServiceIdMismatch,
    ServiceUnavailable,
    TailraceError,
    TLSFailed,
    TokenRotated,
)
from ...link.http.login_page import login_words
from ...localproxy.advice import (
    ALTERED_ADVICE,
    SettingNames,
    certificate_advice,
    endpoint_advice,
    refusal_advice,
    stranger_advice,
)
from ...localproxy.service_map import address_of
from ...localproxy.settings import ProxySettings
from ...wire import Side

__all__ = ["describe", "explain"]

# The beginnings of the reference's log lines, for scripts that wait for them.
_BEGINNINGS: Final[tuple[tuple[type[LinkError], str], ...]] = (
    (NameResolutionFailed, "Could not resolve DNS hostname of proxy host: "),
    (ConnectFailed, "Could not connect to proxy server: "),
    (TLSFailed, "Could not perform SSL handshake with proxy server: "),
    (ServiceUnavailable, "Proxy server rejected web socket upgrade request: "),
)
_HINTS: Final[Mapping[str, str]] = {
    "bind_address": "check -b",
    "connect_timeout": "--connect-timeout allows more time",
    "destinations": "give one with -d or --config-dir",
    "dialect": "leave out -y V1",
    "path": "choose another path with -s",
    "state_dir": "check --state-dir",
}
"""Setting at fault -> what to do about it."""
_UNPRIVILEGED: Final = 10_000
"""Added to a port that needs privileges, or is likely to be taken for ever, as 22 is."""
_MAX_PORT: Final = 65_535
_FREE_PORT: Final = 5_555
_OPTIONS: Final = SettingNames(
    endpoint="-e",
    region="-r",
    authority="-c",
    kept="the client token is kept in --state-dir, by default for each user of each machine",
)


def describe(error: LinkError) -> str:
    """Return the log line for a link that failed and will be tried again."""
    beginning = next((text for kind, text in _BEGINNINGS if isinstance(error, kind)), "")
    return f"{beginning}{_with_remedy(error)}"


def explain(error: TailraceError, settings: ProxySettings) -> str:
    """Return the last line of a command that ends with ``error``: what happened, what to do."""
    match error:
        case AccessRefused():
            return f"{error}. {refusal_advice(error, settings, _OPTIONS)}"
        case TokenRotated():
            return f"{error}; start again with the new {settings.side.value} token"
        case HandshakeAltered():
            return f"{error}. {ALTERED_ADVICE}"
        case NotTunnelingService(login_page=str()):
            hint = endpoint_advice(settings, _OPTIONS)
            return f"{_with_remedy(error)}, or {hint[0].lower()}{hint[1:]}"
        case NotTunnelingService():
            return f"{error}. {stranger_advice(str(error), settings, _OPTIONS)}"
        case LinkError():
            return _gave_up(error, settings) if error.retryable else _with_remedy(error)
        case ConfigurationError(setting="loop"):
            hint = f"use --loop auto, or install it: {how_to_install('uvloop')}"
        case ListenError(setting="services"):
            hint = _listen_hint(error, settings)
        case ServiceIdMismatch(setting="services"):
            hint = f"write {_right_option(error, settings)}"
        case ServiceIdMismatch(setting="destinations", service_ids=(_, *_)):
            hint = f"{_HINTS[error.setting]}: {_right_option(error, settings)}"
        case _:
            hint = _HINTS.get(error.setting, "")
    return f"{error}; {hint}" if hint else str(error)


def _with_remedy(error: LinkError) -> str:
    match error:
        case CertificateRejected():
            remedy = certificate_advice(error.fault, _OPTIONS)
            return f"{error}; {remedy} (-k skips the check, for testing only)"
        case NotTunnelingService(login_page=str() as page):
            return f"{error}; {login_words(page)}"
        case _:
            hint = _HINTS.get(error.setting, "")
            return f"{error}; {hint}" if hint else str(error)


def _gave_up(error: LinkError, settings: ProxySettings) -> str:
    """Say how many tries there were and what to check."""
    tries = settings.connect_retry_count + 1
    text = f"{describe(error)}; gave up after {tries} {'try' if tries == 1 else 'tries'}"
    if isinstance(error, NameResolutionFailed | ConnectFailed):
        text += ": check the endpoint (-e, -r) and the network"
    return text


def _listen_hint(error: ListenError, settings: ProxySettings) -> str:
    """Return what to write in the place of a port that cannot be bound."""
    option = f"-s {error.service_id}={error.port}" if error.service_id else f"-s {error.port}"
    match error.errno:
        case errno.EADDRINUSE:
            text = f"another process has the port, choose another one for {option}"
        case errno.EACCES | errno.EPERM:
            text = f"choose a port above 1023 for {option}"
        case _:
            return f"check -b and {option}"
    services = _addresses(settings)
    given = services.get(error.service_id)
    if not isinstance(given, TCPAddress):
        return text
    port = error.port + (_UNPRIVILEGED if error.port < 1024 else 1)
    services[error.service_id] = TCPAddress(given.host, port if port <= _MAX_PORT else _FREE_PORT)
    return f"{text}, such as -s {format_service_map(services)}"


def _right_option(error: ServiceIdMismatch, settings: ProxySettings) -> str:
    """Return the option that has the service ids of the tunnel, and the addresses given."""
    given = _addresses(settings)
    is_source = settings.side is Side.SOURCE
    option, unknown = ("-s", "PORT") if is_source else ("-d", "HOST:PORT")
    if not error.service_ids:
        return f"{option} {format_local_address(next(iter(given.values())))}"
    by_case = {each.casefold(): each for each in given if each not in error.service_ids}
    words, cases = [], []
    for service_id in error.service_ids:
        meant = service_id if service_id in given else by_case.get(service_id.casefold())
        if meant is not None and meant != service_id:
            cases.append(f"{meant} is not {service_id}")
        address = unknown if meant is None else format_local_address(given[meant])
        words.append(f"{service_id}={address}")
    if "" in given:
        words[0] = f"{error.service_ids[0]}={format_local_address(given[''])}"
    case = f" (upper and lower case differ: {', '.join(cases)})" if cases else ""
    return f"{option} {','.join(words)}{case}"


def _addresses(settings: ProxySettings) -> dict[str, LocalAddress]:
    services = settings.services or settings.fallback_services
    found = {service_id: address_of(service) for service_id, service in services.items()}
    return {service_id: address for service_id, address in found.items() if address is not None}
