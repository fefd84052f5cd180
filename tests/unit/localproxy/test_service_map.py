from __future__ import annotations

import pytest

from support.network.applications import echo
from support.tunnel.engine import settings
from tailrace.common.addresses import TCPAddress, UnixAddress
from tailrace.errors import ServiceIdMismatch
from tailrace.localproxy.service_map import (
    address_of,
    destination_services,
    is_port_picked,
    source_addresses,
)
from tailrace.wire import Side

SSH, WEB, PATH = TCPAddress("", 22), TCPAddress("10.0.0.1", 80), UnixAddress("/run/app")


def test_a_handler_has_no_address():
    assert [address_of(service) for service in (SSH, PATH, echo, None)] == [SSH, PATH, None, None]


def test_what_was_given_for_an_id_is_its_own():
    given = settings(services={"A": SSH, "B": PATH}, fallback_services={"A": WEB})
    assert source_addresses(given, ("B", "A")) == {"B": PATH, "A": SSH}


def test_a_lone_address_serves_any_id():
    given = settings(services={"": SSH}, fallback_services={"A": WEB})
    assert source_addresses(given, ("A",)) == {"A": SSH}


def test_ids_that_nothing_was_given_for_take_the_fallback_or_any_port():
    given = settings(fallback_services={"A": WEB})
    assert source_addresses(given, ("A", "B")) == {"A": WEB, "B": TCPAddress("", 0)}


@pytest.mark.parametrize(
    ("service", "picked"), [(SSH, False), (TCPAddress("", 0), True), (PATH, True), (None, True)]
)
def test_who_picks_the_port(service: object, picked: bool):
    given = settings(services={"A": service} if service is not None else None)
    assert is_port_picked(given, "A") is picked


def test_a_destination_has_an_application_for_every_id():
    given = settings(Side.DESTINATION, services={"A": SSH}, fallback_services={"B": WEB, "C": PATH})
    assert destination_services(given, ("A", "B")) == {"A": SSH, "B": WEB}
    handled = settings(Side.DESTINATION, services={"A": echo, "": SSH})
    assert destination_services(handled, ("A", "B")) == {"A": echo, "B": SSH}


def test_a_destination_without_an_application_is_told_which():
    given = settings(Side.DESTINATION, services={"B": SSH})
    with pytest.raises(ServiceIdMismatch) as caught:
        destination_services(given, ("A", "B", "C"))
    assert str(caught.value) == (
        "the tunnel has the services [A, B, C], but there is no destination for [A, C]"
    )
    assert caught.value.setting == "destinations"
