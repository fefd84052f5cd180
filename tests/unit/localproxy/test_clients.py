from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from support.network.ports import free_port
from support.tunnel.engine import ScriptedEnd, quiet_log
from support.waiting import until
from tailrace.common.addresses import TCPAddress
from tailrace.errors import OpenFailed
from tailrace.localproxy import clients as clients_module
from tailrace.localproxy.clients import Client, Clients
from tailrace.localproxy.events import Listening, ListeningOnNetwork, ProxyEvent
from tailrace.localproxy.listener import Listener

ANYWHERE = TCPAddress("", 0)


class Rig:
    """Clients, and connections that take them as long as they may."""

    def __init__(self) -> None:
        self.events: list[ProxyEvent] = []
        self.taken: list[Client] = []
        self.room = 100
        self.clients = Clients("127.0.0.1", self.events.append, quiet_log())

    def ready(self, *service_ids: str) -> None:
        self.clients.tunnel_ready(service_ids, self.serve)

    def serve(self, service_id: str) -> str:
        while self.room and self.clients.has_waiting(service_id):
            self.room -= 1
            client = self.clients.next(service_id)
            client.take()
            self.taken.append(client)
        return "there is no room"

    def make_room(self, service_id: str = "SSH") -> None:
        self.room += 1
        self.serve(service_id)

    def listen(self, service_id: str = "SSH", bound_as: str | None = None) -> TCPAddress:
        self.clients.bind(service_id if bound_as is None else bound_as, ANYWHERE)
        self.clients.listen(service_id, assigned=True)
        event = self.events[-1]
        assert isinstance(event, Listening)
        assert isinstance(event.address, TCPAddress)
        return event.address

    async def until_taken(self, count: int) -> None:
        await until(lambda: len(self.taken) >= count, "a client")


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    rig.clients.close("the end")
    for client in rig.taken:
        client.end.close()


def connect(address: TCPAddress) -> socket.socket:
    return socket.create_connection((address.host, address.port))


# -- listeners -----------------------------------------------------------------------------------


async def test_a_listener_serves_the_service_it_was_bound_for(rig: Rig):
    rig.ready("SSH", "WEB")
    ssh, web = rig.listen("SSH"), rig.listen("WEB")
    assert rig.events == [Listening("SSH", ssh, True), Listening("WEB", web, True)]
    with connect(web) as client:
        await rig.until_taken(1)
        host, port = client.getsockname()
    assert (rig.taken[0].service_id, rig.taken[0].peer) == ("WEB", f"{host}:{port}")


async def test_what_is_bound_stays_bound(rig: Rig):
    first = rig.listen()
    rig.clients.pause()
    assert rig.listen() == first


async def test_a_lone_port_serves_the_only_service(rig: Rig):
    rig.ready("SSH")
    address = rig.listen("SSH", bound_as="")
    assert rig.listen("SSH") == address
    with connect(address):
        await rig.until_taken(1)
    assert rig.taken[0].service_id == "SSH"


async def test_a_host_of_its_own_beats_the_bind_address(rig: Rig):
    rig.clients.bind("SSH", TCPAddress("127.0.0.2", 0))
    rig.clients.listen("SSH", assigned=False)
    (event,) = rig.events
    assert isinstance(event, Listening)
    assert isinstance(event.address, TCPAddress)
    assert event.address.host == "127.0.0.2"
    assert not event.assigned


async def test_that_others_can_reach_it_is_told(rig: Rig):
    rig.clients.bind("SSH", TCPAddress("0.0.0.0", 0))
    (event,) = rig.events
    assert isinstance(event, ListeningOnNetwork)
    assert isinstance(event.address, TCPAddress)
    assert event.address.host == "0.0.0.0"
    assert event.address.port > 0


