"""``tailrace join`` makes this machine a client of a service, with an invitation."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from ..aws.joined import (
    DIRECTORY_VARIABLE,
    default_directory,
    forget_pending,
    pending_secret_key,
    read_joined,
    write_joined,
)
from ..common.enrolment import Role, is_pin, read_code
from ..common.secret import Secret
from ..errors import ConfigurationError, CredentialsRefused
from .arguments import Subparsers
from .localproxy.files import read_line, read_text

__all__ = ["add_join_parser", "run_join"]


def add_join_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``join``; its arguments go to :func:`run_join`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "join",
        help="join a service with the line that tailrace invite printed",
        description="Get an access key and the certificates of a service, and keep them where "
        "tailrace finds them.",
    )
    parser.add_argument("url", metavar="URL", help="control API of the service, https://HOST:PORT")
    parser.add_argument(
        "--pin",
        metavar="sha256:HEX",
        action="append",
        required=True,
        help="SHA-256 of the public key of the service's authority, which is checked before the "
        "code is sent; may be repeated",
    )
    code = parser.add_argument(
        "code", metavar="CODE", help="the one-time code; - reads it from standard input"
    )

    class CodeFile(argparse.Action):
        """Takes the place of CODE, which argparse finds behind options only if it is required."""

        def __call__(
            self, _: object, namespace: argparse.Namespace, values: object, __: object = None
        ) -> None:
            code.required = False
            setattr(namespace, self.dest, values)

    parser.add_argument(
        "--code-file",
        metavar="FILE",
        action=CodeFile,
        help="read the code from FILE instead, - is standard input",
    )
    parser.add_argument(
        "--dir",
        metavar="DIR",
        type=Path,
        help="where to keep the files (default: /etc/tailrace for root, ~/.config/tailrace for "
        "others)",
    )
    return parser


def run_join(args: argparse.Namespace) -> None:
    """Join a service.

    Raises:
        ConfigurationError: an argument is wrong, or the files cannot be written.
        ControlError: the service is another one, refused the code or could not be reached.
        LinkError: a web proxy could not be reached, or did not connect.
    """
    import asyncio

    from ..aws.enrolment import join

    code = _code(args)
    pins = [text.lower() for text in args.pin]
    wrong = next((text for text in pins if not is_pin(text)), None)
    if wrong is not None:
        raise ConfigurationError(f"--pin {wrong!r} is not sha256: and 64 hexadecimal digits")
    directory: Path = (args.dir or default_directory(os.environ)).absolute()
    secret_key = pending_secret_key(directory, code)
    try:
        admission = asyncio.run(
            join(args.url, pins, code, secret_key, environment=os.environ, tell=_tell)
        )
    except CredentialsRefused:
        # After all else the code may be good, or used by an attempt whose answer was lost.
        forget_pending(directory)
        raise
    former = _former_key(directory)
    joined = write_joined(directory, admission.service, admission.authorities)
    forget_pending(directory)
    what = "waits for tunnels of" if joined.role is Role.DEVICE else "opens tunnels as"
    print(f"joined {joined.api_endpoint}: this machine {what} {joined.name}")
    print(f"written to {directory}")
    if args.dir is not None:
        print(f"to find it there: export {DIRECTORY_VARIABLE}={shlex.quote(str(directory))}")
    if joined.role is Role.DEVICE:
        print("to wait for tunnels: tailrace agent run --service SSH=22")
    if former not in ("", joined.credentials.access_key_id):
        _tell(
            f"the key {former}, which was here before, is good until it is revoked: "
            f"tailrace keys revoke {former}"
        )


def _tell(text: str) -> None:
    print(f"tailrace join: {text}", file=sys.stderr, flush=True)


def _code(args: argparse.Namespace) -> Secret:
    """Return the code, from wherever it is given.

    Raises:
        ConfigurationError: it is given twice, or not at all, or is none.
    """
    source: str | None = args.code_file
    text: str | None = args.code
    if (source is None) is (text is None):
        raise ConfigurationError("give the code once: as CODE, or with --code-file")
    if text == "-":
        source = text
    if text is not None and text != "-":
        from .localproxy.hide_argv import hide_argument

        hide_argument(Secret(text))
    elif source == "-":
        text = read_line("code: ")
    else:
        try:
            text = read_text(source or "")
        except OSError as error:
            raise ConfigurationError(f"--code-file {source}: {error.strerror}") from None
    code = read_code(text)
    if code is None:
        # Without it: nearly right, it may still be somebody's.
        raise ConfigurationError("the code is not 26 letters and digits; was it copied whole?")
    return code


def _former_key(directory: Path) -> str:
    try:
        former = read_joined(directory)
    except ConfigurationError:
        former = None
    return "" if former is None else former.credentials.access_key_id
