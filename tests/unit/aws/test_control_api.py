"""Calls: which are repeated, when, and as which errors they end."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from support.network.certificates import Certificates
from support.network.https_server import Close, Hang, ScriptedHTTPS, answer, scripted_https
from support.plugins.clock import ClockLoop
from support.waiting import HANG, until
from tailrace.aws import ControlAPI, Credentials
from tailrace.aws.https import NoResponse, Response
from tailrace.common.secret import Secret
from tailrace.errors import (
    CallRefused,
    ConfigurationError,
    ConnectFailed,
    ControlCertificateRejected,
    ControlError,
    ControlThrottled,
    CredentialsRefused,
    LimitExceeded,
    ProxyRefused,
    ResponseLost,
    TunnelNotFound,
)
from tailrace.service.tls.authority import fill_ca_dir

REGION = "us-east-1"
CREDENTIALS = Credentials("AKIDEXAMPLE", Secret("hidden-key"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def _few_authorities(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust few authorities: to load those of the system takes longer than most tests."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))


@pytest.fixture
async def server(certificates: Certificates) -> AsyncIterator[ScriptedHTTPS]:
    async with scripted_https(certificates) as scripted:
        yield scripted


def api_at(url: str, **changes: Any) -> ControlAPI:
    values: dict[str, Any] = {"credentials": CREDENTIALS, "timeout": HANG, "environment": {}}
    return ControlAPI(url, REGION, **(values | changes))


@pytest.fixture
async def api(server: ScriptedHTTPS, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ControlAPI]:
    monkeypatch.setattr(random, "random", lambda: 0.0)
    made = api_at(server.url)
    yield made
    await made.close()


def error(code: str, status: int = 400) -> bytes:
    return answer({"__type": f"com.amazon#{code}", "message": "sorry"}, status)


# -- repetitions: when; nothing is sent, and time is that of the loop ------------------------


class Outcomes:
    """In place of a host: what its requests end with."""

    def __init__(self, outcomes: Sequence[Response | Exception]) -> None:
        self.outcomes = list(outcomes)
        self.times: list[float] = []

    async def request(self, _request: bytes, *, repeatable: bool) -> Response:
        self.times.append(asyncio.get_running_loop().time())
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def times(
    monkeypatch: pytest.MonkeyPatch,
    outcomes: Sequence[Response | Exception],
    operation: str = "ListTunnels",
    attempts: int = 3,
) -> tuple[list[float], Any]:
    """Return when requests are sent, with the longest back-off, and what the call ends with."""
    monkeypatch.setattr(random, "random", lambda: 1.0)
    api = api_at("https://localhost", attempts=attempts)
    host = Outcomes(outcomes)
    monkeypatch.setattr(api, "_https", host)
    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        try:
            end: Any = runner.run(api.call(operation, {}))
        except Exception as error:
            end = error
    return host.times, end


def response(status: int, code: str = "") -> Response:
    document = {"__type": code, "message": "m"} if code else {}
    return Response(status, {}, json.dumps(document).encode())


OK = response(200)
FAILED = response(500, "InternalFailure")
THROTTLED = response(400, "ThrottlingException")


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([OK], [0]),
        ([FAILED, FAILED, OK], [0, 0.05, 0.15]),
        ([THROTTLED, THROTTLED, OK], [0, 1, 3]),
        ([response(429, "Other"), OK], [0, 1]),
        ([THROTTLED, FAILED, OK], [0, 1, 1.1]),
        ([Response(502, {}, b"<html>"), OK], [0, 0.05]),
        ([ConnectFailed("no"), NoResponse("lost"), OK], [0, 0.05, 0.15]),
        ([ProxyRefused("busy"), OK], [0, 0.05]),
    ],
)
def test_what_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
    outcomes: Sequence[Response | Exception],
    expected: Sequence[float],
) -> None:
    found, end = times(monkeypatch, outcomes)
    assert found == pytest.approx(expected)
    assert end == {}


def test_the_longest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found, end = times(monkeypatch, [THROTTLED] * 8, attempts=8)
    gaps = [later - earlier for earlier, later in itertools.pairwise(found)]
    assert gaps == pytest.approx([1, 2, 4, 8, 16, 20, 20])
    assert isinstance(end, ControlThrottled)


@pytest.mark.parametrize(
    ("outcomes", "kind", "operation"),
    [
        ([response(400, "ValidationException")], CallRefused, "ListTunnels"),
        ([response(403, "AccessDeniedException")], CredentialsRefused, "ListTunnels"),
        ([ProxyRefused("forbidden", retryable=False)], ProxyRefused, "ListTunnels"),
        ([NoResponse("lost")], ResponseLost, "OpenTunnel"),
        ([FAILED] * 3, ControlError, "OpenTunnel"),
        ([NoResponse("no", was_sent=False)] * 3, ControlError, "OpenTunnel"),
        ([NoResponse("lost")] * 3, ResponseLost, "RotateTunnelAccessToken"),
    ],
)
def test_what_is_not_repeated_or_no_more(
    monkeypatch: pytest.MonkeyPatch,
    outcomes: Sequence[Response | Exception],
    kind: type[Exception],
    operation: str,
) -> None:
    found, end = times(monkeypatch, outcomes, operation)
    assert type(end) is kind
    assert len(found) == len(outcomes)


# -- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ResourceNotFoundException", 400, TunnelNotFound),
        ("LimitExceededException", 400, LimitExceeded),
        ("UnrecognizedClientException", 403, CredentialsRefused),
        ("ValidationException", 400, CallRefused),
        ("ThrottlingException", 400, ControlThrottled),
        ("ResourceNotFoundException", 500, ControlError),
    ],
)
async def test_errors(
    server: ScriptedHTTPS, api: ControlAPI, code: str, status: int, kind: type[ControlError]
) -> None:
    server.answers = [error(code, status)] * 3
    with pytest.raises(ControlError) as caught:
        await api.call("DescribeTunnel", {"tunnelId": "x"})
    assert type(caught.value) is kind
    assert (caught.value.code, str(caught.value)) == (code, f"{code}: sorry")
    assert caught.value.advice == kind.advice != ""
    assert caught.value.retryable is not isinstance(caught.value, CallRefused)
    assert server.connections == 1


async def test_an_error_shows_little_of_what_the_service_says(
    server: ScriptedHTTPS, api: ControlAPI
) -> None:
    long = "A" * 100_000
    server.answers = [answer({"__type": f"x#\x1b[2J{long}", "message": f"\x1b]0;\n{long}"}, 400)]
    with pytest.raises(CallRefused) as caught:
        await api.call("DescribeTunnel", {"tunnelId": "x"})
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith("\\x1b[2JAAA")
    assert ": \\x1b]0; AAA" in str(caught.value)
    assert len(str(caught.value)) < 5000


async def test_a_response_that_is_lost(server: ScriptedHTTPS, api: ControlAPI) -> None:
    server.answers = [Close()]
    with pytest.raises(ResponseLost, match=r"OpenTunnel at https://localhost:.*: the connection"):
        await api.call("OpenTunnel", {})
    assert len(server.heads) == 1


async def test_a_response_that_is_lost_on_a_kept_connection(
    server: ScriptedHTTPS, api: ControlAPI
) -> None:
    server.answers = [answer(), Close(), answer()]
    await api.call("ListTunnels", {})
    with pytest.raises(ResponseLost):
        await api.call("OpenTunnel", {})
    assert len(server.heads) == 2


async def test_an_unknown_authority(server: ScriptedHTTPS, tmp_path: Path) -> None:
    stranger = Certificates(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(stranger.ca_file))
        api = api_at(server.url)
    with pytest.raises(ControlCertificateRejected) as caught:
        await api.call("ListTunnels", {})
    assert not caught.value.retryable
    assert server.connections == 0 or not server.heads


async def test_a_directory_of_authorities(
    server: ScriptedHTTPS, certificates: Certificates, tmp_path: Path
) -> None:
    fill_ca_dir(tmp_path, [x509.load_pem_x509_certificate(certificates.ca_file.read_bytes())])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(Certificates(tmp_path).ca_file))
        api = api_at(server.url, ca=tmp_path)
    assert await api.call("ListTunnels", {}) == {}
    await api.close()


# -- requests --------------------------------------------------------------------------------


async def test_calls_at_the_same_time_take_turns(server: ScriptedHTTPS, api: ControlAPI) -> None:
    server.answers = [answer({"n": n}) for n in range(50)]
    found = await asyncio.gather(*(api.call("ListTunnels", {"n": n}) for n in range(50)))
    assert found == [{"n": n} for n in range(50)]
    assert server.bodies == [b'{"n": %d}' % n for n in range(50)]
    assert server.connections == 1


def test_one_loop_after_the_other() -> None:
    """Calls that have waited for each other bind nobody to their loop."""

    async def call() -> None:
        async with asyncio.timeout(HANG):
            found = await asyncio.gather(
                *(api.call("ListTunnels", {}) for _ in range(2)), return_exceptions=True
            )
        assert [type(each) for each in found] == [ControlError] * 2
        await api.close()

    key = Credentials("AKID", Secret("s"))
    api = ControlAPI("https://127.0.0.1:1", "eu-west-1", key, attempts=1, environment={})
    for _ in range(2):
        asyncio.run(call())


async def test_a_cancelled_call_holds_nobody_up(server: ScriptedHTTPS, api: ControlAPI) -> None:
    server.answers = [Hang(), answer({"a": 1})]
    loop = asyncio.get_running_loop()
    first = loop.create_task(api.call("ListTunnels", {}))
    await server.asked.wait()
    second = loop.create_task(api.call("ListTunnels", {}))
    third = loop.create_task(api.call("ListTunnels", {}))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    assert await third == {"a": 1}
    ended = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(each) for each in ended] == [asyncio.CancelledError] * 2
    await until(lambda: server.open == 1, "the end of the first connection")


async def test_cancelled_between_attempts(server: ScriptedHTTPS) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "random", lambda: HANG)
        api = api_at(server.url)
        server.answers = [error("ThrottlingException")]
        call = asyncio.get_running_loop().create_task(api.call("ListTunnels", {}))
        await until(lambda: api._https._idle, "the first attempt")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert await api.call("ListTunnels", {}) == {}
    await api.close()


async def test_credentials_are_asked_for_before_each_attempt(
    server: ScriptedHTTPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.0)
    keys = (Credentials(f"AKID{n}", Secret("hidden"), Secret(f"token{n}")) for n in range(2))
    api = api_at(server.url, credentials=lambda: next(keys))
    server.answers = [error("ThrottlingException")]
    await api.call("ListTunnels", {})
    await api.close()
    for n, head in enumerate(server.heads):
        assert b"Credential=AKID%d/" % n in head
        assert b"x-amz-security-token: token%d\r\n" % n in head
        assert b"hidden" not in head


@pytest.mark.parametrize("operation", ["", "List Tunnels", "List\r\nX: y", "\u00e4"])
async def test_an_operation_that_is_none(api: ControlAPI, operation: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the name of an operation"):
        await api.call(operation, {})


@pytest.mark.parametrize(
    "changes", [{"timeout": 0}, {"attempts": 0}, {"timeout": float("nan")}, {"timeout": None}]
)
def test_figures_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="more than 0"):
        api_at("https://localhost", **changes)


async def test_a_web_proxy_that_is_none(server: ScriptedHTTPS) -> None:
    api = api_at(server.url, environment={"https_proxy": "http://127.0.0.1:1"}, attempts=1)
    with pytest.raises(ControlError, match=r"cannot connect to web proxy http://127.0.0.1:1: "):
        await api.call("ListTunnels", {})


# -- pages -----------------------------------------------------------------------------------


def page(numbers: Sequence[int], token: str = "") -> bytes:
    document: dict[str, Any] = {"tunnelSummaries": [{"n": number} for number in numbers]}
    return answer(document | ({"nextToken": token} if token else {}))


async def collect(api: ControlAPI, **options: Any) -> list[int]:
    return [each["n"] async for each in api.summaries(**options)]


async def test_all_pages(server: ScriptedHTTPS, api: ControlAPI) -> None:
    server.answers = [page([1, 2], "a"), page([], "b"), page([3])]
    assert await collect(api, thing="lamp") == [1, 2, 3]
    assert [json.loads(body) for body in server.bodies] == [
        {"thingName": "lamp", "maxResults": 100},
        {"thingName": "lamp", "maxResults": 100, "nextToken": "a"},
        {"thingName": "lamp", "maxResults": 100, "nextToken": "b"},
    ]


@pytest.mark.parametrize(
    ("limit", "asked"), [(0, []), (2, [2]), (3, [3, 1]), (150, [100, 148, 146][:2])]
)
async def test_no_more_than_wanted(
    server: ScriptedHTTPS, api: ControlAPI, limit: int, asked: list[int]
) -> None:
    server.answers = [page([1, 2], "a"), page([3, 4, 5])]
    found = await collect(api, limit=limit)
    assert found == [1, 2, 3, 4, 5][: min(limit, 5)]
    sizes = [json.loads(body)["maxResults"] for body in server.bodies]
    assert sizes == [min(size, 100) for size in asked]


@pytest.mark.parametrize("found", [None, 1, "ab", {"n": 1}])
async def test_no_list_of_tunnels(server: ScriptedHTTPS, api: ControlAPI, found: object) -> None:
    server.answers = [answer({"tunnelSummaries": found})] * 3
    with pytest.raises(ControlError, match="no list of tunnels"):
        await collect(api)


async def test_pages_that_do_not_come_to_an_end(server: ScriptedHTTPS, api: ControlAPI) -> None:
    server.answers = [page([1], "a")] * 3
    with pytest.raises(ControlError, match="a page names itself next"):
        await collect(api)
    assert len(server.heads) == 2
