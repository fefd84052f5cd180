from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.network.applications import check_echo, echo
from support.service.process import ServiceProcess
from support.service.scripted_client import ScriptedClient, tunnel
from support.waiting import HANG, until
from tailrace.aws import Client, Credentials, Secret, TunnelState
from tailrace.common.file_lock import locked
from tailrace.errors import AccessRefused, ConfigurationError, CredentialsRefused, TailraceError
from tailrace.library import Tunnel
from tailrace.operator import opening as module
from tailrace.operator.failures import CommandFailed
from tailrace.operator.holder import Holder, hold
from tailrace.operator.sharing import Membership
from tailrace.operator.state import Origin, Phase
from tailrace.operator.wish import WantedTunnel, Wish
from tailrace.wire import Side


class Bench:
    """A holder in this loop, and commands that use it."""

    def __init__(self, wish: Wish, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.path, self.lock = directory / "s", directory / "lock"
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(self.path))
        self.listening.listen()
        self.holder = Holder(wish, self.listening, self.path, self.lock)
        self.members: list[Membership] = []

    def command(self) -> Membership:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.path))
        self.members.append(Membership(sock, self.path))
        return self.members[-1]

    def close(self) -> None:
        for member in self.members:
            member.close()


@pytest.fixture
def wish(service: ServiceProcess, short: Path, monkeypatch: pytest.MonkeyPatch) -> Wish:
    at = service.endpoints
    monkeypatch.setenv("AWSIOT_TUNNEL_ENDPOINT", at.data_endpoint)
    key = Credentials(at.access_key_id, Secret(at.secret_access_key))

    def client() -> Client:
        return Client(region=at.region, endpoint=at.api_endpoint, credentials=key, ca=at.ca_file)

    def status(error: TailraceError) -> int:
        return 3

    return Wish(WantedTunnel("holder-thing", ("SSH",), short / "ledger"), client, status)


def but(wish: Wish, **changes: Any) -> Wish:
    """Return a wish for another tunnel."""
    return replace(wish, tunnel=replace(wish.tunnel, **changes))


@asynccontextmanager
async def running(wish: Wish, directory: Path) -> AsyncIterator[Bench]:
    bench = Bench(wish, directory)
    task = asyncio.get_running_loop().create_task(bench.holder.run())
    try:
        yield bench
    finally:
        bench.close()
        await asyncio.wait_for(task, HANG)


async def news(member: Membership, phase: Phase) -> None:
    """Wait until a command sees a phase."""
    async with asyncio.timeout(HANG):
        while member.state.phase is not phase:
            await asyncio.to_thread(member.receive, 0.05)


async def leave(member: Membership) -> None:
    await asyncio.to_thread(member.leave, lambda: None)


@asynccontextmanager
async def device(wish: Wish, tunnel_id: str, **services: Any) -> AsyncIterator[None]:
    async with wish.make_client() as client:
        token = (await client.rotate(tunnel_id, Side.DESTINATION)).destination_token
    assert token is not None
    async with Tunnel.destination(token, services or {"SSH": echo}):
        yield


async def states(wish: Wish) -> list[TunnelState]:
    async with wish.make_client() as client:
        return [each.state async for each in client.list(thing=wish.tunnel.thing)]


async def test_commands_share_a_tunnel_that_is_closed_with_the_last(
    wish: Wish, short: Path
) -> None:
    wish = but(wish, thing="shared")
    async with running(wish, short) as bench:
        first = bench.command()
        await news(first, Phase.WAITING)
        assert first.state.origin is Origin.OPENED
        assert len(os.listdir(wish.tunnel.ledger)) == 1
        async with device(wish, first.state.tunnel_id):
            await news(first, Phase.READY)
            second = bench.command()
            await news(second, Phase.READY)
            for member in (first, second):
                sock = await asyncio.to_thread(member.open_socket, "SSH")
                streams = await asyncio.open_connection(sock=sock)
                await check_echo(streams, b"hello")
                streams[1].close()
            with pytest.raises(CommandFailed, match="The services of the tunnel are SSH") as caught:
                await asyncio.to_thread(second.open_socket, "ssh")
            assert caught.value.status == 3
            await leave(first)
            assert await states(wish) == [TunnelState.OPEN]
            await leave(second)
            assert await states(wish) == [TunnelState.CLOSED]
    assert os.listdir(wish.tunnel.ledger) == []
    assert not bench.path.exists()


