"""Operations by name, and the errors that clients get."""

from typing import Any

import pytest

from tailrace.common.secret import Secret
from tailrace.service.api.dispatch import perform
from tailrace.service.api.errors import ApiError
from tailrace.service.errors import StoreFailed
from tailrace.service.identity.policy import AccessKey, Policy
from tailrace.service.tunnels.rules import TunnelSpec

KEY = AccessKey("AK", Secret("s"))


def error_of(plane: Any, name: str, parameters: dict[str, Any], key: AccessKey = KEY) -> str:
    with pytest.raises(ApiError) as caught:
        perform(plane.control, name, parameters, key)
    return caught.value.type


def test_by_name(plane: Any) -> None:
    opened = perform(plane.control, "OpenTunnel", {}, KEY)
    tunnel_id = opened["tunnelId"]
    assert plane.queries.describe(tunnel_id).tunnel_id == tunnel_id
    described = perform(plane.control, "DescribeTunnel", {"tunnelId": tunnel_id}, KEY)
    assert described["tunnel"]["tunnelArn"] == opened["tunnelArn"]


def test_errors(plane: Any) -> None:
    unknown = {"tunnelId": "unknown"}
    assert error_of(plane, "DescribeTunnel", unknown) == "ResourceNotFoundException"
    closed = plane.control.open_tunnel(TunnelSpec()).tunnel.tunnel_id
    plane.control.close_tunnel(closed, delete=False)
    rotation = {"tunnelId": closed, "clientMode": "ALL"}
    assert error_of(plane, "RotateTunnelAccessToken", rotation) == "ResourceNotFoundException"
    many = {"destinationConfig": {"services": [str(number) for number in range(101)]}}
    assert error_of(plane, "OpenTunnel", many) == "LimitExceededException"


def test_the_key_is_asked_first(plane: Any) -> None:
    reader = AccessKey("AK", Secret("s"), policy=Policy(read_only=True))
    for parameters in ({"tunnelId": "unknown"}, {"tunnelId": "unknown", "delete": True}):
        assert error_of(plane, "CloseTunnel", parameters, reader) == "AccessDeniedException"
    of_lamp = AccessKey("AK", Secret("s"), policy=Policy(things=("lamp",)))
    unknown = {"tunnelId": "unknown"}
    assert error_of(plane, "CloseTunnel", unknown, of_lamp) == "ResourceNotFoundException"


def test_lists_lack_what_the_key_may_not_see(plane: Any) -> None:
    for thing in ("lamp", "pump", None):
        plane.control.open_tunnel(TunnelSpec(thing_name=thing))
    of_lamp = AccessKey("AK", Secret("s"), policy=Policy(things=("lamp",)))
    (summary,) = perform(plane.control, "ListTunnels", {}, of_lamp)["tunnelSummaries"]
    assert plane.queries.describe(summary["tunnelId"]).thing_name == "lamp"
    assert len(perform(plane.control, "ListTunnels", {}, KEY)["tunnelSummaries"]) == 3


def test_a_tunnel_whose_end_cannot_be_stored(plane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed all the same, which the error says."""

    def fail(*_: object) -> None:
        raise StoreFailed("disk full")

    tunnel_id = plane.control.open_tunnel(TunnelSpec()).tunnel.tunnel_id
    monkeypatch.setattr(plane.store, "close_tunnel", fail)
    with pytest.raises(
        ApiError, match=f"Tunnel {tunnel_id} is closed, but .* tries again"
    ) as error:
        perform(plane.control, "CloseTunnel", {"tunnelId": tunnel_id}, KEY)
    assert error.value.type == "InternalFailure"
    described = perform(plane.control, "DescribeTunnel", {"tunnelId": tunnel_id}, KEY)
    assert described["tunnel"]["status"] == "CLOSED"
    opened = plane.control.open_tunnel(TunnelSpec())
    monkeypatch.setattr(plane.store, "tunnel", fail)
    # What the store does not even say exists is left alone, unless it is connected.
    with pytest.raises(StoreFailed, match="disk full"):
        perform(plane.control, "CloseTunnel", {"tunnelId": opened.tunnel.tunnel_id}, KEY)
