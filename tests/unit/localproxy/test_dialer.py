from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from support.network.ports import free_port
from support.network.sockets import black_hole
from tailrace.common.addresses import TCPAddress, UnixAddress
from tailrace.common.secret import Secret
from tailrace.localproxy.dialer import Attempt, DialFailed, begin, dial
from tailrace.localproxy.routes import SocketFactory
from tailrace.localproxy.settings import ProxySettings
from tailrace.wire import Side


def settings(**changes: Any) -> ProxySettings:
    return ProxySettings(
        side=Side.DESTINATION, host="localhost", access_token=Secret("token"), **changes
    )


@pytest.mark.parametrize(
    ("family", "listen", "host"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "127.0.0.1", ""),
        (socket.AF_INET, "127.0.0.1", "localhost"),
        (socket.AF_INET6, "::1", "::1"),
    ],
)
async def test_reaches_an_application(family: socket.AddressFamily, listen: str, host: str):
    with socket.create_server((listen, 0), family=family) as listening:
        port = listening.getsockname()[1]
        sock = await dial(TCPAddress(host, port), settings())
        with sock:
            assert sock.getpeername()[:2] == (listen, port)
            assert not sock.getblocking()


async def test_reaches_a_unix_socket(tmp_path: Path):
    path = str(tmp_path / "app.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        with await dial(UnixAddress(path), settings()) as sock:
            assert sock.getpeername() == path


async def test_reaches_what_makes_its_sockets():
    """Also where no address may be reached."""
    near, far = socket.socketpair()

    async def connect() -> socket.socket:
        return far

    with near:
        assert await dial(SocketFactory(connect), settings(allowed=())) is far
        far.close()


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (OSError("can't start new thread"), "can't start new thread"),
    ],
)
async def test_what_makes_no_socket_is_told(error: OSError, cause: str):
    async def connect() -> socket.socket:
        raise error

    with pytest.raises(DialFailed, match=f"in process -- .*{cause}") as caught:
        await dial(SocketFactory(connect), settings())
    assert caught.value.cause == cause


async def test_the_bind_address_is_the_local_end():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = TCPAddress("127.0.0.1", listening.getsockname()[1])
        with await dial(address, settings(bind_address="127.0.0.2")) as sock:
            assert sock.getsockname()[0] == "127.0.0.2"


@pytest.mark.parametrize(
    ("listen", "host", "bind_address"),
    [
        ("127.0.0.1", "127.0.0.1", ""),
        ("127.0.0.1", "", ""),
        ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
        ("::1", "::1", ""),
        ("::1", "::1%1", "::1"),
    ],
)
def test_an_application_of_this_machine_is_reached_at_once(
    listen: str, host: str, bind_address: str
):
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    with socket.create_server((listen, 0), family=family) as listening:
        port = listening.getsockname()[1]
        attempt = begin(TCPAddress(host, port), settings(bind_address=bind_address))
        assert isinstance(attempt, Attempt)
        with attempt.sock as sock:
            assert attempt.is_connected
            assert sock.getpeername()[:2] == (listen, port)
            assert sock.getsockname()[0] == (bind_address or listen)
            assert not sock.getblocking()


