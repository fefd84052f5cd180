"""Notifications as they come in: what is taken, what is ignored, and that no text has a token."""

from __future__ import annotations

import json

import pytest

from support.oracles.nesting import said_of_nesting
from tailrace.agent.notification import MAX_PAYLOAD, Notification, parse_notification
from tailrace.common.secret import Secret
from tailrace.errors import NotificationIgnored

TOKEN = "AQGAAXhT1-secret-of-the-destination"
PLAIN: dict[str, object] = {
    "clientAccessToken": TOKEN,
    "clientMode": "destination",
    "region": "eu-west-1",
    "services": ["SSH"],
}


def payload(**changes: object) -> bytes:
    return json.dumps(PLAIN | changes).encode()


def without(key: str) -> bytes:
    return json.dumps({name: value for name, value in PLAIN.items() if name != key}).encode()


def ignored(payload: bytes) -> NotificationIgnored:
    with pytest.raises(NotificationIgnored) as caught:
        parse_notification(payload)
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


def test_what_the_guide_shows_is_taken() -> None:  # vector 1
    assert parse_notification(payload()) == Notification(Secret(TOKEN), "eu-west-1", ("SSH",))


def test_several_services_are_in_order() -> None:  # vectors 4, 5
    assert parse_notification(payload(services=["SSH", "WEB", "DB"])).services == (
        "SSH",
        "WEB",
        "DB",
    )


@pytest.mark.parametrize(
    "text", [payload(services=[]), without("services"), payload(services=None)]
)
def test_no_services_are_none(text: bytes) -> None:  # vector 7
    assert parse_notification(text).services == ()


def test_a_service_that_is_named_twice_is_one() -> None:  # vector 8
    found = parse_notification(payload(services=["SSH", "WEB", "SSH"]))
    assert found.services == ("SSH", "WEB")
    assert found.warnings == ("services names one twice",)


@pytest.mark.parametrize(
    "services", ["SSH", [1], [""], ["S" * 129], ["S S"], ["a\n"], [["SSH"]], {"SSH": 1}, 7, False]
)
def test_malformed_services_are_ignored(services: object) -> None:  # vector 9
    assert "services is malformed" in str(ignored(payload(services=services)))


def test_a_service_id_of_128_characters_is_taken() -> None:
    assert parse_notification(payload(services=["S" * 128])).services == ("S" * 128,)


def test_a_test_is_ignored_as_expected() -> None:
    error = ignored(b'{"clientMode": "test", "tokenId": "5eed4606717aaa56"}')
    assert error.expected
    assert str(error) == "it is a test"


def test_one_for_a_source_is_ignored_as_expected() -> None:  # vector 10
    error = ignored(payload(clientMode="source"))
    assert error.expected
    assert str(error) == "it is for a source (clientMode)"


def test_one_without_mode_is_for_a_destination() -> None:  # vector 11
    found = parse_notification(without("clientMode"))
    assert found.warnings == ("clientMode is missing: taken for destination",)
    assert found.access_token == Secret(TOKEN)


@pytest.mark.parametrize("mode", ["DESTINATION", 7, None, "", ["destination"], TOKEN])
def test_another_mode_is_ignored(mode: object) -> None:  # vector 12
    error = ignored(payload(clientMode=mode))
    assert str(error) == "clientMode is not destination"
    assert not error.expected


@pytest.mark.parametrize(
    "token",
    [
        "",
        None,
        f"{TOKEN}\n",
        f"{TOKEN}\r\nX: y",
        f"{TOKEN} x",
        f"{TOKEN}\x00",
        7,
        [TOKEN],
        "T" * 4097,
        "Tök",
        "\ud800",
        "T\u202e",
    ],
)
def test_a_malformed_token_is_ignored(token: object) -> None:  # vector 13
    assert str(ignored(payload(clientAccessToken=token))) == (
        "clientAccessToken is missing or malformed"
    )


def test_a_missing_token_is_ignored_and_the_longest_is_taken() -> None:  # vector 13
    assert "clientAccessToken is missing" in str(ignored(without("clientAccessToken")))
    found = parse_notification(payload(clientAccessToken="T" * 4096))
    assert found.access_token.reveal() == "T" * 4096


