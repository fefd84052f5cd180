"""Secrets that are words: the log neither shows them, nor do gaps in it give them away."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

import pytest

from support.network.web_proxies import Greeting, RunningWebProxy, http_greeting, proxy_server
from support.service import ServiceProcess
from support.tunnel import ProxyProcess, arguments_for, proxy_process, tunnel_of
from tailrace.cli.exit_codes import ExitCode
from tailrace.common.secret import Secret
from tailrace.wire import Side

LONG = "Zk93-hdUq-29sLmPw0-x"
WORDS = ["proxy", "no", "1", "info", "Attempting to establish", "wss", "user"]


def lines(proxy: ProxyProcess) -> list[str]:
    """Return what was logged, without times, numbers and ids of links."""
    texts = (line.partition(") ")[2] for line in proxy.log.splitlines())
    return [re.sub(r"(?<= ID: ).*|\d+", "N", text) for text in texts]


def refuse(page: str) -> Greeting:
    """Refuse every CONNECT with a page."""

    async def greet(
        proxy: RunningWebProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int]:
        await reader.readuntil(b"\r\n\r\n")
        body = page.encode()
        writer.write(
            b"HTTP/1.1 407 Authentication, please\r\nProxy-Authenticate: Basic realm=x\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await writer.drain()
        raise ConnectionAbortedError

    return greet


async def log_of(
    directory: Path,
    service: ServiceProcess,
    password: str,
    greeting: Greeting,
    code: ExitCode,
) -> list[str]:
    """Return what a source logs that reaches the service through a web proxy, or does not."""
    with tunnel_of(service, "SSH") as tunnel, contextlib.ExitStack() as stack:
        async with proxy_server(greeting) as web_proxy:
            coded = password.replace(" ", "%20")
            url = f"http://person:{coded}@127.0.0.1:{web_proxy.port}"
            source = stack.enter_context(
                proxy_process(
                    directory,
                    "source",
                    [*arguments_for(tunnel, Side.SOURCE), "-v", "6"],
                    tunnel.tokens[Side.SOURCE],
                    https_proxy=url,
                )
            )
            if code is ExitCode.OK:
                await source.ready()
                # Otherwise the line may come before the signal or not at all.
                await source.said("No destination is connected")
                source.terminate()
            assert await source.exit_code() == code, source.log
            assert tunnel.tokens[Side.SOURCE].reveal() not in source.log + source.output
            found = lines(source)
    (directory / "source.log").unlink()
    (directory / "source.json").unlink(missing_ok=True)
    return found


@pytest.mark.parametrize("word", WORDS)
async def test_a_password_that_is_a_word_changes_no_line(
    service: ServiceProcess, tmp_path: Path, word: str
):
    expected = await log_of(tmp_path, service, LONG, http_greeting, ExitCode.OK)
    assert "[info] Attempting to establish" in "\n".join(expected)
    assert await log_of(tmp_path, service, word, http_greeting, ExitCode.OK) == expected


@pytest.mark.parametrize("word", WORDS)
async def test_a_page_that_quotes_such_a_password_is_as_good_as_none(
    service: ServiceProcess, tmp_path: Path, word: str
):
    empty = await log_of(tmp_path, service, word, refuse(""), ExitCode.NETWORK)
    assert any("[fatal] web proxy" in line for line in empty)
    page = f"{word} is not the password of person: no access through this proxy"
    assert await log_of(tmp_path, service, word, refuse(page), ExitCode.NETWORK) == empty


async def test_a_page_that_quotes_another_password_is_shown_without(
    service: ServiceProcess, tmp_path: Path
):
    page = f"{LONG} is not the password of person"
    found = await log_of(tmp_path, service, LONG, refuse(page), ExitCode.NETWORK)
    assert '"<redacted> is not the password of person"' in "\n".join(found)
    assert LONG not in "\n".join(found)


@pytest.mark.parametrize("word", ["token", "Forbidden", "web", "1", "source"])
async def test_an_access_token_that_is_a_word_changes_no_line_of_ours(
    service: ServiceProcess, tmp_path: Path, word: str
):
    """One that was given by mistake is refused, and the log is the same."""
    logs = []
    for text in ("q" * 40, word):
        arguments = ["-e", service.endpoints.data_endpoint, "-c", service.endpoints.ca_dir]
        with proxy_process(tmp_path, "source", [*arguments, "-m", "src"], Secret(text)) as proxy:
            assert await proxy.exit_code() == ExitCode.TOKEN_REFUSED
            # What the service says is its own, and not quoted if the word is in it.
            logs.append([re.sub('".*?"', '""', line) for line in lines(proxy)])
        (tmp_path / "source.log").unlink()
    assert logs[0] == logs[1]
    assert "<redacted>" not in "\n".join(logs[0])
