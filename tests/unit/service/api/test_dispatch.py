"""Operations by name, and the errors that clients get."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.waiting import HANG, until
from tailrace.common.secret import Secret
from tailrace.service.api.dispatch import perform
from tailrace.service.api.errors import ApiError
from tailrace.service.errors import StoreFailed
from tailrace.service.identity.policy import AccessKey, Policy
from tailrace.service.tunnels.rules import TunnelSpec
from tailrace.service.tunnels.sqlite_store import SqliteStore

KEY = AccessKey("AK", Secret("s"))


async def error_of(plane: Any, name: str, parameters: dict[str, Any], key: AccessKey = KEY) -> str:
    with pytest.raises(ApiError) as caught:
        await perform(plane.control, name, parameters, key)
    return caught.value.type


async def test_by_name(plane: Any) -> None:
    opened = await perform(plane.control, "OpenTunnel", {}, KEY)
    tunnel_id = opened["tunnelId"]
    assert plane.queries.describe(tunnel_id).tunnel_id == tunnel_id
    described = await perform(plane.control, "DescribeTunnel", {"tunnelId": tunnel_id}, KEY)
    assert described["tunnel"]["tunnelArn"] == opened["tunnelArn"]


async def test_errors(plane: Any) -> None:
    unknown = {"tunnelId": "unknown"}
    assert await error_of(plane, "DescribeTunnel", unknown) == "ResourceNotFoundException"
    closed = plane.control.open_tunnel(TunnelSpec()).tunnel.tunnel_id
    plane.control.close_tunnel(closed, delete=False)
    rotation = {"tunnelId": closed, "clientMode": "ALL"}
    assert await error_of(plane, "RotateTunnelAccessToken", rotation) == "ResourceNotFoundException"
    many = {"destinationConfig": {"services": [str(number) for number in range(101)]}}
    assert await error_of(plane, "OpenTunnel", many) == "LimitExceededException"


async def test_the_key_is_asked_first(plane: Any) -> None:
    reader = AccessKey("AK", Secret("s"), policy=Policy(read_only=True))
    for parameters in ({"tunnelId": "unknown"}, {"tunnelId": "unknown", "delete": True}):
        assert await error_of(plane, "CloseTunnel", parameters, reader) == "AccessDeniedException"
    of_lamp = AccessKey("AK", Secret("s"), policy=Policy(things=("lamp",)))
    unknown = {"tunnelId": "unknown"}
    assert await error_of(plane, "CloseTunnel", unknown, of_lamp) == "ResourceNotFoundException"


async def test_lists_lack_what_the_key_may_not_see(plane: Any) -> None:
    for thing in ("lamp", "pump", None):
        plane.control.open_tunnel(TunnelSpec(thing_name=thing))
    of_lamp = AccessKey("AK", Secret("s"), policy=Policy(things=("lamp",)))
    (summary,) = (await perform(plane.control, "ListTunnels", {}, of_lamp))["tunnelSummaries"]
    assert plane.queries.describe(summary["tunnelId"]).thing_name == "lamp"
    assert len((await perform(plane.control, "ListTunnels", {}, KEY))["tunnelSummaries"]) == 3


async def test_a_tunnel_whose_end_cannot_be_stored(
    plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is closed all the same, which the error says."""

    def fail(*_: object) -> None:
        raise StoreFailed("disk full")

    tunnel_id = plane.control.open_tunnel(TunnelSpec()).tunnel.tunnel_id
    monkeypatch.setattr(plane.store, "close_tunnel", fail)
    with pytest.raises(
        ApiError, match=f"Tunnel {tunnel_id} is closed, but .* tries again"
    ) as error:
        await perform(plane.control, "CloseTunnel", {"tunnelId": tunnel_id}, KEY)
    assert error.value.type == "InternalFailure"
    described = await perform(plane.control, "DescribeTunnel", {"tunnelId": tunnel_id}, KEY)
    assert described["tunnel"]["status"] == "CLOSED"
    opened = plane.control.open_tunnel(TunnelSpec())
    monkeypatch.setattr(plane.store, "tunnel", fail)
    # What the store does not even say exists is left alone, unless it is connected.
    with pytest.raises(StoreFailed, match="disk full"):
        await perform(plane.control, "CloseTunnel", {"tunnelId": opened.tunnel.tunnel_id}, KEY)


async def test_a_store_that_another_process_has_locked_is_waited_for(
    plane: Any, tmp_path: Path
) -> None:
    """The loop goes on meanwhile, and links are cut at once."""
    tunnel_id = plane.control.open_tunnel(TunnelSpec()).tunnel.tunnel_id
    other = SqliteStore.open(tmp_path / "db")
    other._connection.execute("BEGIN IMMEDIATE")
    loop = asyncio.get_running_loop()
    requests = [
        loop.create_task(perform(plane.control, name, parameters, KEY))
        for name, parameters in (
            ("OpenTunnel", {}),
            ("CloseTunnel", {"tunnelId": tunnel_id, "delete": True}),
            ("ListTunnels", {}),
        )
    ]
    # What only reads does not wait.
    listed = await requests[2]
    assert listed["tunnelSummaries"] == []
    assert plane.switchboard.closed == [(tunnel_id, "The tunnel was closed")]
    assert not requests[0].done()
    assert not requests[1].done()
    other._connection.execute("COMMIT")
    async with asyncio.timeout(HANG):
        opened, closed, _ = await asyncio.gather(*requests)
    assert plane.queries.describe(opened["tunnelId"]).tunnel_id == opened["tunnelId"]
    assert closed == {}
    assert plane.store.tunnel(tunnel_id) is None
    assert plane.unstored.endings == {}
    other.close()


@pytest.mark.parametrize("is_swept", [False, True])
async def test_the_end_of_a_tunnel_is_waited_for_by_a_key_that_may_end_it(
    plane: Any, tmp_path: Path, is_swept: bool
) -> None:
    """Although nobody finds the tunnel meanwhile; the sweep may be the one that stores it."""
    tunnel_id = plane.control.open_tunnel(TunnelSpec(thing_name="lamp")).tunnel.tunnel_id
    of_lamp = AccessKey("AK", Secret("s"), policy=Policy(things=("lamp",)))
    other = SqliteStore.open(tmp_path / "db")
    other._connection.execute("BEGIN IMMEDIATE")
    close = {"tunnelId": tunnel_id, "delete": True}
    loop = asyncio.get_running_loop()
    closing = loop.create_task(perform(plane.control, "CloseTunnel", close, of_lamp))
    await until(lambda: closing.done() or plane.unstored.endings)
    other._connection.execute("COMMIT")
    if is_swept:
        assert not plane.tunnels.store_again(1)
    async with asyncio.timeout(HANG):
        assert await closing == {}
    assert plane.store.tunnel(tunnel_id) is None
    assert plane.unstored.endings == {}
    assert await error_of(plane, "CloseTunnel", close, of_lamp) == "ResourceNotFoundException"
    other.close()
