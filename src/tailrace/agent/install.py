"""The files with which systemd runs the agent, made from its options.

Nothing here touches a file but :func:`plan_changes`, which reads, and :func:`write_changes`. A file
that was written says in its first line what it held then, so that one that somebody has changed
since is known, and stays as it is.

The unit gives the agent no rights but that of connecting: to the broker, to the data endpoint and
to the applications. Certificates, keys and passwords stay readable by root only; systemd copies
them for the agent when it starts.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Final

from ..common.addresses import TCPAddress, UnixAddress
from ..common.atomic_files import write_atomically
from ..errors import ConfigurationError
from ..library.service_map import ServiceRule

__all__ = [
    "NAME",
    "UNIT_FILE",
    "Change",
    "InstallSettings",
    "Installed",
    "InstalledFile",
    "State",
    "agent_files",
    "installed_agent",
    "plan_changes",
    "write_changes",
]

NAME: Final = "tailrace-agent"
"""Of the unit and of the user."""
UNIT_FILE: Final = PurePosixPath(f"/etc/systemd/system/{NAME}.service")

_DIRECTORY: Final = PurePosixPath(f"/etc/{NAME}")
_OPTIONS_FILE: Final = _DIRECTORY / "agent.env"
_SERVICES_FILE: Final = _DIRECTORY / "services.toml"
_SOCKETS_FILE: Final = UNIT_FILE.parent / f"{NAME}.service.d" / "10-sockets.conf"
_USER_FILE: Final = PurePosixPath(f"/etc/sysusers.d/{NAME}.conf")

_HOMES: Final = ("/home", "/root", "/run/user")
_TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108 - what the sandbox hides
_CREDENTIALS: Final = ("--cert", "--key", "--ca", "--password-file")
"""Options with files that systemd reads for the agent."""
_UNQUOTABLE: Final = re.compile(r"[\x00-\x1f\x7f\"'\\]")
_UNFIT_PATH: Final = re.compile(r"[^A-Za-z0-9_./@+=,-]")
_HEADER: Final = "# Written by tailrace agent install; sha256 of what follows: "
_DIGITS: Final = 16

_SANDBOX: Final = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""


class State(Enum):
    """How a file that is to be written stands."""

    NEW = "new"
    SAME = "unchanged"
    OLD = "replaced"
    """As it was written by an earlier run."""
    STALE = "removed"
    """As it was written by an earlier run, and of no more use."""
    FOREIGN = "changed by hand"


@dataclass(frozen=True, slots=True)
class InstalledFile:
    """A file of the agent."""

    path: PurePosixPath
    body: str
    mode: int = 0o644

    @property
    def content(self) -> str:
        """The body, with a first line that tells whether it is still the same."""
        return f"{_HEADER}{_digest(self.body)}\n{self.body}"


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done with a file."""

    file: InstalledFile
    path: Path
    """Where it really is: below another root, if there is one."""
    state: State


@dataclass(frozen=True, slots=True)
class Installed:
    """What an agent that was installed runs with."""

    words: Sequence[str]
    """Options of ``tailrace agent run``."""
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class InstallSettings:
    """What the options of the installation say."""

    program: PurePosixPath
    """The command ``tailrace``."""
    options: Sequence[tuple[str, str]]
    """Options of ``tailrace agent run`` and their values, "" for those without one."""
    services: Mapping[str, ServiceRule] = field(default_factory=dict)
    """Go into the file of services."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of the environment, such as ``https_proxy``."""
    joined_directory: PurePosixPath | None = None
    """Directory that ``tailrace join`` has written to; ``None``: the agent needs none."""
    socket_groups: Sequence[str] = ()
    """Groups that the agent has to be of, to connect to sockets."""


def agent_files(settings: InstallSettings) -> list[InstalledFile]:
    """Return the files, in the order in which they are to be written.

    Raises:
        ConfigurationError: an option cannot be written down, or the sandbox hides what it names.
    """
    _check_visible(settings)
    files = [
        InstalledFile(_USER_FILE, f'u {NAME} - "Tailrace device agent" /var/lib/{NAME}\n'),
        InstalledFile(_OPTIONS_FILE, _options_text(settings), 0o600),
    ]
    if settings.services:
        files.append(InstalledFile(_SERVICES_FILE, _services_text(settings.services)))
    files.append(InstalledFile(UNIT_FILE, _unit_text(settings)))
    sockets = _sockets_text(settings)
    if sockets:
        files.append(InstalledFile(_SOCKETS_FILE, sockets))
    return files


