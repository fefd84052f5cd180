"""``tailrace tunnel`` opens, lists, describes, rotates and closes tunnels."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

from ..aws import ControlClient, Credentials
from ..common.atomic_files import write_file
from ..common.installation import how_to_install
from ..common.secret import Secret
from ..errors import ConfigurationError
from .arguments import Subparsers

__all__ = ["add_tunnel_parser", "api_endpoint", "run_tunnel"]

_Document: TypeAlias = dict[str, Any]

_TOKENS: Final = ("sourceAccessToken", "destinationAccessToken")
_PAGE: Final = 100


def add_tunnel_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``tunnel``; its arguments go to :func:`run_tunnel`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "tunnel",
        help="open, list, describe, rotate and close tunnels of AWS or of tailrace serve",
        description="Manage the tunnels of AWS, or of the service that tailrace env points to. "
        "Prints tables on a terminal and JSON elsewhere.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    opening = _add_action(actions, "open", "open a tunnel and get its access tokens")
    opening.add_argument("--description", metavar="TEXT", help="what the tunnel is for")
    _add_destination(opening)
    opening.add_argument(
        "--lifetime",
        metavar="MINUTES",
        type=int,
        help="close the tunnel after this time, 1 to 720 (default: 720)",
    )
    opening.add_argument(
        "--tag",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="tag of the tunnel; may be repeated",
    )
    _add_tokens_to(opening)
    listing = _add_action(actions, "list", "list tunnels, newest first")
    listing.add_argument("--thing", metavar="NAME", help="list only tunnels of this thing")
    listing.add_argument(
        "--max", metavar="COUNT", type=int, help="list at most COUNT tunnels (default: all)"
    )
    describing = _add_action(actions, "describe", "show one tunnel")
    describing.add_argument("tunnel", metavar="TUNNEL_ID")
    rotating = _add_action(actions, "rotate", "replace access tokens with new ones")
    rotating.add_argument("tunnel", metavar="TUNNEL_ID")
    rotating.add_argument(
        "--mode",
        choices=("source", "destination", "all"),
        default="all",
        help="side whose token is replaced (default: %(default)s)",
    )
    _add_destination(rotating)
    _add_tokens_to(rotating)
    closing = _add_action(actions, "close", "close tunnels")
    closing.add_argument("tunnel", metavar="TUNNEL_ID", nargs="+")
    closing.add_argument(
        "--delete", action="store_true", help="also delete their records immediately"
    )
    return parser


def _add_action(actions: Subparsers, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    parser.add_argument("--json", action="store_true", help="print JSON even on a terminal")
    parser.add_argument(
        "--endpoint-url",
        metavar="URL",
        help="control API to call (default: AWS_ENDPOINT_URL_IOTSECURETUNNELING, "
        "AWS_ENDPOINT_URL, or that of AWS in the region)",
    )
    parser.add_argument(
        "--region",
        help="AWS region (default: AWS_REGION, AWS_DEFAULT_REGION or that of the profile)",
    )
    parser.add_argument("--profile", help="profile in the AWS configuration files; needs boto3")
    parser.add_argument(
        "--ca-bundle",
        metavar="FILE",
        type=Path,
        help="CA certificates to trust in addition to the system's (default: AWS_CA_BUNDLE)",
    )
    return parser


def _add_destination(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--thing", metavar="NAME", help="thing to notify of its new token")
    parser.add_argument(
        "--service",
        metavar="ID",
        action="append",
        default=[],
        help="service id of the destination; may be repeated",
    )


def _add_tokens_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokens-to",
        metavar="FILE",
        type=Path,
        help="write the access tokens to FILE, as JSON with mode 0600, instead of printing them",
    )


def run_tunnel(args: argparse.Namespace) -> None:
    """Carry out one action.

    Raises:
        ConfigurationError: an argument or the environment is wrong.
        ControlError: the service refused the call or could not be reached.
    """
    _ACTIONS[args.action](args, _client(args, os.environ))


# Endpoint and credentials


def api_endpoint(region: str, environment: Mapping[str, str]) -> str:
    """Return the control API in the environment, or that of AWS in ``region``."""
    for name in ("AWS_ENDPOINT_URL_IOTSECURETUNNELING", "AWS_ENDPOINT_URL"):
        if environment.get(name):
            return environment[name]
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://api.tunneling.iot.{region}.{domain}"


def _client(args: argparse.Namespace, environment: Mapping[str, str]) -> ControlClient:
    session = _session(args.profile, environment)
    region = (
        args.region
        or environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or (session and session.region_name)
    )
    if not region:
        raise ConfigurationError("no region: give --region or set AWS_REGION")
    bundle = args.ca_bundle
    if bundle is None and environment.get("AWS_CA_BUNDLE"):
        bundle = Path(environment["AWS_CA_BUNDLE"])
    return ControlClient(
        args.endpoint_url or api_endpoint(region, environment),
        region,
        _credentials(session, environment),
        bundle,
    )


def _session(profile: str | None, environment: Mapping[str, str]) -> Any:
    """Return a session of boto3, ``None`` if none is needed or boto3 is not installed."""
    keys = environment.get("AWS_ACCESS_KEY_ID") and environment.get("AWS_SECRET_ACCESS_KEY")
    if profile is None and keys:
        # They take precedence in boto3's chain, too, and importing it is slow.
        return None
    if importlib.util.find_spec("boto3") is None:
        if profile is not None:
            raise ConfigurationError(f"--profile needs boto3: {how_to_install('boto3')}")
        return None
    exceptions = importlib.import_module("botocore.exceptions")
    try:
        return importlib.import_module("boto3.session").Session(profile_name=profile)
    except exceptions.BotoCoreError as error:
        raise ConfigurationError(str(error)) from None


def _credentials(session: Any, environment: Mapping[str, str]) -> Credentials:
    if session is None:
        return Credentials.from_environment(environment)
    exceptions = importlib.import_module("botocore.exceptions")
    try:
        found = session.get_credentials()
        frozen = found and found.get_frozen_credentials()
    except (exceptions.BotoCoreError, OSError) as error:
        raise ConfigurationError(f"no credentials: {error}") from None
    if not frozen:
        raise ConfigurationError(
            "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, use the output "
            "of tailrace env, or run aws configure"
        )
    token = Secret(frozen.token) if frozen.token else None
    return Credentials(frozen.access_key, Secret(frozen.secret_key), token)


# Actions


def _open(args: argparse.Namespace, client: ControlClient) -> None:
    parameters: _Document = _destination(args)
    if args.description is not None:
        parameters["description"] = args.description
    if args.lifetime is not None:
        parameters["timeoutConfig"] = {"maxLifetimeTimeoutMinutes": args.lifetime}
    if args.tag:
        parameters["tags"] = [_tag(text) for text in args.tag]
    _check_tokens_to(args)
    _show_tokens(args, client.call("OpenTunnel", parameters))


def _rotate(args: argparse.Namespace, client: ControlClient) -> None:
    parameters = {"tunnelId": args.tunnel, "clientMode": args.mode.upper()} | _destination(args)
    _check_tokens_to(args)
    document = client.call("RotateTunnelAccessToken", parameters)
    _show_tokens(args, {"tunnelId": args.tunnel} | document)


def _list(args: argparse.Namespace, client: ControlClient) -> None:
    if args.max is not None and args.max < 1:
        raise ConfigurationError("--max must be at least 1")
    found: list[_Document] = []
    parameters: _Document = {} if args.thing is None else {"thingName": args.thing}
    while args.max is None or len(found) < args.max:
        count = _PAGE if args.max is None else min(_PAGE, args.max - len(found))
        page = client.call("ListTunnels", parameters | {"maxResults": count})
        found += page.get("tunnelSummaries", [])
        if not page.get("nextToken"):
            break
        parameters["nextToken"] = page["nextToken"]
    if _wants_json(args):
        _print_json({"tunnelSummaries": found})
        return
    rows = [
        (
            summary.get("tunnelId", ""),
            summary.get("status", ""),
            _time(summary.get("createdAt")),
            summary.get("description", ""),
        )
        for summary in found
    ]
    _print_table(("TUNNEL", "STATUS", "OPENED", "DESCRIPTION"), rows)


def _describe(args: argparse.Namespace, client: ControlClient) -> None:
    document = client.call("DescribeTunnel", {"tunnelId": args.tunnel})
    if _wants_json(args):
        _print_json(document)
        return
    tunnel = document.get("tunnel", {})
    destination = tunnel.get("destinationConfig", {})
    minutes = tunnel.get("timeoutConfig", {}).get("maxLifetimeTimeoutMinutes", "")
    rows = [
        ("tunnel", tunnel.get("tunnelId", "")),
        ("arn", tunnel.get("tunnelArn", "")),
        ("status", tunnel.get("status", "")),
        ("description", tunnel.get("description", "")),
        ("thing", destination.get("thingName", "")),
        ("services", ", ".join(destination.get("services", []))),
        ("source", _connection(tunnel.get("sourceConnectionState", {}))),
        ("destination", _connection(tunnel.get("destinationConnectionState", {}))),
        ("lifetime", f"{minutes} minutes"),
        ("opened", _time(tunnel.get("createdAt"))),
        ("changed", _time(tunnel.get("lastUpdatedAt"))),
        *(("tag", f"{tag.get('key')}={tag.get('value')}") for tag in tunnel.get("tags", [])),
    ]
    _print_table((), [row for row in rows if row[1]])


def _close(args: argparse.Namespace, client: ControlClient) -> None:
    for tunnel in args.tunnel:
        client.call("CloseTunnel", {"tunnelId": tunnel, "delete": args.delete})
    if _wants_json(args):
        _print_json({})


_ACTIONS: Final[Mapping[str, Callable[[argparse.Namespace, ControlClient], None]]] = {
    "open": _open,
    "list": _list,
    "describe": _describe,
    "rotate": _rotate,
    "close": _close,
}


def _destination(args: argparse.Namespace) -> _Document:
    if args.thing is not None and not args.service and args.action == "open":
        raise ConfigurationError("--thing needs --service: name the services of the thing")
    destination: _Document = {}
    if args.thing is not None:
        destination["thingName"] = args.thing
    if args.service:
        destination["services"] = args.service
    return {"destinationConfig": destination} if destination else {}


def _tag(text: str) -> _Document:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ConfigurationError(f"--tag {text!r} is not KEY=VALUE")
    return {"key": key, "value": value}


# Output


def _check_tokens_to(args: argparse.Namespace) -> None:
    """Check before the call that its tokens can be saved: they are returned only once."""
    if args.tokens_to is not None and not os.access(args.tokens_to.absolute().parent, os.W_OK):
        raise ConfigurationError(f"--tokens-to: cannot write to {args.tokens_to.parent}")


def _show_tokens(args: argparse.Namespace, document: _Document) -> None:
    if args.tokens_to is not None:
        kept = {name: document.pop(name) for name in _TOKENS if name in document}
        content = {"tunnelId": document.get("tunnelId")} | kept
        write_file(args.tokens_to, json.dumps(content, indent=2).encode() + b"\n")
    if _wants_json(args):
        _print_json(document)
        return
    names = {
        "tunnelId": "tunnel",
        "tunnelArn": "arn",
        "sourceAccessToken": "source token",
        "destinationAccessToken": "destination token",
    }
    rows = [(text, str(document[name])) for name, text in names.items() if name in document]
    if args.tokens_to is not None:
        rows.append(("tokens in", str(args.tokens_to)))
    _print_table((), rows)


def _wants_json(args: argparse.Namespace) -> bool:
    return bool(args.json) or not sys.stdout.isatty()


def _print_json(document: _Document) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def _print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns; characters that could control a terminal become question marks."""
    lines = [
        ["".join(letter if letter.isprintable() else "?" for letter in str(cell)) for cell in line]
        for line in ([headings, *rows] if headings else rows)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())


def _connection(state: _Document) -> str:
    changed = _time(state.get("lastUpdatedAt"))
    return f"{state.get('status', '')}, since {changed}" if changed else state.get("status", "")


def _time(seconds: float | None) -> str:
    """Format seconds since the epoch in local time."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
