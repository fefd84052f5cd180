"""``tailrace invite`` lets other machines join a service, with one line to run there."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..common.enrolment import Role
from ..errors import ConfigurationError
from ..service.extra import require_extra
from ..service.identity.invitations import (
    Invitation,
    InvitationFile,
    InvitationState,
    invitations_file,
    new_invitation,
)
from ..service.identity.policy import Policy, device_policy
from .arguments import Subparsers, add_state_dir, state_dir_of
from .keys import add_policy_options, format_date, read_duration, read_policy
from .running import endpoints_if_running

__all__ = ["add_host", "add_invite_parser", "check_name", "run_invite"]

_DEFAULT: Final = "15m"
_LONGEST: Final = 30 * 86400
_NAMES: Final = {
    Role.DEVICE: (
        re.compile(r"[a-zA-Z0-9:_-]{1,128}"),
        "the name of a thing: 1 to 128 letters, digits or any of :_-",
    ),
    Role.OPERATOR: (
        re.compile(r"[a-zA-Z0-9][\w.@+-]{0,63}", re.ASCII),
        "1 to 64 letters, digits or any of ._@+-",
    ),
}


def add_invite_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``invite``; its arguments go to :func:`run_invite`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "invite",
        help="let a device or an operator join a service, with one line to run there",
        description="Print one line that makes another machine a client of tailrace serve. It is "
        "good once, and for some minutes.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    device = actions.add_parser(
        "device",
        help="invite a device, which may wait for its own tunnels and nothing else",
        description="Print the line that lets a device wait for its tunnels.",
    )
    device.add_argument("name", metavar="THING", help="name of the thing that the device is")
    operator = actions.add_parser(
        "operator",
        help="invite somebody who opens tunnels",
        description="Print the line that gives somebody an access key. Without options it is for "
        "everything.",
    )
    operator.add_argument("name", metavar="NAME", help="who it is; tailrace keys list shows it")
    add_policy_options(operator)
    for each in (device, operator):
        each.add_argument(
            "--valid-for",
            metavar="TIME",
            default=_DEFAULT,
            help="how long the line is good: 90m, 12h or 2d, for example (default: %(default)s)",
        )
        add_host(each)
    listing = actions.add_parser("list", help="list invitations and what became of them")
    listing.add_argument("--json", action="store_true", help="print a JSON document")
    revoke = actions.add_parser("revoke", help="revoke an invitation that was not used yet")
    revoke.add_argument("invitation_id", metavar="INVITATION")
    add_state_dir(parser)
    return parser


def add_host(parser: argparse._ActionsContainer) -> None:
    """Add ``--host``."""
    parser.add_argument(
        "--host",
        metavar="HOST[:PORT]",
        help="where the other machine reaches the service (default: what the service tells)",
    )


def check_name(role: Role, name: str) -> None:
    """Refuse a name that a key of this role cannot have.

    Raises:
        ConfigurationError: it is not valid.
    """
    pattern, meaning = _NAMES[role]
    if not pattern.fullmatch(name):
        raise ConfigurationError(f"{name!r} is not {meaning}")


def run_invite(args: argparse.Namespace) -> None:
    """Carry out one action.

    Raises:
        ConfigurationError: an argument is wrong, the service cannot be reached from elsewhere, or
            the invitations cannot be read or written.
    """
    _ACTIONS[args.action](InvitationFile(invitations_file(state_dir_of(args))), args)


def _invite(file: InvitationFile, args: argparse.Namespace) -> None:
    require_extra()
    from ..service.reach import find_reach

    role = Role(args.action)
    check_name(role, args.name)
    policy: Policy = device_policy(args.name) if role is Role.DEVICE else read_policy(args)
    seconds = read_duration(args.valid_for, _LONGEST)
    state_dir = file.path.parent
    reach = find_reach(state_dir, endpoints_if_running(state_dir), args.host)
    now = time.time()
    invitation, code = new_invitation(
        role,
        args.name,
        policy,
        host=reach.api.host,
        creator=_user(),
        now=now,
        seconds=seconds,
    )
    file.make_directory()
    file.add(invitation, now)
    pins = [word for pin in reach.pins for word in ("--pin", pin)]
    print(shlex.join(["tailrace", "join", reach.url, *pins, code.reveal()]), flush=True)
    if reach.is_guess:
        print(
            f"The other machine has to find {reach.api.host} by this name; otherwise give --host.",
            file=sys.stderr,
        )
    print(
        f"Run it on the machine of {args.name} before {format_date(invitation.expires_at)}; "
        f"it is good once. To take it back: tailrace invite revoke {invitation.invitation_id}",
        file=sys.stderr,
    )


def _user() -> str:
    """Return the name of the user, or of the one who has become root."""
    if sys.platform == "win32":
        return _if_plain(os.environ.get("USERNAME", ""), "somebody")
    import pwd

    try:
        name = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = ""
    return _if_plain(name, f"uid {os.getuid()}")


def _if_plain(name: str, otherwise: str) -> str:
    return name if re.fullmatch(r"[\w.@-]{1,64}", name) else otherwise


def _list(file: InvitationFile, args: argparse.Namespace) -> None:
    now = time.time()
    known = file.read()
    if args.json:
        print(json.dumps({"invitations": [_public(each, now) for each in known]}, indent=2))
        return
    for each in known:
        print(
            f"{each.invitation_id}  {each.role.value}  {each.name}  "
            f"{format_date(each.created_at)} by {each.creator}  {_fate(each, now)}"
        )


def _fate(invitation: Invitation, now: float) -> str:
    match invitation.state(now):
        case InvitationState.USED:
            used = format_date(invitation.used_at or 0.0)
            key = invitation.access_key_id
            return f"used {used} from {invitation.used_from}, key {key}"
        case InvitationState.OPEN:
            return f"open until {format_date(invitation.expires_at)}"
        case InvitationState.REVOKED:
            return f"revoked {format_date(invitation.revoked_at or 0.0)}"
        case InvitationState.EXPIRED:
            return f"expired {format_date(invitation.expires_at)}"


def _public(invitation: Invitation, now: float) -> dict[str, Any]:
    document = invitation.to_document() | {"state": invitation.state(now).value}
    return {name: value for name, value in document.items() if not name.endswith("_digest")}


def _revoke(file: InvitationFile, args: argparse.Namespace) -> None:
    now = time.time()
    found = file.revoke(args.invitation_id, now)
    if found is None:
        raise ConfigurationError(
            f"no invitation {args.invitation_id!r} in {file.path}; see: tailrace invite list"
        )
    if found.state(now) is InvitationState.USED:
        raise ConfigurationError(
            f"{found.invitation_id} was used; revoke its key: "
            f"tailrace keys revoke {found.access_key_id}"
        )
    print(f"revoked {found.invitation_id} {found.role.value} {found.name}")


_ACTIONS: Final[Mapping[str, Callable[[InvitationFile, argparse.Namespace], None]]] = {
    "device": _invite,
    "operator": _invite,
    "list": _list,
    "revoke": _revoke,
}
