"""What happens to processes: killed, stopped for a while, out of disk, descriptors or names.

The outcome of each is written down in docs/about/faults.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import support.service as support_service
from support.network.applications import (
    application,
    check_closed,
    check_echo,
    check_refused,
    client,
    echo,
    exchange,
    mirror,
)
from support.network.certificates import Certificates
from support.network.faults import Fault, Kind, fault_proxy
from support.network.frames import BINARY, frame
from support.network.ports import free_port
from support.network.scripted_service import ACCESS_TOKEN, Peer, ScriptedService
from support.network.sockets import black_hole
from support.service import ServiceProcess, control_client, service_process
from support.tunnel import (
    ProxyProcess,
    Tunnel,
    arguments_for,
    both_processes,
    both_proxies,
    open_tunnel,
    proxy_process,
    running_proxy,
    tunnel_of,
    tunnel_process,
)
from support.waiting import HANG, until
from tailrace.cli.exit_codes import ExitCode
from tailrace.common.addresses import LocalAddress, TCPAddress
from tailrace.common.secret import Secret
from tailrace.errors import ControlError
from tailrace.localproxy.events import ConnectionRefused, Reconnecting
from tailrace.service.config import parse_address
from tailrace.wire import Side

each_end = pytest.mark.parametrize("side", Side, ids=lambda side: side.value)


async def usable(at: LocalAddress) -> None:
    """Wait until a connection is served; those that are not must end all the same."""
    async with asyncio.timeout(HANG):
        while True:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                return await exchange(at, 50_000)
            await asyncio.sleep(0.05)


# -- killed --------------------------------------------------------------------------------------


@each_end
async def test_a_killed_proxy_is_restarted(service: ServiceProcess, tmp_path: Path, side: Side):
    """The same access token lets it in again, and a source has its port again."""
    with tunnel_of(service, "SSH") as tunnel, contextlib.ExitStack() as stack:
        async with application(mirror) as where:
            services = {
                Side.SOURCE: {"SSH": TCPAddress("127.0.0.1", free_port())},
                Side.DESTINATION: {"SSH": where},
            }

            def start(which: Side, name: str = "") -> ProxyProcess:
                return stack.enter_context(
                    tunnel_process(tmp_path, tunnel, which, services[which], name=name)
                )

            proxies = {which: start(which) for which in Side}
            await proxies[Side.DESTINATION].ready()
            ports = await proxies[Side.SOURCE].ready()
            async with client(ports["SSH"]) as streams:
                streams[1].write(b"half")
                await proxies[Side.DESTINATION].said("Connected to ")
                proxies[side].signal(signal.SIGKILL)
                assert await proxies[side].exit_code() == -signal.SIGKILL
                again = start(side, f"{side.value}-again")
                assert await again.ready() == (ports if side is Side.SOURCE else {"SSH": where})
                # A source waits for a destination, until the next one says that it is another.
                await check_closed(streams)
            await usable(ports["SSH"])
            other = proxies[Side.SOURCE if side is Side.DESTINATION else Side.DESTINATION]
            assert other.running


async def test_a_killed_proxy_without_state_is_refused(service: ServiceProcess, tmp_path: Path):
    with tunnel_of(service, "SSH") as tunnel:
        none = (tmp_path, tunnel, Side.SOURCE, None, "--no-state")
        with tunnel_process(*none) as killed:
            await killed.ready()
            killed.kill()
        with tunnel_process(*none, name="again") as again:
            assert await again.exit_code() == ExitCode.TOKEN_REFUSED
    assert not (tmp_path / "state-home").exists()


async def test_a_map_with_a_mistake_can_be_corrected(service: ServiceProcess, tmp_path: Path):
    """The token was used by then."""
    with tunnel_of(service, "SSH") as tunnel:
        wrong, right = ({name: TCPAddress("localhost", 22)} for name in ("SHH", "SSH"))
        with tunnel_process(tmp_path, tunnel, Side.DESTINATION, wrong) as proxy:
            assert await proxy.exit_code() == ExitCode.PROTOCOL
            assert "Web socket session ID" in proxy.log
        with tunnel_process(tmp_path, tunnel, Side.DESTINATION, right, name="again") as proxy:
            await proxy.ready()
            proxy.signal(signal.SIGINT)
            assert await proxy.exit_code() == ExitCode.OK
        with tunnel_process(tmp_path, tunnel, Side.DESTINATION, right, name="third") as proxy:
            await proxy.ready()


async def test_a_second_proxy_with_one_token_is_told_of_the_first(
    service: ServiceProcess, tmp_path: Path
):
    """They would take the place of each other for ever."""
    with tunnel_of(service, "SSH") as tunnel:
        with tunnel_process(tmp_path, tunnel, Side.SOURCE) as first:
            await first.ready()
            with tunnel_process(tmp_path, tunnel, Side.SOURCE, name="second") as second:
                assert await second.exit_code() == ExitCode.USAGE
                assert f"has this access token: pid {first.pid} on " in second.fatal_line
                assert "Attempting to establish web socket" not in second.log
            assert first.running
            assert "Trying again" not in first.log


async def test_a_home_that_cannot_be_written_is_only_worth_a_warning(
    service: ServiceProcess, tmp_path: Path
):
    (tmp_path / "state-home").write_text("")
    with tunnel_of(service, "SSH") as tunnel:
        with tunnel_process(tmp_path, tunnel, Side.SOURCE) as proxy:
            await proxy.ready()
            assert "[warning] cannot make the directory" in proxy.log


async def test_a_killed_service_has_lost_nothing_it_has_answered(tmp_path: Path):
    """It is killed while tunnels are being opened and bytes are under way."""
    with service_process(tmp_path) as service, tunnel_of(service, "SSH") as tunnel:
        async with (
            application(mirror) as where,
            both_proxies(
                tunnel.settings(Side.SOURCE),
                tunnel.settings(Side.DESTINATION, services={"SSH": where}),
            ) as ends,
        ):
            opened: list[str] = []
            enough = asyncio.Event()
            loop = asyncio.get_running_loop()

            def open_more() -> None:
                control = control_client(service.endpoints)
                with contextlib.suppress(ControlError, OSError):
                    while True:
                        opened.append(control.call("OpenTunnel", {})["tunnelId"])
                        if len(opened) == 20:
                            loop.call_soon_threadsafe(enough.set)

            opening = loop.create_task(asyncio.to_thread(open_more))
            moving = loop.create_task(exchange(ends.listening["SSH"], 30_000_000))
            async with asyncio.timeout(HANG):
                await enough.wait()
            await asyncio.to_thread(service.restart, signal.SIGKILL)
            with contextlib.suppress(Exception):
                await opening
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await moving
            with contextlib.closing(sqlite3.connect(tmp_path / "state/tunnels.sqlite3")) as db:
                assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                kept = {row[0] for row in db.execute("SELECT tunnel_id FROM tunnels")}
            assert set(opened) | {tunnel.tunnel_id} <= kept
            await usable(ends.listening["SSH"])


async def test_a_killed_application_ends_its_connections_only(
    service: ServiceProcess, tmp_path: Path
):
    """The tunnel stays; connections are reset while nobody listens, and served again later."""
    port = free_port()
    script = (
        "import socket\ns = socket.create_server(('127.0.0.1', %d))\nprint('up', flush=True)\n"
        "held = []\nwhile True:\n  c, _ = s.accept()\n  held.append(c)\n  c.sendall(b'hello')\n"
    )

    @contextlib.contextmanager
    def serving() -> Iterator[subprocess.Popen[bytes]]:
        command = ["python3", "-c", script % port]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            try:
                yield process
            finally:
                process.kill()

    with tunnel_of(service, "SSH") as tunnel:
        where = {"SSH": TCPAddress("127.0.0.1", port)}
        async with both_processes(tmp_path, tunnel, where) as (source, destination, ports):
            with serving() as application_process:
                async with client(ports["SSH"]) as streams:
                    assert await streams[0].readexactly(5) == b"hello"
                    application_process.send_signal(signal.SIGKILL)
                    await check_closed(streams)
            await check_refused(ports["SSH"])
            await destination.said("Connection refused")
            with serving():
                async with client(ports["SSH"]) as streams:
                    assert await streams[0].readexactly(5) == b"hello"
            for proxy in (source, destination):
                assert proxy.running
                assert proxy.log.count("Successfully established websocket connection") == 1


# -- stopped for a while -------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["source", "destination", "service"])
async def test_a_process_that_sleeps_wakes_up(tmp_path: Path, who: str):
    """Longer than silence is put up with: whoever is awake gives the link up and comes back."""
    fine = tmp_path / "settings.json"
    fine.write_text(
        '{"tunneling": {"proxy": {"websocket": {"ping_period_ms": 200, "retry_delay_ms": 20}}}}'
    )
    options = ("--settings-json", str(fine), "--resume-timeout", "0")
    with service_process(tmp_path) as service, tunnel_of(service, "SSH") as tunnel:
        async with (
            application(mirror) as where,
            both_processes(tmp_path, tunnel, {"SSH": where}, *options) as (source, far, ports),
        ):
            await exchange(ports["SSH"], 100_000)
            sleeper = {"source": source, "destination": far, "service": service.process}[who]
            async with client(ports["SSH"]) as streams:
                streams[1].write(b"half")
                sleeper.signal(signal.SIGSTOP)
                try:
                    if who == "service":
                        for proxy in (source, far):
                            await proxy.said("nothing received for 0.6 s")
                    else:
                        await asyncio.sleep(1.0)
                finally:
                    sleeper.signal(signal.SIGCONT)
                if who == "service":
                    await check_closed(streams)
            await usable(ports["SSH"])
            assert source.running
            assert far.running
            assert service.process.running
            assert "Traceback" not in source.log + far.log + service.process.log


@each_end
async def test_a_nap_is_not_noticed(service: ServiceProcess, tmp_path: Path, side: Side):
    """Shorter than silence is put up with: connections go on where they were."""
    with tunnel_of(service, "SSH") as tunnel:
        async with (
            application(echo) as where,
            both_processes(tmp_path, tunnel, {"SSH": where}) as (source, destination, ports),
            client(ports["SSH"]) as streams,
        ):
            await check_echo(streams, b"before")
            sleeper = source if side is Side.SOURCE else destination
            sleeper.signal(signal.SIGSTOP)
            streams[1].write(b"meanwhile")
            await asyncio.sleep(0.3)
            sleeper.signal(signal.SIGCONT)
            async with asyncio.timeout(HANG):
                assert await streams[0].readexactly(9) == b"meanwhile"


# -- clocks that are set -------------------------------------------------------------------------


class WallClock:
    """Tells the time of day, which somebody sets."""

    def __init__(self) -> None:
        self.step = 0.0

    def __call__(self) -> float:
        return time.time() + self.step


@pytest.mark.parametrize("hours", [-24, 11, 13])
async def test_a_clock_that_is_set_moves_only_the_end_of_tunnels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
):
    """Links, pings and delays go by another clock; a tunnel ends 12 hours of day time later."""
    clock = WallClock()
    directory = tmp_path / "state"
    async with support_service.running(support_service.config(directory), clock=clock) as service:
        monkeypatch.setenv("SSL_CERT_FILE", service.endpoints.ca_file)
        control = control_client(service.endpoints)
        tunnel = await asyncio.to_thread(open_tunnel, service.endpoints, control, "SSH")
        async with (
            application(echo) as where,
            both_proxies(
                tunnel.settings(Side.SOURCE),
                tunnel.settings(Side.DESTINATION, services={"SSH": where}),
            ) as ends,
            client(ends.listening["SSH"]) as streams,
        ):
            await check_echo(streams, b"before")
            clock.step = hours * 3600.0
            if hours < 12:
                # Whoever signs by the right time is told so; the links do not mind.
                with pytest.raises(ControlError, match=r"(?i)signature"):
                    await asyncio.to_thread(tunnel.close)
                await check_echo(streams, b"after")
                clock.step = 0.0
                await asyncio.to_thread(tunnel.close)
            await check_closed(streams)
            assert await ends.source.ended() is ExitCode.OK
            assert await ends.destination.ended() is ExitCode.OK
            assert not ends.source.all(Reconnecting)


# -- a full disk ---------------------------------------------------------------------------------


@contextlib.contextmanager
def full_by_limit(service: ServiceProcess, state: Path) -> Iterator[None]:
    """No file of the process may grow beyond the smallest that will have to."""
    _, hard = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)
    size = (state / "tunnels.sqlite3-wal").stat().st_size
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (hard, hard))


@contextlib.contextmanager
def full_by_filler(service: ServiceProcess, state: Path) -> Iterator[None]:
    """Something else has taken all that was left."""
    filler = state / "filler"
    with filler.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while True:
            out.write(bytes(512))
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a small disk needs root and may not be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def outlive_a_full_disk(
    service: ServiceProcess, full: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    """Tunnels go on, come back and can be closed; nothing new is promised; then all is well."""
    with tunnel_of(service, "SSH") as tunnel:
        async with (
            application(mirror) as where,
            both_proxies(
                tunnel.settings(Side.SOURCE),
                tunnel.settings(Side.DESTINATION, services={"SSH": where}),
            ) as ends,
        ):
            await exchange(ends.listening["SSH"], 10_000)
            fresh = await asyncio.to_thread(open_tunnel, service.endpoints, service.control, "SSH")
            with full():
                async with running_proxy(fresh.settings(Side.SOURCE)) as newcomer:
                    assert "503" in str((await newcomer.seen(Reconnecting)).cause)
                for _ in range(3):
                    with pytest.raises(ControlError, match="cannot reach its store"):
                        # Big enough for any page that has some room left.
                        await asyncio.to_thread(big_tunnel, service)
                await exchange(ends.listening["SSH"], 10_000)
                ends.source.drop_link()
                await ends.source.ready(links=2)
                await usable(ends.listening["SSH"])
                assert await asyncio.to_thread(status_of, service, tunnel) == "OPEN"
                # Its end is carried out, whatever can be stored, and told as what it is.
                with pytest.raises(
                    ControlError, match="is closed, but the service could not store"
                ):
                    await asyncio.to_thread(tunnel.close)
                assert await ends.source.ended() is ExitCode.OK
                assert await ends.destination.ended() is ExitCode.OK
                assert await asyncio.to_thread(status_of, service, tunnel) == "CLOSED"
            async with running_proxy(fresh.settings(Side.SOURCE)) as newcomer:
                await newcomer.ready()
            await asyncio.to_thread(big_tunnel, service)
            assert await asyncio.to_thread(status_of, service, tunnel) == "CLOSED"
    await until(lambda: "the tunnel store works again" in service.process.log)
    assert service.process.running
    assert "Traceback" not in service.process.log


def status_of(service: ServiceProcess, tunnel: Tunnel) -> str:
    described = service.control.call("DescribeTunnel", {"tunnelId": tunnel.tunnel_id})
    status: str = described["tunnel"]["status"]
    return status


def big_tunnel(service: ServiceProcess) -> None:
    tags = [{"key": f"{n:03}" + 120 * "k", "value": 250 * "v"} for n in range(40)]
    service.control.call("OpenTunnel", {"tags": tags})


async def test_a_full_disk_leaves_tunnels_alone(tmp_path: Path):
    with service_process(tmp_path) as service:
        await outlive_a_full_disk(service, lambda: full_by_limit(service, tmp_path / "state"))


async def test_a_file_system_that_is_full_leaves_tunnels_alone(small_disk: Path):
    with service_process(small_disk) as service:
        await outlive_a_full_disk(service, lambda: full_by_filler(service, small_disk / "state"))


async def test_a_full_disk_is_named_by_a_proxy_that_starts(
    service: ServiceProcess, small_disk: Path, tmp_path: Path
):
    """Before its access token is used."""
    with (small_disk / "filler").open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while True:
            out.write(bytes(4096))
    state = ("--state-dir", str(small_disk / "state"))
    with tunnel_of(service, "SSH") as tunnel:
        with tunnel_process(tmp_path, tunnel, Side.SOURCE, None, *state) as proxy:
            assert await proxy.exit_code() == ExitCode.USAGE
            assert "No space left on device; check --state-dir" in proxy.fatal_line
        with tunnel_process(tmp_path, tunnel, Side.SOURCE, name="again") as proxy:
            await proxy.ready()


# -- no descriptors left -------------------------------------------------------------------------


@each_end
async def test_a_process_without_descriptors_serves_whom_it_has(
    service: ServiceProcess, tmp_path: Path, side: Side
):
    with tunnel_of(service, "SSH") as tunnel:
        async with (
            application(echo) as where,
            both_processes(tmp_path, tunnel, {"SSH": where}) as (source, destination, ports),
            client(ports["SSH"]) as first,
        ):
            await check_echo(first, b"first")
            poor = source if side is Side.SOURCE else destination
            _, hard = resource.prlimit(poor.pid, resource.RLIMIT_NOFILE)
            used = {int(name) for name in os.listdir(f"/proc/{poor.pid}/fd")}
            lowest = next(number for number in itertools.count() if number not in used)
            resource.prlimit(poor.pid, resource.RLIMIT_NOFILE, (lowest, hard))
            if side is Side.DESTINATION:
                await check_refused(ports["SSH"])
                await poor.said("raise the limit of open files")
                await check_echo(first, b"first still")
                resource.prlimit(poor.pid, resource.RLIMIT_NOFILE, (hard, hard))
            else:
                async with client(ports["SSH"]) as second:
                    await poor.said("raise the limit of open files")
                    await check_echo(first, b"first still")
                    resource.prlimit(poor.pid, resource.RLIMIT_NOFILE, (hard, hard))
                    # It has waited in the queue of the system.
                    await check_echo(second, b"second")
            async with client(ports["SSH"]) as third:
                await check_echo(third, b"third")
            await check_echo(first, b"first to the end")


async def test_a_service_without_descriptors_serves_whom_it_has(tmp_path: Path):
    with service_process(tmp_path) as service, tunnel_of(service, "SSH") as tunnel:
        async with (
            application(mirror) as where,
            both_proxies(
                tunnel.settings(Side.SOURCE),
                tunnel.settings(Side.DESTINATION, services={"SSH": where}),
            ) as ends,
        ):
            pid = service.process.pid
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            used = 1 + max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, hard))
            data = parse_address(tunnel.endpoints.data_endpoint, "data")
            with contextlib.ExitStack() as crowd:
                for _ in range(32):
                    crowd.enter_context(socket.create_connection((data.host, data.port)))
                await service.process.said("out of file descriptors")
                await exchange(ends.listening["SSH"], 100_000)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
            await asyncio.to_thread(tunnel.close)
            assert await ends.source.ended() is ExitCode.OK
            assert await ends.destination.ended() is ExitCode.OK


# -- names ---------------------------------------------------------------------------------------


class Names:
    """A resolver that fails as long as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = False
        self.failures = 0
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: Any, *args: Any, **more: Any) -> Any:
        numeric = more.get("flags", 0) & socket.AI_NUMERICHOST
        if host == "localhost" and self.broken and not numeric:
            self.failures += 1
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self._real(host, *args, **more)


