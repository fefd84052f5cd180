"""Things that wait at the service, and who may not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.service import config, running
from support.waiting import HANG, until
from tailrace.aws import ControlAPI, Credentials
from tailrace.aws.event_stream import Event, EventReader
from tailrace.common.notification_stream import KEEP_ALIVE, STREAM_PATH
from tailrace.common.secret import Secret
from tailrace.errors import CallRefused, ControlError, ControlThrottled, CredentialsRefused
from tailrace.service.api import waiting_room as module
from tailrace.service.config import OperationSettings
from tailrace.service.identity.key_store import KeyFile, credentials_file, new_key
from tailrace.service.identity.policy import EVERYTHING, AccessKey, Policy, device_policy
from tailrace.service.limits import Limits
from tailrace.service.notify.mailbox import Mailbox
from tailrace.service.tunneling_service import TunnelingService


class Office:
    """A service, and clients of it with different keys."""

    def __init__(self, state_dir: Path, service: TunnelingService) -> None:
        self.state_dir = state_dir
        self.service = service
        self.keys = KeyFile(credentials_file(state_dir))
        endpoints = service.endpoints
        self.operator = self.api(endpoints.access_key_id, endpoints.secret_access_key)
        self.open: list[ControlAPI] = [self.operator]

    @property
    def mailbox(self) -> Mailbox:
        return self.service._running.control.mailbox

    def api(self, key_id: str, secret: str) -> ControlAPI:
        endpoints = self.service.endpoints
        return ControlAPI(
            endpoints.api_endpoint,
            endpoints.region,
            Credentials(key_id, Secret(secret)),
            Path(endpoints.ca_file),
            attempts=1,
            environment={},
        )

    def client(self, policy: Policy) -> tuple[ControlAPI, AccessKey]:
        key = new_key("test", time.time(), policy)
        self.keys.add(key, time.time())
        made = self.api(key.access_key_id, key.secret_access_key.reveal())
        self.open.append(made)
        return made, key

    async def open_tunnel(self, thing: str = "pump-7") -> dict[str, Any]:
        destination = {"thingName": thing, "services": ["SSH"]}
        return await self.operator.call("OpenTunnel", {"destinationConfig": destination})

    async def waiting(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.operator.call("ListWaitingThings", {}))[
            "waitingThings"
        ]
        return found


@asynccontextmanager
async def office(tmp_path: Path, **changes: Any) -> AsyncIterator[Office]:
    async with running(config(tmp_path / "state", **changes)) as service:
        made = Office(tmp_path / "state", service)
        try:
            yield made
        finally:
            for each in made.open:
                await each.close()


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Office]:
    async with office(tmp_path) as made:
        yield made


class Listener:
    """One end of a stream."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._reader = EventReader()
        self._events: list[Event] = []

    async def event(self) -> Event:
        while not self._events:
            self._events += self._reader.feed(await anext(self._pieces))
        return self._events.pop(0)

    async def end(self) -> None:
        async for _ in self._pieces:
            pass


@asynccontextmanager
async def listening(api: ControlAPI, thing: str = "pump-7") -> AsyncIterator[Listener]:
    async with api.stream("Wait", STREAM_PATH, f"thing={thing}", HANG) as stream:
        assert stream.fields["content-type"] == "text/event-stream"
        pieces = stream.pieces()
        async with contextlib.aclosing(pieces):
            assert await anext(pieces) == KEEP_ALIVE
            yield Listener(pieces)


async def refusal(api: ControlAPI, query: str) -> ControlError:
    with pytest.raises(ControlError) as refused:
        async with api.stream("Wait", STREAM_PATH, query, HANG):
            raise AssertionError("it may wait")
    return refused.value


