"""The service as a whole: start, stop, restart, expiry."""

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import ssl
import stat
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trustme
from websockets.exceptions import InvalidStatus

from support.service import api, config, dial, running, trust
from support.waiting import HANG, until
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError, ListenError
from tailrace.mqtt.settings import BrokerSettings
from tailrace.service.config import Address, Endpoints, OperationSettings
from tailrace.service.errors import StoreFailed
from tailrace.service.identity.key_store import (
    ACCESS_KEY_VARIABLE,
    SECRET_KEY_VARIABLE,
    KeyFile,
    credentials_file,
)
from tailrace.service.tunneling_service import TunnelingService
from tailrace.service.tunnels.rules import TunnelSpec
from tailrace.service.tunnels.sqlite_store import SqliteStore
from tailrace.service.tunnels.store import Things
from tailrace.wire import Message, MessageType

CLIENT = "2da438cf-9a30-4148-b236-c338182f243c"


async def test_ready_files(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    settings = config(tmp_path / "state", ready_file=ready)
    async with running(settings) as service:
        document = json.loads(ready.read_bytes())
        assert set(document) == {
            "api_endpoint",
            "data_endpoint",
            "ca_file",
            "ca_dir",
            "region",
            "access_key_id",
            "secret_access_key",
            "pid",
            "api_listen",
            "data_listen",
        }
        assert stat.S_IMODE(ready.stat().st_mode) == 0o600
        assert document["pid"] == os.getpid()
        assert Endpoints.read(ready) == service.endpoints
        assert Endpoints.read(settings.own_ready_file) == service.endpoints
    assert not ready.exists()
    assert not settings.own_ready_file.exists()


async def test_tunnels_and_tokens_survive_a_restart(tmp_path: Path) -> None:
    settings = config(tmp_path / "state")
    async with running(settings) as service:
        first = service.endpoints
        client = api(first)
        opened = await asyncio.to_thread(client.open_tunnel)
        client.close()
        token = opened["sourceAccessToken"]
        async with dial(first, "source", token, client_token=CLIENT):
            pass
    async with running(settings) as service:
        second = service.endpoints
        assert second.access_key_id == first.access_key_id
        assert second.secret_access_key == first.secret_access_key
        record = service.queries.describe(opened["tunnelId"])
        assert record.status == "OPEN"
        assert record.source.status == "DISCONNECTED"
        async with dial(second, "source", token, client_token=CLIENT):
            pass


async def test_expiry_ends_links_with_close_1000(tmp_path: Path) -> None:
    """The service's clock jumps to the end of the tunnel; the timer notices."""
    offset = 0.0

    def clock() -> float:
        return time.time() + offset

    async with running(config(tmp_path / "state"), clock=clock) as service:
        client = api(service.endpoints)
        opened = await asyncio.to_thread(
            client.open_tunnel, timeoutConfig={"maxLifetimeTimeoutMinutes": 1}
        )
        async with dial(service.endpoints, "source", opened["sourceAccessToken"]) as peer:
            # As if the clock was set, or the machine had slept: nobody tells the service.
            offset = 60.0
            code = await asyncio.wait_for(peer.close_code(), HANG)
            assert code == (1000, "The tunnel has expired")
        assert service.queries.describe(opened["tunnelId"]).status == "CLOSED"
        client.close()


@pytest.mark.parametrize("option", ["api_listen", "data_listen"])
async def test_a_busy_port(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        service = TunnelingService(
            config(tmp_path / "state", **{option: Address("127.0.0.1", port)})
        )
        with pytest.raises(ListenError) as caught:
            await service.start()
    text = str(caught.value)
    assert f"127.0.0.1:{port}" in text
    assert f"({option})" in text
    # Nothing is held back by the failed start.
    async with running(config(tmp_path / "state")):
        pass


async def test_a_host_that_does_not_exist(tmp_path: Path) -> None:
    settings = config(tmp_path / "state", api_listen=Address("no.such.host.invalid", 0))
    with pytest.raises(ListenError, match=r"no\.such\.host\.invalid"):
        await TunnelingService(settings).start()


async def test_one_service_per_state_directory(tmp_path: Path) -> None:
    async with running(config(tmp_path / "state")):
        with pytest.raises(ConfigurationError, match="another service"):
            await TunnelingService(config(tmp_path / "state")).start()


async def test_all_addresses(tmp_path: Path) -> None:
    settings = config(
        tmp_path / "state",
        api_listen=Address("0.0.0.0", 0),
        data_listen=Address("::", 0),
        region="eu-west-1",
    )
    async with running(settings) as service:
        assert service.endpoints.api_endpoint.startswith("https://localhost:")
        assert service.endpoints.data_endpoint.startswith("localhost:")
        client = api(service.endpoints)
        opened = await asyncio.to_thread(client.open_tunnel)
        client.close()
        assert opened["tunnelArn"].startswith("arn:aws:iot:eu-west-1:000000000000:tunnel/")
        async with dial(service.endpoints, "source", opened["sourceAccessToken"]):
            pass
    named = config(
        tmp_path / "state", data_listen=Address("0.0.0.0", 0), host_names=("tunnel.example",)
    )
    async with running(named) as service:
        assert service.endpoints.data_endpoint.startswith("tunnel.example:")


async def test_a_service_that_does_not_run_has_no_endpoints(tmp_path: Path) -> None:
    service = TunnelingService(config(tmp_path / "state"))
    with pytest.raises(RuntimeError):
        _ = service.endpoints
    await service.stop()


async def test_the_end_of_the_api_is_noticed(tmp_path: Path) -> None:
    async with running(config(tmp_path / "state")) as service:
        failed = asyncio.get_running_loop().create_task(service.failed())
        await asyncio.sleep(0)
        assert not failed.done()
        service._running.api._server.should_exit = True
        await asyncio.wait_for(failed, HANG)


async def test_secrets_stay_out_of_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    async with running(config(tmp_path / "state")) as service:
        client = api(service.endpoints)
        opened = await asyncio.to_thread(client.open_tunnel)
        client.close()
        async with dial(
            service.endpoints, "source", opened["sourceAccessToken"], client_token=CLIENT
        ):
            pass
        secret = service.endpoints.secret_access_key
    ours = [record for record in caplog.records if record.name.startswith("tailrace")]
    assert ours
    for record in ours:
        text = record.getMessage()
        for hidden in (opened["sourceAccessToken"], CLIENT, secret):
            assert hidden not in text


async def test_the_certificate_is_loaded_again(tmp_path: Path) -> None:
    def issue() -> trustme.CA:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
        return authority

    issue()
    operation = OperationSettings(
        tls_cert=tmp_path / "server.pem",
        tls_ca=tmp_path / "ca.pem",
        audit_log=tmp_path / "audit",
    )
    async with running(config(tmp_path / "state", operation=operation)) as service:
        client = api(service.endpoints)
        opened = await asyncio.to_thread(client.open_tunnel)
        old = trust(service.endpoints)
        async with dial(service.endpoints, "source", opened["sourceAccessToken"], ssl=old) as peer:
            issue()
            os.rename(tmp_path / "audit", tmp_path / "audit.1")
            service.reload()
            with pytest.raises(ssl.SSLCertVerificationError):
                async with dial(
                    service.endpoints, "destination", opened["destinationAccessToken"], ssl=old
                ):
                    pass
            async with dial(
                service.endpoints, "destination", opened["destinationAccessToken"]
            ) as other:
                # A client that was connected stays.
                await peer.send(Message(MessageType.STREAM_START, 1))
                assert (await other.recv()).type == MessageType.STREAM_START
        client.close()
        fresh = api(service.endpoints)
        await asyncio.to_thread(fresh.close_tunnel, tunnelId=opened["tunnelId"])
        fresh.close()
        (tmp_path / "server.pem").write_text("junk")
        with pytest.raises(ConfigurationError, match=r"server\.pem"):
            service.reload()
        assert "CloseTunnel" in (tmp_path / "audit").read_text()
        assert "OpenTunnel" in (tmp_path / "audit.1").read_text()


@pytest.mark.parametrize("broken", ["server.pem", "audit", "credentials.json"])
async def test_reloading_takes_all_or_nothing(tmp_path: Path, broken: str) -> None:
    state = tmp_path / "state"
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued.write_to_path(tmp_path / "server.pem")
    operation = OperationSettings(
        tls_cert=tmp_path / "server.pem",
        tls_ca=tmp_path / "ca.pem",
        audit_log=tmp_path / "audit",
    )
    async with running(config(state, operation=operation)) as service:
        trusted = trust(service.endpoints)
        own = service.endpoints.access_key_id
        # Everything changes, and one thing to what cannot be used.
        trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
            tmp_path / "server.pem"
        )
        (tmp_path / "audit").rename(tmp_path / "audit.1")
        KeyFile(credentials_file(state)).revoke(own)
        path = (state if broken == "credentials.json" else tmp_path) / broken
        path.unlink(missing_ok=True)
        path.mkdir()
        with pytest.raises(ConfigurationError, match=broken):
            service.reload()
        # Where it was audited, by which key, and who vouches for the service.
        if broken != "credentials.json":
            assert service._running.state.keys._keys.keys() == {own}
        tunnel = service._running.control.open_tunnel(TunnelSpec())
        with pytest.raises(InvalidStatus):
            async with dial(service.endpoints, "source", "junk", ssl=trusted):
                pass
        async with dial(service.endpoints, "source", tunnel.source_token.reveal(), ssl=trusted):
            pass
    assert '"connected"' in (tmp_path / "audit.1").read_text()


async def test_its_own_certificate_is_renewed_by_reloading(tmp_path: Path) -> None:
    offset = 0.0
    settings = config(tmp_path / "state")
    async with running(settings, clock=lambda: time.time() + offset) as service:
        before = (tmp_path / "state" / "tls" / "server.pem").read_bytes()
        service.reload()
        assert (tmp_path / "state" / "tls" / "server.pem").read_bytes() == before
        offset = 380 * 86400
        service.reload()
        assert (tmp_path / "state" / "tls" / "server.pem").read_bytes() != before


async def test_its_own_certificate_is_renewed_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("tailrace.service.tunneling_service._RENEWAL_SECONDS", 0.01)
    offset = -380 * 86400.0
    settings = config(tmp_path / "state")
    async with running(settings, clock=lambda: time.time() + offset) as service:
        host, _, port = service.endpoints.data_endpoint.rpartition(":")

        async def shown() -> bytes:
            context = trust(service.endpoints)
            _, writer = await asyncio.open_connection(host, int(port), ssl=context)
            certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
            writer.transport.abort()
            return certificate

        before = await shown()
        (settings.state_dir / "tls").chmod(0o777)
        await until(lambda: "chmod 755" in caplog.text, "a line about the renewal that failed")
        assert await shown() == before
        (settings.state_dir / "tls").chmod(0o700)
        offset = 0.0
        await until(lambda: "connections get a new one" in caplog.text, "a new certificate")
        assert await shown() != before
    assert caplog.text.count("connections get a new one") == 1


def holding(directory: Path, text: str) -> list[Path]:
    """Return the files in which a text is."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return [path for path in files if text.encode() in path.read_bytes()]


async def test_a_key_from_the_environment_is_written_nowhere(tmp_path: Path) -> None:
    given = {ACCESS_KEY_VARIABLE: "AKGIVEN", SECRET_KEY_VARIABLE: "secret-of-the-environment"}
    settings = config(tmp_path / "state", environment=given, ready_file=tmp_path / "ready")
    async with running(settings) as service:
        client = api(service.endpoints, aws_secret_access_key=given[SECRET_KEY_VARIABLE])
        assert (await asyncio.to_thread(client.list_tunnels))["tunnelSummaries"] == []
        client.close()
        for path in (settings.own_ready_file, tmp_path / "ready"):
            endpoints = Endpoints.read(path)
            assert (endpoints.access_key_id, endpoints.secret_access_key) == ("AKGIVEN", "")
        assert holding(tmp_path, given[SECRET_KEY_VARIABLE]) == []
        assert holding(tmp_path, "AKGIVEN") != []


async def test_requests_under_way_are_answered_before_it_stops(tmp_path: Path) -> None:
    service = TunnelingService(config(tmp_path / "state"))
    await service.start()
    parts = urlsplit(service.endpoints.api_endpoint)
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port, ssl=trust(service.endpoints)
    )
    writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{")
    await writer.drain()
    client = api(service.endpoints)
    await asyncio.to_thread(client.list_tunnels)
    client.close()
    stopping = asyncio.get_running_loop().create_task(service.stop())
    while service._accepting:
        await asyncio.sleep(0)
    writer.write(b"}")
    async with asyncio.timeout(HANG):
        answer = await reader.read()
        await stopping
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"MissingAuthenticationTokenException" in answer
    writer.transport.abort()


async def test_stopping_records_all_links_as_gone(tmp_path: Path) -> None:
    settings = config(tmp_path / "state")
    async with running(settings) as service:
        client = api(service.endpoints)
        opened = await asyncio.to_thread(client.open_tunnel)
        client.close()
        async with dial(service.endpoints, "source", opened["sourceAccessToken"]) as peer:
            await service.stop()
            assert await peer.close_code() == (1006, "")
    store = SqliteStore.open(settings.database)
    record = store.tunnel(opened["tunnelId"])
    store.close()
    assert record is not None
    assert record.source.status == "DISCONNECTED"


async def test_things_are_notified(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    operation = OperationSettings(
        notify_command=("/bin/sh", "-c", f"cat > {saved}.new; mv {saved}.new {saved}"),
        mqtt=BrokerSettings("127.0.0.1", 1),
    )
    async with running(config(tmp_path / "state", operation=operation)) as service:
        client = api(service.endpoints)
        opened = await asyncio.to_thread(
            client.open_tunnel, destinationConfig={"thingName": "lamp", "services": ["SSH"]}
        )
        await asyncio.to_thread(client.open_tunnel)
        client.close()
        async with asyncio.timeout(HANG):
            while not saved.exists():
                await asyncio.sleep(0.01)
        document = json.loads(saved.read_text())
        assert document["thingName"] == "lamp"
        expires = service.queries.describe(opened["tunnelId"]).expires_at
        assert document["notification"] == {
            "clientAccessToken": opened["destinationAccessToken"],
            "clientMode": "destination",
            "region": "us-east-1",
            "services": ["SSH"],
            "tunnelId": opened["tunnelId"],
            "expiresAt": int(expires),
            "tokenId": Secret(opened["destinationAccessToken"]).digest[:16],
        }


async def test_a_busy_metrics_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        address = Address("127.0.0.1", busy.getsockname()[1])
        operation = OperationSettings(metrics_listen=address)
        with pytest.raises(ListenError, match="metrics_listen"):
            await TunnelingService(config(tmp_path / "state", operation=operation)).start()


async def test_a_store_that_fails_at_the_end_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise StoreFailed("disk full")

    async with running(config(tmp_path / "state")):
        monkeypatch.setattr(SqliteStore, "reset_connections", fail)
    assert "connection states not recorded: disk full" in caplog.text


async def test_closed_tunnels_are_forgotten_after_three_hours(tmp_path: Path) -> None:
    offset = 0.0
    async with running(config(tmp_path / "state"), clock=lambda: time.time() + offset) as service:
        client = api(service.endpoints)
        tunnel_id = (await asyncio.to_thread(client.open_tunnel))["tunnelId"]
        await asyncio.to_thread(client.close_tunnel, tunnelId=tunnel_id)
        client.close()
        offset = 3 * 3600 - 60.0
        await asyncio.sleep(1.1)
        assert service.queries.describe(tunnel_id).status == "CLOSED"
        offset = 3 * 3600 + 60.0
        async with asyncio.timeout(HANG):
            while (await service.queries.page(Things(), None, 1, "")).tunnels:
                await asyncio.sleep(0.05)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def settle() -> None:
    """Let transports close, which takes turns of the loop."""
    for _ in range(5):
        await asyncio.sleep(0)


async def cancel_after(turns: int, work: Coroutine[Any, Any, None]) -> bool:
    """Cancel ``work`` after so many turns of the loop; return whether it had not ended."""
    task = asyncio.get_running_loop().create_task(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    was_under_way = task.cancel()
    # A caller in a hurry cancels twice.
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(task, HANG)
    return was_under_way


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
class TestCancelled:
    async def test_starting(self, tmp_path: Path, loop_kind: str) -> None:
        loop = asyncio.get_running_loop()
        metrics = OperationSettings(metrics_listen=Address("127.0.0.1", 0))
        settings = config(tmp_path / "state", operation=metrics)
        async with running(settings):
            pass
        await settle()
        before, tasks = descriptors(), asyncio.all_tasks()
        turns = 0
        service = TunnelingService(settings)
        while await cancel_after(turns, service.start()):
            await settle()
            assert descriptors() <= before
            assert asyncio.all_tasks() <= tasks
            assert loop.get_exception_handler() is None
            assert not settings.own_ready_file.exists()
            turns += 1
            service = TunnelingService(settings)
        assert turns > 3
        await service.stop()

    async def test_stopping(self, tmp_path: Path, loop_kind: str) -> None:
        """With connections that have got nowhere, which would be waited for."""
        loop = asyncio.get_running_loop()
        settings = config(tmp_path / "state")
        async with running(settings):
            pass
        await settle()
        before, tasks = descriptors(), asyncio.all_tasks()
        turns, was_under_way = 1, True
        while was_under_way:
            service = TunnelingService(settings)
            await service.start()
            endpoints = service.endpoints
            clients = [
                await asyncio.open_connection(*address.split(":"))
                for address in (endpoints.data_endpoint, endpoints.api_endpoint[8:])
            ]
            for address in (endpoints.data_endpoint, endpoints.api_endpoint[8:]):
                # Those before have been accepted when this one is.
                host, port = address.split(":")
                _, writer = await asyncio.open_connection(host, int(port), ssl=trust(endpoints))
                writer.transport.abort()
            was_under_way = await cancel_after(turns, service.stop())
            for reader, writer in clients:
                assert await asyncio.wait_for(reader.read(), HANG) == b""
                writer.close()
            await settle()
            assert descriptors() <= before
            assert asyncio.all_tasks() <= tasks
            assert loop.get_exception_handler() is None
            assert not settings.own_ready_file.exists()
            with pytest.raises(RuntimeError):
                _ = service.endpoints
            turns += 1 + turns // 4
        assert turns > 3

    async def test_all_tasks_of_the_loop(self, tmp_path: Path) -> None:
        """As asyncio.run does at its end, when the program has left one behind."""
        settings = config(tmp_path / "state")
        loop = asyncio.get_running_loop()
        before, others = descriptors(), asyncio.all_tasks()

        async def serve() -> None:
            async with running(settings):
                started.set()
                await asyncio.Event().wait()

        started = asyncio.Event()
        task = loop.create_task(serve())
        await started.wait()
        for each in asyncio.all_tasks() - others:
            each.cancel()
        await asyncio.wait([task])
        await settle()
        assert descriptors() <= before
        assert asyncio.all_tasks() <= others
        assert not settings.own_ready_file.exists()


class TestGuest:
    """A service is a guest in the program and its event loop."""

    async def test_two_in_one_loop(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """They stop in the order in which they started, and do not count for each other."""
        loop = asyncio.get_running_loop()
        first, second = [TunnelingService(config(tmp_path / name)) for name in ("a", "b")]
        await first.start()
        await second.start()
        leave_early(first)
        await counted(first, 1)
        assert await early_leavers(second) == 0
        await first.stop()
        leave_early(second)
        await counted(second, 1)
        await second.stop()
        assert loop.get_exception_handler() is None
        assert not [each for each in caplog.records if each.levelno >= logging.WARNING]

    async def test_logging_stays_as_it_was(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Of the program, which may run uvicorn for itself."""
        names = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "asyncio")
        handler = logging.NullHandler()
        access = logging.getLogger("uvicorn.access")
        access.addHandler(handler)
        try:
            level_name = logging.getLevelName(5)
            before = [vars(logging.getLogger(name)) | {"_cache": None} for name in names]
            async with running(config(tmp_path / "state")) as service:
                await early_leavers(service)
            after = [vars(logging.getLogger(name)) | {"_cache": None} for name in names]
            assert after == before
            assert access.handlers == [handler]
            assert logging.getLevelName(5) == level_name
        finally:
            access.removeHandler(handler)
        assert not [each for each in caplog.records if each.name.startswith("uvicorn")]


def leave_early(service: TunnelingService) -> None:
    """Connect as a health check does."""
    host, port = service.endpoints.data_endpoint.split(":")
    socket.create_connection((host, int(port))).close()


async def early_leavers(service: TunnelingService) -> int:
    """Return how many clients the metrics say have left before TLS."""
    endpoints = service.endpoints
    async with httpx.AsyncClient(
        base_url=endpoints.api_endpoint, verify=trust(endpoints)
    ) as client:
        text = (await client.get("/metrics")).text
    found = re.search(r'refused_total{cause="tls_not_finished"} (\d+)', text)
    return int(found[1]) if found else 0


async def counted(service: TunnelingService, number: int) -> None:
    async with asyncio.timeout(HANG):
        while await early_leavers(service) != number:
            await asyncio.sleep(0.01)
