"""``tailrace agent install`` has systemd run the agent."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ..common.single_file import single_file
from ..errors import ConfigurationError
from .agent_broker import read_broker
from .agent_device_client import adopt_device_client
from .agent_options import NO_WAY_IN, add_run_options, capath_of, max_tunnels_of, services_of
from .arguments import Subparsers

if TYPE_CHECKING:
    from ..agent.install import Change, InstalledFile, InstallSettings
    from ..library import ServiceRule

__all__ = ["add_install_parser"]

_ROOT: Final = Path("/")
_JOINED: Final = PurePosixPath("/etc/tailrace")
"""Where root joins a service."""
_SYSTEMD: Final = Path("/run/systemd/system")
_PATIENCE: Final = 120.0
"""Seconds for one command of systemd."""
_PASSWORD: Final = re.compile(r"(://[^/@\s\"]*:)[^@\s\"]+@")
_NOT_FOR_UNITS: Final = {
    "state_dir": "--state-dir: the unit has a state directory of its own",
    "notify_stdin": "--notify-stdin: a unit has no standard input",
}
_PROXY_VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY")
_WRITTEN_ELSEWHERE: Final = ("service", "device_client_config")


def add_install_parser(actions: Subparsers) -> argparse.ArgumentParser:
    """Add the action ``install``, which takes the options of ``run``."""
    text = "have systemd run the agent, with the options that are given"
    parser: argparse.ArgumentParser = actions.add_parser(
        "install",
        help=text,
        description=f"{text[0].upper()}{text[1:]}: those of tailrace agent run. Writes a unit and "
        "its files, makes the user tailrace-agent, and starts the agent; may be repeated.",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the files instead of writing them"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace files that were changed by hand"
    )
    parser.add_argument(
        "--no-start", action="store_true", help="do not start the agent before the next boot"
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        type=Path,
        help="write the files below DIR, the image of another machine, and run nothing",
    )
    parser.add_argument(
        "--program",
        metavar="FILE",
        type=Path,
        help="the command tailrace on the machine (default: this one)",
    )
    add_run_options(parser)
    parser.set_defaults(run_action=_install)
    return parser


def _install(args: argparse.Namespace) -> None:
    from ..agent.install import agent_files, plan_changes, write_changes

    if args.root is None and not args.dry_run:
        _check_machine()
    files = agent_files(_settings(args, os.environ))
    if args.dry_run:
        _print(files)
        return
    changes = plan_changes(files, args.root or _ROOT)
    _check_unchanged(changes, args.force)
    write_changes(changes)
    for change in changes:
        print(f"{change.state.value:15}  {change.path}")
    if args.root is None:
        _activate(changes, start=not args.no_start)


# -- what is to be written ------------------------------------------------------------------------


def _settings(args: argparse.Namespace, environment: Mapping[str, str]) -> InstallSettings:
    """Return the answers.

    Raises:
        ConfigurationError: one of them is not valid, or does not go with a unit.
    """
    from ..agent.install import InstallSettings

    for name, text in _NOT_FOR_UNITS.items():
        if getattr(args, name):
            raise ConfigurationError(text)
    variables = {name: environment[name] for name in _PROXY_VARIABLES if environment.get(name)}
    # Its files are root's, and become options here.
    mine = dict(environment)
    adopted = adopt_device_client(args, mine)
    if mine.get("https_proxy"):
        variables["https_proxy"] = mine["https_proxy"]
    for warning in adopted.warnings:
        print(f"tailrace agent install: {warning}", file=sys.stderr)
    _check_password(args.broker)
    services, is_file = _services(args, adopted.services), args.services_file is not None
    if not (args.dry_run or args.root):
        read_broker(args, environment)
        capath_of(args)
    max_tunnels_of(args)
    options = _options(args)
    if is_file:
        options += [("--service", text) for text in args.service]
    return InstallSettings(
        program=_program(args),
        options=options,
        services={} if is_file else services,
        variables=variables,
        joined_directory=_joined_directory(args, environment),
        socket_groups=_socket_groups(services),
    )


def _services(
    args: argparse.Namespace, otherwise: Mapping[str, ServiceRule]
) -> dict[str, ServiceRule]:
    """Return the services that are known here; those of a file of another machine are not."""
    from ..agent.service_map import parse_services

    if args.services_file is not None and (args.root or args.dry_run):
        return parse_services(args.service)
    return dict(services_of(args, otherwise)[0].rules)


def _joined_directory(
    args: argparse.Namespace, environment: Mapping[str, str]
) -> PurePosixPath | None:
    """Return where the service is written down at which the agent waits, if it does.

    Raises:
        ConfigurationError: there is no way in for notifications.
    """
    from ..aws import find_joined
    from ..common.enrolment import Role

    has_other = any((args.endpoint, args.broker, args.notify_file))
    if has_other and args.service_url is None:
        return None
    if args.root or args.dry_run:
        return _JOINED
    joined = find_joined(environment)
    if joined is None or joined.role is not Role.DEVICE:
        raise ConfigurationError(NO_WAY_IN)
    return PurePosixPath(joined.ca_file.parent)


def _check_password(broker: str | None) -> None:
    if broker is not None and urlsplit(broker).password:
        raise ConfigurationError(
            "--broker: everybody would see the password in the list of processes; give "
            "--password-file, or TAILRACE_MQTT_PASSWORD in the file of options"
        )


def _options(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Return the options of ``run`` that are not as they would be anyway."""
    parser = argparse.ArgumentParser(add_help=False)
    add_run_options(parser)
    defaults = parser.parse_args([])
    options: list[tuple[str, str]] = []
    for action in parser._actions:
        value = getattr(args, action.dest)
        if action.dest in _WRITTEN_ELSEWHERE or value == getattr(defaults, action.dest):
            continue
        if isinstance(value, Path):
            value = value.absolute()
        options.append((action.option_strings[0], "" if value is True else str(value)))
    return options


