"""The one table of the options of ``localproxy``.

The argument parser, ``--help``, the reader of ``--config`` files, the look-up in the
environment and the table in ``docs/reference/localproxy.md`` all read :data:`OPTIONS`; nothing
about an option is written down a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ...localproxy.endpoints import ENDPOINT_VARIABLE, REGION_VARIABLE

__all__ = ["GROUPS", "OPTIONS", "Applies", "Kind", "Option", "option_named"]


class Applies(Enum):
    """Where an option has a meaning."""

    BOTH = "both modes"
    SOURCE = "source"
    DESTINATION = "destination"
    COMMAND = "ends at once"


class Kind(Enum):
    """How the text of a value is checked as soon as it is read."""

    SWITCH = "switch"
    TEXT = "text"
    COUNT = "count"
    SECONDS = "seconds"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: its names, where its value may come from and what it is for."""

    name: str
    """Long name without the dashes."""
    short: str = ""
    """One letter, or "" when there is only the long name."""
    metavar: str = ""
    """Name of the value in ``--help``; "" for a switch."""
    variable: str = ""
    """Environment variable of the C++ command that may hold the value."""
    help: str
    applies: Applies = Applies.BOTH
    kind: Kind = Kind.TEXT
    choices: tuple[str, ...] = ()
    minimum: float = 0
    maximum: float = 0
    default: str = ""
    """What applies without the option, for people."""
    secret: bool = False
    reference: bool = False
    """Whether the C++ command has it too; these take precedence when a name is abbreviated."""
    last_wins: bool = False
    """Whether it may be repeated."""

    @property
    def environment(self) -> str:
        """Name of the environment variable that may hold the value, "" if there is none."""
        if self.variable or self.applies is Applies.COMMAND:
            return self.variable
        return "TAILRACE_" + self.name.upper().replace("-", "_")

    @property
    def is_switch(self) -> bool:
        """Whether the option takes no value on the command line."""
        return self.kind is Kind.SWITCH


