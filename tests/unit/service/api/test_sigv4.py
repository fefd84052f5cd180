"""Signatures, with botocore as the signer."""

from datetime import UTC, datetime, timedelta
from typing import Any

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.secret import Secret
from tailrace.service.api.errors import ApiError
from tailrace.service.api.sigv4 import SignedRequest, Verifier

KEY = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
NAME = "IoTSecuredTunneling"


def sign(
    body: bytes = b'{"a": 1}',
    *,
    url: str = "https://localhost:7443/",
    region: str = "us-east-1",
    service: str = NAME,
    key: str = KEY,
    secret: str = SECRET,
    token: str | None = None,
    headers: dict[str, str] | None = None,
    monkeypatch: pytest.MonkeyPatch | None = None,
) -> SignedRequest:
    """Sign with botocore at the time NOW."""
    request = AWSRequest("POST", url, data=body, headers=headers or {})
    request.headers["X-Amz-Target"] = f"{NAME}.ListTunnels"
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(botocore.auth, "get_current_datetime", lambda *_: NOW.replace(tzinfo=None))
        signer: Any = botocore.auth.SigV4Auth(Credentials(key, secret, token), service, region)
        signer.add_auth(request)
    path, _, query = url.removeprefix("https://localhost:7443").partition("?")
    found = [(name.lower(), value) for name, value in request.headers.items()]
    return SignedRequest("POST", path, query, [("host", "localhost:7443"), *found], body)


def verify(request: SignedRequest, now: datetime = NOW) -> str:
    verifier = Verifier("us-east-1", NAME, lambda key: Secret(SECRET) if key == KEY else None)
    return verifier.verify(request, now.timestamp())


def change(request: SignedRequest, name: str, value: str | None) -> SignedRequest:
    """Replace or remove a header."""
    headers = [field for field in request.headers if field[0] != name]
    if value is not None:
        headers.append((name, value))
    return SignedRequest(request.method, request.path, request.query, headers, request.body)


def error_of(request: SignedRequest, now: datetime = NOW) -> str:
    with pytest.raises(ApiError) as caught:
        verify(request, now)
    assert SECRET not in str(caught.value)
    return caught.value.type


@pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256))])
@pytest.mark.parametrize(
    "url",
    [
        "https://localhost:7443/",
        "https://localhost:7443/a%20b/c~d",
        "https://localhost:7443/?b=2&a=1&a=0&c=%2F%20x&d",
    ],
)
def test_what_botocore_signs_is_accepted(body: bytes, url: str) -> None:
    assert verify(sign(body, url=url)) == KEY


def test_headers_with_spaces_and_accents() -> None:
    assert verify(sign(headers={"x-amz-note": "  a   b\u00e9 "})) == KEY


def test_signatures_age() -> None:
    request = sign()
    for minutes in (-5, 5):
        assert verify(request, NOW + timedelta(minutes=minutes)) == KEY
    for minutes in (-6, 6, 60 * 24):
        assert error_of(request, NOW + timedelta(minutes=minutes)) == "RequestExpired"


def test_missing_or_broken_authorization() -> None:
    request = sign()
    assert error_of(change(request, "authorization", None)) == (
        "MissingAuthenticationTokenException"
    )
    for value in ("Bearer x", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=a/b/c"):
        assert error_of(change(request, "authorization", value)) == "IncompleteSignatureException"
    doubled = SignedRequest(
        "POST", "/", "", [*request.headers, ("authorization", "x")], request.body
    )
    assert error_of(doubled) == "IncompleteSignatureException"


@pytest.mark.parametrize("date", [None, "", "yesterday", "20261399T999999Z"])
def test_missing_or_broken_date(date: str | None) -> None:
    assert error_of(change(sign(), "x-amz-date", date)) == "IncompleteSignatureException"


def test_foreign_keys_regions_and_services() -> None:
    assert error_of(sign(key="AKIDOTHER")) == "UnrecognizedClientException"
    assert error_of(sign(secret="other")) == "InvalidSignatureException"
    assert error_of(sign(region="eu-west-1")) == "InvalidSignatureException"
    assert error_of(sign(service="iot")) == "InvalidSignatureException"
    assert error_of(sign(token="session")) == "UnrecognizedClientException"


def test_unsigned_headers_that_matter() -> None:
    request = sign()
    added = SignedRequest("POST", "/", "", [*request.headers, ("x-amz-more", "1")], request.body)
    assert error_of(added) == "InvalidSignatureException"
    assert error_of(change(request, "x-amz-target", None)) == "InvalidSignatureException"
    unsigned = [*request.headers, ("x-amzn-trace-id", "1"), ("user-agent", "x")]
    assert verify(SignedRequest("POST", "/", "", unsigned, request.body)) == KEY


def test_the_claimed_body_hash_must_be_true() -> None:
    request = sign(headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD"})
    assert error_of(request) == "InvalidSignatureException"


@settings(max_examples=200)
@given(where=st.sampled_from(["body", "path", "query", "method", "header"]), at=st.integers(0))
def test_one_flipped_bit_is_refused(where: str, at: int) -> None:
    request = sign(url="https://localhost:7443/?q=abc")
    method, path, query, body = request.method, request.path, request.query, request.body
    headers = list(request.headers)
    if where == "body":
        body = flip(body, at)
    elif where == "path":
        path += "x"
    elif where == "query":
        query = flip(query.encode(), at).decode("latin-1")
    elif where == "method":
        method = "PUT"
    else:
        signed = [n for n, (name, _) in enumerate(headers) if name != "user-agent"]
        index = signed[at % len(signed)]
        name, value = headers[index]
        headers[index] = (name, flip(value.encode(), at).decode("latin-1"))
    changed = SignedRequest(method, path, query, headers, body)
    with pytest.raises(ApiError):
        verify(changed)


def flip(content: bytes, at: int) -> bytes:
    index = at % len(content)
    return content[:index] + bytes((content[index] ^ 1,)) + content[index + 1 :]