def _program(args: argparse.Namespace) -> PurePosixPath:
    if args.program is not None:
        return PurePosixPath(args.program.absolute())
    beside = Path(sys.executable).with_name("tailrace")
    found = single_file() or (beside if beside.exists() else shutil.which("tailrace"))
    if found is None:
        raise ConfigurationError("where is the command tailrace? give --program FILE")
    return PurePosixPath(Path(found).absolute())


def _socket_groups(services: Mapping[str, ServiceRule]) -> Sequence[str]:
    """Return the groups one has to be of, to connect to the sockets of services."""
    if sys.platform == "win32":
        raise ConfigurationError("this system has no systemd")
    import grp
    import stat

    from ..common.addresses import UnixAddress

    groups = set()
    for rule in services.values():
        if not isinstance(rule.target, UnixAddress):
            continue
        try:
            found = os.stat(rule.target.path)
            if found.st_mode & stat.S_IWGRP and not found.st_mode & stat.S_IWOTH:
                groups.add(grp.getgrgid(found.st_gid).gr_name)
        except (OSError, KeyError):
            continue  # it is to be made, or on another machine
    return sorted(groups - {"root"})


# -- what is done ---------------------------------------------------------------------------------


def _print(files: Iterable[InstalledFile]) -> None:
    for number, each in enumerate(files):
        begin = "\n" if number else ""
        print(f"{begin}--- {each.path} (mode {each.mode:04o})")
        print(_PASSWORD.sub(r"\1***@", each.content), end="")


def _check_machine() -> None:
    """Raise what keeps this machine from being changed."""
    if os.geteuid() != 0:
        raise ConfigurationError("only root may do that: sudo; --dry-run prints the files")
    if not _SYSTEMD.is_dir():
        raise ConfigurationError(
            "systemd does not run this machine; --root DIR writes the files for one that it does"
        )


def _check_unchanged(changes: Iterable[Change], force: bool) -> None:
    from ..agent.install import State

    changed = [str(each.path) for each in changes if each.state is State.FOREIGN]
    if changed and not force:
        raise ConfigurationError(
            f"changed by hand, and nothing was written: {', '.join(changed)}; --force replaces it, "
            "and --dry-run prints what with"
        )


def _activate(changes: Sequence[Change], *, start: bool) -> None:
    """Let systemd know the files; start the agent, again if they have changed."""
    from ..agent.install import NAME, State

    _run("systemd-sysusers", f"/etc/sysusers.d/{NAME}.conf")
    _run("systemctl", "daemon-reload")
    _run("systemctl", "enable", f"{NAME}.service")
    if start:
        is_same = all(each.state is State.SAME for each in changes)
        _run("systemctl", "start" if is_same else "restart", f"{NAME}.service")
        print(f"the agent runs: systemctl status {NAME}, journalctl -u {NAME} -f")


def _run(*command: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"{' '.join(command)}: {error}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        reason = said[-1] if said else f"status {done.returncode}"
        raise ConfigurationError(f"{' '.join(command)}: {reason}")