_TUNNEL: Final = (
    Option(
        name="access-token",
        short="t",
        metavar="TOKEN",
        variable="AWSIOT_TUNNEL_ACCESS_TOKEN",
        help="Client access token of this end of the tunnel; '-' reads one line from standard"
        " input. Other users of this machine can see it in the process list",
        secret=True,
        reference=True,
    ),
    Option(
        name="access-token-file",
        metavar="FILE",
        help="Read the client access token from FILE; '-' is standard input",
    ),
    Option(
        name="client-token",
        short="i",
        metavar="TOKEN",
        variable="AWSIOT_TUNNEL_CLIENT_TOKEN",
        help="Client token (32 to 128 letters, digits and hyphens) that lets this proxy, and no"
        " other, use the access token again after a lost connection",
        default="a random one",
        secret=True,
        reference=True,
    ),
    Option(
        name="region",
        short="r",
        metavar="REGION",
        variable=REGION_VARIABLE,
        help="AWS region in which the tunnel was opened; excludes --proxy-endpoint",
        reference=True,
    ),
    Option(
        name="proxy-endpoint",
        short="e",
        metavar="HOST[:PORT]",
        variable=ENDPOINT_VARIABLE,
        help="Data endpoint of the tunneling service, with or without wss://; put IPv6 addresses"
        " in brackets. The default port is 443",
        reference=True,
    ),
    Option(
        name="mode",
        short="m",
        metavar="MODE",
        help="src (source) or dst (destination); required when neither -s nor -d is given",
        reference=True,
    ),
)
_SERVICES: Final = (
    Option(
        name="source-listen-port",
        short="s",
        metavar="MAP",
        help="Source mode: where to listen, PORT or ID=PORT[,ID=PORT...]; each PORT may also be"
        " HOST:PORT, [IPV6]:PORT or the path of a unix socket",
        applies=Applies.SOURCE,
        reference=True,
    ),
    Option(
        name="destination-app",
        short="d",
        metavar="MAP",
        help="Destination mode: the applications, ADDRESS or ID=ADDRESS[,ID=ADDRESS...]; ADDRESS"
        " is PORT, HOST:PORT, [IPV6]:PORT or the path of a unix socket",
        applies=Applies.DESTINATION,
        reference=True,
    ),
    Option(
        name="local-bind-address",
        short="b",
        metavar="ADDRESS",
        help="Source mode: address to listen on; destination mode: local address for"
        " connections to the applications",
        default="localhost; none",
        reference=True,
    ),
    Option(
        name="config-dir",
        metavar="DIR",
        help="Directory of INI files, searched recursively, that map service ids to addresses;"
        " for tunnels whose ids are not known in advance",
        default="./config, if it exists",
        reference=True,
    ),
    Option(
        name="allow",
        metavar="LIST",
        help="Allow applications at these addresses only, ADDRESS[,ADDRESS...]; a map with any"
        " other address is refused",
        applies=Applies.DESTINATION,
        default="those in the map",
    ),
    Option(
        name="destination-client-type",
        short="y",
        metavar="VERSION",
        help="V1 or V2 if the destination is an older client (V1 for Device Client, Greengrass"
        " and the console)",
        applies=Applies.SOURCE,
        default="detected",
        reference=True,
    ),
)
_TRUST: Final = (
    Option(
        name="capath",
        short="c",
        metavar="DIR",
        help="Trust the CA certificates in DIR, which may be hashed as OpenSSL expects, or in one"
        " PEM file, in addition to the system's",
        reference=True,
    ),
    Option(
        name="no-ssl-host-verify",
        short="k",
        help="INSECURE, for testing only: accept any certificate from the service",
        kind=Kind.SWITCH,
        reference=True,
    ),
)
_BEHAVIOUR: Final = (
    Option(
        name="max-connections",
        metavar="COUNT",
        help="Open at most COUNT connections per service; 0 means no limit",
        kind=Kind.COUNT,
        maximum=1_000_000,
        default="12000",
    ),
    Option(
        name="linger",
        metavar="SECONDS",
        help="Close a half-closed client after SECONDS without data for it",
        kind=Kind.SECONDS,
        maximum=86_400,
        default="5",
    ),
    Option(
        name="stall-timeout",
        metavar="SECONDS",
        help="Close a connection that accepts no data for SECONDS while others wait behind it",
        kind=Kind.SECONDS,
        minimum=0.1,
        maximum=86_400,
        default="30",
    ),
    Option(
        name="dial-timeout",
        metavar="SECONDS",
        help="Time limit of each attempt to connect to an application",
        applies=Applies.DESTINATION,
        kind=Kind.SECONDS,
        minimum=0.1,
        maximum=3_600,
        default="10",
    ),
    Option(
        name="connect-timeout",
        metavar="SECONDS",
        help="Time limit of each step of connecting to the service: DNS, TCP, TLS, upgrade",
        kind=Kind.SECONDS,
        minimum=0.1,
        maximum=3_600,
        default="10",
    ),
    Option(
        name="resume-timeout",
        metavar="SECONDS",
        help="Let open connections wait SECONDS for a lost link, or a peer that has left, to come"
        " back, where service and peer can go on with them; 0 ends them at once",
        kind=Kind.SECONDS,
        maximum=86_400,
        default="120",
    ),
    Option(
        name="link",
        metavar="NAME",
        help="WebSocket implementation: auto, picows or websockets",
        kind=Kind.CHOICE,
        choices=("auto", "picows", "websockets"),
        default="auto",
    ),
    Option(
        name="loop",
        metavar="NAME",
        help="Event loop: auto, asyncio or uvloop",
        kind=Kind.CHOICE,
        choices=("auto", "asyncio", "uvloop"),
        default="auto",
    ),
    Option(
        name="state-dir",
        metavar="DIR",
        help="Keep the generated client token in DIR, so that the access token still works after"
        " a restart of this command",
        default="~/.local/state/tailrace-localproxy",
    ),
    Option(
        name="no-state",
        help="Keep no client token: the access token is good for this run of the command only",
        kind=Kind.SWITCH,
    ),
)
_OUTPUT: Final = (
    Option(
        name="verbose",
        short="v",
        metavar="LEVEL",
        help="What is logged to standard error: 0 nothing, 1 fatal, 2 error, 3 warning, 4 info,"
        " 5 debug, 6 and above trace",
        kind=Kind.COUNT,
        maximum=65_535,
        default="4",
        reference=True,
        last_wins=True,
    ),
    Option(
        name="json",
        help="Write each event to standard output as one line of JSON, for other programs",
        kind=Kind.SWITCH,
    ),
    Option(
        name="ready-file",
        metavar="FILE",
        help="Create FILE once the tunnel can be used; it holds the addresses as JSON",
    ),
    Option(
        name="metrics-listen",
        metavar="[HOST:]PORT",
        help="Serve metrics for Prometheus at http://HOST:PORT/metrics (HOST: localhost)",
    ),
    Option(
        name="no-control",
        help="Open no control socket: 'tailrace status' does not see this command",
        kind=Kind.SWITCH,
    ),
)
_FILES: Final = (
    Option(
        name="config",
        metavar="FILE",
        help="Read more options from FILE, one NAME = VALUE per line with the long names of this"
        " list; the command line takes precedence",
        reference=True,
    ),
    Option(
        name="settings-json",
        metavar="FILE",
        help="Read fine-grained settings from FILE",
        reference=True,
    ),
    Option(
        name="export-default-settings",
        metavar="FILE",
        help="Write the fine-grained settings with their default values to FILE and exit",
        applies=Applies.COMMAND,
        reference=True,
    ),
)
_INFORMATION: Final = (
    Option(
        name="help",
        short="h",
        help="Show help message and exit",
        applies=Applies.COMMAND,
        kind=Kind.SWITCH,
        reference=True,
    ),
    Option(
        name="version",
        short="V",
        help="Show the version and exit",
        applies=Applies.COMMAND,
        kind=Kind.SWITCH,
        reference=True,
    ),
)

GROUPS: Final[Mapping[str, tuple[Option, ...]]] = {
    "Tunnel": _TUNNEL,
    "Services": _SERVICES,
    "Trust": _TRUST,
    "Behaviour": _BEHAVIOUR,
    "Logging and output": _OUTPUT,
    "Files": _FILES,
    "Information": _INFORMATION,
}
"""Heading of ``--help`` and of the table in the documentation -> its options, in their order."""

OPTIONS: Final = tuple(option for options in GROUPS.values() for option in options)
_BY_NAME: Final = {option.name: option for option in OPTIONS}


def option_named(name: str) -> Option | None:
    """Return the option with the long name ``name``."""
    return _BY_NAME.get(name)
