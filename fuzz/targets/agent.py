"""What people write for the device agent: its services, and Device Client's configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from hypothesis import strategies as st

from tailrace.agent.device_client import parse_device_client
from tailrace.agent.map_file import parse_map
from tailrace.agent.service_map import describe_changes
from tailrace.errors import ConfigurationError
from tailrace.library import ServiceMap

from ..checks import is_one_line
from ..mutate import mutated_text, vary_text
from ..target import Target

__all__ = ["DEVICE_CLIENT", "SERVICES_TOML"]

_FILES: Final = (
    '[services]\nSSH = 22\nDB = "/run/db.sock"\n',
    '[services.WEB]\ntarget = "camera.local:80"\nallow = ["10.0.0.0/8", "fd00::1"]\n'
    'max-connections = 8\nbandwidth = "800kB/s"\n',
    '[services."PLC-*"]\ntarget = "[::1]:502"\n[services."*"]\ntarget = 1\n',
    "services = {A = {target = 1}, B = 'unix:x'}\n",
    "[services]\nSSH = 0\n",
    "x = 1\n",
)
_LONGEST_LINE: Final = 1000
_OFTEN: Final = 0.5
_RARELY: Final = 0.2


def _check_map(text: str) -> None:
    try:
        rules = parse_map(text.encode("utf-8", "surrogateescape"), "services.toml")
    except ConfigurationError as error:
        assert is_one_line(str(error)), str(error)
        assert len(str(error)) < _LONGEST_LINE
        assert str(error).startswith("services.toml")
        raise
    services = ServiceMap(rules)
    assert services.rules == rules
    for service_id in rules:
        assert services.find(service_id.replace("*", "x")) is not None
    assert is_one_line(describe_changes({}, rules))
    assert describe_changes(rules, rules) == ""


SERVICES_TOML: Final = Target(
    "services-toml",
    "a file of the agent's services",
    mutated_text(
        _FILES,
        (
            *("target", "allow", "max-connections", "bandwidth", "[services.A]\n", "[[", "]]"),
            *('"', "'''", "=", "\n", ".", "{", "}", "[" * 3000, "true", "1e999", "nan", "0xff"),
            *("1979-05-27T07:32:00Z", "9" * 5000, "0x" + "f" * 5000, "\\u0000", "\u2028", "#"),
        ),
    ),
    _check_map,
    (ConfigurationError,),
    _FILES,
    vary_text,
)

# -- Device Client ---------------------------------------------------------------------------------

_PASSWORD: Final = "hunter2hunter2"
_CONFIGS: Final = (
    '{"endpoint": "a-ats.iot.eu-west-1.amazonaws.com", "cert": "~/cert.pem", "key": "$KEYS/k.pem",'
    ' "root-ca": "/ca.pem", "thing-name": "pump-7", "logging": {"level": "DEBUG", "type": "FILE"},'
    ' "tunneling": {"enabled": true, "endpoint": "data:443"}, "jobs": {"enabled": false}}',
    '{"endpoint": "h", "cert": "c", "key": "${KEYS}", "thing-name": "t", "samples": {"pub-sub": 1},'
    ' "secure-element": {"enabled": false}, "fleet-provisioning": {"enabled": false},'
    ' "sensor-publish": {"sensors": [{"enabled": true}]}, "device-defender": {"enabled": true}}',
    '{"endpoint": "h", "cert": "$(id)", "key": "~root/k", "thing-name": "t"}',
    "[]",
)
_RUNTIMES: Final = (
    '{"runtime-config": {"completed-fp": true, "cert": "c", "key": "k", "thing-name": "t"}}',
    '{"runtime-config": {"completed-fp": false}}',
    "{}",
)
_PROXIES: Final = (
    '{"http-proxy-enabled": true, "http-proxy-host": "10.0.0.9", "http-proxy-port": "8888",'
    ' "http-proxy-auth-method": "UserNameAndPassword", "http-proxy-username": "user",'
    f' "http-proxy-password": "{_PASSWORD}"}}',
    '{"http-proxy-enabled": true, "http-proxy-host": "h", "http-proxy-port": 8888}',
    '{"http-proxy-enabled": false}',
)
_JSON_WORDS: Final = (
    *("{", "}", "[" * 3000, '"', ",", ": ", "null", "true", "1e999", "NaN", "9" * 5000),
    *("\\ud800", "\\u0000", "\\n", "$(", "`", "${", "~", "\u2028", '"enabled": '),
)


def _check_device_client(value: tuple[str, str, str]) -> None:
    config, runtime, proxy = (each.encode("utf-8", "surrogateescape") for each in value)
    environ = {"KEYS": "/keys"}
    home = Path("/home/pump")
    try:
        settings = parse_device_client(
            config, "client.conf", environ, home, runtime=runtime, proxy=proxy
        )
    except ConfigurationError as error:
        assert is_one_line(str(error)), str(error)
        assert len(str(error)) < _LONGEST_LINE
        assert _PASSWORD not in str(error), "a password is shown"
        raise
    assert _PASSWORD not in repr(settings), "a password is shown"
    assert all(map(is_one_line, settings.warnings)), settings.warnings
    assert settings.endpoint
    for path in (settings.certificate, settings.key, settings.root_ca or home):
        os.path.exists(path)
        assert "$(" not in str(path)


def _changed(valid: str) -> st.SearchStrategy[str]:
    """A document of which some values, those of objects in it included, are others."""
    document = json.loads(valid)
    values = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.sampled_from(["", "h", "~/k", "$KEYS/k", "$(id)", "${X}", "\ud800", "a\0b", "9" * 40]),
        st.text(max_size=8),
        st.dictionaries(st.sampled_from(["enabled", "level", "endpoint"]), st.booleans()),
    )
    changes = st.dictionaries(st.sampled_from([*document, "jobs", "secure-element"]), values)
    return changes.map(lambda some: json.dumps(document | some))


DEVICE_CLIENT: Final = Target(
    "device-client",
    "the configuration files of AWS IoT Device Client",
    st.tuples(
        _changed(_CONFIGS[0]) | mutated_text(_CONFIGS, _JSON_WORDS),
        _changed(_RUNTIMES[0]) | mutated_text(_RUNTIMES, _JSON_WORDS),
        _changed(_PROXIES[1]) | mutated_text(_PROXIES, _JSON_WORDS),
    ),
    _check_device_client,
    (ConfigurationError,),
    tuple(zip(_CONFIGS[:3], _RUNTIMES, _PROXIES, strict=True)),
    lambda value, random: (
        vary_text(value[0], random) if random.random() < _OFTEN else value[0],
        vary_text(value[1], random) if random.random() < _RARELY else value[1],
        vary_text(value[2], random) if random.random() < _RARELY else value[2],
    ),
)
