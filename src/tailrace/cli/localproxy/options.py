"""The one table of the options of ``localproxy``.

The argument parser, ``--help``, the reader of ``--config`` files, the look-up in the
environment and the table in ``docs/localproxy.md`` all read :data:`OPTIONS`; nothing about
an option is written down a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = ["OPTIONS", "Applies", "Group", "Kind", "Option", "option_named"]


class Group(Enum):
    """Headings of ``--help`` and of the table in the documentation, in their order."""

    TUNNEL = "Tunnel"
    SERVICES = "Services"
    TRUST = "Trust"
    BEHAVIOUR = "Behaviour"
    OUTPUT = "Logging and output"
    FILES = "Files"
    INFORMATION = "Information"


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
    environment: str = ""
    """Name of the environment variable that may hold the value."""
    group: Group
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
    def is_switch(self) -> bool:
        """Whether the option takes no value on the command line."""
        return self.kind is Kind.SWITCH


OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        name="access-token",
        short="t",
        metavar="TOKEN",
        environment="AWSIOT_TUNNEL_ACCESS_TOKEN",
        group=Group.TUNNEL,
        help="Client access token of this end of the tunnel; '-' reads one line from standard"
        " input. Other users of this machine can see it in the process list",
        secret=True,
        reference=True,
    ),
    Option(
        name="access-token-file",
        metavar="FILE",
        environment="TAILRACE_ACCESS_TOKEN_FILE",
        group=Group.TUNNEL,
        help="Read the client access token from FILE; '-' is standard input",
    ),
    Option(
        name="client-token",
        short="i",
        metavar="TOKEN",
        environment="AWSIOT_TUNNEL_CLIENT_TOKEN",
        group=Group.TUNNEL,
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
        environment="AWSIOT_TUNNEL_REGION",
        group=Group.TUNNEL,
        help="AWS region in which the tunnel was opened; excludes --proxy-endpoint",
        reference=True,
    ),
    Option(
        name="proxy-endpoint",
        short="e",
        metavar="HOST[:PORT]",
        environment="AWSIOT_TUNNEL_ENDPOINT",
        group=Group.TUNNEL,
        help="Data endpoint of the tunneling service, with or without wss://; put IPv6 addresses"
        " in brackets. The default port is 443",
        reference=True,
    ),
    Option(
        name="mode",
        short="m",
        metavar="MODE",
        environment="TAILRACE_MODE",
        group=Group.TUNNEL,
        help="src (source) or dst (destination); required when neither -s nor -d is given",
        reference=True,
    ),
    Option(
        name="source-listen-port",
        short="s",
        metavar="MAP",
        environment="TAILRACE_SOURCE_LISTEN_PORT",
        group=Group.SERVICES,
        help="Source mode: where to listen, PORT or ID=PORT[,ID=PORT...]; each PORT may also be"
        " HOST:PORT, [IPV6]:PORT or the path of a unix socket",
        applies=Applies.SOURCE,
        reference=True,
    ),
    Option(
        name="destination-app",
        short="d",
        metavar="MAP",
        environment="TAILRACE_DESTINATION_APP",
        group=Group.SERVICES,
        help="Destination mode: the applications, ADDRESS or ID=ADDRESS[,ID=ADDRESS...]; ADDRESS"
        " is PORT, HOST:PORT, [IPV6]:PORT or the path of a unix socket",
        applies=Applies.DESTINATION,
        reference=True,
    ),
    Option(
        name="local-bind-address",
        short="b",
        metavar="ADDRESS",
        environment="TAILRACE_LOCAL_BIND_ADDRESS",
        group=Group.SERVICES,
        help="Source mode: address to listen on; destination mode: local address for"
        " connections to the applications",
        default="localhost; none",
        reference=True,
    ),
    Option(
        name="config-dir",
        metavar="DIR",
        environment="TAILRACE_CONFIG_DIR",
        group=Group.SERVICES,
        help="Directory of INI files, searched recursively, that map service ids to addresses;"
        " for tunnels whose ids are not known in advance",
        default="./config, if it exists",
        reference=True,
    ),
    Option(
        name="allow",
        metavar="LIST",
        environment="TAILRACE_ALLOW",
        group=Group.SERVICES,
        help="Allow applications at these addresses only, ADDRESS[,ADDRESS...]; a map with any"
        " other address is refused",
        applies=Applies.DESTINATION,
        default="those in the map",
    ),
    Option(
        name="destination-client-type",
        short="y",
        metavar="VERSION",
        environment="TAILRACE_DESTINATION_CLIENT_TYPE",
        group=Group.SERVICES,
        help="V1 or V2 if the destination is an older client (V1 for Device Client, Greengrass"
        " and the console)",
        applies=Applies.SOURCE,
        default="detected",
        reference=True,
    ),
    Option(
        name="capath",
        short="c",
        metavar="DIR",
        environment="TAILRACE_CAPATH",
        group=Group.TRUST,
        help="Trust the CA certificates in DIR, hashed as OpenSSL expects, in addition to the"
        " system's",
        reference=True,
    ),
    Option(
        name="no-ssl-host-verify",
        short="k",
        environment="TAILRACE_NO_SSL_HOST_VERIFY",
        group=Group.TRUST,
        help="INSECURE, for testing only: accept any certificate from the service",
        kind=Kind.SWITCH,
        reference=True,
    ),
    Option(
        name="max-connections",
        metavar="COUNT",
        environment="TAILRACE_MAX_CONNECTIONS",
        group=Group.BEHAVIOUR,
        help="Open at most COUNT connections per service; 0 means no limit",
        kind=Kind.COUNT,
        maximum=1_000_000,
        default="0",
    ),
    Option(
        name="linger",
        metavar="SECONDS",
        environment="TAILRACE_LINGER",
        group=Group.BEHAVIOUR,
        help="Close a half-closed client after SECONDS without data for it",
        kind=Kind.SECONDS,
        maximum=86_400,
        default="5",
    ),
    Option(
        name="stall-timeout",
        metavar="SECONDS",
        environment="TAILRACE_STALL_TIMEOUT",
        group=Group.BEHAVIOUR,
        help="Close a connection that accepts no data for SECONDS while others wait behind it",
        kind=Kind.SECONDS,
        minimum=0.1,
        maximum=86_400,
        default="30",
    ),
    Option(
        name="dial-timeout",
        metavar="SECONDS",
        environment="TAILRACE_DIAL_TIMEOUT",
        group=Group.BEHAVIOUR,
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
        environment="TAILRACE_CONNECT_TIMEOUT",
        group=Group.BEHAVIOUR,
        help="Time limit of each step of connecting to the service: DNS, TCP, TLS, upgrade",
        kind=Kind.SECONDS,
        minimum=0.1,
        maximum=3_600,
        default="10",
    ),
    Option(
        name="link",
        metavar="NAME",
        environment="TAILRACE_LINK",
        group=Group.BEHAVIOUR,
        help="WebSocket implementation: auto, picows or websockets",
        kind=Kind.CHOICE,
        choices=("auto", "picows", "websockets"),
        default="auto",
    ),
    Option(
        name="loop",
        metavar="NAME",
        environment="TAILRACE_LOOP",
        group=Group.BEHAVIOUR,
        help="Event loop: auto, asyncio or uvloop",
        kind=Kind.CHOICE,
        choices=("auto", "asyncio", "uvloop"),
        default="auto",
    ),
    Option(
        name="state-dir",
        metavar="DIR",
        environment="TAILRACE_STATE_DIR",
        group=Group.BEHAVIOUR,
        help="Keep the generated client token in DIR, so that the access token still works after"
        " a restart of this command",
    ),
    Option(
        name="verbose",
        short="v",
        metavar="LEVEL",
        environment="TAILRACE_VERBOSE",
        group=Group.OUTPUT,
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
        environment="TAILRACE_JSON",
        group=Group.OUTPUT,
        help="Write each event to standard output as one line of JSON, for other programs",
        kind=Kind.SWITCH,
    ),
    Option(
        name="ready-file",
        metavar="FILE",
        environment="TAILRACE_READY_FILE",
        group=Group.OUTPUT,
        help="Create FILE once the tunnel can be used; it holds the addresses as JSON",
    ),
    Option(
        name="config",
        metavar="FILE",
        environment="TAILRACE_CONFIG",
        group=Group.FILES,
        help="Read more options from FILE, one NAME = VALUE per line with the long names of this"
        " list; the command line takes precedence",
        reference=True,
    ),
    Option(
        name="settings-json",
        metavar="FILE",
        environment="TAILRACE_SETTINGS_JSON",
        group=Group.FILES,
        help="Read fine-grained settings from FILE",
        reference=True,
    ),
    Option(
        name="export-default-settings",
        metavar="FILE",
        group=Group.FILES,
        help="Write the fine-grained settings with their default values to FILE and exit",
        applies=Applies.COMMAND,
        reference=True,
    ),
    Option(
        name="help",
        short="h",
        group=Group.INFORMATION,
        help="Show help message and exit",
        applies=Applies.COMMAND,
        kind=Kind.SWITCH,
        reference=True,
    ),
    Option(
        name="version",
        short="V",
        group=Group.INFORMATION,
        help="Show the version and exit",
        applies=Applies.COMMAND,
        kind=Kind.SWITCH,
        reference=True,
    ),
)

_BY_NAME: Final = {option.name: option for option in OPTIONS}


def option_named(name: str) -> Option | None:
    """Return the option with the long name ``name``."""
    return _BY_NAME.get(name)
