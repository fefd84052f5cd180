"""The command line: what scripts rely on."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from conformance.lab import Lab
from conformance.laboratory import scenario
from tailrace.cli.exit_codes import ExitCode

TOKEN = "a" * 100
HINT = "Try 'localproxy --help'"
ONE_OF_REGION = "Must specify one and only one of --region/-r or --proxy-endpoint/-e"
ONE_OF_MODES = "Must specify one of --source-listen-port/-s or --destination-app/-d or --mode"
NOT_BOTH = "Must specify one and only one of --source-listen-port/-s or --destination-app/-d"
MODES = "Mode value is wrong! Allowed values are: src, dst, source, destination"
REGION = ("-r", "us-east-1")

WITHOUT_TOKEN = [
    ((), 1, "the option '--access-token' is required but missing"),
    ((), 1, HINT),
    (("-Z",), 1, "unrecognised option '-Z'"),
    (("-v",), 1, "the required argument for option '--verbose' is missing"),
]
WITH_TOKEN = [
    ((*REGION, "-e", "data.tunneling.iot.us-east-1.amazonaws.com", "-s", "5555"), ONE_OF_REGION),
    (("-s", "5555"), ONE_OF_REGION),
    (REGION, ONE_OF_MODES),
    ((*REGION, "-s", "5555", "-d", "127.0.0.1:22"), NOT_BOTH),
    ((*REGION, "-m", "bogus"), MODES),
    (
        (*REGION, "-s", "5555", "-m", "dst"),
        "-s and --mode have mismatched mode. Mode is set to destination!",
    ),
    (
        (*REGION, "-d", "22", "-m", "src"),
        "-s and --mode have mismatched mode. Mode is set to source!",
    ),
]
UAT = "LOCALPROXY_UAT"


async def _check(lab: Lab, arguments: tuple[str, ...], code: int, text: str, token: str) -> None:
    proxy = lab.proxy(*arguments, token=token)
    ended = await proxy.ended()
    said = proxy.output + proxy.log
    assert ended == code, f"{arguments}: exit status {ended}"
    assert text in said, f"{arguments}: no {text!r}"


@scenario("S62")
async def test_s62_usage_errors(lab: Lab) -> None:
    await asyncio.gather(
        *(_check(lab, arguments, code, text, "") for arguments, code, text in WITHOUT_TOKEN),
        *(_check(lab, arguments, 1, text, TOKEN) for arguments, text in WITH_TOKEN),
    )


@scenario("S62", "R66413b7")
async def test_s62_r66413b7_information(lab: Lab) -> None:
    for argument in ("--version", "-V"):
        proxy = lab.proxy(argument, token="")
        assert await proxy.ended() == 0
        said = proxy.output + proxy.log
        assert "Running AWS IoT Secure Tunneling Local Proxy version: v" in said
        for bad in ("fatal", "[error]", HINT):
            assert bad not in said, f"{argument}: {bad!r}"
    for argument in ("--help", "-h"):
        proxy = lab.proxy(argument, token="")
        assert await proxy.ended() == 0
        assert "Show help message" in proxy.output + proxy.log


@scenario("S62")
async def test_s62_script_of_the_reference(lab: Lab) -> None:
    """Its own acceptance test, unchanged, where it is at hand."""
    script = os.environ.get(UAT)
    if not script:
        pytest.skip(f"{UAT} does not name the reference's test_cli_usage.sh")
    uat = lab.directory / "uat"
    shutil.copytree(Path(script).parent, uat, ignore=shutil.ignore_patterns("logs"))
    command = lab.directory / "build" / "bin" / "localproxy"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec {" ".join(lab.target.command)} "$@"\n')
    command.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        "bash",
        str(uat / "test_cli_usage.sh"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=lab.target.environment(lab.certificates.ca_file),
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert b"All CLI argument tests PASSED" in out


@scenario("R66413b7")
async def test_r66413b7_values_are_judged(lab: Lab) -> None:
    source = ("-s", "5555")
    for arguments, token, name in [
        ((*REGION, *source), "a\x01b", "token"),
        ((*REGION, *source), "a" * 4097, "token"),
        (("-r", "us east", *source), TOKEN, "region"),
        ((*REGION, "-s", "SSH=0"), TOKEN, "port"),
        ((*REGION, "-s", "S SH=1"), TOKEN, "service"),
    ]:
        proxy = lab.proxy(*arguments, token=token)
        assert await proxy.ended() == ExitCode.USAGE, f"{arguments}: not refused"
        said = (proxy.output + proxy.log).lower()
        assert name in said, f"{arguments}: the {name} is not named"
        assert token not in said, "the token is in the log"


@scenario("B18")
async def test_b18_verbosity_twice(lab: Lab) -> None:
    stage = lab.stage()
    arguments = ("-e", stage.endpoint, "-d", "SSH1=9", "-v", "4", "-v", "6")
    proxy = lab.proxy(*arguments)
    await stage.tunnel("SSH1")
    await proxy.said("[debug]")
