"""The one table of the options of ``localproxy``.

The argument parser, ``--help``, the reader of ``--config`` files, the look-up in the
environment and the table in ``docs/localproxy.md`` all read :data:`OPTIONS`; nothing about
an option is written down a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from ...errors import ConfigurationError

__all__ = [
    "HELP_WIDTH",
    "OPTIONS",
    "Applies",
    "Group",
    "Kind",
    "Option",
    "UsageError",
    "Value",
    "help_text",
    "option_named",
    "options_table",
    "parse_value",
    "printable",
]

HELP_WIDTH: Final = 100
_HELP_COLUMN: Final = 34
_GLUE: Final = "\0"
"""A space at which no line of the help is broken."""
_SHOWN_LENGTH: Final = 64
_SHOWN_VALUE_LENGTH: Final = 16
_MAX_LEVEL: Final = 65_535
_MAX_DIGITS: Final = 18

Value: TypeAlias = str | int | float | bool
"""What :func:`parse_value` makes of the text of an option's value."""

_SWITCH_WORDS: Final = {
    "": True,
    "on": True,
    "yes": True,
    "1": True,
    "true": True,
    "off": False,
    "no": False,
    "0": False,
    "false": False,
}


class UsageError(ConfigurationError):
    """The command was called wrongly.

    Reported on standard error as the reason, the ``hint`` if there is one, and a
    pointer to ``--help``; it is not a log record.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


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
    LEVEL = "level"
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
    """What holds without the option, for people."""
    secret: bool = False
    reference: bool = False
    """Whether the C++ command has it too: those come first when a name is abbreviated."""
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
        " input. Other users of this machine can see it in the list of processes",
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
        help="Client token (32 to 128 letters, digits and hyphens) that allows this proxy, and no"
        " other, to use the access token again after a lost connection",
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
        help="AWS region in which the tunnel was opened; not together with --proxy-endpoint",
        reference=True,
    ),
    Option(
        name="proxy-endpoint",
        short="e",
        metavar="HOST[:PORT]",
        environment="AWSIOT_TUNNEL_ENDPOINT",
        group=Group.TUNNEL,
        help="Data endpoint of the tunneling service, also as a wss:// URL; IPv6 addresses in"
        " brackets. The port is 443 when it is left out",
        reference=True,
    ),
    Option(
        name="mode",
        short="m",
        metavar="MODE",
        environment="TAILRACE_MODE",
        group=Group.TUNNEL,
        help="src (source) or dst (destination), when neither -s nor -d says so",
        reference=True,
    ),
    Option(
        name="source-listen-port",
        short="s",
        metavar="MAP",
        environment="TAILRACE_SOURCE_LISTEN_PORT",
        group=Group.SERVICES,
        help="Source mode: where to listen, PORT or ID=PORT[,ID=PORT...]; for PORT also HOST:PORT,"
        " [IPV6]:PORT and the path of a unix socket",
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
        help="Source mode: address to listen on; destination mode: local address of the"
        " connections to the applications",
        default="localhost; none",
        reference=True,
    ),
    Option(
        name="config-dir",
        metavar="DIR",
        environment="TAILRACE_CONFIG_DIR",
        group=Group.SERVICES,
        help="Directory of INI files (read with all its subdirectories) that map service ids to"
        " addresses; for tunnels whose ids are not known beforehand",
        default="./config, where it exists",
        reference=True,
    ),
    Option(
        name="allow",
        metavar="LIST",
        environment="TAILRACE_ALLOW",
        group=Group.SERVICES,
        help="The only addresses that applications may have, ADDRESS[,ADDRESS...]; a map with"
        " another one is refused",
        applies=Applies.DESTINATION,
        default="those of the map",
    ),
    Option(
        name="destination-client-type",
        short="y",
        metavar="VERSION",
        environment="TAILRACE_DESTINATION_CLIENT_TYPE",
        group=Group.SERVICES,
        help="V1 or V2: the destination is an older client (Device Client, Greengrass, the"
        " console: V1)",
        applies=Applies.SOURCE,
        default="learned",
        reference=True,
    ),
    Option(
        name="capath",
        short="c",
        metavar="DIR",
        environment="TAILRACE_CAPATH",
        group=Group.TRUST,
        help="Trust the certificates in DIR, hashed the way OpenSSL does, besides those of the"
        " system",
        reference=True,
    ),
    Option(
        name="no-ssl-host-verify",
        short="k",
        environment="TAILRACE_NO_SSL_HOST_VERIFY",
        group=Group.TRUST,
        help="INSECURE, for tests only: accept any certificate of the service",
        kind=Kind.SWITCH,
        reference=True,
    ),
    Option(
        name="max-connections",
        metavar="COUNT",
        environment="TAILRACE_MAX_CONNECTIONS",
        group=Group.BEHAVIOUR,
        help="Refuse further connections of a service while COUNT are open; 0: no limit",
        kind=Kind.COUNT,
        maximum=1_000_000,
        default="0",
    ),
    Option(
        name="linger",
        metavar="SECONDS",
        environment="TAILRACE_LINGER",
        group=Group.BEHAVIOUR,
        help="How long a client that has closed its sending half still receives, without news",
        kind=Kind.SECONDS,
        maximum=86_400,
        default="5",
    ),
    Option(
        name="stall-timeout",
        metavar="SECONDS",
        environment="TAILRACE_STALL_TIMEOUT",
        group=Group.BEHAVIOUR,
        help="How long one connection that takes nothing may hold up the others before it is"
        " closed",
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
        help="How long one attempt to reach an application may take",
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
        help="How long each step towards the service may take: name, TCP, TLS, upgrade",
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
        help="Keep the generated client token in DIR, so that the access token also survives a"
        " restart of this command",
    ),
    Option(
        name="verbose",
        short="v",
        metavar="LEVEL",
        environment="TAILRACE_VERBOSE",
        group=Group.OUTPUT,
        help="What is logged to standard error: 0 nothing, 1 fatal, 2 error, 3 warning, 4 info,"
        " 5 debug, 6 and above trace",
        kind=Kind.LEVEL,
        maximum=_MAX_LEVEL,
        default="4",
        reference=True,
        last_wins=True,
    ),
    Option(
        name="json",
        environment="TAILRACE_JSON",
        group=Group.OUTPUT,
        help="Write one JSON object a line to standard output for each event, for programs",
        kind=Kind.SWITCH,
    ),
    Option(
        name="ready-file",
        metavar="FILE",
        environment="TAILRACE_READY_FILE",
        group=Group.OUTPUT,
        help="Write FILE, in one step, once the tunnel can be used; it names the ports",
    ),
    Option(
        name="config",
        metavar="FILE",
        environment="TAILRACE_CONFIG",
        group=Group.FILES,
        help="Read further options from FILE: NAME = VALUE a line, with the long names of this"
        " list; the command line goes first",
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


def printable(text: str, limit: int = _SHOWN_LENGTH) -> str:
    """Return ``text`` fit for a message: one printable line of at most ``limit`` characters."""
    cut = text if len(text) <= limit else text[: limit - 3] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def parse_value(option: Option, text: str, spelling: str) -> Value:
    """Return the value that ``text`` means for ``option``.

    ``spelling`` is the option as the user wrote it, for the message: with dashes from a
    command line, without them from a file.

    Raises:
        UsageError: the text is no value of this option.
    """
    value: Value | None
    match option.kind:
        case Kind.SWITCH:
            value = _SWITCH_WORDS.get(text.lower())
            wanted = ". Valid choices are 'on|off', 'yes|no', '1|0' and 'true|false'"
        case Kind.LEVEL | Kind.COUNT:
            value = int(text) if _is_digits(text) else None
            wanted = ""
        case Kind.SECONDS:
            value = _decimal(text)
            wanted = ""
        case Kind.CHOICE:
            value = text if text in option.choices else None
            wanted = f". Valid choices are {', '.join(option.choices)}"
        case Kind.TEXT:
            return text
    if isinstance(value, int | float) and not isinstance(value, bool):
        in_range = option.minimum <= value <= option.maximum
        value = value if in_range else None
    if value is None:
        given = f" ('{printable(text)}')" if 0 < len(text) <= _SHOWN_VALUE_LENGTH else ""
        reason = f"the argument{given} for option '{spelling}' is invalid{wanted}"
        raise UsageError(reason, _range_hint(option))
    return value


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def _decimal(text: str) -> float | None:
    """Return the number ``text`` writes in plain decimal digits, else ``None``."""
    whole, point, fraction = text.partition(".")
    if not _is_digits(whole) or (point and not _is_digits(fraction)):
        return None
    return float(text)


def _range_hint(option: Option) -> str:
    match option.kind:
        case Kind.LEVEL | Kind.COUNT:
            return f"Give a whole number from {option.minimum:.0f} to {option.maximum:.0f}."
        case Kind.SECONDS:
            return f"Give a number of seconds from {option.minimum:g} to {option.maximum:.0f}."
        case _:
            return ""


def help_text() -> str:
    """Return what ``--help`` shows, at most :data:`HELP_WIDTH` columns wide."""
    lines = [
        "Usage: localproxy [OPTION]...",
        "",
        "Local proxy of AWS IoT Secure Tunneling: carries TCP connections through a tunnel.",
        "",
        "  localproxy -r us-east-1 -s 5555           source: listen on port 5555",
        "  localproxy -r us-east-1 -d localhost:22   destination: forward to the SSH server",
    ]
    for group in Group:
        lines += ["", f"{group.value}:"]
        for option in OPTIONS:
            if option.group is group:
                lines += _help_lines(option)
    lines += [
        "",
        "An option on the command line goes before the --config file, the file before the",
        "environment. A web proxy is taken from https_proxy or HTTPS_PROXY (http://, https:// or",
        "socks5://), except for the hosts in no_proxy or NO_PROXY.",
    ]
    return "\n".join(lines) + "\n"


def _help_lines(option: Option) -> list[str]:
    from textwrap import wrap

    short = f"-{option.short}, " if option.short else "    "
    left = f"  {short}--{option.name} {option.metavar}".rstrip()
    notes = ""
    if option.default:
        notes += f" [default: {option.default}]".replace(" ", _GLUE).replace(_GLUE, " ", 1)
    if option.environment:
        notes += f" [env:{_GLUE}{option.environment}]"
    wrapped = wrap(option.help + notes, HELP_WIDTH - _HELP_COLUMN, break_on_hyphens=False)
    right = [line.replace(_GLUE, " ") for line in wrapped]
    indent = " " * _HELP_COLUMN
    if len(left) >= _HELP_COLUMN:
        return [left, *(indent + line for line in right)]
    return [left.ljust(_HELP_COLUMN) + right[0], *(indent + line for line in right[1:])]


def options_table() -> str:
    """Return the table of the options for the documentation, as Markdown."""
    lines: list[str] = []
    for group in Group:
        lines += [
            f"**{group.value}**",
            "",
            "| option | environment | mode | default | meaning |",
            "|---|---|---|---|---|",
        ]
        for option in OPTIONS:
            if option.group is group:
                lines.append(_table_row(option))
        lines.append("")
    return "\n".join(lines)


def _table_row(option: Option) -> str:
    spelling = f"`--{option.name} {option.metavar}".rstrip() + "`"
    if option.short:
        spelling = f"`-{option.short}`, {spelling}"
    if not option.reference:
        spelling += " \\*"
    cells = (
        spelling,
        f"`{option.environment}`" if option.environment else "",
        option.applies.value,
        option.default,
        option.help.replace("|", "\\|"),
    )
    return "| " + " | ".join(cells) + " |"
