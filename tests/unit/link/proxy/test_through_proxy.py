"""Through web proxies: scripted ones for every answer and silence, real ones for the bytes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.network.applications import application, exchange, mirror
from support.network.certificates import Certificates
from support.network.frames import BINARY, joined
from support.network.ports import free_port, needs_ipv6
from support.network.recorder import Recorder
from support.network.scripted_service import (
    ACCESS_TOKEN,
    CLIENT_TOKEN,
    Peer,
    Script,
    ScriptedService,
    until_closed,
)
from support.network.web_proxies import RunningWebProxy, proxy_server, socks_greeting
from support.processes.tinyproxy import needs_tinyproxy, tinyproxy
from support.service import config, control_client, running
from support.tunnel import both_proxies, open_tunnel
from support.waiting import HANG
from tailrace.cli.exit_codes import ExitCode, exit_code_of
from tailrace.common.secret import Secret
from tailrace.errors import (
    ConfigurationError,
    ConnectFailed,
    LinkError,
    NameResolutionFailed,
    ProxyRefused,
    TLSFailed,
)
from tailrace.link import (
    CloseCode,
    ClosedBy,
    Link,
    LinkClosed,
    LinkHandler,
    LinkSupervisor,
    ReconnectPolicy,
    ServiceEndpoint,
    TLSOptions,
    connect,
)
from tailrace.link.proxy import tls_in_tls as bridge_module
from tailrace.link.proxy.settings import WebProxy
from tailrace.link.proxy.through_proxy import open_through_proxy
from tailrace.wire import Side

SHORT = 0.3
"""Seconds of patience where the other side says nothing at all."""

PASSWORD = "password-that-nobody-may-see"

DENIED = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n"
    b"Content-Length: 6\r\n\r\ndenied"
)


@pytest.fixture(autouse=True)
def no_secrets_in_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever happens, at the most talkative level of all: no secret is logged."""
    caplog.set_level(1)
    yield
    for record in caplog.get_records("call"):
        for secret in (ACCESS_TOKEN, CLIENT_TOKEN, PASSWORD):
            assert secret not in record.getMessage()


@pytest.fixture(autouse=True)
def only_our_ca(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust few authorities: to load those of the system takes longer than most tests."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))


def replies(data: bytes, piece: int = 0) -> Script:
    """Return the script of a proxy that reads the request and answers."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(data, piece)
        peer.read_to_end()

    return script


@asynccontextmanager
async def scripted(
    certificates: Certificates, *scripts: Script, tls: bool = False
) -> AsyncIterator[tuple[ScriptedService, ServiceEndpoint]]:
    """A scripted proxy, and the endpoint of a service that nobody reaches."""
    with ScriptedService(certificates, *scripts, plain=not tls) as proxy:
        scheme = "https" if tls else "http"
        web_proxy = WebProxy(scheme, "localhost", proxy.port, "user", Secret(PASSWORD))
        yield proxy, proxy.endpoint(host="service.example", port=443, web_proxy=web_proxy)


async def way(endpoint: ServiceEndpoint) -> socket.socket:
    """Open a socket through the endpoint's proxy."""
    assert endpoint.web_proxy is not None
    return await open_through_proxy(endpoint, endpoint.web_proxy)


async def left(proxy: ScriptedService) -> None:
    """Wait until each script has seen the end of its connection; the loop goes on meanwhile."""
    async with asyncio.timeout(HANG):
        while any(thread.is_alive() for thread in proxy._threads[1:]):
            await asyncio.sleep(0.01)


both = pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])


