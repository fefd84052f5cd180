"""Where requests come from, and what is read of them.

Bodies that are too long, never end or say nothing of their length are in ``test_app.py``.
"""

from ipaddress import ip_network

from starlette.requests import Request

from tailrace.service.api.request_body import address_of


def request(client: tuple[str, int] | None, *forwarded: str) -> Request:
    headers = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    return Request({"type": "http", "client": client, "headers": headers})


def test_an_address_is_that_of_the_peer_or_what_a_known_proxy_says() -> None:
    known = [ip_network("10.0.0.0/8")]
    assert address_of(request(None), known) == "unknown"
    assert address_of(request(("192.0.2.7", 1), "203.0.113.1"), known) == "192.0.2.7"
    assert address_of(request(("10.0.0.1", 1), "203.0.113.1"), known) == "203.0.113.1"
