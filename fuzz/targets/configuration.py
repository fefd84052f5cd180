"""What people write: INI files, settings files, port maps, addresses, URLs of web proxies."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from support.network.web_proxies import proxy_url
from support.oracles.configuration import format_config, format_services, format_settings
from tailrace.cli.localproxy.addresses import (
    parse_bind_address,
    parse_service_map,
)
from tailrace.cli.localproxy.ini import parse_config, parse_services
from tailrace.cli.localproxy.options import OPTIONS
from tailrace.cli.localproxy.settings_json import (
    PREFIX,
    SETTINGS,
    default_settings_text,
    parse_settings,
)
from tailrace.cli.localproxy.values import UsageError
from tailrace.common.addresses import format_host_port, format_service_map
from tailrace.errors import ConfigurationError
from tailrace.link.proxy.settings import parse_no_proxy, parse_web_proxy
from tailrace.localproxy.endpoints import parse_endpoint
from tailrace.wire import Side

from ..checks import is_one_line
from ..mutate import mutated_text, vary_text
from ..target import Target

__all__ = ["ADDRESSES", "INI_CONFIG", "INI_SERVICES", "PORT_MAP", "SETTINGS_JSON", "WEB_PROXY"]

_TOKEN: Final = "AQGAAXiVSMpWtOkSecretTokenOfTheTunnel0123456789"
_SIDES: Final = st.sampled_from(Side)


def _check_text(error: Exception) -> None:
    assert is_one_line(str(error)), str(error)
    assert _TOKEN not in str(error), "a token is shown"
    if isinstance(error, UsageError):
        assert is_one_line(error.hint), error.hint
        assert _TOKEN not in error.hint, "a token is shown"


# -- INI ---------------------------------------------------------------------------------------

_CONFIGS: Final = (
    f"access-token = {_TOKEN}\nproxy-endpoint = localhost:8443\nverbose=5\n",
    "# comment\nsource-listen-port = SSH1=5555,HTTP1=6666 # more\nregion=us-east-1\n",
    "[section]\nregion = us-east-1\n",
    "destination-app = 22\nno-ssl-host-verify = 1\nlocal-bind-address=::1\n",
)


def _check_config(text: str) -> None:
    try:
        entries = parse_config(text, "file.ini")
    except UsageError as error:
        _check_text(error)
        raise
    again = parse_config(format_config(entries))
    assert [(e.option.name, e.value) for e in again] == [(e.option.name, e.value) for e in entries]


INI_CONFIG: Final = Target(
    "ini-config",
    "a file of --config",
    mutated_text(
        _CONFIGS,
        (
            *(f"{option.name}=" for option in OPTIONS),
            *("\n", "=", "#", "[", "]", " = ", "\r\n", "\x00", "9" * 30, "\u00e9", "\u2028"),
        ),
    ),
    _check_config,
    (UsageError,),
    _CONFIGS,
    vary_text,
)

_MAPS: Final = (
    "SSH1=22\nHTTP1 = localhost:80\n; comment\n# comment\nX=unix:/run/x.sock\n",
    "[section]\nSSH1 = [::1]:22\n",
    "A = 1\nA = 2\n",
    "A\n",
)


def _check_services(value: tuple[str, Side, bool]) -> None:
    text, side, strict = value
    try:
        services = parse_services(text, side, strict=strict)
    except ConfigurationError as error:
        _check_text(error)
        raise
    assert parse_services(format_services(services), side) == services


INI_SERVICES: Final = Target(
    "ini-services",
    "a file of --config-dir",
    st.tuples(
        mutated_text(
            _MAPS,
            ("\n", "=", "[", "]", ";", "#", "unix:", "/", ":22", "[::1]", "fe80::1%eth0", "\x00"),
        ),
        _SIDES,
        st.booleans(),
    ),
    _check_services,
    (ConfigurationError,),
    tuple((text, side, strict) for text in _MAPS for side in Side for strict in (True, False)),
    lambda value, random: (vary_text(value[0], random), *value[1:]),
)

# -- settings ----------------------------------------------------------------------------------

_SETTINGS: Final = (
    default_settings_text(),
    '{"tunneling.proxy.tcp.connection_retry_count": "3", "tunneling": {"proxy": {}}}',
    '{"tunneling": {"proxy": {"websocket": {"ping_period_ms": 5000, "x": [1, null]}}}}',
    '{"tunneling": {"proxy": {"region_endpoint_overrides": {"xx-1": "host:1"}}}}',
    "[]",
    '"\\ud800"',
)


def _check_settings(text: str) -> None:
    try:
        settings = parse_settings(text)
    except ConfigurationError as error:
        _check_text(error)
        raise
    settings.without_effect()
    settings.endpoint_of("us-east-1")
    again = parse_settings(format_settings(settings))
    assert again.values == settings.values
    assert again.endpoint_format == settings.endpoint_format
    assert again.region_endpoints == settings.region_endpoints


def _nested() -> st.SearchStrategy[str]:
    """JSON with keys that exist, keys that do not, and values of every kind."""
    import json

    keys = st.sampled_from(
        [
            *(PREFIX + setting.key for setting in SETTINGS),
            *(f"{PREFIX}region_endpoint_overrides.xx-1", f"{PREFIX}endpoint_format", "x", ""),
        ]
    )
    values = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.sampled_from(["", "1", "-1", "true", "::1", "a.%s.b", "host:443", "9" * 40]),
        st.text(max_size=8),
        st.lists(st.integers(), max_size=2),
    )
    return st.dictionaries(keys, values, max_size=5).map(json.dumps)


SETTINGS_JSON: Final = Target(
    "settings-json",
    "a file of --settings-json",
    st.one_of(
        mutated_text(
            _SETTINGS,
            (
                *(f'"{PREFIX}{setting.key}": ' for setting in SETTINGS),
                *("{", "}", "[" * 3000, '"', "1e999", "NaN", "null", "9" * 5000, "\\u0000", ","),
            ),
        ),
        _nested(),
    ),
    _check_settings,
    (ConfigurationError,),
    _SETTINGS,
    vary_text,
)

# -- addresses ---------------------------------------------------------------------------------

_PORT_MAPS: Final = (
    "22",
    "localhost:22",
    "[::1]:22",
    "[fe80::1%eth0]:22",
    "SSH1=22,HTTP1=localhost:80,X=unix:/run/x.sock",
    "unix:relative",
    "/run/x.sock",
    "A==1,,B=2",
    "A=1,A=2",
)
_ADDRESS_WORDS: Final = (
    *("=", ",", ":", "::", "[", "]", "/", "unix:", "%", "\x00", " ", "0", "65535", "65536"),
    *("9" * 5000, "a" * 64, "\u0661", "wss://", "/tunnel", ".", "\n"),
)


def _check_port_map(value: tuple[str, Side]) -> None:
    text, side = value
    try:
        services = parse_service_map(text, side)
    except ConfigurationError as error:
        assert is_one_line(str(error)), str(error)
        raise
    assert parse_service_map(format_service_map(services), side) == services


PORT_MAP: Final = Target(
    "port-map",
    "the value of -s and -d",
    st.tuples(mutated_text(_PORT_MAPS, _ADDRESS_WORDS), _SIDES),
    _check_port_map,
    (ConfigurationError,),
    tuple((text, side) for text in _PORT_MAPS for side in Side),
    lambda value, random: (vary_text(value[0], random), value[1]),
)


def _check_address(text: str) -> None:
    refused = None
    try:
        bound = parse_bind_address(text)
        assert parse_bind_address(bound) == bound
    except ConfigurationError as error:
        assert is_one_line(str(error)), str(error)
        refused = error
    try:
        host, port = parse_endpoint(text)
    except ConfigurationError as error:
        assert is_one_line(str(error)), str(error)
        raise
    assert parse_endpoint(format_host_port(host, port)) == (host, port)
    if refused is not None:
        raise refused


_ADDRESSES: Final = ("localhost", "::1", "[::1]", "192.0.2.1", "WSS://h.example:443/tunnel", "h.")

ADDRESSES: Final = Target(
    "addresses",
    "the values of -b and -e",
    mutated_text(_ADDRESSES, _ADDRESS_WORDS),
    _check_address,
    (ConfigurationError,),
    _ADDRESSES,
    vary_text,
)

_PROXIES: Final = (
    "http://user:p%40ss@proxy.example:3128/",
    "proxy.example",
    "socks5h://[::1]:1080",
    "https://u:@h",
    "localhost,.example.com,10.0.0.0/8,[::1]:8080,*",
)


def _check_web_proxy(text: str) -> None:
    parse_no_proxy(text)
    try:
        proxy = parse_web_proxy(text)
    except ConfigurationError as error:
        assert is_one_line(str(error)), str(error)
        raise
    assert parse_web_proxy(proxy_url(proxy)) == proxy


WEB_PROXY: Final = Target(
    "web-proxy",
    "the values of https_proxy and no_proxy",
    mutated_text(_PROXIES, (*_ADDRESS_WORDS, "@", "%40", "%00", "%ff", "%zz", "+", "socks5://")),
    _check_web_proxy,
    (ConfigurationError,),
    _PROXIES,
    vary_text,
)