def plan_changes(files: Iterable[InstalledFile], root: Path) -> list[Change]:
    """Return how each file stands below ``root``.

    Raises:
        ConfigurationError: one of them cannot be read.
    """
    changes = []
    files = list(files)
    for each in files:
        path = root / each.path.relative_to("/")
        changes.append(Change(each, path, _state(each, path)))
    wanted = {each.path for each in files}
    for name in (_SERVICES_FILE, _SOCKETS_FILE):
        path = root / name.relative_to("/")
        unused = InstalledFile(name, "")
        if name not in wanted and _state(unused, path) is State.OLD:
            changes.append(Change(unused, path, State.STALE))
    return changes


def write_changes(changes: Iterable[Change]) -> None:
    """Write the files that are not there as they should be.

    Raises:
        ConfigurationError: one of them cannot be written.
    """
    for change in changes:
        if change.state is State.SAME:
            continue
        path = change.path
        try:
            if change.state is State.STALE:
                path.unlink()
                continue
            path.parent.mkdir(0o755, parents=True, exist_ok=True)
            content = change.file.content.encode()
            write_atomically(path, content, change.file.mode, despite_umask=True)
        except OSError as error:
            raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error


def installed_agent(root: Path) -> Installed:
    """Return how the agent below ``root`` is run.

    Raises:
        ConfigurationError: none is installed, or its files cannot be read.
    """
    variables = {}
    for line in _text(root, _OPTIONS_FILE).splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            variables[name.strip()] = " ".join(_words(value, name))
    words = _words(variables.pop("AGENT_OPTIONS", ""), "AGENT_OPTIONS")
    for name, path in re.findall(r"(?m)^LoadCredential=([a-z-]+):(.+)$", _text(root, UNIT_FILE)):
        words += [f"--{name}", path]
    return Installed(words, variables)


def _text(root: Path, name: PurePosixPath) -> str:
    path = root / name.relative_to("/")
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        raise ConfigurationError(f"no agent is installed: there is no {path}") from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error


def _words(text: str, name: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        raise ConfigurationError(f"{_OPTIONS_FILE}: {name} has a quote without its end") from None


# -- how they stand --------------------------------------------------------------------------------


def _state(file: InstalledFile, path: Path) -> State:
    try:
        found = path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return State.NEW
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    if found == file.content:
        return State.SAME
    first, _, body = found.partition("\n")
    return State.OLD if first == f"{_HEADER}{_digest(body)}" else State.FOREIGN


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:_DIGITS]


# -- what they hold -------------------------------------------------------------------------------


def _check_visible(settings: InstallSettings) -> None:
    """Refuse what the agent would not find: its user sees no home directories."""
    for option, value in settings.options:
        if option in _CREDENTIALS and (_UNFIT_PATH.search(value) or not value.startswith("/")):
            raise ConfigurationError(
                f"{option} {value!r}: a unit takes absolute paths of letters, digits and _./@+=,-"
            )
    named = [("the command tailrace", str(settings.program))]
    named += [
        (option, value)
        for option, value in settings.options
        if value.startswith("/") and option not in _CREDENTIALS
    ]
    for what, path in named:
        hidden = next((each for each in _HOMES if _is_below(path, each)), None)
        if hidden is not None:
            place = "/opt/tailrace" if path == str(settings.program) else str(_DIRECTORY)
            raise ConfigurationError(
                f"{what}: the agent does not see {path}, as nothing below {hidden}; have it in"
                f" {place}"
            )


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")


