"""SOCKS5: what cannot work is said before anything is sent, every refusal in plain words."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import pytest

from support.network.sockets import reset_streams
from support.network.web_proxies import Greeting, RunningWebProxy, proxy_server, socks_greeting
from support.waiting import HANG
from tailrace.common.installing import how_to_install_extra
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError, ProxyRefused
from tailrace.link.endpoint import ServiceEndpoint
from tailrace.link.proxy.settings import WebProxy
from tailrace.link.proxy.socks import check_socks, open_socks
from tailrace.link.tcp import SocketAddress, connect_any
from tailrace.wire import Side

PASSWORD = "password-nobody-may-see"
USER = f"user:{PASSWORD}"
PLAIN = WebProxy("socks5h", "proxy.example", 1080)


def endpoint(**changes: Any) -> ServiceEndpoint:
    fields: dict[str, Any] = {
        "host": "service.example",
        "port": 8443,
        "side": Side.SOURCE,
        "access_token": Secret("token"),
        "connect_timeout": HANG,
    }
    return ServiceEndpoint(**(fields | changes))


def known(user: str, password: str) -> WebProxy:
    return WebProxy("socks5", "proxy.example", 1080, user, Secret(password))


async def ask(
    proxy: RunningWebProxy, wanted: ServiceEndpoint, host: str = "", user: str = ""
) -> socket.socket:
    """Ask a running proxy for a way; return the socket."""
    address = SocketAddress(socket.AF_INET, ("127.0.0.1", proxy.port))
    sock = await connect_any([address], "proxy", HANG)
    try:
        await open_socks(sock, wanted, proxy.settings("socks5h", user=user), host or wanted.host)
    except BaseException:
        assert sock.fileno() < 0, "open_socks closes what it could not use"
        raise
    return sock


# -- before anything is sent -----------------------------------------------------------------


@pytest.mark.parametrize("proxy", [PLAIN, known("user", "p"), known("u" * 255, "p" * 255)])
def test_what_fits(proxy: WebProxy) -> None:
    check_socks(proxy)


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        (known("us\xe9r", "p"), "user and password must be ASCII for SOCKS5"),
        (known("user", "p\xe4ss"), "user and password must be ASCII for SOCKS5"),
        (known("user", ""), "a password must not be empty for SOCKS5 (RFC 1929)"),
    ],
)
def test_credentials_that_do_not_fit(proxy: WebProxy, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_socks(proxy)
    assert str(caught.value) == f"web proxy socks5://proxy.example:1080: {said}"


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks.async_.asyncio", None)
    with pytest.raises(ConfigurationError) as caught:
        check_socks(PLAIN)
    assert str(caught.value) == (
        "web proxy socks5h://proxy.example:1080 needs the package python-socks:"
        f" {how_to_install_extra('socks')}"
    )


# -- the way ---------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["", USER])
@pytest.mark.parametrize(
    ("host", "asked"),
    [("localhost", "localhost"), ("127.0.0.1", "127.0.0.1")],
)
async def test_an_open_way(user: str, host: str, asked: str) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.setblocking(False)
        wanted = endpoint(port=service.getsockname()[1])
        async with proxy_server(socks_greeting(user=user)) as proxy:
            with await ask(proxy, wanted, host, user) as sock:
                accepted, _ = await loop.sock_accept(service)
                with accepted:
                    await loop.sock_sendall(sock, b"hello")
                    assert await loop.sock_recv(accepted, 100) == b"hello"
                    await loop.sock_sendall(accepted, b"world")
                    assert await loop.sock_recv(sock, 100) == b"world"
        assert proxy.requests == [f"{user} {asked}:{wanted.port}".strip()]


async def test_an_ipv6_address_is_asked_for_as_one() -> None:
    refused = b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"
    async with proxy_server(socks_greeting(refused)) as proxy:
        with pytest.raises(ProxyRefused):
            await ask(proxy, endpoint(), "2001:db8::1")
    assert proxy.requests == ["2001:db8::1:8443"]


# -- refusals --------------------------------------------------------------------------------


def reply(code: int) -> bytes:
    return bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0])


async def refusal(greeting: Greeting, user: str = "", **changes: Any) -> ProxyRefused:
    """Return the error, which hides the password and names the proxy."""
    async with proxy_server(greeting) as proxy:
        with pytest.raises(ProxyRefused) as caught:
            await ask(proxy, endpoint(**changes), user=user)
        place = f"web proxy socks5h://127.0.0.1:{proxy.port} "
    text = str(caught.value)
    assert text.startswith(place)
    assert text.isprintable()
    assert PASSWORD not in text
    return caught.value


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (1, "General SOCKS server failure"),
        (3, "Network unreachable"),
        (4, "Host unreachable"),
        (5, "Connection refused by destination host"),
        (6, "TTL expired"),
    ],
)
async def test_what_may_pass(code: int, said: str) -> None:
    error = await refusal(socks_greeting(reply(code)))
    assert str(error).endswith(f" refused to connect to service.example:8443: {said}")
    assert error.retryable


@pytest.mark.parametrize("code", [2, 7, 8])
async def test_what_will_not_pass(code: int) -> None:
    error = await refusal(socks_greeting(reply(code)))
    assert str(error).endswith(
        "; the proxy has to allow connections to service.example:8443,"
        " or no_proxy to name service.example"
    )
    assert not error.retryable


async def test_a_wrong_password_is_final() -> None:
    error = await refusal(socks_greeting(user="user:another"), USER)
    assert "check user and password in https_proxy" in str(error)
    assert not error.retryable


async def test_a_password_is_wanted() -> None:
    error = await refusal(socks_greeting(user=USER))
    assert "set https_proxy=socks5h://USER:PASSWORD@127.0.0.1:" in str(error)
    assert not error.retryable


def saying(*answers: bytes) -> Greeting:
    """Return a greeting that answers each message of the client with the next bytes."""

    async def greet(
        proxy: RunningWebProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int]:
        for answer in answers:
            await reader.read(1000)
            writer.write(answer)
        raise ConnectionAbortedError

    return greet


@pytest.mark.parametrize(
    "answers",
    [
        [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        [b"\x05\x7f"],
        [b"\x05\x00", b"HTTP/1.1 400 Bad Request"],
        [b"\x05\x00", b"\x05\x63\x00"],
        [b"\x05\x00", b"\x05\x00\x01\x01"],
    ],
)
async def test_what_is_no_socks5_is_final(answers: list[bytes]) -> None:
    error = await refusal(saying(*answers))
    assert " refused to connect to service.example:8443: " in str(error)
    assert "; " in str(error)
    assert not error.retryable


async def test_another_protocol_is_guessed() -> None:
    assert "is this a SOCKS5 proxy?" in str(await refusal(saying(b"HTTP/1.1 400 Bad Request\r\n")))


async def test_an_answer_that_is_not_text() -> None:
    error = await refusal(saying(b"\x05\x00", b"\x05\x00\x00\x03\x01\xff\x00\x00"))
    assert str(error).endswith("did not connect to service.example:8443: the answer is not SOCKS5")
    assert error.retryable


@pytest.mark.parametrize("answers", [[b""], [b"\x05\x00", b""], [b"\x05\x00", b"\x05\x00"]])
async def test_a_connection_that_ends_instead_of_an_answer(answers: list[bytes]) -> None:
    error = await refusal(saying(*answers))
    assert str(error).endswith("did not connect to service.example:8443: the connection was closed")
    assert error.retryable


async def test_a_reset_instead_of_an_answer() -> None:
    async def greet(
        proxy: RunningWebProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int]:
        await reader.read(1000)
        reset_streams((reader, writer))
        raise ConnectionAbortedError

    error = await refusal(greet)
    assert str(error).endswith("the connection was lost: Connection reset by peer")
    assert error.retryable


async def test_silence() -> None:
    async def greet(
        proxy: RunningWebProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int]:
        await reader.read()
        raise ConnectionAbortedError

    error = await refusal(greet, connect_timeout=0.2)
    assert str(error).endswith("did not connect to service.example:8443: no answer within 0.2 s")
    assert error.retryable
    assert error.setting == "connect_timeout"
