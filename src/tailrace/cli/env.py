"""``tailrace env`` points a shell or another machine to a service, ``tailrace exec`` a command."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn

from ..aws.credentials import Credentials
from ..aws.joined import JoinedService, find_joined, write_joined
from ..common.atomic_files import make_private_directory
from ..common.enrolment import Role
from ..errors import ConfigurationError
from ..service.config import Endpoints, ServiceConfig
from ..service.environment import VARIABLES, client_environment
from ..service.extra import require_extra
from ..service.identity.key_store import KeyFile, credentials_file, new_key
from ..service.identity.policy import device_policy
from .arguments import Subparsers, add_state_dir, state_dir_of
from .invite import add_host, check_name
from .keys import add_policy_options, read_policy
from .running import running_endpoints

__all__ = ["add_env_parser", "add_exec_parser", "run_env", "run_exec"]

_OLD_CLIENTS: Final = (
    "Clients that know no AWS_ENDPOINT_URL_*, such as boto3 before 1.28 and the AWS CLI before "
    "1.29 and 2.13 (Debian 12 has 2.9), go to AWS itself."
)
_ENDPOINT_ARGUMENT: Final = '--endpoint-url "$AWS_ENDPOINT_URL_IOTSECURETUNNELING"'
_SECRET: Final = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - a name
_SESSION: Final = "AWS_SESSION_TOKEN"
"""Belongs to other credentials; it would be sent along with ours, and refused."""


@dataclass(frozen=True, slots=True)
class _Shell:
    """How a shell is told of a variable."""

    export: str
    unset: str
    quote: Callable[[str], str]


_SHELLS: Final = {
    "sh": _Shell("export {}={}", "unset {}", shlex.quote),
    "fish": _Shell(
        "set -gx {} {}", "set -e {}", lambda text: "'" + re.sub(r"([\\'])", r"\\\1", text) + "'"
    ),
    "pwsh": _Shell(
        "$env:{} = {}",
        "Remove-Item -ErrorAction SilentlyContinue Env:{}",
        lambda text: "'" + text.replace("'", "''") + "'",
    ),
}


def add_env_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``env``; its arguments go to :func:`run_env`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "env",
        help="print shell exports that point AWS tools and local proxies to a running service",
        description='Use it as: eval "$(tailrace env)"',
        epilog=f"{_OLD_CLIENTS} Give those the option or argument {_ENDPOINT_ARGUMENT}.",
    )
    add_state_dir(parser)
    parser.add_argument(
        "--shell",
        choices=list(_SHELLS),
        default="sh",
        help="syntax to print; sh is for bash, zsh and the like (default: %(default)s)",
    )
    parser.add_argument(
        "--unset", action="store_true", help="print what takes the variables away again"
    )
    group = parser.add_argument_group(
        "for another machine", "Write files to copy there, with a new key of its own."
    )
    group.add_argument(
        "--for",
        dest="role",
        choices=[role.value for role in Role],
        help="device: it may wait for its own tunnels; operator: it may do all that no option "
        "forbids",
    )
    group.add_argument("--name", help="the thing that the device is, or who the operator is")
    group.add_argument("--out", metavar="DIR", type=Path, help="directory for the files")
    add_policy_options(group)
    add_host(group)
    return parser


def add_exec_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``exec``; its arguments go to :func:`run_exec`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "exec",
        help="run a command with the environment of tailrace env",
        description="Run a command that finds the service, such as an AWS tool, and end with its "
        "exit status.",
        usage="tailrace exec [-h] [--state-dir DIR] -- COMMAND [ARGUMENT ...]",
    )
    add_state_dir(parser)
    parser.add_argument("argv", metavar="COMMAND", nargs=argparse.REMAINDER, help="what to run")
    return parser


def run_env(args: argparse.Namespace) -> None:
    """Print shell exports for the running service, or for the joined one where none runs.

    Raises:
        ConfigurationError: no service is running there.
    """
    if args.role is not None or args.out is not None:
        state_dir = state_dir_of(args)
        _write_files(state_dir, running_endpoints(state_dir), args)
        return
    shell = _SHELLS[args.shell]
    if args.unset:
        for name in VARIABLES:
            print(shell.unset.format(name))
        return
    endpoints, variables = _found(args)
    for name, value in variables.items():
        print(shell.export.format(name, shell.quote(value)))
    if _SECRET in variables:
        print(shell.unset.format(_SESSION))
    else:
        print(
            f"tailrace env: the key {endpoints.access_key_id} is only in the environment of the "
            "service; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY yourself",
            file=sys.stderr,
        )
    # Behind all others, so that an eval without quotes, which makes one line of them, does no harm.
    print(f"# {_OLD_CLIENTS} {_ENDPOINT_ARGUMENT}")


def run_exec(args: argparse.Namespace) -> NoReturn:
    """Become a command that finds the service.

    Raises:
        ConfigurationError: no service is running there, or the command cannot be run.
    """
    argv = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    if not argv:
        raise ConfigurationError("no command: write it behind --, as: tailrace exec -- aws help")
    _, variables = _found(args)
    environment = {**os.environ, **variables}
    if _SECRET in variables:
        environment.pop(_SESSION, None)
    try:
        if os.name == "nt":  # where a process cannot become another one
            sys.exit(subprocess.call(argv, env=environment))
        os.execvpe(argv[0], argv, environment)  # noqa: S606 - what the user wrote
    except OSError as error:
        raise ConfigurationError(f"cannot run {argv[0]}: {error.strerror}") from None


def _found(args: argparse.Namespace) -> tuple[Endpoints, dict[str, str]]:
    """Return the running service, or the joined one where none runs, and its variables.

    Raises:
        ConfigurationError: there is neither.
    """
    state_dir = state_dir_of(args)
    if args.state_dir is None and not ServiceConfig(state_dir).own_ready_file.exists():
        joined = find_joined(os.environ)
        if joined is not None:
            endpoints, state_dir = _endpoints_of(joined), joined.ca_file.parent
            return endpoints, client_environment(endpoints, state_dir, {})
    endpoints = running_endpoints(state_dir)
    return endpoints, client_environment(endpoints, state_dir, os.environ)


def _endpoints_of(joined: JoinedService) -> Endpoints:
    """Return the endpoints of a joined service, and make room for what they need."""
    make_private_directory(joined.ca_file.parent / "tls")
    return Endpoints(
        joined.api_endpoint,
        joined.data_endpoint,
        ca_file=str(joined.ca_file),
        ca_dir="",
        region=joined.region,
        access_key_id=joined.credentials.access_key_id,
        secret_access_key=joined.credentials.secret_access_key.reveal(),
    )


def _write_files(state_dir: Path, endpoints: Endpoints, args: argparse.Namespace) -> None:
    """Write what another machine needs, with a new key."""
    for option, value in (("--for", args.role), ("--name", args.name), ("--out", args.out)):
        if value is None:
            raise ConfigurationError(f"{option} is missing: --for, --name and --out go together")
    role = Role(args.role)
    check_name(role, args.name)
    if role is Role.DEVICE and (args.read_only or args.operation or args.thing):
        raise ConfigurationError("a device has one policy; leave out what limits an operator")
    require_extra()
    from ..service.reach import find_reach

    reach = find_reach(state_dir, endpoints, args.host)
    policy = device_policy(args.name) if role is Role.DEVICE else read_policy(args)
    now = time.time()
    key = replace(new_key(args.name, now, policy), joined=True)
    service = JoinedService(
        role,
        args.name,
        reach.url,
        reach.data_endpoint,
        reach.region,
        reach.ca_file,
        Credentials(key.access_key_id, key.secret_access_key),
    )
    directory: Path = args.out.absolute()
    # The key counts only once it can be found on the other machine.
    write_joined(directory, service, reach.ca_file.read_bytes())
    KeyFile(credentials_file(state_dir)).add(key, now)
    print(
        f"wrote {directory} with the key {key.access_key_id}; copy it to /etc/tailrace or "
        "~/.config/tailrace of the other machine",
        file=sys.stderr,
    )