async def test_clients_wait_in_the_backlog_while_there_is_no_link(rig: Rig):
    rig.ready("SSH")
    address = rig.listen()
    rig.clients.pause()
    with connect(address):
        await asyncio.sleep(0.05)
        assert rig.taken == []
        rig.ready("SSH")
        rig.clients.listen("SSH", assigned=True)
        await rig.until_taken(1)


async def test_one_waits_here_and_the_others_in_the_backlog(
    rig: Rig, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    rig.ready("SSH")
    rig.room = 1
    address = rig.listen()
    clients = [connect(address) for _ in range(3)]
    await until(lambda: rig.clients.has_waiting("SSH"), "one that waits")
    await asyncio.sleep(0.05)
    host, port = clients[1].getsockname()
    waits = f"{host}:{port} waits: there is no room"
    assert [record.getMessage() for record in caplog.records] == [waits]
    assert len(rig.clients._waiting["SSH"]) == 1
    rig.make_room()
    assert len(rig.taken) == 2
    await until(lambda: rig.clients.has_waiting("SSH"), "the next one")
    rig.make_room()
    assert [client.peer for client in rig.taken] == [
        "{}:{}".format(*client.getsockname()) for client in clients
    ]
    for client in clients:
        client.close()


async def test_one_that_waits_when_the_link_goes_is_served_on_the_next(rig: Rig):
    rig.ready("SSH")
    rig.room = 0
    with connect(rig.listen()):
        await until(lambda: rig.clients.has_waiting("SSH"), "one that waits")
        rig.clients.pause()
        assert not rig.clients.has_waiting("SSH")
        rig.ready("SSH")
        rig.make_room()
        assert len(rig.taken) == 1


async def test_those_that_wait_at_the_end_are_hung_up_on(rig: Rig):
    rig.ready("SSH")
    rig.room = 0
    with connect(rig.listen()) as client:
        await until(lambda: rig.clients.has_waiting("SSH"), "one that waits")
        rig.clients.close("the end")
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().run_in_executor(None, client.recv, 1)
        assert not rig.clients.has_waiting("SSH")


# -- listeners that are added ---------------------------------------------------------------------


def add(rig: Rig, port: int = 0) -> tuple[Listener, TCPAddress]:
    listener = rig.clients.add_listener("SSH", TCPAddress("127.0.0.1", port))
    assert isinstance(listener.address, TCPAddress)
    return listener, listener.address


async def test_any_number_can_be_added_to_those_of_the_settings(rig: Rig):
    rig.ready("SSH")
    addresses = [rig.listen(), add(rig)[1], add(rig)[1]]
    assert [event for event in rig.events if isinstance(event, Listening)] == [
        Listening("SSH", address, True) for address in addresses
    ]
    for address in addresses:
        with connect(address):
            await rig.until_taken(len(rig.taken) + 1)
    assert [client.service_id for client in rig.taken] == ["SSH"] * 3


async def test_one_that_is_added_early_accepts_with_the_link_and_again_with_the_next(rig: Rig):
    listener, address = add(rig)
    assert rig.events == []
    for link in (1, 2):
        with connect(address):
            await asyncio.sleep(0.02)
            assert len(rig.taken) == link - 1
            rig.ready("SSH")
            await rig.until_taken(link)
        rig.clients.pause()
        assert not listener.accepting
    assert rig.events == [Listening("SSH", address, True)] * 2
    again, same = add(rig, free_port())
    rig.ready("SSH")
    assert rig.events[-1] == Listening("SSH", same, False)
    assert again.accepting


async def test_one_that_was_added_goes_on_when_there_is_room_again(rig: Rig):
    rig.ready("SSH")
    rig.room = 0
    listener, address = add(rig)
    with connect(address):
        await until(lambda: rig.clients.has_waiting("SSH"), "one that waits")
        assert not listener.accepting
        rig.make_room()
        assert listener.accepting


async def test_a_listener_whose_client_waits_accepts_no_others(rig: Rig):
    def waiting() -> int:
        return len(rig.clients._waiting.get("SSH", ()))

    rig.ready("SSH")
    rig.room = 0
    with ExitStack() as stack:
        (first, one), (second, other) = add(rig), add(rig)
        for address in (one, one):
            stack.enter_context(connect(address))
        await until(lambda: waiting() == 1, "one at the first")
        for address in (other, other):
            stack.enter_context(connect(address))
        await until(lambda: waiting() == 2, "one at the second")
        rig.make_room()
        assert (first.accepting, second.accepting) == (True, False)
        rig.clients.pause()
        rig.ready("SSH")  # the next link
        assert (first.accepting, second.accepting) == (True, False)
        rig.make_room()
        assert (first.accepting, second.accepting) == (True, True)
        await until(lambda: waiting() == 2, "the others")
        assert (first.accepting, second.accepting) == (False, False)
        assert len(rig.taken) == 2


async def test_one_that_is_removed_leaves_its_clients_alone(rig: Rig):
    rig.ready("SSH")
    listener, address = add(rig)
    with connect(address) as client:
        await rig.until_taken(1)
        rig.clients.remove_listener(listener)
        rig.clients.remove_listener(listener)
        rig.ready("SSH")
        with pytest.raises(ConnectionRefusedError):
            connect(address)
        client.sendall(b"hello")
        assert rig.taken[0].end.recv_into(memoryview(bytearray(9)), 9) == 5


async def test_none_is_added_for_a_service_that_the_tunnel_has_not(
    rig: Rig, caplog: pytest.LogCaptureFixture
):
    listener = rig.clients.add_listener("VNC", TCPAddress("0.0.0.0", 0))
    assert rig.events == [ListeningOnNetwork(listener.address)]
    rig.ready("SSH")
    assert "closed, the tunnel has no service 'VNC'" in caplog.text
    with pytest.raises(OpenFailed, match="the tunnel has no service 'VNC'"):
        rig.clients.add_listener("VNC", ANYWHERE)
    _, address = add(rig)
    rig.clients.close("the tunnel has ended")
    with pytest.raises(ConnectionRefusedError):
        connect(address)
    with pytest.raises(OpenFailed, match="the tunnel has ended"):
        add(rig)


# -- clients within this process -----------------------------------------------------------------


async def test_a_client_within_this_process_needs_no_listener(rig: Rig):
    rig.ready("SSH")
    _, writer = await rig.clients.open_connection("SSH")
    assert [client.peer for client in rig.taken] == ["in process"]
    writer.write(b"hello")
    buffer = bytearray(10)
    assert rig.taken[0].end.recv_into(memoryview(buffer), 10) == 5
    writer.close()
    await writer.wait_closed()


async def test_it_waits_for_a_link_and_for_its_turn(rig: Rig):
    loop = asyncio.get_running_loop()
    opening = [loop.create_task(rig.clients.open_connection("SSH")) for _ in range(3)]
    await asyncio.sleep(0)
    rig.room = 1
    rig.ready("SSH")
    rig.serve("SSH")
    await asyncio.sleep(0)
    assert [each.done() for each in opening] == [True, False, False]
    rig.clients.pause()
    rig.ready("SSH")
    rig.make_room()
    rig.make_room()
    for each in opening:
        (await each)[1].close()


async def test_one_that_does_not_wait_any_more_is_passed_over(rig: Rig):
    loop = asyncio.get_running_loop()
    rig.room = 0
    rig.ready("SSH")
    first, second, third = (loop.create_task(rig.clients.open_connection("SSH")) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    assert len(rig.clients._waiting["SSH"]) == 2
    first.cancel()
    rig.make_room()  # before the one that was cancelled has noticed
    assert len(rig.taken) == 1
    assert not rig.clients.has_waiting("SSH")
    for task in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await task
    (await third)[1].close()
    assert rig.taken[0].end.pending_error() != 0


async def test_one_that_is_cancelled_as_it_is_connected_leaves_nothing_open(rig: Rig):
    loop = asyncio.get_running_loop()
    rig.room = 0
    rig.ready("SSH")
    opening = loop.create_task(rig.clients.open_connection("SSH"))
    await asyncio.sleep(0)
    rig.make_room()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    with pytest.raises(ConnectionResetError):
        rig.taken[0].end.recv_into(memoryview(bytearray(1)), 1)


async def test_a_socket_within_this_process(rig: Rig):
    loop = asyncio.get_running_loop()
    rig.ready("SSH")
    with await rig.clients.open_socket("SSH") as near:
        assert near.getblocking() is False
        far = rig.taken[0]
        assert far.peer == "in process"
        await loop.sock_sendall(near, b"hello")
        assert far.end.recv_into(memoryview(bytearray(9)), 9) == 5
        far.end.send(memoryview(b"last words"))
        far.end.reset()
        assert await loop.sock_recv(near, 99) == b"last words"
        with pytest.raises(ConnectionResetError):
            await loop.sock_recv(near, 99)


async def test_a_socket_that_waits_is_refused_or_cancelled_and_leaves_none_open(rig: Rig):
    loop = asyncio.get_running_loop()
    rig.ready("SSH")
    rig.room = 0
    opening = [loop.create_task(rig.clients.open_socket("SSH")) for _ in range(3)]
    await until(lambda: len(rig.clients._waiting.get("SSH", ())) == 3, "sockets")
    opening[0].cancel()
    rig.clients._waiting["SSH"][1].refuse("full")
    rig.clients._waiting["SSH"].popleft()
    rig.make_room()
    (client,) = rig.taken
    opening[2].cancel()  # in the turn in which it was connected
    await asyncio.wait(opening)
    assert [task.cancelled() for task in opening] == [True, False, True]
    with pytest.raises(OpenFailed, match="full"):
        await opening[1]
    await until(client.end.is_gone, "the end of the one that was connected")


async def test_that_no_socket_can_be_made_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    async def none() -> tuple[socket.socket, socket.socket]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(clients_module, "socket_pair", none)
    with pytest.raises(OpenFailed, match="a socket cannot be made: Too many open files"):
        await rig.clients.open_socket("SSH")


async def test_the_end_is_told_to_all_that_wait_and_to_all_that_come(rig: Rig):
    opening = asyncio.get_running_loop().create_task(rig.clients.open_connection("SSH"))
    await asyncio.sleep(0)
    rig.clients.close("the tunnel has ended")
    for waiting in (opening, rig.clients.open_connection("SSH")):
        with pytest.raises(OpenFailed, match="the tunnel has ended"):
            await waiting


async def test_a_service_that_the_tunnel_has_not_is_named(rig: Rig):
    early = asyncio.get_running_loop().create_task(rig.clients.open_connection("VNC"))
    kept = asyncio.get_running_loop().create_task(rig.clients.open_connection("WEB"))
    await asyncio.sleep(0)
    rig.ready("SSH", "WEB")
    for opening in (early, rig.clients.open_connection("VNC")):
        with pytest.raises(OpenFailed, match="the tunnel has no service 'VNC'"):
            await opening
    assert not kept.done()
    rig.serve("WEB")
    (await kept)[1].close()


async def test_a_refusal_is_the_answer(rig: Rig):
    rig.room = 0
    rig.ready("SSH")
    opening = asyncio.get_running_loop().create_task(rig.clients.open_connection("SSH"))
    await asyncio.sleep(0)
    rig.clients.next("SSH").refuse("the limit of 1 connections is reached")
    with pytest.raises(OpenFailed, match="limit of 1"):
        await opening


async def test_refusing_one_that_has_left_is_no_fault():
    opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    client = Client("SSH", "client", ScriptedEnd(), opened)
    assert not client.has_left
    opened.cancel()
    assert client.has_left
    client.refuse("too late")
    assert opened.cancelled()
    plain = Client("SSH", "client", ScriptedEnd())
    assert not plain.has_left
    plain.take()
    plain.refuse("full")
