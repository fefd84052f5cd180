"""Options of commands that call a control API: which one, and as whom."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError

if TYPE_CHECKING:  # it takes an event loop, and usage errors take none
    from ..aws import Client

__all__ = ["add_client_options", "client_of", "client_words"]

_NAMES = ("endpoint_url", "region", "profile", "ca_bundle")


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; :func:`client_of` reads them."""
    parser.add_argument(
        "--endpoint-url",
        metavar="URL",
        help="control API to call (default: AWS_ENDPOINT_URL_IOTSECURETUNNELING, "
        "AWS_ENDPOINT_URL, endpoint_url of the profile, or that of AWS in the region)",
    )
    parser.add_argument(
        "--region",
        help="AWS region (default: AWS_REGION, AWS_DEFAULT_REGION or that of the profile)",
    )
    parser.add_argument("--profile", help="profile in the AWS configuration files")
    parser.add_argument(
        "--ca-bundle",
        metavar="FILE",
        type=Path,
        help="CA certificates to trust in addition to the system's (default: AWS_CA_BUNDLE or "
        "ca_bundle of the profile)",
    )


def client_of(args: argparse.Namespace) -> Client:
    """Return the client that the options ask for.

    Raises:
        ConfigurationError: an option or the environment is not valid.
    """
    from ..aws.client import Client

    try:
        return Client(
            profile=args.profile,
            region=args.region,
            endpoint=args.endpoint_url,
            ca=args.ca_bundle,
        )
    except ConfigurationError as error:
        if error.setting != "region":
            raise
        raise ConfigurationError("no region: give --region or set AWS_REGION") from None


def client_words(args: argparse.Namespace) -> list[str]:
    """Return the options again, as words of a command line that runs anywhere."""
    words = []
    for name in _NAMES:
        value = getattr(args, name)
        if value is not None:
            text = str(value.absolute()) if isinstance(value, Path) else value
            words += [f"--{name.replace('_', '-')}", text]
    return words
