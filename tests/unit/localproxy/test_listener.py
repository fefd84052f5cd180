from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.tunnel.engine import quiet_log
from tailrace.cli.exit_codes import ExitCode, exit_code_of
from tailrace.common.addresses import LocalAddress, TCPAddress, UnixAddress
from tailrace.errors import ListenError
from tailrace.localproxy import listener as listener_module
from tailrace.localproxy.listener import Listener


def bind(service_id: str, address: LocalAddress) -> Listener:
    return listener_module.bind(service_id, address, quiet_log())


def port_of(listener: Listener) -> int:
    assert isinstance(listener.address, TCPAddress)
    return listener.address.port


class Accepted:
    def __init__(self) -> None:
        self.clients: list[tuple[socket.socket, str]] = []
        self.came = asyncio.Event()

    def __call__(self, sock: socket.socket, peer: str) -> None:
        self.clients.append((sock, peer))
        self.came.set()

    async def wait(self, count: int) -> None:
        while len(self.clients) < count:
            self.came.clear()
            await self.came.wait()

    def close(self) -> None:
        for sock, _ in self.clients:
            sock.close()


@pytest.fixture
def accepted() -> Iterator[Accepted]:
    accepted = Accepted()
    yield accepted
    accepted.close()


def started(listener: Listener, accepted: Accepted) -> Listener:
    listener.start(asyncio.get_running_loop(), accepted)
    return listener


async def test_port_0_picks_one_port_for_all_addresses_of_the_host(accepted: Accepted):
    listener = started(bind("SSH", TCPAddress("", 0)), accepted)
    assert port_of(listener)
    with socket.create_connection(("127.0.0.1", port_of(listener))) as client:
        await accepted.wait(1)
        host, port = client.getsockname()
    assert accepted.clients[0][1] == f"{host}:{port}"
    assert not accepted.clients[0][0].getblocking()
    listener.close()


async def test_ipv6_literals(accepted: Accepted):
    listener = started(bind("SSH", TCPAddress("::1", 0)), accepted)
    with socket.create_connection(("::1", port_of(listener))):
        await accepted.wait(1)
    listener.close()


async def test_the_ipv6_address_of_all_interfaces_takes_ipv4_clients(accepted: Accepted):
    """As the C++ proxy does; they are named by their IPv4 address."""
    listener = started(bind("SSH", TCPAddress("::", 0)), accepted)
    names = []
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, port_of(listener))) as client:
            await accepted.wait(len(names) + 1)
            names.append(f"{host}:{client.getsockname()[1]}")
    assert [peer for _, peer in accepted.clients] == names
    listener.close()


@pytest.mark.parametrize(
    ("host", "local"),
    [("", True), ("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
async def test_knows_who_can_reach_it(host: str, local: bool):
    listener = bind("SSH", TCPAddress(host, 0))
    assert listener.is_local is local
    listener.close()


async def test_a_client_that_comes_early_waits(accepted: Accepted):
    listener = bind("SSH", TCPAddress("127.0.0.1", 0))
    with socket.create_connection(("127.0.0.1", port_of(listener))):
        await asyncio.sleep(0.01)
        assert accepted.clients == []
        assert not listener.accepting
        started(listener, accepted)
        assert listener.accepting
        await accepted.wait(1)
    listener.close()


async def test_paused_means_clients_wait_in_the_backlog(accepted: Accepted):
    listener = started(bind("SSH", TCPAddress("127.0.0.1", 0)), accepted)
    listener.pause()
    listener.pause()
    with socket.create_connection(("127.0.0.1", port_of(listener))):
        await asyncio.sleep(0.01)
        assert accepted.clients == []
        started(listener, accepted)
        await accepted.wait(1)
    listener.close()


async def test_a_hundred_clients_at_once_are_all_accepted(accepted: Accepted):
    listener = started(bind("SSH", TCPAddress("127.0.0.1", 0)), accepted)
    clients = []
    for _ in range(100):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port_of(listener)))
        clients.append(client)
    await accepted.wait(100)
    for client in clients:
        client.close()
    listener.close()


async def test_a_callback_may_pause_the_listener(accepted: Accepted):
    listener = bind("SSH", TCPAddress("127.0.0.1", 0))

    def take_one(sock: socket.socket, peer: str) -> None:
        accepted(sock, peer)
        listener.pause()

    listener.start(asyncio.get_running_loop(), take_one)
    clients = [socket.create_connection(("127.0.0.1", port_of(listener))) for _ in range(2)]
    await accepted.wait(1)
    await asyncio.sleep(0.01)
    assert len(accepted.clients) == 1
    for client in clients:
        client.close()
    listener.close()


def test_a_busy_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError) as caught:
            bind("SSH", TCPAddress("127.0.0.1", port))
    error = caught.value
    where = f"127.0.0.1:{port}"
    assert str(error) == f"Could not bind to address: {where} -- Address already in use"
    facts = (error.setting, error.service_id, error.port, error.errno)
    assert facts == ("services", "SSH", port, errno.EADDRINUSE)
    assert exit_code_of(error) is ExitCode.LISTEN


def test_a_port_busy_on_one_address_of_the_host_is_busy():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=rf"localhost:{port} -- Address already in use"):
            bind("", TCPAddress("localhost", port))


def test_an_address_that_is_not_ours_is_named():
    with pytest.raises(
        ListenError, match=r"192\.0\.2\.1:0 -- Cannot assign requested address"
    ) as caught:
        bind("SSH", TCPAddress("192.0.2.1", 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_an_unknown_listen_name_is_named():
    with pytest.raises(ListenError, match=r"listen address no-such-host\.invalid: ") as caught:
        bind("SSH", TCPAddress("no-such-host.invalid", 0))
    assert (caught.value.setting, caught.value.errno) == ("bind_address", 0)


async def test_unix_sockets_are_private_and_removed(tmp_path: Path, accepted: Accepted):
    path = str(tmp_path / "client.sock")
    listener = started(bind("SSH", UnixAddress(path)), accepted)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert isinstance(listener.address, UnixAddress)
    assert listener.is_local
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        await accepted.wait(1)
    assert accepted.clients[0][1] == "unix client"
    listener.close()
    assert "client.sock" not in os.listdir(tmp_path)


def test_a_stale_unix_socket_is_replaced_a_live_one_is_not(tmp_path: Path):
    path = str(tmp_path / "client.sock")
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(path)
    listener = bind("SSH", UnixAddress(path))
    with pytest.raises(ListenError, match=r"client\.sock -- Address already in use"):
        bind("SSH", UnixAddress(path))
    listener.close()


def test_a_file_in_the_place_of_a_unix_socket_is_left_alone(tmp_path: Path):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ListenError, match="precious") as caught:
        bind("SSH", UnixAddress(str(path)))
    assert caught.value.setting == "path"
    assert path.read_text() == "data"


async def test_out_of_descriptors_is_said_and_survived(
    accepted: Accepted, caplog: pytest.LogCaptureFixture
):
    listener = started(bind("SSH", TCPAddress("127.0.0.1", 0)), accepted)
    client = socket.create_connection(("127.0.0.1", port_of(listener)))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, limits[1]))
    hoard = []
    try:
        while True:
            hoard.append(os.dup(client.fileno()))
    except OSError:
        pass
    try:
        while not caplog.records:
            await asyncio.sleep(0.01)
        assert listener.accepting
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in hoard:
            os.close(fd)
    assert "ulimit -n" in caplog.text
    await accepted.wait(1)
    client.close()
    listener.close()