async def test_names_that_cannot_be_resolved_for_a_while(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
):
    """At the start, after a lost link, and for an application: tried again, each in its way."""
    names = Names(monkeypatch)
    names.broken = True
    quick = {"host": "localhost", "retry_delay": 0.02, "retry_delay_cap": 0.05}
    with tunnel_of(service, "SSH") as tunnel:
        async with application(mirror) as where:
            assert isinstance(where, TCPAddress)
            services = {"SSH": TCPAddress("localhost", where.port)}
            async with (
                running_proxy(tunnel.settings(Side.SOURCE, **quick)) as source,
                running_proxy(tunnel.settings(Side.DESTINATION, services=services)) as far,
            ):
                assert "cannot resolve localhost" in str((await source.seen(Reconnecting, 2)).cause)
                names.broken = False
                port = (await source.ready())["SSH"]
                await far.ready()
                await exchange(port, 10_000)
                names.broken = True
                await check_refused(port)
                refused = await far.seen(ConnectionRefused)
                assert "cannot resolve localhost: Temporary failure" in refused.reason
                before = len(source.all(Reconnecting))
                source.drop_link()
                await source.seen(Reconnecting, before + 3)
                names.broken = False
                assert (await source.ready(links=2))["SSH"] == port
                await usable(port)


# -- asked to end --------------------------------------------------------------------------------