async def test_a_device_that_goes_and_comes_back(wish: Wish, short: Path) -> None:
    wish = but(wish, thing="comes-back")
    async with running(wish, short) as bench:
        member = bench.command()
        await news(member, Phase.WAITING)
        async with device(wish, member.state.tunnel_id):
            await news(member, Phase.READY)
        await news(member, Phase.WAITING)
        assert member.state.cause == "the device has disconnected"
        async with device(wish, member.state.tunnel_id):
            await news(member, Phase.READY)
        # A command that is killed says nothing.
        member.close()
        await until(lambda: not bench.path.exists(), "the end of the holder")
    assert await states(wish) == [TunnelState.CLOSED]


async def test_a_link_that_is_lost(
    wish: Wish, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWSIOT_TUNNEL_ENDPOINT", "127.0.0.1:1")
    wish = but(wish, thing="no-link", timeout=1.0)
    async with running(wish, short) as bench:
        member = bench.command()
        await news(member, Phase.RECONNECTING)
        assert "127.0.0.1" in member.state.cause
        assert member.state.retry_at > 0
        with pytest.raises(CommandFailed, match="could not be used within 1 s") as caught:
            await leave_failed(member)
        assert "=" not in str(caught.value)
    assert await states(wish) == [TunnelState.CLOSED]


async def leave_failed(member: Membership) -> None:
    """Wait for the failure of the tunnel."""
    async with asyncio.timeout(HANG):
        while True:
            await asyncio.to_thread(member.receive, 0.05)


async def test_a_tunnel_that_was_closed_at_the_service(wish: Wish, short: Path) -> None:
    wish = but(wish, thing="closed")
    async with running(wish, short) as bench:
        member = bench.command()
        await news(member, Phase.WAITING)
        async with device(wish, member.state.tunnel_id):
            await news(member, Phase.READY)
            async with wish.make_client() as client:
                await client.close(member.state.tunnel_id)
            with pytest.raises(CommandFailed, match="its lifetime is over"):
                await leave_failed(member)


async def test_a_tunnel_that_is_kept_taken_and_given(wish: Wish, short: Path) -> None:
    wish = but(wish, thing="kept", keep=True)
    async with running(wish, short) as bench:
        member = bench.command()
        await news(member, Phase.WAITING)
        tunnel_id = member.state.tunnel_id
        opened = device(wish, tunnel_id)
        await opened.__aenter__()
        await news(member, Phase.READY)
        await leave(member)
    assert os.listdir(wish.tunnel.ledger) == []
    for asked in (but(wish, keep=False), but(wish, keep=False, tunnel_id=tunnel_id)):
        async with running(asked, short) as bench:
            member = bench.command()
            await news(member, Phase.READY)
            assert (member.state.origin, member.state.tunnel_id) == (Origin.TAKEN, tunnel_id)
            await leave(member)
    assert await states(wish) == [TunnelState.OPEN]
    await opened.__aexit__(None, None, None)
    async with wish.make_client() as client:
        await client.close(tunnel_id)


async def test_what_was_left_open_is_closed_and_told(wish: Wish, short: Path) -> None:
    wish = but(wish, thing="left")
    async with wish.make_client() as client:
        entry = module.LedgerEntry(wish.tunnel.ledger, client, "left", "d")
        opened = await client.open(thing="left", services=["SSH"], description="d")
        entry.opened(opened.tunnel_id)
        entry.leave()
    async with running(wish, short) as bench:
        member = bench.command()
        await news(member, Phase.WAITING)
        (note,) = member.state.notes
        assert note.startswith(f"closed tunnel {opened.tunnel_id} to left")
        logging.getLogger("tailrace").warning("after the end")
    assert len(member.state.notes) == 1


async def test_a_hint_and_a_warning(
    wish: Wish, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hint(*arguments: object) -> str:
        return "last seen today"

    monkeypatch.setattr(module, "_HINT_AFTER", 0.0)
    monkeypatch.setattr(module, "absence_hint", hint)
    wish = but(wish, thing="hinted")
    async with running(wish, short) as bench:
        member = bench.command()
        await news(member, Phase.WAITING)
        async with asyncio.timeout(HANG):
            while not member.state.hint:
                await asyncio.to_thread(member.receive, 0.05)
        logging.getLogger("tailrace").warning("mind the %s", "gap")
        await asyncio.to_thread(member.receive, HANG)
        assert member.state.notes == ("mind the gap",)
        await leave(member)


async def test_a_hint_about_a_device_that_did_not_come(
    wish: Wish, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hint(*arguments: object) -> str:
        return "last seen today"

    monkeypatch.setattr(module, "_HINT_AFTER", 0.0)
    monkeypatch.setattr(module, "absence_hint", hint)
    async with running(but(wish, thing="hinted-2", timeout=2.0), short) as bench:
        member = bench.command()
        with pytest.raises(CommandFailed, match=r"these services \(last seen today\)$"):
            await leave_failed(member)


async def test_a_signal_ends_it_for_all(wish: Wish, short: Path) -> None:
    wish = but(wish, thing="signalled")
    async with running(wish, short) as bench:
        members = [bench.command() for _ in range(2)]
        await news(members[0], Phase.WAITING)
        os.kill(os.getpid(), signal.SIGTERM)
        for member in members:
            with pytest.raises(CommandFailed, match="the tunnel was ended"):
                await leave_failed(member)
    assert await states(wish) == [TunnelState.CLOSED]


async def test_who_comes_while_the_last_one_leaves_is_served(wish: Wish, short: Path) -> None:
    wish = but(wish, thing="raced")
    async with running(wish, short) as bench:
        first = bench.command()
        await news(first, Phase.WAITING)
        with locked(bench.lock, wait=True):  # as who is about to connect
            leaving = asyncio.get_running_loop().create_task(leave(first))
            await until(bench.holder._left.is_set, "the last to leave")
            second = bench.command()
        await news(second, Phase.WAITING)
        assert await states(wish) == [TunnelState.OPEN]
        # Nobody is made to wait for somebody else's end.
        assert not leaving.done() or leaving.exception() is None
        await leave(second)
        await leaving


async def test_what_makes_no_sense_ends_only_who_says_it(wish: Wish, short: Path) -> None:
    wish = but(wish, thing="nonsense")
    async with running(wish, short) as bench:
        member = bench.command()
        await news(member, Phase.WAITING)
        for text in (b"{}\n", b"x\n"):
            stranger = bench.command()
            stranger._sock.sendall(text)
            with pytest.raises(CommandFailed, match="has ended"):
                await leave_failed(stranger)
        with pytest.raises(CommandFailed, match="the tunnel is not ready"):
            await asyncio.to_thread(member.open_socket, "SSH")


async def test_a_command_that_does_not_read(wish: Wish, short: Path) -> None:
    """It is cut off, and holds up nobody."""
    wish = but(wish, thing="unread")
    async with running(wish, short) as bench:
        member = bench.command()
        bench.command()
        await news(member, Phase.WAITING)
        await until(lambda: len(bench.holder._clients) == 2, "both commands")
        for count in range(1, 51):
            bench.holder._opening.note("x" * 2_000)
            while len(member.state.notes) < count:
                await asyncio.to_thread(member.receive, HANG)
        bench.holder._opening.note("one too many")
        await until(lambda: len(bench.holder._clients) == 1, "the end of one of them")
        await leave(member)


async def test_no_descriptor_for_a_command(
    wish: Wish, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until there is one."""
    loop = asyncio.get_running_loop()
    accept = loop.sock_accept
    failures = iter([OSError(errno.EMFILE, "too many open files")] * 2)

    async def scarce(sock: socket.socket) -> Any:
        for failure in failures:
            raise failure
        return await accept(sock)

    monkeypatch.setattr(loop, "sock_accept", scarce)
    async with running(but(wish, thing="scarce"), short) as bench:
        member = bench.command()
        await news(member, Phase.WAITING)
        await leave(member)
    assert list(failures) == []


# -- without a service ----------------------------------------------------------------------------


def scripted(client: ScriptedClient, short: Path, **changes: Any) -> Wish:
    wanted = WantedTunnel("t", ("SSH",), short / "ledger", timeout=0.05)
    return Wish(replace(wanted, **changes), lambda: client, lambda error: 3)


@pytest.mark.parametrize("given", [False, True])
async def test_a_tunnel_that_another_command_has_taken(
    short: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    client = ScriptedClient(tunnel("free"))
    tries: list[bool] = []

    class Refused:
        def __init__(self, observer: Holder, *arguments: object, **options: Any) -> None:
            self.observer, self.reuse = observer, options["reuse"]

        async def __aenter__(self) -> None:
            tries.append(self.reuse)
            if self.reuse or given:
                self.observer.taken("free")
                raise AccessRefused(400, "Bad Request", "previously used")
            raise ConfigurationError("the second try")

        async def __aexit__(self, *arguments: object) -> None:
            raise AssertionError("never entered")

    monkeypatch.setattr(module, "connect_observed", Refused)
    wish = scripted(client, short, tunnel_id="free" if given else None)
    async with running(wish, short) as bench:
        member = bench.command()
        reason = "previously used" if given else "the second try"
        with pytest.raises(CommandFailed, match=reason):
            await leave_failed(member)
    assert tries == ([False] if given else [True, False])


async def test_credentials_that_may_open_tunnels_and_not_list_them(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWSIOT_TUNNEL_ENDPOINT", "127.0.0.1:1")
    client = ScriptedClient()
    client.faults["list"] = CredentialsRefused("AccessDeniedException", "no")
    async with running(scripted(client, short), short) as bench:
        member = bench.command()
        with pytest.raises(CommandFailed, match="could not be used"):
            await leave_failed(member)
        client.faults["open"] = client.faults["list"]
    assert client.calls == ["list", "open SSH", "close new", "aclose"]
    async with running(scripted(client, short), Path(short, "run")) as bench:
        member = bench.command()
        with pytest.raises(CommandFailed, match="no"):
            await leave_failed(member)


async def test_a_tunnel_that_cannot_be_closed(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWSIOT_TUNNEL_ENDPOINT", "127.0.0.1:1")
    client = ScriptedClient()
    client.faults["close"] = ConfigurationError("down")
    async with running(scripted(client, short, timeout=None), short) as bench:
        member = bench.command()
        await news(member, Phase.RECONNECTING)
        with pytest.raises(CommandFailed, match="the tunnel new may still be open: down; the next"):
            await leave(member)
    assert len(os.listdir(short / "ledger")) == 1


async def test_a_directory_that_has_gone(short: Path) -> None:
    client = ScriptedClient()
    client.gates["list"] = asyncio.Event()
    bench = Bench(scripted(client, short), short)
    bench.holder._lock = short / "gone" / "lock"
    task = asyncio.get_running_loop().create_task(bench.holder.run())
    member = bench.command()
    await until(lambda: client.calls, "the call")
    member.close()
    await asyncio.wait_for(task, HANG)


def test_a_loop_of_its_own(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWSIOT_TUNNEL_ENDPOINT", "127.0.0.1:1")
    client = ScriptedClient()
    client.faults["list"] = ConfigurationError("asked")
    bench = Bench(scripted(client, short), short)
    member = bench.command()
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        hold(scripted(client, short), bench.listening, bench.path, bench.lock)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
    with pytest.raises(CommandFailed, match="asked"):
        member.check()
    bench.close()
