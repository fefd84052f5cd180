"""Whether more may be sent: what the transport says, and the window."""

import asyncio

import pytest

from tailrace.flow.window_driver import WindowDriver
from tailrace.service.relay.write_gate import WriteGate


class Client:
    """Where the pings of a window go."""

    def __init__(self) -> None:
        self.pings: list[bytes] = []
        self.window = WindowDriver(asyncio.get_running_loop(), self.pings.append, lambda: None)
        self.gate = WriteGate(self.window)

    def fill(self) -> None:
        while not self.window.full:
            self.window.count(100_000)


@pytest.fixture
async def client() -> Client:
    return Client()


def test_the_transport_decides_without_a_window() -> None:
    gate = WriteGate(None)
    assert gate.is_open
    assert not gate.update()
    gate.transport_full = True
    assert gate.is_open
    assert gate.update()
    assert not gate.is_open
    assert not gate.update()
    gate.follow_reading(False)
    gate.stop()
    gate.transport_full = False
    assert gate.update()
    assert gate.is_open


async def test_it_is_open_while_neither_is_full(client: Client) -> None:
    gate = client.gate
    client.fill()
    assert gate.update()
    assert not gate.is_open
    gate.transport_full = True
    assert not gate.update()
    client.window.pong_received(client.pings[-1])
    assert not client.window.full
    assert not gate.update()
    assert not gate.is_open
    gate.transport_full = False
    assert gate.update()
    assert gate.is_open
    gate.stop()


async def test_the_window_binds_nothing_while_the_link_is_not_read(client: Client) -> None:
    gate = client.gate
    client.fill()
    gate.update()
    gate.follow_reading(False)
    assert gate.update()
    assert gate.is_open
    gate.follow_reading(True)
    client.fill()
    assert gate.update()
    assert not gate.is_open
    gate.stop()


async def test_it_does_not_wait_for_a_window_that_is_gone(client: Client) -> None:
    client.fill()
    client.gate.update()
    timer = client.window._timer
    assert timer is not None
    client.gate.stop()
    assert timer.cancelled()
    assert client.gate.window is None
    assert client.gate.update()
    assert client.gate.is_open
    client.gate.stop()