async def test_a_device_gets_its_notifications(at: Office) -> None:
    before = await at.open_tunnel()
    device, key = at.client(device_policy("pump-7"))
    async with listening(device) as listener:
        during = await at.open_tunnel()
        await at.open_tunnel("pump-8")
        for opened in (before, during):
            event = await listener.event()
            document = json.loads(event.data)
            assert document["clientAccessToken"] == opened["destinationAccessToken"]
            assert document["tunnelId"] == opened["tunnelId"]
            assert document["tokenId"] == event.event_id
        (found,) = await at.waiting()
        assert found.pop("since") == pytest.approx(time.time(), abs=HANG)
        assert found == {
            "thingName": "pump-7",
            "address": "127.0.0.1",
            "accessKeyId": key.access_key_id,
            "notifications": 2,
        }
        told = {"thingName": "pump-7", "tokenIds": [event.event_id]}
        assert await device.call("AcknowledgeNotifications", told) == {}
        assert (await at.waiting())[0]["notifications"] == 1
    await until(lambda: not at.mailbox.things, "the end of the stream")
    # What was not acknowledged comes again, and no more once the tunnel is closed.
    async with listening(device) as listener:
        assert json.loads((await listener.event()).data)["tunnelId"] == before["tunnelId"]
    await at.operator.call("CloseTunnel", {"tunnelId": before["tunnelId"]})
    async with listening(device) as listener:
        later = await at.open_tunnel()
        assert json.loads((await listener.event()).data)["tunnelId"] == later["tunnelId"]


async def test_a_device_may_do_nothing_else(at: Office) -> None:
    device, _ = at.client(device_policy("pump-7"))
    for operation, parameters in (
        ("OpenTunnel", {"destinationConfig": {"thingName": "pump-7", "services": ["SSH"]}}),
        ("ListTunnels", {"thingName": "pump-7"}),
        ("ListWaitingThings", {}),
        ("AcknowledgeNotifications", {"thingName": "pump-8", "tokenIds": ["a"]}),
        ("SendTestNotification", {"thingName": "pump-8"}),
    ):
        with pytest.raises(CredentialsRefused, match="not authorized to perform"):
            await device.call(operation, parameters)


async def test_a_test_is_not_for_those_who_wait_here(at: Office) -> None:
    device, _ = at.client(device_policy("pump-7"))
    sent = await device.call("SendTestNotification", {"thingName": "pump-7"})
    assert list(sent) == ["tokenId"]
    assert len(at.mailbox) == 0


@pytest.mark.parametrize(
    ("policy", "may"),
    [
        (EVERYTHING, True),
        (Policy(things=("pump-*",)), True),
        (device_policy("pump-7"), True),
        (device_policy("pump-70"), False),
        (Policy(things=("lamp",)), False),
        # A notification is a token.
        (Policy(read_only=True), False),
        (Policy(operations=("OpenTunnel", "ListTunnels")), False),
    ],
)
async def test_who_may_wait(at: Office, policy: Policy, may: bool) -> None:
    client, _ = at.client(policy)
    if may:
        async with listening(client):
            assert at.mailbox.things == 1
    else:
        error = await refusal(client, "thing=pump-7")
        assert isinstance(error, CredentialsRefused)
        assert "is not authorized to perform ReceiveNotifications" in str(error)


async def test_requests_that_make_no_sense(at: Office) -> None:
    for query in ("", "thing=", "thing=a&thing=b", f"thing={'a' * 129}", "thing=pump%207"):
        error = await refusal(at.operator, query)
        assert isinstance(error, CallRefused)
        assert "The query must name one thing" in str(error)
    stranger = at.api("AKNOBODY", "secret")
    assert isinstance(await refusal(stranger, "thing=pump-7"), CredentialsRefused)
    await stranger.close()
    assert not at.mailbox.things


async def test_a_thing_lists_those_that_its_key_allows(at: Office) -> None:
    reader, _ = at.client(Policy(read_only=True, things=("pump-*",)))
    async with listening(at.operator, "pump-7"), listening(at.operator, "lamp"):
        assert [each["thingName"] for each in await at.waiting()] == ["lamp", "pump-7"]
        document = await reader.call("ListWaitingThings", {})
        assert [each["thingName"] for each in document["waitingThings"]] == ["pump-7"]
        with pytest.raises(CredentialsRefused):
            await reader.call("ListWaitingThings", {"thingName": "lamp"})


async def test_of_one_thing_the_oldest_makes_room(at: Office) -> None:
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(listening(at.operator)) for _ in range(5)]
        await streams[0].end()
        await until(lambda: len(list(at.mailbox.waiters())) == 4, "the end of the oldest")
        await at.open_tunnel()
        for each in streams[1:]:
            await each.event()


async def test_the_number_of_streams_is_bounded(tmp_path: Path) -> None:
    async with office(tmp_path, limits=Limits(waiting_things=4)) as at:
        one, _ = at.client(EVERYTHING)
        async with contextlib.AsyncExitStack() as stack:
            for thing in ("a", "b"):
                await stack.enter_async_context(listening(one, thing))
            assert isinstance(await refusal(one, "thing=c"), ControlThrottled)
            for thing in ("c", "d"):
                await stack.enter_async_context(listening(at.operator, thing))
            another, _ = at.client(EVERYTHING)
            assert (await refusal(another, "thing=e")).code == "ServiceUnavailable"


