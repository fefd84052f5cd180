from __future__ import annotations

import pytest

from support.tunnel.engine import quiet_log, settings
from tailrace.common.addresses import TCPAddress
from tailrace.errors import ServiceIdMismatch
from tailrace.library import ServiceMap
from tailrace.localproxy.destination import Destination
from tailrace.localproxy.routes import Refusal, Route
from tailrace.wire import Side

SSH, WEB = TCPAddress("", 22), TCPAddress("", 80)


def destination(services: ServiceMap) -> Destination:
    return Destination(settings(Side.DESTINATION, routes=services), quiet_log())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_fixed_map_has_all_services_or_the_tunnel_is_of_no_use():
    fixed = Destination(settings(Side.DESTINATION, services={"SSH": SSH}), quiet_log())
    services, find = fixed.settle(("SSH",))
    assert services == {"SSH": SSH}
    assert find("SSH") == Route(SSH)
    with pytest.raises(ServiceIdMismatch, match=r"no destination for \[WEB\]"):
        fixed.settle(("SSH", "WEB"))


def test_what_is_mapped_is_served_and_the_rest_refused_and_told_once(
    caplog: pytest.LogCaptureFixture,
):
    both = destination(ServiceMap({"SSH": 22}))
    services, find = both.settle(("SSH", "NOPE"))
    assert services == {"SSH": SSH}
    route = find("SSH")
    assert isinstance(route, Route)
    assert route.service == SSH
    for _ in range(3):
        assert find("NOPE") == Refusal("not mapped", "the destination has no service 'NOPE'")
        both.settle(("SSH", "NOPE"))
    assert warnings(caplog) == [
        "Service 'NOPE' of the tunnel is not mapped: its connections are refused"
    ]


def test_a_tunnel_whose_services_are_all_unknown_is_of_no_use():
    with pytest.raises(ServiceIdMismatch) as caught:
        destination(ServiceMap({"SSH": 22})).settle(("A", "B"))
    assert str(caught.value) == (
        "the tunnel has the services [A, B], but there is no destination for [A, B]"
    )
    assert caught.value.service_ids == ("A", "B")


def test_an_open_tunnel_goes_on_when_the_map_loses_its_services_and_gets_them_back(
    caplog: pytest.LogCaptureFixture,
):
    services = ServiceMap({"SSH": 22})
    one = destination(services)
    _, find = one.settle(("SSH",))
    services.replace({"WEB": 80})
    assert isinstance(find("SSH"), Refusal)
    assert one.settle(("SSH",))[0] == {}, "on the next link"
    services.replace({"SSH": 2222})
    route = find("SSH")
    assert isinstance(route, Route)
    assert route.service == TCPAddress("", 2222)
    assert len(warnings(caplog)) == 1
