"""``tailrace keys`` creates, lists and revokes the access keys of a service."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from ..errors import ConfigurationError
from ..service.identity.key_store import KeyFile, credentials_file, new_key
from ..service.identity.policy import RECEIVE, AccessKey, Policy
from .arguments import Subparsers, add_state_dir, state_dir_of
from .limits import add_quota_options, read_quotas

__all__ = [
    "add_keys_parser",
    "add_policy_options",
    "format_date",
    "read_duration",
    "read_policy",
    "run_keys",
]

_UNITS: Final = {"m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"(\d{1,6})([mhd])", re.ASCII)
_LONGEST: Final = 10 * 366 * 86400
_NAME: Final = re.compile(r"[^\W_][\w.@ +-]{0,63}")
_PATTERN: Final = re.compile(r"[a-zA-Z0-9:_*?-]{1,128}")


def add_keys_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``keys``; its arguments go to :func:`run_keys`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "keys",
        help="create, list and revoke access keys of a service",
        description="Manage the access keys of tailrace serve. Changes apply to a running service "
        "immediately.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    _add_add_parser(actions)
    listing = actions.add_parser("list", help="list keys, without their secrets")
    listing.add_argument("--json", action="store_true", help="print a JSON document")
    revoke = actions.add_parser("revoke", help="revoke a key immediately")
    revoke.add_argument("access_key_id", metavar="KEY_ID")
    add_state_dir(parser)
    return parser


def _add_add_parser(actions: Subparsers) -> None:
    add = actions.add_parser(
        "add",
        help="create a key and print it; its secret is never shown again",
        description="Create an access key and print it as the variables that AWS tools read.",
    )
    add.add_argument("--name", default="", help="what the key is for; list shows it")
    add_policy_options(add)
    add.add_argument(
        "--valid-for",
        metavar="TIME",
        help="create a temporary key with a session token, valid for 90m, 12h or 30d, for example",
    )
    add_quota_options(add)


def add_policy_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that limit a key; :func:`read_policy` reads them."""
    parser.add_argument(
        "--read-only", action="store_true", help="allow describing and listing tunnels only"
    )
    parser.add_argument(
        "--operation",
        metavar="NAME",
        action="append",
        help="allow only this operation, such as OpenTunnel; may be repeated",
    )
    parser.add_argument(
        "--thing",
        metavar="PATTERN",
        action="append",
        help="allow only tunnels of things whose name matches, with * and ?; may be repeated",
    )


def run_keys(args: argparse.Namespace) -> None:
    """Carry out one action on the keys of a service.

    Raises:
        ConfigurationError: an option is wrong, or the keys cannot be read or written.
    """
    _ACTIONS[args.action](KeyFile(credentials_file(state_dir_of(args))), args)


def _add(file: KeyFile, args: argparse.Namespace) -> None:
    if args.name and not _NAME.fullmatch(args.name):
        raise ConfigurationError(
            f"--name {args.name!r} must be at most 64 letters, digits, spaces or any of ._@+-"
        )
    now = time.time()
    seconds = None if args.valid_for is None else read_duration(args.valid_for)
    key = new_key(args.name, now, read_policy(args), seconds, read_quotas(args))
    file.make_directory()
    file.add(key, now)
    print(f"AWS_ACCESS_KEY_ID={key.access_key_id}")
    print(f"AWS_SECRET_ACCESS_KEY={key.secret_access_key.reveal()}")
    if key.session_token is not None:
        print(f"AWS_SESSION_TOKEN={key.session_token.reveal()}")
    sys.stdout.flush()
    print("Save it now: the secret is not shown again.", file=sys.stderr)


def read_policy(args: argparse.Namespace) -> Policy:
    """Return the policy that the options ask for.

    Raises:
        ConfigurationError: one of them is not valid.
    """
    # It takes much with it, which no other command needs.
    from ..service.api.model import OPERATIONS

    known = {*OPERATIONS, RECEIVE}
    for name in args.operation or ():
        if name not in known:
            raise ConfigurationError(
                f"--operation {name!r} is not one of {', '.join(sorted(known))}"
            )
    for pattern in args.thing or ():
        if not _PATTERN.fullmatch(pattern):
            raise ConfigurationError(
                f"--thing {pattern!r} must be 1 to 128 letters, digits or any of :_-*?"
            )
    return Policy(_unique(args.operation), _unique(args.thing), args.read_only)


def _unique(values: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(dict.fromkeys(values))


def read_duration(text: str, most: int = _LONGEST) -> int:
    """Return the seconds that ``--valid-for`` says, ``most`` at most.

    Raises:
        ConfigurationError: it is no duration, or too long.
    """
    parsed = _DURATION.fullmatch(text)
    seconds = int(parsed[1]) * _UNITS[parsed[2]] if parsed else 0
    if not 0 < seconds <= most:
        longest = "ten years" if most == _LONGEST else f"{most // 86400} days"
        raise ConfigurationError(
            f"--valid-for {text!r} is not a duration of at most {longest}, such as 90m, 12h or 30d"
        )
    return seconds


def _revoke(file: KeyFile, args: argparse.Namespace) -> None:
    revoked = file.revoke(args.access_key_id)
    if revoked is None:
        raise ConfigurationError(
            f"no access key {args.access_key_id!r} in {file.path}; see: tailrace keys list"
        )
    print(f"revoked {revoked.access_key_id} {revoked.name}".rstrip())


def _list(file: KeyFile, args: argparse.Namespace) -> None:
    keys = file.read()
    if args.json:
        print(json.dumps({"keys": [_public(key) for key in keys]}, indent=2))
        return
    for key in keys:
        until = "no expiry" if key.expires_at is None else f"until {format_date(key.expires_at)}"
        print(
            f"{key.access_key_id}  {format_date(key.created_at)}  {until}  "
            f"{_rights(key)}  {key.name}".rstrip()
        )


_ACTIONS: Final[Mapping[str, Callable[[KeyFile, argparse.Namespace], None]]] = {
    "add": _add,
    "list": _list,
    "revoke": _revoke,
}


def _public(key: AccessKey) -> dict[str, Any]:
    hidden = ("secret_access_key", "session_token")
    return {name: value for name, value in key.to_document().items() if name not in hidden}


def format_date(seconds: float) -> str:
    """Format seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _rights(key: AccessKey) -> str:
    policy = key.policy
    parts = [
        "read-only" if policy.read_only else "",
        ",".join(policy.operations or ()),
        "things " + ",".join(policy.things) if policy.things else "",
    ]
    quotas = [
        f"{name.replace('_', ' ')} {value}"
        for name, value in asdict(key.quotas).items()
        if value is not None
    ]
    return "; ".join([*(part for part in parts if part), *quotas]) or "everything"
