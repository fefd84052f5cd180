"""Signatures, with botocore as the signer."""

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote_plus

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tailrace.aws.signing import canonical_request, signature
from tailrace.common.secret import Secret
from tailrace.service.api.errors import ApiError
from tailrace.service.api.sigv4 import MAX_FIELDS, RequestHead, Verifier
from tailrace.service.identity.policy import AccessKey

KEY = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TEMPORARY = "ASIAEXAMPLE"
TOKEN = "trs_/+=session"
DAY = timedelta(days=1)
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
NAME = "IoTSecuredTunneling"


@dataclass(frozen=True, slots=True)
class SignedRequest(RequestHead):
    """A head, and the body it was signed with."""

    body: bytes


class Presigner(botocore.auth.SigV4QueryAuth):
    """Signs the body where it is, as the SDKs for other languages do."""

    def __init__(self, body: bytes, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._body = body

    def payload(self, request: Any) -> str:
        return hashlib.sha256(self._body).hexdigest()


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
    expires: int | None = None,
) -> SignedRequest:
    """Sign with botocore at the time NOW; with ``expires``, in the query."""
    credentials = Credentials(key, secret, token)
    request = AWSRequest("POST", url, headers=headers or {})
    request.headers["X-Amz-Target"] = f"{NAME}.ListTunnels"
    request.headers["Content-Type"] = "application/x-amz-json-1.1"
    if expires is None:
        request.data = body
        signer: Any = botocore.auth.SigV4Auth(credentials, service, region)
    else:
        signer = Presigner(body, credentials, service, region, expires=expires)
    with pytest.MonkeyPatch().context() as context:
        context.setattr(botocore.auth, "get_current_datetime", lambda *_: NOW.replace(tzinfo=None))
        signer.add_auth(request)
    path, _, query = request.url.removeprefix("https://localhost:7443").partition("?")
    found = [(name.lower(), value) for name, value in request.headers.items()]
    return SignedRequest("POST", path, query, [("host", "localhost:7443"), *found], body)


ACCESS_KEYS = {
    KEY: AccessKey(KEY, Secret(SECRET)),
    TEMPORARY: AccessKey(TEMPORARY, Secret(SECRET), Secret(TOKEN), (NOW + DAY).timestamp()),
}


def verify(request: SignedRequest, now: datetime = NOW) -> str:
    verifier = Verifier("us-east-1", NAME, ACCESS_KEYS.get)
    return verifier.judge(request, now.timestamp()).prove(request.body).access_key_id


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
    for seconds in (-300, 300):
        assert verify(request, NOW + timedelta(seconds=seconds)) == KEY
    for seconds in (-301, 301, 24 * 3600):
        assert error_of(request, NOW + timedelta(seconds=seconds)) == "RequestExpired"


def test_the_scope_is_of_the_day_of_the_date() -> None:
    """Signed as it should be, but with a key that was derived for another day."""
    headers = [("host", "localhost:7443"), ("x-amz-date", "20261120T120000Z")]
    for day, accepted in (("20261120", True), ("20261119", False)):
        scope = f"{day}/us-east-1/{NAME}/aws4_request"
        names = [name for name, _ in headers]
        body_hash = hashlib.sha256(b"").hexdigest()
        canonical = canonical_request("POST", "/", "", headers, names, body_hash)
        signed = signature(Secret(SECRET), scope, "20261120T120000Z", canonical)
        value = (
            f"AWS4-HMAC-SHA256 Credential={KEY}/{scope}, SignedHeaders={';'.join(names)}, "
            f"Signature={signed}"
        )
        request = SignedRequest("POST", "/", "", [*headers, ("authorization", value)], b"")
        if accepted:
            assert verify(request) == KEY
        else:
            assert error_of(request) == "InvalidSignatureException"


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


@pytest.mark.parametrize(
    "date", [None, "", "yesterday", "20261399T999999Z", "20261120t120000z", "2026112T120000Z"]
)
def test_missing_or_broken_date(date: str | None) -> None:
    assert error_of(change(sign(), "x-amz-date", date)) == "IncompleteSignatureException"


