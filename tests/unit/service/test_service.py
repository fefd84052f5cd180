"""A service inside another program."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tailrace
from support.processes.forks import run_forked
from support.service import control_client, dial, trust
from support.waiting import HANG
from tailrace.aws import ControlClient
from tailrace.errors import CallRefused, ConfigurationError, ListenError
from tailrace.service.service import Service, _temporary_directory
from tailrace.wire import SUBPROTOCOL_V3


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def contents(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def call(client: ControlClient, operation: str, **parameters: Any) -> dict[str, Any]:
    return await asyncio.to_thread(client.call, operation, parameters)


async def test_it_is_ready_on_entry_and_gone_at_the_end(temporary: Path, loop_kind: str) -> None:
    async with tailrace.Service() as service:
        opened = await call(control_client(service.endpoints), "OpenTunnel")
        async with dial(service.endpoints, "source", opened["sourceAccessToken"]) as source:
            (directory,) = contents(temporary)
            assert directory.stat().st_mode & 0o777 == 0o700
            endpoints = service.endpoints
        assert await source.close_code() is not None
    assert contents(temporary) == []
    host, _, port = endpoints.data_endpoint.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


async def test_its_client() -> None:
    async with Service() as service, service.client() as client:
        assert isinstance(client, tailrace.Client)
        opened = await client.open(services=["SSH"])
        assert [each.tunnel_id async for each in client.list()] == [opened.tunnel_id]
        token = opened.source_token.reveal()
        async with dial(service.endpoints, "source", token, expect_ids=["SSH"]):
            pass


def test_a_forked_process_leaves_the_state_to_the_service(temporary: Path) -> None:
    directory = _temporary_directory()

    def leave() -> None:
        directory.__exit__(None, None, None)

    with directory as path:
        run_forked(leave)
        assert path.is_dir()
    assert contents(temporary) == []


async def test_a_state_directory_outlives_it(tmp_path: Path, temporary: Path) -> None:
    service = Service(tmp_path / "state")
    async with service:
        opened = await call(control_client(service.endpoints), "OpenTunnel")
        key = service.endpoints.access_key_id
    async with service:
        described = await call(
            control_client(service.endpoints), "DescribeTunnel", tunnelId=opened["tunnelId"]
        )
        assert described["tunnel"]["status"] == "OPEN"
        assert service.endpoints.access_key_id == key
    assert contents(temporary) == []
    assert not (tmp_path / "state" / "ready.json").exists()


async def test_the_environment_is_that_of_the_command(tmp_path: Path) -> None:
    async with Service(tmp_path / "state", region="eu-west-1") as service:
        printed = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "tailrace", "env", "--state-dir", tmp_path / "state"],
            capture_output=True,
            text=True,
            check=True,
            timeout=HANG,
        )
        lines = printed.stdout.splitlines()
        exported = dict(
            line.removeprefix("export ").split("=", 1) for line in lines if "export" in line
        )
        assert service.environment() == exported
        assert exported["AWS_REGION"] == "eu-west-1"


async def test_the_environment_is_enough_for_other_processes() -> None:
    async with Service() as service:
        environment = {"PATH": os.environ["PATH"], **service.environment()}
        listed = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "tailrace", "tunnel", "list", "--json"],
            capture_output=True,
            text=True,
            check=True,
            timeout=HANG,
            env=environment,
        )
        assert '"tunnelSummaries": []' in listed.stdout


async def test_settings_are_used(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    audit = tmp_path / "audit.log"
    async with Service(
        str(tmp_path / "state"),
        host="0.0.0.0",
        api_port=port,
        host_names=["tunnel.example"],
        limits="aws",
        audit_log=audit,
    ) as service:
        assert service.endpoints.api_endpoint == f"https://tunnel.example:{port}"
    async with Service(limits=tailrace.Limits(services=1), audit_log=audit) as service:
        client = control_client(service.endpoints)
        await call(client, "OpenTunnel", destinationConfig={"services": ["a"]})
        with pytest.raises(CallRefused):
            await call(client, "OpenTunnel", destinationConfig={"services": ["a", "b"]})
    assert "OpenTunnel" in audit.read_text()


async def test_things_are_notified_by_a_command(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = f"import sys; open({str(told)!r}, 'w').write(sys.stdin.read())"
    async with Service(notify_command=[sys.executable, "-c", script]) as service:
        parameters = {"destinationConfig": {"thingName": "pump-7", "services": ["SSH"]}}
        await call(control_client(service.endpoints), "OpenTunnel", **parameters)
    assert '"thingName": "pump-7"' in told.read_text()


@pytest.mark.parametrize(
    ("settings", "said", "setting"),
    [
        ({"api_port": -1}, "api_port -1 is not a port from 0 to 65535", "api_port"),
        ({"data_port": 65536}, "data_port 65536 is not a port from 0 to 65535", "data_port"),
        ({"region": "us east"}, "region 'us east' is not a name such as us-east-1", "region"),
        ({"limits": "azure"}, "limits 'azure' is neither an object nor one of: ", "limits"),
        (
            {"limits": tailrace.Limits(services=0)},
            "limits: services 0 is not a whole number from 1 to 450",
            "limits",
        ),
        ({"tls_key": "key.pem"}, "tls_key needs tls_cert", "tls_key"),
        ({"mqtt_url": "http://h"}, "mqtt_url must be mqtt://HOST", "mqtt_url"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], said: str, setting: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Service(**settings)
    assert str(caught.value).startswith(said)
    assert caught.value.setting == setting


@pytest.mark.parametrize("argument", ["api_port", "data_port"])
async def test_a_busy_port(temporary: Path, argument: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        service = Service(**{argument: port})
        with pytest.raises(ListenError) as caught:
            await service.__aenter__()
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port} ({argument}): Address already in use; stop what "
        f"listens there, or choose another port with {argument}"
    )
    assert caught.value.setting == argument
    assert contents(temporary) == []
    # What was in the way is gone.
    async with service:
        pass


async def test_a_file_that_is_missing(temporary: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read /no/cert: No such file"):
        await Service(tls_cert="/no/cert").__aenter__()
    assert contents(temporary) == []


async def test_a_state_directory_in_use(tmp_path: Path) -> None:
    async with Service(tmp_path / "state"):
        with pytest.raises(ConfigurationError, match=r"another service uses .*another state_dir"):
            await Service(tmp_path / "state").__aenter__()


async def test_it_is_used_inside_of_its_block() -> None:
    service = Service()
    uses: list[Callable[[], object]] = [
        lambda: service.endpoints,
        service.environment,
        service.client,
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match="use it inside its async with block"):
            use()
    async with service:
        with pytest.raises(RuntimeError, match="in use already"):
            await service.__aenter__()
        for use in uses:
            use()
    for use in uses:
        with pytest.raises(RuntimeError, match="not running"):
            use()


async def test_the_directory_of_the_program_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    service = Service("state")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    async with service:
        assert (tmp_path / "state" / "ready.json").exists()


class TestGuest:
    async def test_what_belongs_to_the_program_stays(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def belongings() -> list[object]:
            names = ("", "tailrace", "asyncio", "picows", "uvicorn.error", "uvicorn.access")
            loggers = [logging.getLogger(name) for name in names]
            return [
                asyncio.get_event_loop_policy(),
                asyncio.get_running_loop().get_exception_handler(),
                {number: signal.getsignal(number) for number in signal.valid_signals()},
                os.umask(0o22),
                dict(os.environ),
                [(each.level, each.propagate, list(each.handlers)) for each in loggers],
                sys.unraisablehook,
                threading.excepthook,
            ]

        caplog.set_level(logging.INFO)
        os.umask(0o22)
        before = belongings()
        async with Service() as service:
            during = belongings()
            await call(control_client(service.endpoints), "ListTunnels")
        assert belongings() == before
        # All but the handler of the loop, which is passed on what is not the service's.
        assert during[:1] + during[2:] == before[:1] + before[2:]
        assert "service is ready" in caplog.text
        assert {each.name.partition(".")[0] for each in caplog.records} <= {"tailrace", "asyncio"}

    async def test_several_in_one_loop(self, temporary: Path) -> None:
        """Each with tunnels and keys of its own."""
        async with contextlib.AsyncExitStack() as stack:
            services = [await stack.enter_async_context(Service()) for _ in range(3)]
            assert len({each.endpoints.data_endpoint for each in services}) == 3
            clients = [control_client(each.endpoints) for each in services]
            opened = await call(clients[0], "OpenTunnel")
            async with dial(services[0].endpoints, "source", opened["sourceAccessToken"]):
                lists = [await call(client, "ListTunnels") for client in clients]
            assert [len(each["tunnelSummaries"]) for each in lists] == [1, 0, 0]
            assert len(contents(temporary)) == 3
        assert contents(temporary) == []

    def test_in_a_thread(self, temporary: Path) -> None:
        async def serve() -> int:
            async with Service() as service:
                return len(await call(control_client(service.endpoints), "ListTunnels"))

        with contextlib.ExitStack() as stack:
            found: list[int] = []
            thread = threading.Thread(target=lambda: found.append(asyncio.run(serve())))
            thread.start()
            stack.callback(thread.join, HANG)
        assert found == [1]
        assert contents(temporary) == []


@contextlib.contextmanager
def threads_end() -> Iterator[None]:
    """Check that no thread is left; those of the loop itself stay as long as the loop."""
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    assert [each for each in left if not each.name.startswith("asyncio_")] == []


class TestCancelled:
    async def use(self, service: Service, entered: asyncio.Event) -> None:
        async with service:
            entered.set()
            await asyncio.Event().wait()

    async def test_starting(self, temporary: Path) -> None:
        """After any number of turns of the loop, until it has started."""
        loop, turns, entered = asyncio.get_running_loop(), 0, asyncio.Event()
        with threads_end():
            while not entered.is_set():
                task = loop.create_task(self.use(Service(), entered))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(task, HANG)
                assert contents(temporary) == []
                turns += 1
        assert turns > 3

    async def test_stopping(self, temporary: Path) -> None:
        loop = asyncio.get_running_loop()
        with threads_end():
            for turns in (0, 1, 2, 4, 8, 16):
                service, entered = Service(), asyncio.Event()
                task = loop.create_task(self.use(service, entered))
                await entered.wait()
                opened = await call(control_client(service.endpoints), "OpenTunnel")
                token = opened["sourceAccessToken"]
                async with dial(service.endpoints, "source", token) as source:
                    task.cancel()
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await asyncio.wait_for(task, HANG)
                    assert await source.close_code() == (1006, "")
                assert contents(temporary) == []

    def test_the_program_ends(self, temporary: Path) -> None:
        """With the service in a task that it has not waited for, and clients of all kinds."""

        async def main() -> None:
            service, entered = Service(), asyncio.Event()
            tasks.append(asyncio.get_running_loop().create_task(self.use(service, entered)))
            await entered.wait()
            opened = await call(control_client(service.endpoints), "OpenTunnel")
            endpoints, token = service.endpoints, opened["sourceAccessToken"]
            for endpoint in (endpoints.data_endpoint, endpoints.api_endpoint[8:]):
                host, port = endpoint.split(":")
                clients.append(socket.create_connection((host, int(port))))
                clients.append(await asyncio.to_thread(connect, endpoint, trust(endpoints)))
            source = await asyncio.to_thread(connect, endpoints.data_endpoint, trust(endpoints))
            clients.append(source)
            await asyncio.to_thread(upgrade, source, token)

        tasks: list[asyncio.Task[None]] = []
        clients: list[socket.socket] = []
        with threads_end(), contextlib.ExitStack() as stack:
            asyncio.run(main())
            for client in clients:
                stack.enter_context(client)
                client.settimeout(HANG)
                with contextlib.suppress(ConnectionError):
                    while client.recv(1000):
                        pass
        assert tasks[0].cancelled()
        assert contents(temporary) == []


def connect(endpoint: str, context: ssl.SSLContext) -> socket.socket:
    """Return a connection behind the handshake of TLS."""
    host, port = endpoint.split(":")
    client = socket.create_connection((host, int(port)), HANG)
    return context.wrap_socket(client, server_hostname=host, suppress_ragged_eofs=True)


def upgrade(client: socket.socket, token: str) -> None:
    """Make a link of it."""
    client.sendall(
        b"GET /tunnel?local-proxy-mode=source HTTP/1.1\r\nHost: localhost\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: 9/h0zvwMEXrg06G+RjnmcA==\r\nSec-WebSocket-Version: 13\r\n"
        + f"access-token: {token}\r\n".encode()
        + f"Sec-WebSocket-Protocol: {SUBPROTOCOL_V3}\r\n\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(1)
    assert answer.startswith(b"HTTP/1.1 101 ")
