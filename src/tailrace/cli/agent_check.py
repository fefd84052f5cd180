"""``tailrace agent check`` says step by step what keeps the agent from working, and what to do."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ConfigurationError
from .agent_broker import read_broker
from .agent_device_client import adopt_device_client
from .agent_options import NO_WAY_IN, add_run_options, agent_state_dir, capath_of, services_of
from .agent_service import adopt_service
from .arguments import Subparsers
from .exit_codes import ChecksFailed

if TYPE_CHECKING:
    from ..agent.sources.mqtt import MqttSourceSettings
    from ..checks.findings import CheckResult, Finding
    from ..checks.report import JsonReport, TextReport
    from ..checks.runner import Check
    from ..checks.server import Server

__all__ = ["add_check_parser"]

_ROOT: Final = Path("/")


def add_check_parser(actions: Subparsers) -> argparse.ArgumentParser:
    """Add the action ``check``, which takes the options of ``run``."""
    text = "check step by step all that the agent needs, and say what to do"
    parser: argparse.ArgumentParser = actions.add_parser(
        "check",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. Takes the options of tailrace agent run. No "
        "token is used, and no notification is taken.",
    )
    parser.add_argument("--json", action="store_true", help="print the results in JSON")
    parser.add_argument(
        "--account",
        metavar="ID",
        help="number of the AWS account, for the policy that is shown when the broker refuses",
    )
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="connect to the broker although an agent runs, which loses its connection for some "
        "seconds",
    )
    parser.add_argument(
        "--installed",
        action="store_true",
        help="take what no option says from the agent that tailrace agent install has set up; as "
        "root",
    )
    add_run_options(parser)
    parser.set_defaults(run_action=_check)
    return parser


def _check(args: argparse.Namespace) -> None:
    from ..checks.findings import failed
    from ..checks.report import failure_text
    from ..checks.runner import Check

    try:
        checks = _checks(args, os.environ)
    except ConfigurationError as error:
        finding = failed(str(error))

        async def run() -> Finding:
            return finding

        checks = [Check("configuration", run)]
    failure = failure_text(asyncio.run(_run(checks, _report(args, checks))))
    if failure:
        raise ChecksFailed(failure)


async def _run(checks: list[Check], report: TextReport | JsonReport) -> list[CheckResult]:
    from ..checks.runner import run_checks

    results = []
    async for result in run_checks(checks, report.begin):
        report.add(result)
        results.append(result)
    report.end()
    return results


def _report(args: argparse.Namespace, checks: list[Check]) -> TextReport | JsonReport:
    from ..checks.report import JsonReport, TextReport

    if args.json:
        return JsonReport(sys.stdout)
    return TextReport(sys.stdout, max(len(each.name) for each in checks))


def _checks(args: argparse.Namespace, environment: Mapping[str, str]) -> list[Check]:
    """Return the steps for what the options say.

    Raises:
        ConfigurationError: an option or a file is not valid.
    """
    from ..agent.check import AgentCheckSettings, agent_checks
    from ..agent.check_service import service_checks

    if args.installed:
        environment = {**environment, **_take_installed(args)}
    adopted = adopt_device_client(args, os.environ)
    broker = read_broker(args, environment)
    has_other = broker is not None or args.notify_file is not None or args.notify_stdin
    service = adopt_service(args, environment, has_other=has_other)
    if service is None and not has_other:
        raise ConfigurationError(NO_WAY_IN)
    services, _ = services_of(args, adopted.services)
    settings = AgentCheckSettings(
        state_dir=agent_state_dir(args),
        services=tuple(services.rules.items()),
        broker=broker,
        service=() if service is None else service_checks(service, environment),
        notify_file=args.notify_file,
        notify_stdin=args.notify_stdin,
        tunnels=_tunnels(args, broker, environment),
        send_test=_sender_of_tests(broker, environment),
        account=args.account,
        take_over=args.take_over,
        warnings=adopted.warnings,
    )
    return agent_checks(settings)


def _sender_of_tests(
    broker: MqttSourceSettings | None, environment: Mapping[str, str]
) -> Callable[[], Awaitable[None]] | None:
    """Return how to have a notification sent over the broker, ``None`` if there is no way."""
    from ..agent.check_service import sender_of_tests
    from ..aws import find_joined

    if broker is None or broker.broker.is_aws:
        return None
    joined = find_joined(environment)
    return None if joined is None else sender_of_tests(joined, broker.thing_name, environment)


def _take_installed(args: argparse.Namespace) -> Mapping[str, str]:
    """Put what the installed agent runs with in place of what was not given; return variables.

    Raises:
        ConfigurationError: none is installed, or its files cannot be read.
    """
    from ..agent.install import NAME, installed_agent
    from .parser import CommandParser

    installed = installed_agent(_ROOT)
    parser = CommandParser(prog="tailrace agent run", add_help=False)
    add_run_options(parser)
    found, defaults = parser.parse(installed.words), parser.parse([])
    found.state_dir = Path(f"/var/lib/{NAME}")
    for name, value in vars(found).items():
        if getattr(args, name, None) == getattr(defaults, name, None):
            setattr(args, name, value)
    return installed.variables


def _tunnels(
    args: argparse.Namespace, broker: MqttSourceSettings | None, environment: Mapping[str, str]
) -> Server | None:
    """Return the data endpoint that is known beforehand, ``None`` if only notifications tell."""
    from ..agent.policy import region_of_endpoint
    from ..checks.server import Server
    from ..library import endpoint_in
    from ..link.endpoint import NetworkEndpoint, TLSOptions
    from ..link.proxy.settings import web_proxy_for
    from ..localproxy.endpoints import endpoint_of, parse_endpoint

    region, endpoint = args.region, args.proxy_endpoint
    if region is None and endpoint is None:
        region, endpoint = endpoint_in(environment)
    if region is None and endpoint is None and broker is not None and broker.broker.is_aws:
        region = region_of_endpoint(broker.broker.host)
    if region is not None and endpoint is None:
        endpoint = endpoint_of(region)
    if endpoint is None:
        return None
    host, port = parse_endpoint(endpoint)
    return Server(
        "tunnels",
        NetworkEndpoint(host=host, port=port, tls=TLSOptions(capath=capath_of(args))),
        web_proxy=web_proxy_for(host, port, environment),
        address_option="--region or --proxy-endpoint",
        trust_option="--capath PATH",
    )
