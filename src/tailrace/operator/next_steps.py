"""What to paste next: the commands that are the two ends of a tunnel that was opened. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["NewTunnel", "next_steps", "place_words"]

_PLACES: Final = (("AWSIOT_TUNNEL_ENDPOINT", "-e"), ("AWSIOT_TUNNEL_REGION", "-r"))
"""Variable of local proxies -> the option for its value."""
_UNKNOWN_PLACE: Final = ("-e", "HOST:PORT")
_FIRST_PORT: Final = 5555
_PORTS: Final[Mapping[str, int]] = {
    "FTP": 21,
    "SSH": 22,
    "SFTP": 22,
    "TELNET": 23,
    "HTTP": 80,
    "WEB": 80,
    "HTTPS": 443,
    "MODBUS": 502,
    "MQTT": 1883,
    "MYSQL": 3306,
    "RDP": 3389,
    "POSTGRES": 5432,
    "VNC": 5900,
    "REDIS": 6379,
    "MQTTS": 8883,
}
"""What applications listen to that services are often named after."""


@dataclass(frozen=True, slots=True)
class NewTunnel:
    """A tunnel that was opened, and where its tokens are."""

    source_token: str
    """The token, or the file that has it."""
    destination_token: str
    in_files: bool
    """Whether the tokens are in files."""
    services: Sequence[str] = ()
    thing: str | None = None
    ca: str | None = None
    """Certificates that the device has to trust besides its own."""


def place_words(
    environment: Mapping[str, str], region: str | None, endpoint: str | None
) -> tuple[str, ...]:
    """Return the options that lead a local proxy to the service of a tunnel.

    The environment comes first, as it does for local proxies.

    Args:
        region: the region if it is a tunnel of AWS.
        endpoint: the data endpoint of another service, if it is known.
    """
    for variable, option in _PLACES:
        if environment.get(variable):
            return option, environment[variable]
    if region is not None:
        return "-r", region
    return _UNKNOWN_PLACE if endpoint is None else ("-e", endpoint)


def next_steps(tunnel: NewTunnel, place: Sequence[str]) -> list[str]:
    """Return lines for a terminal, commands among them that a shell takes as they are.

    They are indented, so that shells that are told to do so keep them out of their history; and
    tokens are in the environment, where no other user sees them.
    """
    here = "Next, on this machine:"
    there = "and on the device:"
    if tunnel.thing is not None:
        there = f"and on {tunnel.thing}, unless its agent has taken the token that was sent to it:"
    source, destination = _maps(tunnel.services)
    trust = [] if tunnel.ca is None else ["-c", tunnel.ca]
    lines = [
        here,
        f"  {_command(tunnel.source_token, tunnel, [*place, *trust, '-s', source])}",
        there,
        f"  {_command(tunnel.destination_token, tunnel, [*place, *trust, '-d', destination])}",
    ]
    if trust:
        lines.append(f"The device needs a copy of {tunnel.ca}; -c names it there.")
    if tuple(place) == _UNKNOWN_PLACE:
        lines.append("HOST:PORT is the data endpoint of the service.")
    if "PORT" in re.split(r"[:,]", destination):
        lines.append("PORT is the port of the application.")
    return lines


def _command(token: str, tunnel: NewTunnel, words: Sequence[str]) -> str:
    options = shlex.join(words)
    if tunnel.in_files:
        token = f"./{token}" if token.startswith("-") else token
        return f"localproxy {options} --access-token-file {shlex.quote(token)}"
    return f"AWSIOT_TUNNEL_ACCESS_TOKEN={shlex.quote(token)} localproxy {options}"


def _maps(services: Sequence[str]) -> tuple[str, str]:
    """Return the arguments of ``-s`` and ``-d``."""
    if not services:
        return str(_FIRST_PORT), "localhost:22"
    source = ",".join(f"{each}={port}" for port, each in enumerate(services, _FIRST_PORT))
    return source, ",".join(f"{each}=localhost:{_application_port(each)}" for each in services)


def _application_port(service: str) -> str:
    """Return the usual port of a service that is called ``SSH`` or ``ssh2``, for example."""
    return str(_PORTS.get(re.split(r"[^A-Z]", service.upper())[0], "PORT"))
