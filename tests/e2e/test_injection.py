"""From options, files and variables to bytes on the wire: nothing adds a line to a request.

Whatever stands in a place that ends up in an upgrade request or in a CONNECT request, it is
refused, or the request has the lines it always has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support.oracles.refusals import value_unless_refused
from tailrace.cli.localproxy.resolve import build_settings
from tailrace.common.secret import Secret
from tailrace.link import ServiceEndpoint
from tailrace.link.http.connect_method import build_connect
from tailrace.link.http.upgrade import build_request
from tailrace.wire import Side

TOKEN = "AQGAAXlKn0Tqd8Vn3Cn4Zf2bPzAAQABAAdU"
BASE = {
    "AWSIOT_TUNNEL_ACCESS_TOKEN": TOKEN,
    "AWSIOT_TUNNEL_CLIENT_TOKEN": "0123456789abcdef0123456789abcdef",
    "AWSIOT_TUNNEL_ENDPOINT": "data.example:443",
    "TAILRACE_SOURCE_LISTEN_PORT": "5555",
    "https_proxy": "http://user:password@proxy.example:3128",
}
UPGRADE = [
    *("Host", "Upgrade", "Connection", "Sec-WebSocket-Version", "Sec-WebSocket-Key"),
    *("Sec-WebSocket-Protocol", "access-token", "client-token", "User-Agent"),
]
OFFER = "X-Tailrace-Capabilities"
"""Comes last, and not to AWS."""
CONNECT = ["Host", "Proxy-Authorization", "User-Agent"]
REQUEST_LINES = (
    r"GET /tunnel\?local-proxy-mode=source HTTP/1\.1",
    r"CONNECT [\w.:\[\]%-]+ HTTP/1\.1",
)

# Where a text from outside comes closest to the wire; "{}" is that text.
PLACES: dict[str, dict[str, str]] = {
    "access token": {"AWSIOT_TUNNEL_ACCESS_TOKEN": "{}"},
    "part of an access token": {"AWSIOT_TUNNEL_ACCESS_TOKEN": f"{TOKEN}{{}}x"},
    "client token": {"AWSIOT_TUNNEL_CLIENT_TOKEN": f"{'c' * 32}{{}}"},
    "endpoint": {"AWSIOT_TUNNEL_ENDPOINT": "{}"},
    "host": {"AWSIOT_TUNNEL_ENDPOINT": "host{}:443"},
    "port": {"AWSIOT_TUNNEL_ENDPOINT": "host:443{}"},
    "path": {"AWSIOT_TUNNEL_ENDPOINT": "wss://host/tunnel{}"},
    "region": {"AWSIOT_TUNNEL_ENDPOINT": "", "AWSIOT_TUNNEL_REGION": "us-east-1{}"},
    "mode": {"TAILRACE_MODE": "source{}"},
    "user of the web proxy": {"https_proxy": "http://u{}:p@proxy.example:3128"},
    "password of the web proxy": {"https_proxy": "http://u:{}@proxy.example:3128"},
    "host of the web proxy": {"https_proxy": "http://u:p@proxy{}:3128"},
    "port of the web proxy": {"https_proxy": "http://u:p@proxy:3128{}"},
}
ENCODED = {"user of the web proxy", "password of the web proxy"}
"""They go out as Base64, whatever they hold."""
KEYS = {
    "subprotocol": "aws.iot.securetunneling-3.0{}",
    "endpoint_format": "data.%s.example{}",
    "override": "host{}:443",
}

villains = st.one_of(
    st.sampled_from(["\r\nX: y", "\nX: y", "\rX: y", "\r\n\r\nGET /", "%0d%0aX: y"]),
    st.just("\u560d\u560aX"),  # a line end, for who cuts characters down to bytes
    st.text(alphabet="a1 \r\n\t\0:%=/@[]\u00e9\ud800\x7f", max_size=12),
)
MANY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def requests_of(environ: Mapping[str, str], *argv: str) -> list[bytes]:
    """Return the requests that a proxy with this configuration sends."""
    found = build_settings(argv, environ).settings.proxy
    target = ServiceEndpoint(
        host=found.host,
        port=found.port,
        side=found.side,
        access_token=found.access_token,
        client_token=found.client_token,
        subprotocol=found.subprotocol,
        web_proxy=found.web_proxy,
    )
    assert found.web_proxy is not None
    return [build_request(target, "key", "agent"), build_connect(target, found.web_proxy, "agent")]


def check(request: bytes) -> None:
    """Check that a request has its own lines, and no others."""
    head, end, rest = request.partition(b"\r\n\r\n")
    assert (end, rest) == (b"\r\n\r\n", b"")
    first, *fields = head.decode("ascii").split("\r\n")
    assert any(re.fullmatch(line, first) for line in REQUEST_LINES), first
    assert not re.search(r"[^ -~]", "".join(fields)), fields
    names = [field.partition(": ")[0] for field in fields]
    if first.startswith("CONNECT"):
        assert names == CONNECT
    else:
        is_aws = fields[0].endswith((".amazonaws.com", ".amazonaws.com.cn"))
        assert names == (UPGRADE if is_aws else [*UPGRADE, OFFER])


def check_all(environ: Mapping[str, str], *argv: str) -> bool:
    """Check all requests that a configuration leads to; tell whether it is accepted."""
    requests = value_unless_refused(requests_of, environ, *argv)
    for request in requests or ():
        check(request)
    return requests is not None


def environment(place: str, text: str) -> dict[str, str]:
    filled = {name: value.format(text) for name, value in PLACES[place].items()}
    return {name: value for name, value in (BASE | filled).items() if value}


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("place", PLACES)
def test_the_places_lead_to_the_wire(place: str) -> None:
    needed = {"endpoint": "h:443", "access token": TOKEN, "password of the web proxy": "p"}
    assert check_all(environment(place, needed.get(place, "")))


@pytest.mark.parametrize("place", PLACES)
@MANY
@given(text=villains)
@example(text="\r\nX-Injected: 1")
def test_options(place: str, text: str) -> None:
    check_all(environment(place, text))


@pytest.mark.parametrize("place", sorted(PLACES.keys() - ENCODED))
@pytest.mark.parametrize("text", ["\r\nX-Injected: 1", "\n", "\r", "\0", "a\r\n\r\nGET / HTTP/1.1"])
def test_line_ends_are_refused(place: str, text: str) -> None:
    assert not check_all(environment(place, text))


@pytest.mark.parametrize("key", KEYS)
@MANY
@given(text=villains)
@example(text="")
@example(text="\r\nX-Injected: 1")
def test_settings_files(key: str, text: str, tmp_path: Path) -> None:
    value = KEYS[key].format(text)
    proxy = {
        "subprotocol": {"websocket": {"subprotocol": value}},
        "endpoint_format": {"endpoint_format": value},
        "override": {"region_endpoint_overrides": {"us-east-1": value}},
    }[key]
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"tunneling": {"proxy": proxy}}))
    environ = {n: v for n, v in BASE.items() if n != "AWSIOT_TUNNEL_ENDPOINT"}
    accepted = check_all(
        environ | {"AWSIOT_TUNNEL_REGION": "us-east-1"}, "--settings-json", str(file)
    )
    assert not accepted or not re.search(r"[\r\n\0]", text)
    assert accepted or text


def test_the_check_can_fail() -> None:
    good = build_request(
        ServiceEndpoint(
            host="h", side=Side.SOURCE, access_token=Secret(TOKEN), client_token=Secret("c" * 32)
        ),
        "key",
        "agent",
    )
    check(good)
    for bad in (
        good.replace(b"Host: h\r\n", b"Host: h\r\nX-Injected: 1\r\n"),
        good + b"GET / HTTP/1.1\r\n\r\n",
        good.replace(b"=source", b"=source&x"),
        good.replace(TOKEN.encode(), b"a\nb"),
    ):
        with pytest.raises(AssertionError):
            check(bad)
