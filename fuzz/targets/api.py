"""The control API: signatures and the bodies of requests."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from hypothesis import strategies as st

from tailrace.aws.signing import authorization, canonical_request, timestamp
from tailrace.common.secret import Secret
from tailrace.service.api.errors import ApiError
from tailrace.service.api.model import OPERATIONS
from tailrace.service.api.shapes import Boolean, Integer, Listing, Shape, Structure, Text
from tailrace.service.api.sigv4 import RequestHead, Verifier
from tailrace.service.api.validation import read_parameters
from tailrace.service.identity.policy import AccessKey

from ..mutate import mutated, vary_bytes, vary_item, vary_text
from ..target import Target

__all__ = ["AWS_JSON", "SIGV4", "values_of"]

# -- bodies ------------------------------------------------------------------------------------

_BODIES: Final = (
    b"",
    b"{}",
    b'{"tunnelId": "abc", "delete": true}',
    b'{"description": "caf\xc3\xa9", "tags": [{"key": "k", "value": "v"}], "destinationConfig":'
    b' {"thingName": "t", "services": ["SSH1", "WEB1"]}, "timeoutConfig":'
    b' {"maxLifetimeTimeoutMinutes": 30}}',
    b'{"tunnelId": "abc", "clientMode": "ALL", "destinationConfig": null}',
    b'{"resourceArn": "arn:aws:iot:r:1:tunnel/x", "tagKeys": ["a"]}',
    b'{"maxResults": 100, "nextToken": "AAAA", "thingName": "t"}',
)
_BODY_WORDS: Final = tuple(
    word.encode()
    for word in (
        *("{", "}", "[", "]", '"', ",", ":", "null", "true", "NaN", "-Infinity", "1e999"),
        *("[" * 3000, '{"a":' * 3000, "9" * 5000, "\\ud800", "\\u0000", "\u2028", "x" * 129),
        *('"tunnelId": ', '"tags": ', '"services": ', '"maxResults": ', '"clientMode": '),
    )
)


def values_of(shape: Shape) -> st.SearchStrategy[Any]:
    """Values of a shape, and such that nearly are."""
    strange: st.SearchStrategy[Any] = st.sampled_from([None, True, 0, -1, 10**30, 1.5, "", [], {}])
    match shape:
        case Text(enum=enum):
            fitting: st.SearchStrategy[Any] = st.text(max_size=12) | st.sampled_from(
                [*enum, "abc", "x" * 128, "x" * 129, "x" * 2049, "\ud800"]
            )
        case Integer(min=low, max=high):
            fitting = st.integers() | st.sampled_from([low, high])
        case Boolean():
            fitting = st.booleans()
        case Listing(member=member):
            fitting = st.lists(values_of(member), max_size=3)
        case Structure(members=members):
            fitting = st.fixed_dictionaries(
                {}, optional={name: values_of(inner) for name, inner in members.items()}
            )
    return st.one_of(fitting, fitting, fitting, strange)


def _bodies(name: str) -> st.SearchStrategy[bytes]:
    written = values_of(OPERATIONS[name].input).map(lambda value: json.dumps(value).encode())
    return st.one_of(written, mutated(_BODIES, _BODY_WORDS))


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, bytes]:
    name = draw(st.sampled_from(sorted(OPERATIONS)))
    return name, draw(_bodies(name))


def _check_body(value: tuple[str, bytes]) -> None:
    name, body = value
    shape = OPERATIONS[name].input
    try:
        parameters = read_parameters(body, shape)
    except ApiError as error:
        assert 400 <= error.status < 500
        json.dumps({"message": error.message}).encode()
        raise
    assert set(shape.required) <= set(parameters) <= set(shape.members)
    again = json.dumps(parameters, ensure_ascii=False).encode()
    assert read_parameters(again, shape) == parameters


AWS_JSON: Final = Target(
    "aws-json",
    "bodies of requests of all operations",
    _requests(),
    _check_body,
    (ApiError,),
    tuple((name, body) for name in OPERATIONS for body in _BODIES),
    lambda value, random: (value[0], vary_bytes(value[1], random)),
)

# -- signatures --------------------------------------------------------------------------------

_NOW: Final = 1_800_000_000.0
_DATE: Final = timestamp(_NOW)
_KEY: Final = AccessKey("AKIDEXAMPLE", Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"))
_TEMPORARY: Final = AccessKey("ASIA", _KEY.secret_access_key, Secret("session/+="), _NOW + 60)
_KEYS: Final = {key.access_key_id: key for key in (_KEY, _TEMPORARY)}
_REGION: Final = "us-east-1"
_SERVICE: Final = "IoTSecuredTunneling"


@dataclass(frozen=True, slots=True)
class SignedRequest(RequestHead):
    """A head, and the body it was signed with."""

    body: bytes


def _signed(key: AccessKey, body: bytes) -> SignedRequest:
    headers = [
        ("host", "localhost:7443"),
        ("x-amz-date", _DATE),
        ("x-amz-target", f"{_SERVICE}.ListTunnels"),
        ("content-type", "application/x-amz-json-1.1"),
    ]
    if key.session_token is not None:
        headers.append(("x-amz-security-token", key.session_token.reveal()))
    signed = authorization(
        key.access_key_id, key.secret_access_key, _REGION, _SERVICE, _DATE, headers, body
    )
    return SignedRequest("POST", "/", "", [*headers, ("authorization", signed)], body)


_SIGNED: Final = tuple(_signed(key, body) for key in _KEYS.values() for body in (b"", b"{}"))
_PRESIGNED: Final = (
    f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F{_DATE[:8]}%2F{_REGION}"
    f"%2F{_SERVICE}%2Faws4_request&X-Amz-Date={_DATE}&X-Amz-Expires=60&X-Amz-SignedHeaders=host"
    f"&X-Amz-Signature={'0' * 64}"
).encode()
_FIELDS: Final = tuple(
    sorted({f"{name}:{value}".encode() for each in _SIGNED for name, value in each.headers})
)
_SIGN_WORDS: Final = tuple(
    word.encode()
    for word in (
        *("AWS4-HMAC-SHA256 ", "Credential=", "SignedHeaders=host", "Signature=", "aws4_request"),
        *("/", ";", ",", "=", "&", "%2F", "%", "%ff", "20260101T000000Z", "20269999T999999Z"),
        *("X-Amz-Signature=", "X-Amz-Date=", "X-Amz-Expires=0", "x-amz-", "host", "\u00e9", ";;"),
        *("\u0661" * 8 + "T000000Z", "0" * 64, "\n"),
    )
)


@st.composite
def _signings(draw: st.DrawFn) -> tuple[SignedRequest, SignedRequest]:
    """A signed request, and the same one changed on its way."""
    request = draw(st.sampled_from(_SIGNED))
    changed = request
    for part in draw(st.lists(st.sampled_from(["header", "query", "path", "body", "add"]))):
        if part == "header":
            headers = list(changed.headers)
            at = draw(st.integers(0, len(headers) - 1)) if headers else 0
            if headers:
                name, value = headers[at]
                headers[at] = (name, draw(_texts(value)))
            changed = replace(changed, headers=headers)
        elif part == "add":
            name, _, value = draw(mutated(_FIELDS, _SIGN_WORDS)).decode("latin-1").partition(":")
            changed = replace(changed, headers=[*changed.headers, (name.lower(), value)])
        elif part == "query":
            query = draw(mutated([_PRESIGNED], _SIGN_WORDS)).decode("latin-1")
            headers = [field for field in changed.headers if field[0] != "authorization"]
            changed = replace(changed, query=query, headers=headers)
        elif part == "path":
            path = draw(mutated([changed.path.encode("latin-1")], _SIGN_WORDS))
            changed = replace(changed, path=path.decode("latin-1"))
        else:
            changed = replace(changed, body=draw(mutated([changed.body])))
    return request, changed


def _texts(value: str) -> st.SearchStrategy[str]:
    edited = mutated([value.encode("utf-8", "surrogateescape")], _SIGN_WORDS)
    return edited.map(lambda data: data.decode("utf-8", "surrogateescape"))


def _canonical(request: SignedRequest, names: list[str]) -> str:
    body_hash = hashlib.sha256(request.body).hexdigest()
    return canonical_request(
        request.method, request.path, request.query, request.headers, names, body_hash
    )


def _check_signature(value: tuple[SignedRequest, SignedRequest]) -> None:
    original, request = value
    verifier = Verifier(_REGION, _SERVICE, _KEYS.get)
    try:
        key = verifier.judge(request, _NOW).prove(request.body)
    except ApiError as error:
        assert error.status == 403
        json.dumps({"message": error.message}).encode()
        assert _KEY.secret_access_key.reveal() not in error.message
        raise
    # What the signature covers cannot have been changed.
    names = sorted(name for name, _ in original.headers if name != "authorization")
    assert key is _KEYS[key.access_key_id]
    # A change may make another one of the signed requests of it, but no new one.
    honest = [_canonical(each, names) for each in (original, *_SIGNED)]
    assert _canonical(request, names) in honest


def _vary_header(header: tuple[str, str], random: Random) -> tuple[str, str]:
    return header[0], vary_text(header[1], random)


def _vary_signed(
    value: tuple[SignedRequest, SignedRequest], random: Random
) -> tuple[SignedRequest, SignedRequest]:
    original, request = value
    match random.randrange(8):
        case 0:
            request = replace(request, body=vary_bytes(request.body, random))
        case 1 | 2:
            query = vary_bytes(request.query.encode("latin-1"), random)
            request = replace(request, query=query.decode("latin-1"))
        case _:
            request = replace(request, headers=vary_item(request.headers, _vary_header, random))
    return original, request


SIGV4: Final = Target(
    "sigv4",
    "signed requests that are changed on their way",
    _signings(),
    _check_signature,
    (ApiError,),
    tuple((request, request) for request in _SIGNED),
    _vary_signed,
)