def test_foreign_keys_regions_and_services() -> None:
    for key in ("AKIDOTHER", "AKID/OTHER"):
        assert error_of(sign(key=key)) == "UnrecognizedClientException"
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


HOSTILE = [
    "\n",
    "\x1b",
    "\x1b]0;x\x07",
    "\x7f",
    "\u009b",
    "\u202e",
    "\u00e9",
    " ",
    "\udcff",
    "x" * 200,
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("part", [KEY, f"{NOW:%Y%m%d}", "us-east-1", NAME])
def test_credentials_hold_nothing_that_steers_a_log(part: str, text: str) -> None:
    request = sign()
    (value,) = request.values("authorization")
    changed = change(request, "authorization", value.replace(part, part + text))
    presigned = sign(expires=60)
    query = presigned.query.replace(
        f"{part}%2F", part + quote(text, errors="surrogateescape") + "%2F", 1
    )
    assert query != presigned.query
    for broken in (changed, replace(presigned, query=query)):
        with pytest.raises(ApiError) as caught:
            verify(broken)
        assert caught.value.type == "IncompleteSignatureException"
        assert caught.value.message.isprintable()


class TestCost:
    """A request without a valid signature costs little."""

    @pytest.mark.parametrize(
        "names",
        [
            "host;{}",
            "{};{}",
            "x-zzz;{}",
            "",
            ";{}",
            "{};",
            "{};x-zz z",
            "{};x-zzz\u202e",
            "{};X-ZZZ",
        ],
    )
    def test_signed_headers_are_sorted_names_given_once(self, names: str) -> None:
        request = sign()
        (value,) = request.values("authorization")
        signed = value.partition("SignedHeaders=")[2].partition(",")[0]
        changed = value.replace(signed, names.format(signed, signed))
        assert error_of(change(request, "authorization", changed)) == "IncompleteSignatureException"
        presigned = sign(expires=60)
        before, signed, after = re.split("(?<=SignedHeaders=)([^&]*)", presigned.query)
        query = f"{before}{names.format(signed, signed)}{after}"
        assert error_of(replace(presigned, query=query)) == "IncompleteSignatureException"

    def test_the_number_of_header_fields_is_bounded(self) -> None:
        request = sign()
        room = MAX_FIELDS - len(request.headers)
        for more, accepted in ((room, True), (room + 1, False)):
            changed = replace(request, headers=[*request.headers, *[("x", "y")] * more])
            if accepted:
                assert verify(changed) == KEY
            else:
                assert error_of(changed) == "IncompleteSignatureException"

    def test_the_number_of_signed_headers_is_bounded(self) -> None:
        request = sign()
        (value,) = request.values("authorization")
        names = "".join(f";x{number:03}" for number in range(MAX_FIELDS))
        changed = value.replace(", Signature=", f"{names}, Signature=")
        assert error_of(change(request, "authorization", changed)) == "IncompleteSignatureException"

    def test_the_number_of_query_parameters_is_bounded(self) -> None:
        assert verify(sign(url="https://localhost:7443/?" + "&".join(["a=1"] * MAX_FIELDS))) == KEY
        more = sign(url="https://localhost:7443/?" + "&".join(["a=1"] * (MAX_FIELDS + 1)))
        assert error_of(more) == "IncompleteSignatureException"

    def test_nothing_is_computed_before_all_else_is_judged(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        temporary = sign(token=TOKEN, key=TEMPORARY, expires=7 * 86400)
        refused = {
            "key": (sign(key="AKIDOTHER"), NOW),
            "token": (sign(token="trs_other", key=TEMPORARY), NOW),
            "date": (sign(), NOW + DAY),
            "region": (sign(region="eu-west-1"), NOW),
            "age of the request": (sign(expires=1), NOW + DAY),
            "age of the key": (temporary, NOW + DAY),
            "fields": (replace(sign(), headers=[("host", "x")] * (MAX_FIELDS + 1)), NOW),
        }
        monkeypatch.setattr("tailrace.service.api.sigv4.canonical_request", None)
        monkeypatch.setattr("hmac.digest", None)
        for request, now in refused.values():
            error_of(request, now)


class TestSessionTokens:
    @pytest.mark.parametrize("expires", [None, 60])
    def test_temporary_keys_need_their_token(self, expires: int | None) -> None:
        temporary = {"key": TEMPORARY, "expires": expires}
        assert verify(sign(token=TOKEN, **temporary)) == TEMPORARY
        assert error_of(sign(**temporary)) == "UnrecognizedClientException"
        assert error_of(sign(token="trs_other", **temporary)) == "UnrecognizedClientException"
        assert error_of(sign(token=TOKEN, expires=expires)) == "UnrecognizedClientException"

    def test_a_token_that_is_no_text(self) -> None:
        request = change(sign(token=TOKEN, key=TEMPORARY), "x-amz-security-token", "\udcff")
        assert error_of(request) == "UnrecognizedClientException"

    def test_twice(self) -> None:
        request = sign(token=TOKEN, key=TEMPORARY)
        doubled = [*request.headers, ("x-amz-security-token", TOKEN)]
        assert (
            error_of(SignedRequest("POST", "/", "", doubled, request.body))
            == "UnrecognizedClientException"
        )

    def test_their_time_ends(self) -> None:
        request = sign(token=TOKEN, key=TEMPORARY, expires=7 * 86400)
        assert verify(request, NOW + DAY - timedelta(seconds=1)) == TEMPORARY
        assert error_of(request, NOW + DAY) == "ExpiredTokenException"


class TestPresigned:
    @pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256))])
    @pytest.mark.parametrize("query", ["", "?b=2&a=1&c=%2F%20x"])
    def test_what_botocore_presigns_is_accepted(self, body: bytes, query: str) -> None:
        assert verify(sign(body, url=f"https://localhost:7443/{query}", expires=60)) == KEY

    def test_the_request_may_have_been_signed_long_ago(self) -> None:
        request = sign(expires=7 * 86400)
        assert verify(request, NOW + timedelta(days=7)) == KEY
        assert error_of(request, NOW + timedelta(days=7, seconds=1)) == "RequestExpired"
        for lifetime in (1, 10):
            request = sign(expires=lifetime)
            assert verify(request, NOW + timedelta(seconds=lifetime)) == KEY
            late = NOW + timedelta(seconds=lifetime + 1)
            assert error_of(request, late) == "RequestExpired"
        # Of a client whose clock is ahead.
        assert verify(request, NOW - timedelta(minutes=5)) == KEY
        assert error_of(request, NOW - timedelta(minutes=6)) == "RequestExpired"

    @pytest.mark.parametrize("expires", ["0", "604801", "-1", "", "1e3", "9999999", "\u0661"])
    def test_lifetimes(self, expires: str) -> None:
        request = sign(expires=60)
        query = request.query.replace("X-Amz-Expires=60", f"X-Amz-Expires={expires}")
        assert error_of(replace(request, query=query)) == "IncompleteSignatureException"

    @pytest.mark.parametrize(
        "name", ["Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"]
    )
    def test_every_part_is_needed_once(self, name: str) -> None:
        request = sign(expires=60)
        parts = request.query.split("&")
        (part,) = [part for part in parts if part.startswith(f"X-Amz-{name}=")]
        for query in ("&".join(p for p in parts if p != part), f"{request.query}&{part}"):
            assert error_of(replace(request, query=query)) == "IncompleteSignatureException"

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"),
            ("aws4_request", "aws5_request"),
            ("X-Amz-Signature=", "X-Amz-Signature=x"),
            ("X-Amz-Date=2", "X-Amz-Date=x"),
        ],
    )
    def test_broken_parts(self, old: str, new: str) -> None:
        request = sign(expires=60)
        assert old in request.query
        changed = replace(request, query=request.query.replace(old, new))
        assert error_of(changed) == "IncompleteSignatureException"

    def test_not_in_both_places(self) -> None:
        request, header = sign(expires=60), sign()
        both = [*request.headers, ("authorization", header.values("authorization")[0])]
        assert error_of(replace(request, headers=both)) == "IncompleteSignatureException"

    @pytest.mark.parametrize("claim", ["UNSIGNED-PAYLOAD", "0" * 64])
    def test_the_body_is_always_checked(self, claim: str) -> None:
        url = f"https://localhost:7443/?X-Amz-Content-Sha256={claim}"
        assert error_of(sign(url=url, expires=60)) == "InvalidSignatureException"
        request = sign(headers={"x-amz-content-sha256": claim}, expires=60)
        assert error_of(request) == "InvalidSignatureException"
        assert error_of(replace(sign(expires=60), body=b"")) == "InvalidSignatureException"
        true = hashlib.sha256(b"{}").hexdigest()
        url = f"https://localhost:7443/?X-Amz-Content-Sha256={true}"
        assert verify(sign(b"{}", url=url, expires=60)) == KEY