async def test_a_stream_ends_with_its_key(at: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_SECONDS", 0.01)
    revoked, key = at.client(device_policy("pump-7"))
    less, other = at.client(EVERYTHING)
    async with listening(revoked) as first, listening(less) as second:
        at.keys.revoke(key.access_key_id)
        await first.end()
        at.keys.revoke(other.access_key_id)
        narrow = AccessKey(
            other.access_key_id, other.secret_access_key, policy=Policy(read_only=True)
        )
        at.keys.add(narrow, 0.0)
        await second.end()


async def test_a_revoked_key_gets_no_token_more(at: Office) -> None:
    revoked, key = at.client(device_policy("pump-7"))
    async with listening(revoked) as listener:
        at.keys.revoke(key.access_key_id)
        # What wakes the stream is what it must not send.
        await at.open_tunnel()
        with pytest.raises(StopAsyncIteration):
            await listener.event()
    assert len(at.mailbox) == 1


async def test_streams_are_kept_alive_and_end_after_a_while(
    at: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_SECONDS", 0.01)
    async with at.operator.stream("Wait", STREAM_PATH, "thing=a", HANG) as stream:
        pieces = stream.pieces()
        for _ in range(4):
            assert set((await anext(pieces)).split(KEEP_ALIVE)) == {b""}
        await pieces.aclose()
    monkeypatch.setattr(module, "_LIFE_SECONDS", 0.0)
    async with listening(at.operator) as listener:
        await listener.end()


async def test_who_takes_nothing_is_dropped(
    at: Office, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "KEEP_ALIVE_SECONDS", 0.001)
    monkeypatch.setattr(module, "_SEND_SECONDS", 0.2)
    monkeypatch.setattr(module, "KEEP_ALIVE", b":" + b"x" * 60_000 + b"\n\n")
    async with at.operator.stream("Wait", STREAM_PATH, "thing=a", HANG):
        await until(lambda: "it takes nothing" in caplog.text, "the end of the stream")
        assert not at.mailbox.things


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has it")
async def test_the_system_notices_clients_that_have_vanished(at: Office) -> None:
    async with listening(at.operator):
        timeouts = [
            connection.transport.get_extra_info("socket").getsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT
            )
            for connection in at.service._running.api._server.server_state.connections
        ]
        assert timeouts == [45_000]


async def test_the_service_stops_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with office(tmp_path) as at:
            listener = await stack.enter_async_context(listening(at.operator))
            at.open.clear()
            stack.push_async_callback(at.operator.close)
        await listener.end()
    assert "were dropped" not in caplog.text


async def test_no_stranger_is_shut_out_by_things_that_wait(
    tmp_path: Path,
) -> None:
    limits = Limits(connections=3, address_connections=3)
    async with office(tmp_path, limits=limits) as at:
        async with contextlib.AsyncExitStack() as stack:
            for number in range(8):
                await stack.enter_async_context(listening(at.operator, f"t{number}"))
            assert len(await at.waiting()) == 8


async def test_the_audit_log_tells_who_has_taken_what(tmp_path: Path) -> None:
    operation = OperationSettings(audit_log=tmp_path / "audit")
    async with office(tmp_path, operation=operation) as at:
        device, key = at.client(device_policy("pump-7"))
        opened = await at.open_tunnel()
        async with listening(device) as listener:
            event = await listener.event()
        told = {"thingName": "pump-7", "tokenIds": [event.event_id]}
        await device.call("AcknowledgeNotifications", told)
    lines = await asyncio.to_thread((tmp_path / "audit").read_text)
    last = json.loads(lines.splitlines()[-1])
    assert last["event"] == "AcknowledgeNotifications"
    assert (last["key"], last["thingName"]) == (key.access_key_id, "pump-7")
    assert last["tokenIds"] == [event.event_id]
    assert opened["destinationAccessToken"] not in lines


async def test_a_stream_leaves_no_descriptor(at: Office) -> None:
    async with listening(at.operator):
        pass
    await until(lambda: not at.mailbox.things, "the end of the stream")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        async with listening(at.operator):
            pass
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before, "descriptors to be closed")
