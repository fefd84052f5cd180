"""Listening sockets."""

import socket

import pytest

from tailrace.service.config import Address
from tailrace.service.errors import AddressUnusable
from tailrace.service.listening import bind


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_connections_are_accepted(host: str) -> None:
    with bind(Address(host, 0), "api_listen") as listening:
        assert not listening.getblocking()
        with socket.create_connection((host, listening.getsockname()[1])):
            pass


def test_all_addresses_of_both_families() -> None:
    with bind(Address("::", 0), "api_listen") as listening:
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, listening.getsockname()[1])):
                pass


def test_a_port_may_be_taken_again_at_once() -> None:
    with bind(Address("127.0.0.1", 0), "api_listen") as listening:
        address = listening.getsockname()
        with socket.create_connection(address), listening:
            listening.setblocking(True)
            listening.accept()[0].close()
    with bind(Address(*address), "api_listen"):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid"])
def test_addresses_that_cannot_be_used(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        address = Address(host, busy.getsockname()[1])
        with pytest.raises(AddressUnusable) as caught:
            bind(address, "data_listen")
    text = str(caught.value)
    assert text.startswith(f"cannot listen on {address} (data_listen): ")
    assert caught.value.text({"data_listen": "-d"}) == text.replace("data_listen", "-d")