SAMPLES = {
    "header": sign(url="https://localhost:7443/?q=abc", token=TOKEN, key=TEMPORARY),
    "presigned": sign(expires=3600, token=TOKEN, key=TEMPORARY),
}


@settings(max_examples=400)  # and those of the fuzz target sigv4
@given(
    st.sampled_from(sorted(SAMPLES)),
    st.sampled_from(["method", "path", "query", "name", "value", "body"]),
    st.integers(0),
    st.integers(0),
    st.integers(1, 255),
)
def test_one_changed_byte_is_refused(
    sample: str, where: str, which: int, at: int, mask: int
) -> None:
    """Any byte of what is signed, to any other value; unless it means the same.

    The case of a header's name means nothing, and %2f is %2F.
    """
    request = SAMPLES[sample]
    assert verify(request) == TEMPORARY
    headers = list(request.headers)
    which %= len(headers)
    name, value = headers[which]
    if where == "method":
        changed = replace(request, method=flip_target(request.method, at, mask))
    elif where == "path":
        changed = replace(request, path=flip_target(request.path, at, mask))
    elif where == "query":
        changed = replace(request, query=flip_target(request.query, at, mask))
        assume(unquote_plus(changed.query) != unquote_plus(request.query))
    elif where == "body":
        body = bytearray(request.body)
        body[at % len(body)] ^= mask
        changed = replace(request, body=bytes(body))
    else:
        if where == "name":
            name = flip(name, at, mask).lower()
        else:
            value = flip(value, at, mask)
        assume((name, value) != headers[which])
        headers[which] = (name, value)
        changed = replace(request, headers=headers)
    with pytest.raises(ApiError):
        verify(changed)


