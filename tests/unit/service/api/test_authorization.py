"""What a policy lets through, request by request."""

from typing import Any

import pytest

from tailrace.common.secret import Secret
from tailrace.service.api.authorization import authorize
from tailrace.service.api.errors import ApiError
from tailrace.service.api.model import OPERATIONS
from tailrace.service.api.operations import Call
from tailrace.service.control import ControlPlane
from tailrace.service.errors import TunnelNotFound
from tailrace.service.identity.policy import AccessKey, Policy
from tailrace.service.tunnels.rules import TunnelSpec


@pytest.fixture
def control(plane: Any) -> ControlPlane:
    control: ControlPlane = plane.control
    return control


def open_tunnel(control: ControlPlane, thing_name: str | None) -> str:
    return control.open_tunnel(TunnelSpec(thing_name=thing_name)).tunnel.tunnel_id


def allowed(control: ControlPlane, policy: Policy, operation: str, **parameters: Any) -> bool:
    key = AccessKey("AK", Secret("s"), policy=policy)
    try:
        authorize(operation, OPERATIONS[operation], Call(control, parameters, key))
    except ApiError as error:
        refused = error
    else:
        return True
    assert refused.type == "AccessDeniedException"
    assert refused.message.startswith(f"Access key AK is not authorized to perform {operation}")
    of_thing = refused.message.endswith(" on tunnels of this thing")
    assert of_thing is policy.allows(operation, writes=OPERATIONS[operation].writes)
    return False


def test_operations(control: ControlPlane) -> None:
    reading = Policy(read_only=True)
    assert {name for name in OPERATIONS if allowed(control, reading, name)} == {
        "DescribeTunnel",
        "ListTagsForResource",
        "ListTunnels",
    }
    closing = Policy(operations=("CloseTunnel",))
    assert {name for name in OPERATIONS if allowed(control, closing, name)} == {"CloseTunnel"}


def test_opening_for_things(control: ControlPlane) -> None:
    policy = Policy(things=("pump-*",))

    def may_open(config: dict[str, Any] | None) -> bool:
        more = {} if config is None else {"destinationConfig": config}
        return allowed(control, policy, "OpenTunnel", **more)

    assert may_open({"thingName": "pump-1", "services": ["S"]})
    assert not may_open({"thingName": "valve-1", "services": ["S"]})
    assert not may_open({"services": ["S"]})
    assert not may_open(None)


@pytest.mark.parametrize("operation", ["DescribeTunnel", "CloseTunnel", "RotateTunnelAccessToken"])
def test_tunnels_of_things(control: ControlPlane, operation: str) -> None:
    policy = Policy(things=("pump-*",))
    for thing, expected in (("pump-1", True), ("valve-1", False), (None, False)):
        tunnel_id = open_tunnel(control, thing)
        assert allowed(control, policy, operation, tunnelId=tunnel_id) is expected
    with pytest.raises(TunnelNotFound):
        allowed(control, policy, operation, tunnelId="unknown")


@pytest.mark.parametrize("operation", ["TagResource", "UntagResource", "ListTagsForResource"])
def test_tags_of_things(control: ControlPlane, operation: str) -> None:
    policy = Policy(things=("pump-*",))
    for thing, expected in (("pump-1", True), ("valve-1", False)):
        arn = control.queries.arn(open_tunnel(control, thing))
        assert allowed(control, policy, operation, resourceArn=arn) is expected
    with pytest.raises(TunnelNotFound):
        allowed(control, policy, operation, resourceArn="nonsense")


def test_a_rotation_cannot_take_a_tunnel_elsewhere(control: ControlPlane) -> None:
    policy = Policy(things=("pump-*",))
    request = {"tunnelId": open_tunnel(control, "pump-1"), "clientMode": "ALL"}
    for config, expected in (
        ({"thingName": "pump-2", "services": ["S"]}, True),
        ({"thingName": "valve-1", "services": ["S"]}, False),
        ({"services": ["S"]}, False),
    ):
        operation = "RotateTunnelAccessToken"
        assert allowed(control, policy, operation, **request, destinationConfig=config) is expected


def test_listing(control: ControlPlane) -> None:
    policy = Policy(things=("pump-*",))
    assert allowed(control, policy, "ListTunnels")
    assert allowed(control, policy, "ListTunnels", thingName="pump-1")
    assert not allowed(control, policy, "ListTunnels", thingName="valve-1")
