"""Where another machine reaches a service, and what it has to trust there."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError
from .config import Address, Endpoints, parse_address
from .tls.pins import certificate_hosts, pins_of

__all__ = ["Reach", "find_reach"]

_API_PORT: Final = 7443
_DATA_PORT: Final = 7444
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_HOW: Final = (
    "start it with --api-listen 0.0.0.0:7443 --data-listen 0.0.0.0:7444 --host-name NAME, "
    "or say with --host where it is reached"
)


@dataclass(frozen=True, slots=True)
class Reach:
    """How another machine gets to a service."""

    api: Address
    data_endpoint: str
    region: str
    """"" where only the running service knows it."""
    ca_file: Path
    pins: tuple[str, ...]
    is_guess: bool
    """Whether the host is this machine's own name, which others may not know."""

    @property
    def url(self) -> str:
        """The control API."""
        return f"https://{self.api}"


def find_reach(state_dir: Path, endpoints: Endpoints | None, given: str | None) -> Reach:
    """Return how others reach the service of ``state_dir``.

    Args:
        endpoints: those of the running service, ``None`` for one that does not run.
        given: ``HOST`` or ``HOST:PORT`` instead of what they say.

    Raises:
        ConfigurationError: it listens for this machine only, is not known to listen anywhere, or
            has a certificate for other hosts.
    """
    own_ca = state_dir / "tls" / "ca.pem"
    ca_file = own_ca if endpoints is None else Path(endpoints.ca_file)
    if endpoints is None and given is None:
        raise ConfigurationError(
            f"no service is running in {state_dir}; start it, or say with --host where it will be"
        )
    if endpoints is None and not own_ca.exists():
        raise ConfigurationError(f"{own_ca} does not exist: start the service once")
    port = _API_PORT if endpoints is None else _place(endpoints.api_endpoint).port
    if given is not None:
        api = _parse_given(given, port)
    else:
        assert endpoints is not None
        api = _advertised(endpoints)
    if ca_file.absolute() == own_ca.absolute():
        _check_certificate(state_dir / "tls" / "server.pem", api.host)
    return Reach(
        api,
        str(Address(api.host, _DATA_PORT))
        if endpoints is None
        else endpoints.data_endpoint_for(api.host),
        "" if endpoints is None else endpoints.region,
        ca_file,
        pins_of(ca_file),
        given is None and api.host == _own_name(),
    )


def _advertised(endpoints: Endpoints) -> Address:
    """Return where the control API is reached from elsewhere, by what the service knows."""
    for what, bound, endpoint in (
        ("control API", endpoints.api_listen, endpoints.api_endpoint),
        ("data endpoint", endpoints.data_listen, endpoints.data_endpoint),
    ):
        if _is_loopback(bound or _place(endpoint).host):
            raise ConfigurationError(
                f"the {what} of the service listens for this machine only ({endpoint}); {_HOW}"
            )
    place = _place(endpoints.api_endpoint)
    # Bound to all addresses, without a name of its own.
    return Address(_own_name(), place.port) if _is_loopback(place.host) else place


def _place(endpoint: str) -> Address:
    return parse_address(endpoint.removeprefix("https://"), "endpoint")


def _own_name() -> str:
    return socket.gethostname().lower()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parse_given(text: str, port: int) -> Address:
    is_bare_v6 = text.count(":") > 1 and not text.startswith("[")
    has_port = ":" in text and not is_bare_v6 and not text.endswith("]")
    try:
        address = parse_address(text, "--host") if has_port else Address(text.strip("[]"), port)
    except ConfigurationError:
        address = Address("", 0)
    if not (_is_address(address.host) or _HOST.fullmatch(address.host)) or not address.port:
        raise ConfigurationError(
            f"--host {text!r} is not HOST or HOST:PORT, such as tunnel.example:7443"
        )
    return address


def _is_address(host: str) -> bool:
    try:
        return not getattr(ipaddress.ip_address(host), "scope_id", None)
    except ValueError:
        return False


def _check_certificate(server_file: Path, host: str) -> None:
    names = certificate_hosts(server_file)
    wanted = str(ipaddress.ip_address(host)) if _is_address(host) else host.lower()
    if wanted not in map(str.lower, names):
        raise ConfigurationError(
            f"the certificate of the service is not good for {host}, but for "
            f"{', '.join(names)}; start it with --host-name {host}"
        )