A_DAY = 86_400.0


@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_a_closed_tunnel_is_seen_while_an_application_is_tried(
    service: ServiceProcess, how: str, monkeypatch: pytest.MonkeyPatch
):
    """Before the next try, and before those who take their last bytes slowly are given up."""
    monkeypatch.setattr("tailrace.localproxy.proxy._FLUSH_TIMEOUT", A_DAY)
    with tunnel_of(service, "SSH") as tunnel, contextlib.ExitStack() as stack:
        where = TCPAddress("127.0.0.1", free_port())
        if how == "silent":
            where = TCPAddress("127.0.0.1", stack.enter_context(black_hole()))
        settings = tunnel.settings(
            Side.DESTINATION,
            services={"SSH": where},
            dial_retry_count=-1,
            dial_retry_delay=A_DAY,
            dial_timeout=A_DAY,
        )
        async with (
            both_proxies(tunnel.settings(Side.SOURCE), settings) as ends,
            client(ends.listening["SSH"]) as streams,
        ):
            streams[1].write(b"hello")
            far = ends.destination.proxy
            await until(lambda: far.status().connections, "a try")
            await asyncio.to_thread(tunnel.close)
            assert await ends.destination.ended() is ExitCode.OK
            assert await ends.source.ended() is ExitCode.OK
            await check_closed(streams)
            assert not ends.destination.all(ConnectionRefused)


