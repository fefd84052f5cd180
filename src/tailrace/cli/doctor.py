"""``tailrace doctor`` says step by step what is wrong between here and a tunnel, and what to do."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ConfigurationError
from .arguments import Subparsers
from .exit_codes import ChecksFailed
from .localproxy.files import default_state_dir, read_text

if TYPE_CHECKING:
    from ..aws import Client
    from ..checks.findings import CheckResult
    from ..checks.report import JsonReport, TextReport
    from ..checks.runner import Check
    from ..common.secret import Secret
    from ..operator.doctor.subject import DoctorSettings

__all__ = ["add_doctor_parser", "run_doctor"]

_LONGEST: Final = 300.0


def add_doctor_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the sub-command ``doctor``; its arguments go to :func:`run_doctor`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "doctor",
        help="find out what is wrong between here and a tunnel, and what to do about it",
        description="Check the way to a tunneling service and what a tunnel needs there: names, "
        "TCP, web proxy, TLS, upgrade, control API, rights, tunnel, token. Each line is a verdict, "
        "a figure and a fix. Nothing is changed and no token is used, except by --measure.",
    )
    parser.add_argument(
        "thing", metavar="THING", nargs="?", help="also look at the open tunnel of this thing"
    )
    _add_service_options(parser)
    _add_tunnel_options(parser)
    parser.add_argument(
        "--measure",
        action="store_true",
        help="open a tunnel of one minute for it, and measure round trip and throughput; with a "
        "thing, also connect to its first service. AWS charges for tunnels",
    )
    parser.add_argument("--json", action="store_true", help="print the results in JSON")
    parser.add_argument(
        "--report",
        metavar="FILE",
        type=Path,
        help="write a file for a bug report: versions, environment and results, without secrets",
    )
    parser.add_argument(
        "--log", metavar="FILE", type=Path, help="add the last lines of this log to the report"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="limit of each step of a connection (default: 10)",
    )
    return parser


def _add_service_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which service is looked at, and the way to it."""
    parser.add_argument("-r", "--region", help="AWS region (default: the environment)")
    parser.add_argument(
        "-e",
        "--proxy-endpoint",
        metavar="HOST[:PORT]",
        help="data endpoint of the service, instead of a region",
    )
    parser.add_argument(
        "--endpoint-url", metavar="URL", help="control API (default: as for tailrace tunnel)"
    )
    parser.add_argument("--profile", help="profile in the AWS configuration files")
    parser.add_argument(
        "--ca-bundle",
        metavar="FILE",
        type=Path,
        help="CA certificates to trust in addition to the system's",
    )


def _add_tunnel_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which tunnel is looked at there, and which token."""
    parser.add_argument("--tunnel", metavar="TUNNEL_ID", help="also look at this tunnel")
    parser.add_argument(
        "--service",
        metavar="ID",
        action="append",
        default=[],
        help="service id that the tunnel is to have; may be repeated",
    )
    parser.add_argument(
        "--access-token-file",
        metavar="FILE",
        type=Path,
        help="also look at the access token in FILE, without using it",
    )
    parser.add_argument(
        "--mode",
        choices=("source", "destination"),
        default="source",
        help="side that the token is of (default: %(default)s)",
    )


def run_doctor(args: argparse.Namespace) -> None:
    """Carry out all checks.

    Raises:
        ConfigurationError: options contradict each other, or a file cannot be read or written.
        ChecksFailed: a check has failed; the first one says with which exit code to end.
    """
    import asyncio

    from ..checks.findings import Verdict
    from ..checks.report import failure_text
    from ..operator.doctor.bundle import read_log, write_bundle
    from ..operator.doctor.examination import doctor_checks
    from ..operator.doctor.subject import find_subject

    _check_options(args)
    log = [] if args.log is None else read_log(args.log)
    settings = _settings(args)
    subject = find_subject(settings, os.environ)
    checks = doctor_checks(settings, subject)
    results = asyncio.run(_run(checks, _report(args, checks), subject.client))
    if args.report is not None:
        write_bundle(args.report, results, os.environ, log=log, secrets=_secrets(args))
        told = f"tailrace doctor: wrote {args.report}; look through it before you send it"
        print(told, file=sys.stderr)
    failure = failure_text(results)
    if failure:
        error = ChecksFailed(failure)
        failures = (each.finding for each in results if each.finding.verdict is Verdict.FAILED)
        error.first = next(failures).cause
        raise error


async def _run(
    checks: list[Check], report: TextReport | JsonReport, client: Client | None
) -> list[CheckResult]:
    from ..checks.runner import run_checks

    results = []
    try:
        async for result in run_checks(checks, report.begin, at_once=True):
            report.add(result)
            results.append(result)
    finally:
        if client is not None:
            await client.aclose()
    report.end()
    return results


def _report(args: argparse.Namespace, checks: list[Check]) -> TextReport | JsonReport:
    from ..checks.report import JsonReport, TextReport

    if args.json:
        return JsonReport(sys.stdout)
    return TextReport(sys.stdout, max(len(each.name) for each in checks))


def _settings(args: argparse.Namespace) -> DoctorSettings:
    from ..library import Side
    from ..operator.doctor.subject import DoctorSettings

    return DoctorSettings(
        thing=args.thing,
        tunnel_id=args.tunnel,
        services=tuple(args.service),
        region=args.region,
        endpoint=args.proxy_endpoint,
        control=args.endpoint_url,
        profile=args.profile,
        ca=args.ca_bundle,
        token_file=args.access_token_file,
        side=Side(args.mode),
        state_dir=default_state_dir(os.environ),
        measure=args.measure,
        timeout=args.timeout,
    )


def _check_options(args: argparse.Namespace) -> None:
    if args.region is not None and args.proxy_endpoint is not None:
        raise ConfigurationError("--region and --proxy-endpoint exclude each other")
    if args.thing is not None and args.tunnel is not None:
        raise ConfigurationError("a thing and --tunnel exclude each other: name one of them")
    if args.service and args.thing is None and args.tunnel is None:
        raise ConfigurationError("--service needs a thing or --tunnel: whose services are meant?")
    if args.log is not None and args.report is None:
        raise ConfigurationError("--log needs --report: it is a part of the report")
    if args.report is not None and args.report.is_dir():
        raise ConfigurationError(f"--report: {args.report} is a directory; name a file")


def _secrets(args: argparse.Namespace) -> list[Secret]:
    """Return the token that was looked at, which the report must not have, whatever it came by."""
    from ..common.secret import Secret

    if args.access_token_file is None:
        return []
    try:
        return [Secret(read_text(args.access_token_file).strip())]
    except OSError:
        return []


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to {_LONGEST:g}")
    return seconds