def _options_text(settings: InstallSettings) -> str:
    words: list[str] = []
    for option, value in (*settings.options, *settings.variables.items()):
        if _UNQUOTABLE.search(value):
            # Without the value: it may hold a password.
            raise ConfigurationError(
                f"{option} has a character that a file of options cannot have: a quote, a"
                " backslash or a control character"
            )
    for option, value in settings.options:
        if option not in _CREDENTIALS:
            words += [option] if value == "" else [option, shlex.quote(value)]
    if settings.services:
        words += ["--services-file", str(_SERVICES_FILE)]
    variables = "".join(f'{name}="{value}"\n' for name, value in settings.variables.items())
    return f"""\
# Options of "tailrace agent run"; after a change: systemctl restart {NAME}
# Variables such as TAILRACE_MQTT_PASSWORD and https_proxy may stand here, too; only root reads it.
AGENT_OPTIONS="{" ".join(words)}"
{variables}"""


def _services_text(services: Mapping[str, ServiceRule]) -> str:
    lines = []
    for service_id, rule in services.items():
        target = rule.target
        assert isinstance(target, TCPAddress | UnixAddress)
        # A basic string of TOML is one of JSON.
        lines.append(f"{json.dumps(service_id)} = {json.dumps(str(target), ensure_ascii=False)}")
    return (
        "# What tunnels may reach. The agent sees changes by itself.\n\n[services]\n"
        + "\n".join(lines)
        + "\n"
    )


def _unit_text(settings: InstallSettings) -> str:
    credentials = [(o, v) for o, v in settings.options if o in _CREDENTIALS]
    words = [str(settings.program), "agent", "run", "--state-dir ${STATE_DIRECTORY}"]
    loaded = []
    for option, path in credentials:
        name = option.removeprefix("--")
        words.append(f"{option} ${{CREDENTIALS_DIRECTORY}}/{name}")
        loaded.append(f"LoadCredential={name}:{path}\n")
    if loaded:
        loaded.insert(
            0, "# Copies for the agent alone, made at the start: restart it after a change.\n"
        )
    return f"""\
# Changes of your own belong into a drop-in: systemctl edit {NAME}

[Unit]
Description=Tailrace device agent
After=network.target
# It waits for the network itself, and as long as it takes.
StartLimitIntervalSec=0

[Service]
# Ready before the broker answers: a device may start without a network.
Type=notify
NotifyAccess=main
WatchdogSec=60
EnvironmentFile={_OPTIONS_FILE}
{"".join(loaded)}{_joined_text(settings.joined_directory)}\
ExecStart={" ".join(words)} $AGENT_OPTIONS
# Services, and the status into the log.
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=5
# A wrong option does not get better by trying again.
RestartPreventExitStatus=1
TimeoutStopSec=15

User={NAME}
Group={NAME}
StateDirectory={NAME}
StateDirectoryMode=0700
RuntimeDirectory={NAME}
RuntimeDirectoryMode=0700
UMask=0077

{_SANDBOX}
[Install]
WantedBy=multi-user.target
"""


def _joined_text(directory: PurePosixPath | None) -> str:
    """Return the settings by which the agent gets what ``tailrace join`` has written."""
    if directory is None:
        return ""
    copy = f"/usr/bin/install -m 0600 -o {NAME} {directory}/service.json {directory}/ca-*.pem"
    return f"""\
# What tailrace join has written is root's; this copy is the agent's, and gone when it ends.
ExecStartPre=+/bin/sh -c '{copy} "$RUNTIME_DIRECTORY"'
Environment=TAILRACE_SERVICE_DIR=%t/{NAME}
"""


def _sockets_text(settings: InstallSettings) -> str:
    """Return the drop-in for applications at sockets that the sandbox hides, "" without any."""
    paths = [
        each.target.path
        for each in settings.services.values()
        if isinstance(each.target, UnixAddress)
    ]
    lines: list[str] = []
    if any(_is_below(path, each) for path in paths for each in _TEMPORARY):
        lines.append("PrivateTmp=no")
    directories = sorted(
        {
            str(PurePosixPath(path).parent)
            for path in paths
            if any(_is_below(path, each) for each in _HOMES)
        }
    )
    if directories:
        lines.append("ProtectHome=tmpfs")
        lines += [f"BindReadOnlyPaths=-{each}" for each in directories]
    lines += [f"SupplementaryGroups={each}" for each in settings.socket_groups]
    if not lines:
        return ""
    text = "\n".join(lines)
    return f"# Sockets of services that the agent would not reach otherwise.\n[Service]\n{text}\n"
