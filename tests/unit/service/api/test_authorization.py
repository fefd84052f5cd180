"""What a policy lets through, request by request."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailrace.common.secret import Secret
from tailrace.service.api.authorization import authorize
from tailrace.service.api.errors import ApiError
from tailrace.service.api.model import OPERATIONS
from tailrace.service.errors import TunnelNotFound
from tailrace.service.identity.policy import READING, AccessKey, Policy
from tailrace.service.tunnels.queries import TunnelQueries
from tailrace.service.tunnels.rules import RandomIds, Tunnels, TunnelSpec
from tailrace.service.tunnels.sqlite_store import SqliteStore


@pytest.fixture
def queries(tmp_path: Path) -> Iterator[TunnelQueries]:
    store = SqliteStore.open(tmp_path / "db")
    yield TunnelQueries(store, "r", "a")
    store.close()


def open_tunnel(queries: TunnelQueries, thing_name: str | None) -> str:
    tunnels = Tunnels(queries._store, RandomIds())
    return tunnels.open(TunnelSpec(thing_name=thing_name), 1.0).tunnel.tunnel_id


def allowed(queries: TunnelQueries, policy: Policy, operation: str, **parameters: Any) -> bool:
    key = AccessKey("AK", Secret("s"), policy=policy)
    try:
        authorize(key, operation, parameters, queries)
    except ApiError as error:
        refused = error
    else:
        return True
    assert refused.type == "AccessDeniedException"
    assert f"AK is not authorized to perform {operation}" in refused.message
    return False


def test_operations(queries: TunnelQueries) -> None:
    reading = Policy(read_only=True)
    assert {name for name in OPERATIONS if allowed(queries, reading, name)} == READING
    closing = Policy(operations=("CloseTunnel",))
    assert {name for name in OPERATIONS if allowed(queries, closing, name)} == {"CloseTunnel"}


def test_opening_for_things(queries: TunnelQueries) -> None:
    policy = Policy(things=("pump-*",))

    def may_open(config: dict[str, Any] | None) -> bool:
        more = {} if config is None else {"destinationConfig": config}
        return allowed(queries, policy, "OpenTunnel", **more)

    assert may_open({"thingName": "pump-1", "services": ["S"]})
    assert not may_open({"thingName": "valve-1", "services": ["S"]})
    assert not may_open({"services": ["S"]})
    assert not may_open(None)


@pytest.mark.parametrize("operation", ["DescribeTunnel", "CloseTunnel", "RotateTunnelAccessToken"])
def test_tunnels_of_things(queries: TunnelQueries, operation: str) -> None:
    policy = Policy(things=("pump-*",))
    for thing, expected in (("pump-1", True), ("valve-1", False), (None, False)):
        tunnel_id = open_tunnel(queries, thing)
        assert allowed(queries, policy, operation, tunnelId=tunnel_id) is expected
    with pytest.raises(TunnelNotFound):
        allowed(queries, policy, operation, tunnelId="unknown")


@pytest.mark.parametrize("operation", ["TagResource", "UntagResource", "ListTagsForResource"])
def test_tags_of_things(queries: TunnelQueries, operation: str) -> None:
    policy = Policy(things=("pump-*",))
    for thing, expected in (("pump-1", True), ("valve-1", False)):
        arn = queries.arn(open_tunnel(queries, thing))
        assert allowed(queries, policy, operation, resourceArn=arn) is expected
    with pytest.raises(TunnelNotFound):
        allowed(queries, policy, operation, resourceArn="nonsense")


def test_a_rotation_cannot_take_a_tunnel_elsewhere(queries: TunnelQueries) -> None:
    policy = Policy(things=("pump-*",))
    request = {"tunnelId": open_tunnel(queries, "pump-1"), "clientMode": "ALL"}
    for config, expected in (
        ({"thingName": "pump-2", "services": ["S"]}, True),
        ({"thingName": "valve-1", "services": ["S"]}, False),
        ({"services": ["S"]}, False),
    ):
        operation = "RotateTunnelAccessToken"
        assert allowed(queries, policy, operation, **request, destinationConfig=config) is expected


def test_listing(queries: TunnelQueries) -> None:
    policy = Policy(things=("pump-*",))
    assert allowed(queries, policy, "ListTunnels")
    assert allowed(queries, policy, "ListTunnels", thingName="pump-1")
    assert not allowed(queries, policy, "ListTunnels", thingName="valve-1")