@pytest.mark.parametrize("text", [without("region"), payload(region=None)])
def test_the_region_may_be_missing(text: bytes) -> None:  # vector 14
    assert parse_notification(text).region is None


@pytest.mark.parametrize(
    "region",
    ["evil.example/x", "../", "", "EU-WEST-1", "a" * 65, "eu west", "eu-west-1\n", "a@b", 7, ["a"]],
)
def test_a_region_that_is_no_part_of_a_host_name_is_ignored(region: object) -> None:  # vector 15
    assert str(ignored(payload(region=region))) == "region is malformed"


def test_what_our_service_adds_is_read_and_the_rest_passed_over() -> None:  # vector 16
    found = parse_notification(
        payload(tunnelId="t-1", expiresAt=1795700000, tokenId="k-2", zz={"a": [1]})
    )
    assert (found.tunnel_id, found.expires_at, found.token_id) == ("t-1", 1795700000.0, "k-2")
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("tunnelId", value) for value in ("", "a b", "t\n", 7, ["t"], "t" * 129, "../x")),
        *(("tokenId", value) for value in ("", 7, "x/y")),
        *(("expiresAt", value) for value in (True, "soon", -1, 10**400, [1], 40_000_000_000)),
    ],
)
def test_additions_that_are_malformed_are_passed_over(key: str, value: object) -> None:
    found = parse_notification(payload(**{key: value}))
    assert found.warnings == (f"{key} is malformed: passed over",)
    assert (found.tunnel_id, found.expires_at, found.token_id) == (None, None, None)


def test_an_infinite_number_is_malformed() -> None:
    found = parse_notification(payload()[:-1] + b', "expiresAt": 1e999}')
    assert (found.expires_at, len(found.warnings)) == (None, 1)


def test_additions_may_be_null() -> None:
    found = parse_notification(payload(tunnelId=None, expiresAt=None, tokenId=None))
    assert found == parse_notification(payload())


@pytest.mark.parametrize(
    "text",
    [
        b'{"clientAccessToken":"A",' + payload()[1:],
        payload()[:-1] + b', "zz": {"a": 1, "a": 1}}',
    ],
)
def test_a_key_that_stands_twice_is_ignored(text: bytes) -> None:  # vector 18
    assert str(ignored(text)) == "a key stands in it twice"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b"7", "not a JSON object"),
        (b"", "not valid JSON"),
        (b"\xef\xbb\xbf", "not valid JSON"),
        (payload()[:-1], "not valid JSON"),
        (payload() + b"{}", "not valid JSON"),
        (payload().replace(b"eu-west-1", b"\xff\xfe"), "not valid JSON"),
        (payload()[:-1] + b', "zz": NaN}', "not valid JSON"),
        (payload()[:-1] + b', "zz": -Infinity}', "not valid JSON"),
        (payload()[:-1] + b', "zz": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (payload().decode().encode("utf-16"), "not valid JSON"),
        (b"[" * 8000, said_of_nesting(b"[" * 8000)),
        (b'{"a":' * 1600, said_of_nesting(b'{"a":' * 1600)),
    ],
)
def test_what_is_no_object_is_ignored(text: bytes, reason: str) -> None:  # vector 19
    assert reason in str(ignored(text))


@pytest.mark.parametrize("size", [MAX_PAYLOAD + 1, 1_000_000])
def test_what_is_too_long_is_ignored_unread(size: int) -> None:  # vector 20
    assert str(ignored(payload()[:-1] + b" " * (size - len(payload())) + b"}")) == (
        "it is longer than 8192 bytes"
    )


def test_the_longest_payload_is_taken() -> None:
    text = payload().ljust(MAX_PAYLOAD)
    assert parse_notification(text) == parse_notification(payload())


def test_a_byte_order_mark_is_passed_over() -> None:  # vector 21
    assert parse_notification(b"\xef\xbb\xbf" + payload()) == parse_notification(payload())


def test_no_text_of_it_has_the_token() -> None:
    found = parse_notification(without("clientMode"))
    assert TOKEN not in f"{found} {found!r}"
