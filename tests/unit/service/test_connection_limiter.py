"""How many connections a listener accepts."""

import socket
from collections import Counter
from ipaddress import ip_network

import pytest

from tailrace.service import connection_limiter
from tailrace.service.accept_filter import AcceptedSocket
from tailrace.service.connection_limiter import ConnectionLimiter
from tailrace.service.limits import Limits

NONE = Limits(connection_rate=0, connections=0, address_connections=0)
"""No limits but that of the process."""


class Connection(AcceptedSocket):
    """Stands for a connection."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_shut = False

    def fileno(self) -> int:
        return self.number

    def shutdown(self, how: int, /) -> None:
        assert how == socket.SHUT_RDWR
        self.is_shut = True
        raise OSError("the client has left")

    def close(self) -> None:
        """Do nothing: there is no socket."""


class Door:
    """A limiter, its clock and what it counts."""

    def __init__(self, limits: Limits) -> None:
        self.now = 1.0
        self.refusals: Counter[str] = Counter()
        self.limiter = ConnectionLimiter(
            limits,
            "X connection",
            self.refusals,
            lambda: self.now,
            (ip_network("10.0.0.0/8"),),
        )
        self.connections: list[Connection] = []

    def knock(self, host: str = "192.0.2.1") -> bool:
        self.connections.append(Connection(len(self.connections)))
        return self.limiter.admit(host, self.connections[-1])

    @property
    def shut(self) -> list[int]:
        return [each.number for each in self.connections if each.is_shut]


def test_connections_per_second(caplog: pytest.LogCaptureFixture) -> None:
    door = Door(Limits(connection_rate=2))
    assert [door.knock() for _ in range(3)] == [True, True, False]
    assert door.knock("192.0.2.2")
    door.now += 0.5
    assert [door.knock() for _ in range(2)] == [True, False]
    assert door.refusals == {"connection_rate": 2}
    assert "X connection from 192.0.2.1 refused: more than 2 in a second" in caplog.messages


def test_a_proxy_is_not_charged_for_its_clients() -> None:
    door = Door(Limits(connection_rate=2, address_connections=2))
    assert all(door.knock("10.0.0.5") for _ in range(5))
    clients = ["192.0.2.1"] * 3 + ["192.0.2.2"]
    assert [door.limiter.charge(client) for client in clients] == [True, True, False, True]
    # The same bucket as that of those who come by themselves.
    assert not door.knock("192.0.2.1")
    assert door.refusals == {"connection_rate": 1}


def test_open_connections_of_one_address(caplog: pytest.LogCaptureFixture) -> None:
    door = Door(Limits(address_connections=2))
    assert [door.knock("2001:db8::1"), door.knock("2001:db8::2")] == [True, True]
    assert not door.knock("2001:db8::3")
    assert door.knock("2001:db8:1::")
    door.limiter.release(1)
    assert door.knock("2001:db8::3")
    assert not door.knock("2001:db8::3")
    assert door.refusals == {"address_connections": 2}
    assert "X connection from 2001:db8::3 refused: 2 of its address are open" in caplog.messages


def test_open_connections_in_all(caplog: pytest.LogCaptureFixture) -> None:
    """The one that has been a stranger for longest makes room."""
    door = Door(Limits(connections=2))
    for number in range(4):
        assert door.knock(f"192.0.2.{number}")
    assert door.shut == [0, 1]
    # Those are given back once, and not again when they are closed.
    door.limiter.release(0)
    assert len(door.limiter._open) == 2
    door.limiter.release(2)
    assert door.knock()
    assert door.shut == [0, 1]
    assert door.refusals == {"connections": 2}
    assert "X connection from 192.0.2.1 refused: 2 are open, and others wait" in caplog.messages


def test_known_clients_stay_while_strangers_come() -> None:
    door = Door(Limits(connections=3))
    for known in range(2):
        assert door.knock()
        door.limiter.know(known)
    for _ in range(10):
        assert door.knock("192.0.2.2")
    assert door.shut == list(range(2, 11))
    # If all are known, the one makes room that was not used for longest.
    door.limiter.know(11)
    door.limiter.know(0)
    door.limiter.know(99)
    assert door.knock()
    assert door.shut == list(range(1, 11))
    door.limiter.release(0)
    assert door.knock()
    assert door.shut == list(range(1, 11))


@pytest.mark.parametrize("connections", [0, 1000])
def test_most_descriptors_are_left_to_links(
    monkeypatch: pytest.MonkeyPatch, connections: int
) -> None:
    monkeypatch.setattr(connection_limiter, "descriptor_limit", lambda: 80)
    door = Door(Limits(connections=connections, address_connections=0, connection_rate=0))
    assert all(door.knock() for _ in range(11))
    assert door.shut == [0]


def test_no_limits() -> None:
    door = Door(NONE)
    assert all(door.knock() for _ in range(2000))


def test_out_of_files_is_said(caplog: pytest.LogCaptureFixture) -> None:
    door = Door(NONE)
    door.limiter.exhausted()
    assert door.refusals == {"out_of_files": 1}
    assert "X connection refused: the process is out of file descriptors" in caplog.text