def test_an_application_at_a_unix_socket_is_reached_at_once(tmp_path: Path):
    path = str(tmp_path / "app.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        attempt = begin(UnixAddress(path), settings())
        assert isinstance(attempt, Attempt)
        with attempt.sock as sock:
            assert attempt.is_connected
            assert sock.getpeername() == path


async def no_socket() -> socket.socket:
    raise AssertionError("nothing was to be connected")


def test_what_takes_time_or_may_not_be_reached_is_not_begun():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        address = TCPAddress("127.0.0.1", port)
        for unknown in ("localhost", "127.1", "nul\0nul"):
            assert begin(TCPAddress(unknown, port), settings()) is None
        assert begin(SocketFactory(no_socket), settings()) is None
        assert begin(address, settings(allowed=())) is None
        assert begin(address, settings(), [ip_network("10.0.0.0/8")]) is None
        for bind_address in ("localhost", "::1"):
            assert begin(address, settings(bind_address=bind_address)) is None
        unknown = begin(address, settings(bind_address="192.0.2.1"))
        assert "Cannot assign requested address" in str(unknown)
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


async def test_what_has_failed_at_once_was_the_first_attempt():
    """An application that has accepted and reset a connection must not see another one."""
    address = TCPAddress("127.0.0.1", free_port())
    failed = begin(address, settings())
    assert str(failed) == f"{address} -- Connection refused"
    with socket.create_server(("127.0.0.1", address.port)) as listening:
        with pytest.raises(DialFailed) as caught:
            await dial(address, settings(), begun=failed)
        assert caught.value is failed
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()
        wanted = settings(dial_retry_count=1, dial_retry_delay=0.0)
        with await dial(address, wanted, begun=failed) as sock:
            assert sock.getpeername()[1] == address.port


@contextmanager
def full_queue(path: str) -> Iterator[socket.socket]:
    """A unix socket with as many connections as wait to be accepted."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(path)
        listening.listen(0)
        while True:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            if waiting.connect_ex(path):
                yield listening
                return


async def test_a_unix_socket_that_is_too_busy_is_tried_again(tmp_path: Path):
    path = str(tmp_path / "app.sock")
    with full_queue(path) as listening:
        assert isinstance(begin(UnixAddress(path), settings()), DialFailed)
        with pytest.raises(DialFailed, match=r"app\.sock -- Resource temporarily unavailable"):
            await dial(UnixAddress(path), settings())
        wanted = settings(dial_retry_count=-1, dial_retry_delay=0.001)
        task = asyncio.get_running_loop().create_task(dial(UnixAddress(path), wanted))
        await asyncio.sleep(0)
        assert not task.done()
        listening.accept()[0].close()
        with await task as sock:
            assert sock.getpeername() == path


async def test_what_was_begun_is_the_first_attempt():
    with black_hole() as port:
        address = TCPAddress("127.0.0.1", port)
        attempt = begin(address, settings())
        assert isinstance(attempt, Attempt)
        assert not attempt.is_connected
        with pytest.raises(DialFailed, match=rf"127\.0\.0\.1:{port} -- no answer within 0\.1 s"):
            await dial(address, settings(dial_timeout=0.1), begun=attempt)
        assert attempt.sock.fileno() < 0


async def test_after_what_was_begun_every_attempt_begins_anew():
    with socket.create_server(("127.0.0.1", 0)) as listening, black_hole() as port:
        silent = begin(TCPAddress("127.0.0.1", port), settings())
        address = TCPAddress("127.0.0.1", listening.getsockname()[1])
        wanted = settings(dial_timeout=0.1, dial_retry_count=1, dial_retry_delay=0.0)
        with await dial(address, wanted, begun=silent) as sock:
            assert sock.getpeername()[1] == address.port


async def test_an_answer_that_takes_time_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    """As everywhere but on this machine, and on other systems also here."""
    monkeypatch.setattr(sys, "platform", "other")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        attempt = begin(TCPAddress("127.0.0.1", port), settings())
        assert isinstance(attempt, Attempt)
        assert not attempt.is_connected
        with await dial(TCPAddress("127.0.0.1", port), settings(), begun=attempt) as sock:
            assert sock is attempt.sock
            assert sock.getpeername()[1] == port
    with pytest.raises(DialFailed, match=rf"127\.0\.0\.1:{port} -- Connection refused"):
        await dial(TCPAddress("127.0.0.1", port), settings())


async def test_only_what_is_allowed_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = TCPAddress("127.0.0.1", listening.getsockname()[1])
        with await dial(address, settings(allowed=(TCPAddress("", 1), address))):
            pass
        other = settings(allowed=(TCPAddress("127.0.0.1", 1),), dial_retry_count=-1)
        with pytest.raises(DialFailed, match=rf"{address} -- not in the allow-list$"):
            await dial(address, other)
        listening.setblocking(False)
        listening.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listening.accept()


async def test_a_name_is_judged_by_what_it_resolves_to():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        networks = [ip_network("10.0.0.0/8"), ip_network("127.0.0.0/8")]
        with await dial(TCPAddress("localhost", port), settings(), networks):
            pass
        listening.setblocking(False)
        listening.accept()[0].close()
        for host in ("localhost", "127.0.0.1", ""):
            with pytest.raises(DialFailed, match=r"127\.0\.0\.1: not in the networks") as caught:
                await dial(TCPAddress(host, port), settings(), networks[:1])
            assert caught.value.cause == "not in the networks that the rule of the service allows"
        with pytest.raises(BlockingIOError):
            listening.accept()


async def test_a_refusal_names_the_address_and_the_reason():
    port = free_port()
    with pytest.raises(DialFailed, match=rf"127\.0\.0\.1:{port} -- Connection refused"):
        await dial(TCPAddress("127.0.0.1", port), settings())


async def test_a_cause_names_no_address_and_each_reason_once():
    """It is for the peer, who knows the address that was configured."""
    port = free_port()
    with pytest.raises(DialFailed) as refused:
        await dial(TCPAddress("localhost", port), settings())
    assert refused.value.cause == "refused"
    with pytest.raises(DialFailed) as forbidden:
        await dial(TCPAddress("127.0.0.1", port), settings(allowed=()))
    assert forbidden.value.cause == "not in the allow-list"


async def test_a_missing_unix_socket_is_named(tmp_path: Path):
    with pytest.raises(DialFailed, match=r"none\.sock -- No such file"):
        await dial(UnixAddress(str(tmp_path / "none.sock")), settings())


async def test_an_unknown_interface_is_said():
    with pytest.raises(DialFailed, match=r"^\[fe80::1%none\]:22 -- Name or service not known$"):
        await dial(TCPAddress("fe80::1%none", 22), settings())


async def test_an_unknown_name_is_named():
    with pytest.raises(DialFailed, match=r"no-such-host\.invalid"):
        await dial(TCPAddress("no-such-host.invalid", 22), settings())


async def test_what_is_no_name_is_named():
    name = 70 * "x" + ".invalid"
    with pytest.raises(DialFailed, match=f"{name}:22 -- cannot resolve {name}: "):
        await dial(TCPAddress(name, 22), settings())


def test_a_mute_resolver_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch):
    released = threading.Event()
    asked = threading.Event()

    def getaddrinfo(*_: object, flags: int = 0, **__: object) -> list[Any]:
        if not flags:
            asked.set()
            released.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    async def give_up() -> None:
        dialing = asyncio.get_running_loop().create_task(
            dial(TCPAddress("mute.example", 22), settings(dial_timeout=1e6))
        )
        while not asked.is_set():
            await asyncio.sleep(0.001)
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    asyncio.run(give_up())
    # It has ended while its question was still open.
    (waiting,) = [t for t in threading.enumerate() if t.name == "resolve mute.example"]
    released.set()
    waiting.join()


async def test_a_lack_of_descriptors_is_said():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(DialFailed, match=r"127\.0\.0\.1:9 -- Too many open files.*ulimit -n"):
            await dial(TCPAddress("127.0.0.1", 9), settings())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_a_bind_address_of_another_family_is_said():
    with pytest.raises(DialFailed, match=r"no local address of its family in the bind address$"):
        await dial(TCPAddress("127.0.0.1", 9), settings(bind_address="::1"))


async def test_a_silent_address_is_given_up_after_the_timeout():
    with black_hole() as port, pytest.raises(DialFailed, match=r"no answer within 0\.3 s"):
        await dial(TCPAddress("127.0.0.1", port), settings(dial_timeout=0.3))


async def test_all_addresses_of_a_name_are_tried():
    """``localhost`` is ::1 and 127.0.0.1; the application listens on the second only."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with await dial(TCPAddress("localhost", port), settings()) as sock:
            assert sock.getpeername()[1] == port


async def test_a_refused_application_is_tried_again_as_often_as_told():
    port = free_port()
    wanted = settings(dial_retry_count=100, dial_retry_delay=0.01)
    task = asyncio.get_running_loop().create_task(dial(TCPAddress("127.0.0.1", port), wanted))
    await asyncio.sleep(0.05)
    with socket.create_server(("127.0.0.1", port)), await task as sock:
        assert sock.getpeername()[1] == port


async def test_a_cancelled_dial_leaves_no_socket():
    with black_hole() as port:
        dialing = dial(TCPAddress("127.0.0.1", port), settings())
        task = asyncio.get_running_loop().create_task(dialing)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
