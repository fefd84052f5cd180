"""Signatures, with botocore as the oracle."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from tailrace.aws.signing import ALGORITHM, authorization, canonical_request, signature, timestamp
from tailrace.common.secret import Secret

visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
names = st.from_regex(r"x-[a-z0-9]{1,12}", fullmatch=True)
values = st.text(
    st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"], max_codepoint=0x2FFF), max_size=40
)
moments = st.datetimes(datetime(1971, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC))


def botocore_signs(
    moment: datetime,
    key_id: str,
    secret: str,
    region: str,
    service: str,
    headers: list[tuple[str, str]],
    body: bytes,
) -> str:
    """Return the ``Authorization`` header botocore makes at that moment."""
    request = AWSRequest("POST", "https://localhost/", data=body)
    for name, value in headers:
        request.headers.add_header(name, value)
    with pytest.MonkeyPatch().context() as context:
        context.setattr(
            botocore.auth, "get_current_datetime", lambda *_: moment.replace(tzinfo=None)
        )
        signer: Any = botocore.auth.SigV4Auth(Credentials(key_id, secret), service, region)
        signer.add_auth(request)
    signed: str = request.headers["Authorization"]
    return signed


@given(
    moment=moments,
    key_id=st.from_regex(r"[A-Z0-9]{16,20}", fullmatch=True),
    secret=visible,
    region=st.from_regex(r"[a-z]{2}-[a-z]{1,8}-[1-9]", fullmatch=True),
    service=st.sampled_from(["IoTSecuredTunneling", "iot", "s"]),
    headers=st.lists(st.tuples(names, values), max_size=5),
    body=st.binary(max_size=200),
)
def test_it_signs_as_botocore_does(
    moment: datetime,
    key_id: str,
    secret: str,
    region: str,
    service: str,
    headers: list[tuple[str, str]],
    body: bytes,
) -> None:
    date = timestamp(moment.timestamp())
    headers = [("host", "localhost"), *headers]
    ours = authorization(
        key_id, Secret(secret), region, service, date, [*headers, ("x-amz-date", date)], body
    )
    assert ours == botocore_signs(moment, key_id, secret, region, service, headers, body)


def test_the_example_of_the_user_guide() -> None:
    """The signing key and signature of a request that AWS has published ("get-vanilla")."""
    secret = Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    headers = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")]
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    canonical = canonical_request("GET", "/", "", headers, ["host", "x-amz-date"], empty)
    assert canonical == (
        "GET\n/\n\nhost:example.amazonaws.com\nx-amz-date:20150830T123600Z\n\n"
        f"host;x-amz-date\n{empty}"
    )
    found = signature(
        secret, "20150830/us-east-1/service/aws4_request", "20150830T123600Z", canonical
    )
    assert found == "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"


@pytest.mark.parametrize(
    ("path", "query", "lines"),
    [
        ("", "", ["/", ""]),
        ("/a b/\xe4~", "", ["/a%20b/%C3%A4~", ""]),
        ("/a%20b", "", ["/a%2520b", ""]),
        ("/", "b=2&a=1&a=0&c", ["/", "a=0&a=1&b=2&c="]),
        ("/", "a=%2F+x&b=c=d", ["/", "a=%2F%20x&b=c%3Dd"]),
    ],
)
def test_paths_and_queries(path: str, query: str, lines: list[str]) -> None:
    canonical = canonical_request("POST", path, query, [], [], "hash")
    assert canonical.split("\n")[1:3] == lines


@given(
    path=st.text(st.sampled_from("/ab%20~é "), max_size=12),
    query=st.text(st.sampled_from("a=&%2F+~"), max_size=12),
)
def test_paths_and_queries_as_botocore_has_them(path: str, query: str) -> None:
    url = f"https://localhost/{path}" + (f"?{query}" if query else "")
    request: Any = AWSRequest("POST", url, data=b"")
    request.context["timestamp"] = "20260101T000000Z"
    signer: Any = botocore.auth.SigV4Auth(Credentials("k", "s"), "iot", "us-east-1")
    theirs = signer.canonical_request(request).split("\n")
    ours = canonical_request("POST", f"/{path}", query, [], [], "hash").split("\n")
    # botocore also tidies paths up, which no client of this API gives reason to.
    if not re.search(r"//|/\.", f"/{path}"):
        assert ours[1] == theirs[1]


def test_values_of_headers_are_folded_and_joined() -> None:
    headers = [("a", "  x   y "), ("b", "1"), ("a", "z"), ("c", "not signed")]
    canonical = canonical_request("POST", "/", "", headers, ["a", "b"], "hash")
    assert canonical.split("\n")[3:] == ["a:x y,z", "b:1", "", "a;b", "hash"]


def test_a_header_that_comes_twice_is_signed_once() -> None:
    headers = [("a", "1"), ("a", "2"), ("host", "h")]
    header = authorization("key", Secret("s"), "us-east-1", "iot", "20260101T000000Z", headers, b"")
    assert "SignedHeaders=a;host," in header


def test_headers_are_gone_through_once() -> None:
    class Headers(list[tuple[str, str]]):
        passes = 0

        def __iter__(self) -> Iterator[tuple[str, str]]:
            self.passes += 1
            return super().__iter__()

    headers = Headers([("a", "1"), ("b", "2"), ("a", "3")])
    canonical = canonical_request("POST", "/", "", headers, ["a", "b"], "0")
    assert canonical == "POST\n/\n\na:1,3\nb:2\n\na;b\n0"
    assert headers.passes == 1


def test_the_header_shows_scope_and_no_secret() -> None:
    header = authorization(
        "AKID", Secret("hidden-key"), "eu-west-1", "iot", "20260102T030405Z", [("host", "h")], b""
    )
    start = f"{ALGORITHM} Credential=AKID/20260102/eu-west-1/iot/aws4_request, SignedHeaders=host,"
    assert header.startswith(start)
    assert "hidden-key" not in header


def test_bytes_that_are_no_utf8_are_signed_as_they_came() -> None:
    raw = b"\xff".decode("utf-8", "surrogateescape")
    scope = "20260101/r/s/aws4_request"
    one, other = (signature(Secret("s"), scope, "20260101T000000Z", text) for text in (raw, "\xff"))
    assert one != other


@pytest.mark.parametrize(
    ("now", "text"),
    [(0, "19700101T000000Z"), (0.9, "19700101T000000Z"), (1_767_323_045, "20260102T030405Z")],
)
def test_timestamps(now: float, text: str) -> None:
    assert timestamp(now) == text