async def check_link(endpoint: ServiceEndpoint, backend: str = "auto", size: int = 300_000) -> Link:
    """Open a link, send bytes to a service that sends them back, and close it."""
    recorder = Recorder()
    link = await connect(endpoint, recorder, backend)
    payload = bytes(range(256)) * (size // 256)
    link.send(payload)
    await recorder.until(lambda: len(recorder.stream) >= len(payload))
    assert recorder.stream == payload
    link.close(CloseCode.OK, "done")
    assert await recorder.end() == LinkClosed(ClosedBy.US, 1000, "done")
    return link


def echo_one(peer: Peer) -> None:
    """Accept the upgrade, send one frame back, and wait for the end."""
    peer.upgrade()
    received = []
    while sum(len(each.payload) for each in received) < 299_000:
        received.append(peer.read_frame())
    peer.send_frame(BINARY, joined(received))
    until_closed(peer)


# -- the bytes -------------------------------------------------------------------------------


async def test_a_link_through_a_proxy(certificates: Certificates, backend: str) -> None:
    with ScriptedService(certificates, echo_one) as service:
        async with proxy_server() as proxy:
            endpoint = service.endpoint(web_proxy=proxy.settings("http"))
            await check_link(endpoint, backend)
    (head,) = proxy.requests
    assert head.startswith(
        f"CONNECT localhost:{service.port} HTTP/1.1\r\nHost: localhost:{service.port}\r\n"
    )
    assert "Proxy-Authorization" not in head
    assert "User-Agent: localproxy " in head


async def test_a_link_through_a_proxy_over_tls(certificates: Certificates, backend: str) -> None:
    with ScriptedService(certificates, echo_one) as service:
        async with proxy_server(tls=certificates.server_context()) as proxy:
            settings = proxy.settings("https", "localhost", f"user:{PASSWORD}")
            await check_link(service.endpoint(web_proxy=settings), backend)
            await ended(proxy)
    assert "Proxy-Authorization: Basic " in proxy.requests[0]


async def ended(proxy: RunningWebProxy) -> None:
    """Wait until the proxy has had a connection, and has seen the end of each."""
    async with asyncio.timeout(HANG):
        while not proxy.connections or proxy.ended < proxy.connections:
            await asyncio.sleep(0.01)


@needs_ipv6
@both
async def test_a_proxy_with_an_ipv6_address(certificates: Certificates, tls: bool) -> None:
    cert = certificates.ca.issue_cert("::1")
    context = certificates.server_context(cert) if tls else None
    with ScriptedService(certificates, echo_one) as service:
        async with proxy_server(host="::1", tls=context) as proxy:
            settings = proxy.settings("https" if tls else "http", "::1")
            await check_link(service.endpoint(web_proxy=settings))
            await ended(proxy)


@both
async def test_a_service_with_an_ipv6_address_is_asked_for_in_brackets(
    certificates: Certificates, tls: bool
) -> None:
    lines: list[str] = []

    def script(peer: Peer) -> None:
        request = peer.read_request()
        lines.extend([request.line, request["Host"]])

    async with scripted(certificates, script, tls=tls) as (proxy, endpoint):
        endpoint = proxy.endpoint(host="2001:db8::1", port=443, web_proxy=endpoint.web_proxy)
        with pytest.raises(ProxyRefused):
            await way(endpoint)
    assert lines == ["CONNECT [2001:db8::1]:443 HTTP/1.1", "[2001:db8::1]:443"]


async def test_sni_and_trust_are_those_of_the_proxy(certificates: Certificates) -> None:
    names: list[str] = []
    context = certificates.server_context()
    context.sni_callback = lambda tls, name, _: names.append(name)
    with ScriptedService(certificates, echo_one) as service:
        async with proxy_server(tls=context) as proxy:
            await check_link(service.endpoint(web_proxy=proxy.settings("https", "localhost")))
            await ended(proxy)
    assert names == ["localhost"]


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize("user", ["", f"user:{PASSWORD}"])
async def test_a_link_through_socks5(
    certificates: Certificates, backend: str, scheme: str, user: str
) -> None:
    with ScriptedService(certificates, echo_one) as service:
        async with proxy_server(socks_greeting(user=user)) as proxy:
            settings = proxy.settings(scheme, "localhost", user)
            await check_link(service.endpoint(web_proxy=settings), backend)
            # socks5h leaves the name to the proxy.
            host = "localhost" if scheme == "socks5h" else "127.0.0.1"
            assert proxy.requests[-1] == f"{user} {host}:{service.port}".strip()


# -- answers ---------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("piece", [0, 1, 7])
async def test_an_acceptance_in_pieces(certificates: Certificates, tls: bool, piece: int) -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n"

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(data, piece)
        assert peer.read(5) == b"hello"
        peer.send(b"world")
        peer.read_to_end()

    async with scripted(certificates, script, tls=tls) as (proxy, endpoint):
        loop = asyncio.get_running_loop()
        with await way(endpoint) as sock:
            assert not sock.getblocking()
            await loop.sock_sendall(sock, b"hello")
            assert await loop.sock_recv(sock, 100) == b"world"
        await left(proxy)


@both
@pytest.mark.parametrize("piece", [0, 1])
@pytest.mark.parametrize(
    ("answer", "said", "retryable"),
    [
        (
            DENIED,
            '407 Proxy Authentication Required: "denied"; check user and password in https_proxy',
            False,
        ),
        (
            b"HTTP/1.1 403 Filtered\r\nContent-Length: 0\r\n\r\n",
            "403 Filtered; the proxy has to allow connections to service.example:443",
            False,
        ),
        (b"HTTP/1.0 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "502 Bad Gateway", True),
        (b"220 smtp.example ESMTP\r\n\r\n", "the answer is not HTTP", True),
    ],
)
async def test_other_answers(
    certificates: Certificates, tls: bool, answer: bytes, said: str, retryable: bool, piece: int
) -> None:
    async with scripted(certificates, replies(answer, piece), tls=tls) as (proxy, endpoint):
        with pytest.raises(ProxyRefused) as caught:
            await way(endpoint)
    assert said in str(caught.value)
    assert f"web proxy {'https' if tls else 'http'}://localhost:{proxy.port} " in str(caught.value)
    assert caught.value.retryable is retryable
    assert exit_code_of(caught.value) is ExitCode.NETWORK


@both
async def test_bytes_behind_the_acceptance(certificates: Certificates, tls: bool) -> None:
    data = b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0"
    async with scripted(certificates, replies(data), tls=tls) as (_, endpoint):
        with pytest.raises(ProxyRefused, match="unexpected bytes follow the answer") as caught:
            await way(endpoint)
    assert caught.value.retryable


@both
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "the connection was closed"),
        (b"HTTP/1.1 200 Conn", "the connection was closed (in the middle of its answer)"),
    ],
)
async def test_a_connection_that_ends_instead_of_an_answer(
    certificates: Certificates, tls: bool, answer: bytes, said: str
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer)

    async with scripted(certificates, script, tls=tls) as (_, endpoint):
        with pytest.raises(ProxyRefused) as caught:
            await way(endpoint)
    assert str(caught.value).endswith(said)
    assert caught.value.retryable