@each_end
async def test_sigterm_behind_a_black_hole(service: ServiceProcess, tmp_path: Path, side: Side):
    """Nobody answers the close frame: the end does not wait for an answer for ever."""
    with tunnel_of(service, "SSH") as tunnel:
        data = parse_address(tunnel.endpoints.data_endpoint, "data")
        async with application(echo) as where, fault_proxy(data.host, data.port) as box:
            services = {"SSH": where} if side is Side.DESTINATION else None
            arguments = ["-e", box.address, *arguments_for(tunnel, side, services)[2:]]
            with proxy_process(tmp_path, side.value, arguments, tunnel.tokens[side]) as proxy:
                await proxy.ready()
                box.strike(Fault(Kind.BLACKHOLE))
                proxy.terminate()
                assert await proxy.exit_code() == ExitCode.OK


async def test_settings_of_the_reconnect_come_from_the_file(tmp_path: Path):
    """``connect_retry_count`` tries, none of them earlier or later than ``retry_delay_ms`` says."""
    fine = tmp_path / "settings.json"
    fine.write_text(
        '{"tunneling": {"proxy": {"websocket": {"connect_retry_count": 3, "retry_delay_ms": 40}}}}'
    )
    arguments = ["-e", f"127.0.0.1:{free_port()}", "-m", "source", "--json"]
    arguments += ["--settings-json", str(fine)]
    with proxy_process(tmp_path, "source", arguments, Secret(ACCESS_TOKEN)) as proxy:
        assert await proxy.exit_code() == ExitCode.NETWORK
        told = [json.loads(line) for line in proxy.output.splitlines() if line[:1] == "{"]
        delays = [event["delay"] for event in told if event["event"] == "reconnecting"]
        assert len(delays) == 3
        # Full jitter, from the shortest there is to what doubles.
        for delay, longest in zip(delays, (0.05, 0.08, 0.16), strict=True):
            assert 0.05 <= delay <= longest


@pytest.mark.parametrize("reconnect", [True, False])
async def test_a_service_that_breaks_the_protocol_is_left_or_tried_again(
    tmp_path: Path, reconnect: bool
):
    """``reconnect_on_data_error`` of the settings file."""
    fine = tmp_path / "settings.json"
    websocket = {"reconnect_on_data_error": str(reconnect).lower(), "retry_delay_ms": 20}
    fine.write_text(json.dumps({"tunneling": {"proxy": {"websocket": websocket}}}))

    def script(peer: Peer) -> None:
        peer.upgrade(frame(BINARY, b"\0\0"))  # a message of no bytes
        peer.read_to_end()

    certificates = Certificates(tmp_path)
    with ScriptedService(certificates, script) as service:
        arguments = ["-e", f"localhost:{service.port}", "-c", str(certificates.ca_file)]
        arguments += ["-d", "SSH=9", "--settings-json", str(fine)]
        with proxy_process(tmp_path, "destination", arguments, Secret(ACCESS_TOKEN)) as proxy:
            if reconnect:
                await until(lambda: service.connections >= 3, "more links")
                assert proxy.running
            else:
                assert await proxy.exit_code() == ExitCode.PROTOCOL
                assert service.connections == 1
                assert "Traceback" not in proxy.log