def flip(text: str, at: int, mask: int) -> str:
    """Change one byte; what is no text then comes as the service would read it."""
    content = bytearray(text.encode())
    content[at % len(content)] ^= mask
    return content.decode("utf-8", "surrogateescape")


def flip_target(text: str, at: int, mask: int) -> str:
    return flip(text, at, mask).encode("utf-8", "surrogateescape").decode("latin-1")


def test_the_head_proves_the_key_where_it_has_the_hash_of_the_body() -> None:
    verifier = Verifier("us-east-1", NAME, ACCESS_KEYS.get)
    body_hash = hashlib.sha256(b"{}").hexdigest()
    plain = sign(b"{}")
    assert verifier.judge(plain, NOW.timestamp()).body_hash is None
    hashed = sign(b"{}", headers={"X-Amz-Content-SHA256": body_hash})
    claim = verifier.judge(hashed, NOW.timestamp())
    assert (claim.key.access_key_id, claim.body_hash) == (KEY, body_hash)
    assert claim.prove(b"{}").access_key_id == KEY
    with pytest.raises(ApiError, match="does not match"):
        claim.prove(b"[]")
    forged = sign(b"{}", headers={"X-Amz-Content-SHA256": body_hash}, secret="another")
    with pytest.raises(ApiError, match="does not match"):
        verifier.judge(forged, NOW.timestamp())