@both
async def test_a_reset_instead_of_an_answer(certificates: Certificates, tls: bool) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.reset()

    async with scripted(certificates, script, tls=tls) as (_, endpoint):
        with pytest.raises(ProxyRefused, match="lost: Connection reset by peer") as caught:
            await way(endpoint)
    assert caught.value.retryable


@both
async def test_a_refusal_that_ends_with_the_connection(
    certificates: Certificates, tls: bool
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 403 No\r\n\r\n<h1>because</h1>")

    async with scripted(certificates, script, tls=tls) as (_, endpoint):
        with pytest.raises(ProxyRefused, match='403 No: "because"') as caught:
            await way(endpoint)
    assert not caught.value.retryable


@both
@pytest.mark.parametrize(
    ("answer", "said", "retryable"),
    [
        (b"", f"no answer within {SHORT} s", True),
        (b"HTTP/1.1 200 OK\r\n", f"no answer within {SHORT} s (in the middle", True),
        (b"HTTP/1.1 403 No\r\n\r\nbecause", '403 No: "because"', False),
    ],
)
async def test_an_answer_that_does_not_come_to_its_end(
    certificates: Certificates, tls: bool, answer: bytes, said: str, retryable: bool
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer)
        peer.stay_silent()

    async with scripted(certificates, script, tls=tls) as (proxy, endpoint):
        endpoint = proxy.endpoint(
            host="service.example", port=443, web_proxy=endpoint.web_proxy, connect_timeout=SHORT
        )
        with pytest.raises(ProxyRefused) as caught:
            await way(endpoint)
    assert said in str(caught.value)
    assert caught.value.retryable is retryable
    assert caught.value.setting == ("connect_timeout" if retryable else "")


@both
async def test_an_answer_in_lines_without_carriage_returns(
    certificates: Certificates, tls: bool
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.0 200 Connection established\nProxy-Agent: x\n\n")
        peer.read_to_end()

    async with scripted(certificates, script, tls=tls) as (proxy, endpoint):
        sock = await way(endpoint)
        sock.close()
        await left(proxy)


@both
async def test_a_cancelled_try_leaves_nothing(certificates: Certificates, tls: bool) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def script(peer: Peer) -> None:
        peer.read_request()
        loop.call_soon_threadsafe(asked.set)
        peer.read_to_end()

    async with scripted(certificates, script, tls=tls) as (_, endpoint):
        attempt = loop.create_task(way(endpoint))
        async with asyncio.timeout(HANG):
            await asked.wait()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt


# -- the way to the proxy --------------------------------------------------------------------


@pytest.fixture
def refused_port() -> int:
    return free_port()


def endpoint_via(web_proxy: WebProxy, **changes: Any) -> ServiceEndpoint:
    fields: dict[str, Any] = {
        "host": "service.example",
        "side": Side.SOURCE,
        "access_token": Secret(ACCESS_TOKEN),
        "connect_timeout": HANG,
        "web_proxy": web_proxy,
    }
    return ServiceEndpoint(**(fields | changes))


@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
async def test_nobody_listens_at_the_proxy(scheme: str, refused_port: int) -> None:
    place = f"{scheme}://127.0.0.1:{refused_port}"
    with pytest.raises(ConnectFailed) as caught:
        await way(endpoint_via(WebProxy(scheme, "127.0.0.1", refused_port, "u", Secret("p"))))
    assert str(caught.value) == (
        f"cannot connect to web proxy {place}: 127.0.0.1:{refused_port}: Connection refused"
    )


@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
async def test_nobody_knows_the_proxy(scheme: str) -> None:
    host = "a" * 64
    with pytest.raises(NameResolutionFailed) as caught:
        await way(endpoint_via(WebProxy(scheme, host, 3128)))
    assert str(caught.value).startswith(
        f"web proxy {scheme}://{host}:3128: cannot resolve {host}: "
    )


async def test_a_proxy_with_a_strangers_certificate(certificates: Certificates) -> None:
    script = Peer.read_to_end
    with ScriptedService(certificates, script, cert=certificates.stranger) as proxy:
        endpoint = proxy.endpoint(
            host="s.example", web_proxy=WebProxy("https", "localhost", proxy.port)
        )
        with pytest.raises(TLSFailed) as caught:
            await way(endpoint)
    assert str(caught.value).startswith(
        f"web proxy https://localhost:{proxy.port}: certificate of localhost:{proxy.port}"
        " does not verify: "
    )
    assert not caught.value.retryable
    assert exit_code_of(caught.value) is ExitCode.TLS


async def test_a_proxy_with_another_hosts_certificate(certificates: Certificates) -> None:
    script = Peer.read_to_end
    with ScriptedService(certificates, script, cert=certificates.wrong_host) as proxy:
        endpoint = proxy.endpoint(
            host="s.example", web_proxy=WebProxy("https", "localhost", proxy.port)
        )
        with pytest.raises(TLSFailed, match=r"(?i)hostname mismatch"):
            await way(endpoint)
        # And with -k any will do.
        endpoint = proxy.endpoint(
            host="s.example",
            web_proxy=WebProxy("https", "localhost", proxy.port),
            tls=TLSOptions(verify=False),
            connect_timeout=SHORT,
        )
        with pytest.raises(ProxyRefused, match="no answer"):
            await way(endpoint)


async def test_a_proxy_that_does_not_speak_tls(certificates: Certificates) -> None:
    def script(peer: Peer) -> None:
        peer.read(5)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.read_to_end()

    with ScriptedService(certificates, script, plain=True) as proxy:
        endpoint = proxy.endpoint(
            host="s.example", web_proxy=WebProxy("https", "localhost", proxy.port)
        )
        with pytest.raises(TLSFailed, match=r"^web proxy https://localhost:\d+: TLS handshake"):
            await way(endpoint)


async def test_a_proxy_that_is_silent_in_tls(certificates: Certificates) -> None:
    with ScriptedService(certificates, Peer.stay_silent, plain=True) as proxy:
        web_proxy = WebProxy("https", "localhost", proxy.port)
        endpoint = proxy.endpoint(host="s.example", web_proxy=web_proxy, connect_timeout=SHORT)
        with pytest.raises(TLSFailed, match=rf"not done within {SHORT} s"):
            await way(endpoint)


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), asyncio.CancelledError()])
async def test_no_socket_left_for_the_bridge(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def socketpair() -> None:
        raise error

    accepts = replies(b"HTTP/1.1 200 OK\r\n\r\n")
    async with scripted(certificates, accepts, tls=True) as (proxy, endpoint):
        monkeypatch.setattr(bridge_module.socket, "socketpair", socketpair)
        kind = ConnectFailed if isinstance(error, OSError) else asyncio.CancelledError
        with pytest.raises(kind) as caught:
            await way(endpoint)
        monkeypatch.undo()
        await left(proxy)
    if kind is ConnectFailed:
        assert str(caught.value) == (
            f"web proxy https://localhost:{proxy.port}: no local socket: Too many open files"
        )


# -- SOCKS5 ----------------------------------------------------------------------------------


async def test_socks5_tries_every_address(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address is dead, as the proxy says; the second is not."""
    unreachable = b"\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00"
    original = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        if host != "service.example":
            return original(host, *args, **kwargs)
        if kwargs.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, args[0]))
            for address in ("192.0.2.1", "127.0.0.1")
        ]

    async def greet(proxy: RunningWebProxy, *streams: Any) -> tuple[str, int]:
        greeting = socks_greeting(unreachable) if proxy.connections == 1 else socks_greeting()
        where: tuple[str, int] = await greeting(proxy, *streams)
        return where

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with proxy_server(greet) as proxy, proxy_server() as somebody:
        settings = proxy.settings("socks5")
        (await way(endpoint_via(settings, port=somebody.port))).close()
        await ended(proxy)
        await ended(somebody)
    assert proxy.requests == [f"192.0.2.1:{somebody.port}", f"127.0.0.1:{somebody.port}"]


async def test_socks5_stops_at_a_ban(monkeypatch: pytest.MonkeyPatch) -> None:
    banned = b"\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"
    async with proxy_server(socks_greeting(banned)) as proxy:
        endpoint = endpoint_via(proxy.settings("socks5"), host="127.0.0.1")
        with pytest.raises(ProxyRefused) as caught:
            await way(endpoint)
    assert not caught.value.retryable
    assert proxy.connections == 1


async def test_a_cancelled_try_over_socks5_leaves_nothing(certificates: Certificates) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def script(peer: Peer) -> None:
        peer.read(3)
        loop.call_soon_threadsafe(asked.set)
        peer.read_to_end()

    with ScriptedService(certificates, script, plain=True) as proxy:
        attempt = loop.create_task(way(endpoint_via(WebProxy("socks5h", "localhost", proxy.port))))
        async with asyncio.timeout(HANG):
            await asked.wait()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt


async def test_socks5_without_its_package(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "python_socks.async_.asyncio", None)
    with ScriptedService(certificates, Peer.stay_silent, plain=True) as proxy:
        web_proxy = WebProxy("socks5", "localhost", proxy.port)
        with pytest.raises(ConfigurationError, match=r"needs the package python-socks: "):
            await way(endpoint_via(web_proxy))
        assert proxy.connections == 0


# -- keeping the link ------------------------------------------------------------------------


class Observer:
    """Notes what a keeper reports."""

    def __init__(self) -> None:
        self.causes: list[LinkError] = []

    def new_handler(self) -> LinkHandler:
        return Recorder()

    def link_opened(self, link: Link) -> None:
        raise AssertionError("no link was to be had")

    def link_down(self, closed: LinkClosed) -> None:
        raise AssertionError("no link was to be had")

    def retrying(self, cause: LinkError, delay: float) -> None:
        self.causes.append(cause)


async def kept(endpoint: ServiceEndpoint) -> tuple[Observer, LinkError]:
    """Return what a keeper reports and what it ends with."""
    observer = Observer()
    policy = ReconnectPolicy(retry_delay=0.0, retry_delay_cap=0.0)
    async with asyncio.timeout(HANG):
        with pytest.raises(LinkError) as caught:
            await LinkSupervisor(endpoint, policy, observer).run()
    return observer, caught.value


@both
async def test_a_407_is_never_repeated(certificates: Certificates, tls: bool) -> None:
    async with scripted(certificates, replies(DENIED), tls=tls) as (proxy, endpoint):
        observer, error = await kept(endpoint)
        assert proxy.connections == 1
    assert observer.causes == []
    assert isinstance(error, ProxyRefused)
    assert "407" in str(error)


@both
async def test_a_5xx_is_tried_again(certificates: Certificates, tls: bool) -> None:
    busy = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    scripts = [replies(busy), replies(busy), replies(DENIED)]
    async with scripted(certificates, *scripts, tls=tls) as (proxy, endpoint):
        observer, error = await kept(endpoint)
        assert proxy.connections == 3
    assert ["503" in str(cause) for cause in observer.causes] == [True, True]
    assert "407" in str(error)


# -- Debian's tinyproxy ----------------------------------------------------------------------


@pytest.fixture
def plain_tinyproxy(tmp_path: Path) -> Iterator[WebProxy]:
    with tinyproxy(tmp_path) as proxy:
        yield proxy


@pytest.fixture
def guarded_tinyproxy(tmp_path: Path) -> Iterator[WebProxy]:
    with tinyproxy(tmp_path, f"BasicAuth user {PASSWORD}") as proxy:
        yield proxy


def with_user(proxy: WebProxy, password: str) -> WebProxy:
    return WebProxy(proxy.scheme, proxy.host, proxy.port, "user", Secret(password))


@needs_tinyproxy
async def test_a_link_through_tinyproxy(
    certificates: Certificates, backend: str, plain_tinyproxy: WebProxy
) -> None:
    with ScriptedService(certificates, echo_one) as service:
        await check_link(service.endpoint(web_proxy=plain_tinyproxy), backend)


@needs_tinyproxy
async def test_tinyproxy_knows_the_password(
    certificates: Certificates, guarded_tinyproxy: WebProxy
) -> None:
    with ScriptedService(certificates, echo_one) as service:
        await check_link(service.endpoint(web_proxy=with_user(guarded_tinyproxy, PASSWORD)))


@needs_tinyproxy
@pytest.mark.parametrize(
    ("password", "status", "remedy"),
    [
        (None, "407 Proxy Authentication Required", "set https_proxy=http://USER:PASSWORD@"),
        ("wrong", "401 Unauthorized", "check user and password"),
    ],
)
async def test_tinyproxy_does_not_know_the_password(
    guarded_tinyproxy: WebProxy, password: str | None, status: str, remedy: str
) -> None:
    proxy = guarded_tinyproxy if password is None else with_user(guarded_tinyproxy, password)
    observer, error = await kept(endpoint_via(proxy, host="127.0.0.1"))
    assert observer.causes == []
    assert isinstance(error, ProxyRefused)
    assert status in str(error)
    assert remedy in str(error)


@needs_tinyproxy
async def test_tinyproxy_does_not_reach_the_service(
    plain_tinyproxy: WebProxy, refused_port: int
) -> None:
    with pytest.raises(ProxyRefused, match="500 Unable to connect") as caught:
        await way(endpoint_via(plain_tinyproxy, host="127.0.0.1", port=refused_port))
    assert caught.value.retryable


@needs_tinyproxy
async def test_tinyproxy_forbids_the_port(tmp_path: Path) -> None:
    with (
        tinyproxy(tmp_path, "ConnectPort 443") as proxy,
        pytest.raises(ProxyRefused, match="403 Access violation") as caught,
    ):
        await way(endpoint_via(proxy, host="127.0.0.1", port=4443))
    assert not caught.value.retryable


async def check_tunnel(tmp_path: Path, near: WebProxy, far: WebProxy) -> None:
    """Carry bytes through a whole tunnel: two local proxies, each with its web proxy."""
    async with running(config(tmp_path / "state")) as service:
        control = control_client(service.endpoints)
        tunnel = await asyncio.to_thread(open_tunnel, service.endpoints, control, "APP")
        async with application(mirror) as address:
            source = tunnel.settings(Side.SOURCE, web_proxy=near)
            destination = tunnel.settings(
                Side.DESTINATION, web_proxy=far, services={"APP": address}
            )
            async with both_proxies(source, destination) as ends:
                for size in (1, 64_512, 4_000_000):
                    await exchange(ends.listening["APP"], size)


@needs_tinyproxy
async def test_a_whole_tunnel_through_tinyproxy(
    tmp_path: Path, guarded_tinyproxy: WebProxy
) -> None:
    proxy = with_user(guarded_tinyproxy, PASSWORD)
    await check_tunnel(tmp_path, proxy, proxy)


async def test_a_whole_tunnel_through_tls_and_socks(
    tmp_path: Path, certificates: Certificates
) -> None:
    # The system trusts the proxy's certificate, -c the service's.
    async with (
        proxy_server(tls=certificates.server_context()) as over_tls,
        proxy_server(socks_greeting()) as over_socks,
    ):
        near = over_tls.settings("https", "localhost")
        await check_tunnel(tmp_path, near, over_socks.settings("socks5h"))
        await ended(over_tls)
        assert over_tls.connections == over_socks.connections == 1
