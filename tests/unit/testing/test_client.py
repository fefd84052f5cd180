"""A client that belongs to no event loop."""

import asyncio
from collections.abc import Iterator

import pytest

import tailrace
from support.plugins.leaks import Snapshot
from support.waiting import wait_until
from tailrace.errors import TunnelNotFound
from tailrace.testing.tunnels import ServiceInThread, service_in_thread


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceInThread]:
    with service_in_thread({}) as service:
        yield service


def test_each_call_may_have_its_own_loop(service: ServiceInThread) -> None:
    client = service.client()
    assert isinstance(client, tailrace.Client)
    before = Snapshot.take()
    opened = asyncio.run(client.open(services=["SSH"]))
    assert asyncio.run(client.describe(opened.tunnel_id)).services == ("SSH",)
    asyncio.run(client.close(opened.tunnel_id, delete=True))
    with pytest.raises(TunnelNotFound):
        asyncio.run(client.describe(opened.tunnel_id))
    # Nobody has closed it.
    wait_until(lambda: not Snapshot.take().leaked_since(before))


async def test_calls_at_the_same_time(
    service: ServiceInThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever web proxy the environment names."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    client = service.client()
    opened = await asyncio.gather(*(client.open() for _ in range(4)))
    listed = {each.tunnel_id async for each in client.list()}
    assert listed == {each.tunnel_id for each in opened}
    for each in opened:
        await client.close(each.tunnel_id, delete=True)
