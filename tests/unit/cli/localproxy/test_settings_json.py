"""Fine-grained settings: parse, print, parse again; the keys of the C++ command."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.oracles.configuration import format_settings
from support.oracles.refusals import value_unless_refused
from tailrace.cli.localproxy.layers import Layer, OptionValue, Origin
from tailrace.cli.localproxy.settings_json import (
    PREFIX,
    SETTINGS,
    FineSettings,
    Setting,
    default_settings_text,
    parse_settings,
)
from tailrace.errors import ConfigurationError
from tailrace.localproxy.settings import ProxySettings

EXPORTED_BY_REFERENCE = {
    "default_bind_address",
    "message.data_length_size",
    "message.data_frame_max_size",
    "message.max_payload_size",
    "message.max_size",
    "tcp.connection_retry_count",
    "tcp.connection_retry_delay_ms",
    "tcp.read_buffer_size",
    "tcp.max_active_connections",
    "websocket.ping_period_ms",
    "websocket.retry_delay_ms",
    "websocket.connect_retry_count",
    "websocket.reconnect_on_data_error",
    "websocket.subprotocol",
    "websocket.max_frame_size",
    "websocket.write_buffer_size",
    "websocket.read_buffer_size",
}


FIELDS = {
    "bind_address": "default_bind_address",
    "max_payload": "message.max_payload_size",
    "dial_retry_count": "tcp.connection_retry_count",
    "dial_retry_delay": "tcp.connection_retry_delay_ms",
    "max_connections": "tcp.max_active_connections",
    "ping_period": "websocket.ping_period_ms",
    "retry_delay": "websocket.retry_delay_ms",
    "connect_retry_count": "websocket.connect_retry_count",
    "reconnect_on_data_error": "websocket.reconnect_on_data_error",
    "subprotocol": "websocket.subprotocol",
}
"""Field of ``ProxySettings`` -> the key of the file that it is set by."""


def values(settings: FineSettings) -> dict[str, object]:
    """Return what the file sets: field of ``ProxySettings`` -> value."""
    found = {name: settings.get(key, object) for name, key in FIELDS.items()}
    return {name: given.value for name, given in found.items() if given is not None}


def document(**proxy: object) -> str:
    return json.dumps({"tunneling": {"proxy": proxy}})


def nested(key: str, value: object) -> str:
    for part in reversed(["tunneling", "proxy", *key.split(".")]):
        value = {part: value}
    return json.dumps(value)


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and name != "region_endpoint_overrides":
            found |= flattened(value, f"{key}.")
        else:
            found[key] = value
    return found


def test_exported_keys_and_values() -> None:
    proxy = json.loads(default_settings_text())["tunneling"]["proxy"]
    assert proxy.pop("region_endpoint_overrides") == {
        "cn-north-1": "data.tunneling.iot.cn-north-1.amazonaws.com.cn",
        "cn-northwest-1": "data.tunneling.iot.cn-northwest-1.amazonaws.com.cn",
    }
    keys = flattened(proxy)
    assert set(keys) == EXPORTED_BY_REFERENCE
    assert all(isinstance(value, str) for value in keys.values())


def test_exported_defaults_are_those_of_the_settings() -> None:
    exported = values(parse_settings(default_settings_text()))
    defaults = {field.name: field.default for field in fields(ProxySettings)}
    assert exported.pop("bind_address") == "localhost"
    assert len(exported) == len(FIELDS) - 1
    assert exported == {name: defaults[name] for name in exported}


def test_the_settings_that_have_an_effect_are_those_with_a_field() -> None:
    assert {s.key for s in SETTINGS if s.has_effect} == set(FIELDS.values())


def test_exported_text_parses_and_has_no_remarks() -> None:
    settings = parse_settings(default_settings_text())
    assert settings.unknown == ()
    assert settings.without_effect() == ()
    assert parse_settings(format_settings(settings)) == settings


@pytest.mark.parametrize(
    "text", ["{}", document(), '{"tunneling": {}}', '{"tunneling": {"a": {}}}']
)
def test_empty_settings(text: str) -> None:
    assert parse_settings(text) == FineSettings()
    assert values(parse_settings(text)) == {}


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("default_bind_address", "[::1]", "bind_address", "::1"),
        ("message.max_payload_size", "1", "max_payload", 1),
        ("message.max_payload_size", 64_512, "max_payload", 64_512),
        ("tcp.connection_retry_count", "-1", "dial_retry_count", -1),
        ("tcp.connection_retry_count", "5", "dial_retry_count", 5),
        ("tcp.connection_retry_delay_ms", "1", "dial_retry_delay", 0.001),
        ("tcp.max_active_connections", "128", "max_connections", 128),
        ("websocket.ping_period_ms", "5000", "ping_period", 5.0),
        ("websocket.retry_delay_ms", "2500", "retry_delay", 2.5),
        ("websocket.connect_retry_count", "0", "connect_retry_count", 0),
        ("websocket.reconnect_on_data_error", "false", "reconnect_on_data_error", False),
        ("websocket.reconnect_on_data_error", True, "reconnect_on_data_error", True),
        ("websocket.reconnect_on_data_error", "0", "reconnect_on_data_error", False),
        ("websocket.subprotocol", "x-1.0", "subprotocol", "x-1.0"),
    ],
)
def test_values(key: str, value: object, field: str, expected: object) -> None:
    settings = parse_settings(nested(key, value))
    origin = Origin(Layer.SETTINGS_FILE, f"tunneling.proxy.{key}")
    assert settings.get(key, type(expected)) == OptionValue(expected, origin)
    assert values(settings) == {field: expected}
    assert settings.unknown == ()


@pytest.mark.parametrize("setting", [s for s in SETTINGS if not s.has_effect], ids=lambda s: s.key)
def test_settings_without_effect_are_checked_and_named(setting: Setting) -> None:
    settings = parse_settings(nested(setting.key, "7"))
    assert values(settings) == {}
    assert settings.without_effect() == (f"tunneling.proxy.{setting.key}",)
    with pytest.raises(ConfigurationError):
        parse_settings(nested(setting.key, "many"))


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("message.max_payload_size", "0", ": must be between 1 and 64512"),
        ("message.max_payload_size", "64513", ": must be between 1 and 64512"),
        ("message.max_payload_size", "big", ": must be a whole number"),
        ("message.max_payload_size", "1.5", ": must be a whole number"),
        ("message.max_payload_size", 1.5, " must be a whole number"),
        ("message.max_payload_size", 10**30, ": must be a whole number"),
        ("message.max_payload_size", None, " must be a whole number"),
        ("message.max_payload_size", ["1"], " must be a whole number"),
        ("tcp.connection_retry_count", "-2", ": must be between -1 and 2147483647"),
        ("tcp.connection_retry_delay_ms", "0", ": must be between 1 and 86400000"),
        ("websocket.ping_period_ms", "99", ": must be between 100 and 86400000"),
        ("websocket.ping_period_ms", "soon", ": must be a whole number of milliseconds"),
        ("websocket.reconnect_on_data_error", "yes", ": must be true or false"),
        ("websocket.subprotocol", "a b", ": Subprotocol is not an HTTP token"),
        ("default_bind_address", "a b", ": Bind address contains invalid characters"),
        ("endpoint_format", "data.example.com", " must be a host name with one %s, for the region"),
        ("endpoint_format", "%s.%s", " must be a host name with one %s, for the region"),
        ("endpoint_format", 5, " must be a host name with one %s, for the region"),
        ("endpoint_format", "%s/x", ": Proxy endpoint contains invalid characters"),
        ("region_endpoint_overrides.eu", 5, " must be a host name"),
        ("region_endpoint_overrides.eu", "a:b:c", ": Invalid endpoint specified: a:b:c"),
        ("region_endpoint_overrides.EU", "x", ": Region must contain only lowercase letters"),
    ],
)
def test_wrong_values(key: str, value: object, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_settings(nested(key, value))
    assert str(caught.value).startswith(f"tunneling.proxy.{key}{sentence}")


@pytest.mark.parametrize("text", ["", "{", "nothing", '{"a": }', "[" * 100_000, '{"a": ' * 9_999])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^not valid JSON: "):
        parse_settings(text)


@pytest.mark.parametrize("text", ["[]", "5", '"text"', "null"])
def test_what_is_no_object(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^not a JSON object$"):
        parse_settings(text)


def test_unknown_keys_are_listed() -> None:
    text = json.dumps(
        {
            "tunneling": {"proxy": {"message": {"may_payload_size": "1"}, "tcp": "x"}, "b": 1},
            "a": {"c": None},
        }
    )
    assert set(parse_settings(text).unknown) == {
        "tunneling.proxy.message.may_payload_size",
        "tunneling.proxy.tcp",
        "tunneling.b",
        "a.c",
    }


@pytest.mark.parametrize(
    ("overrides", "region", "endpoint"),
    [
        ({}, "us-east-1", "data.tunneling.iot.us-east-1.amazonaws.com"),
        ({}, "cn-north-1", "data.tunneling.iot.cn-north-1.amazonaws.com.cn"),
        ({"eu": "h:1"}, "cn-northwest-1", "data.tunneling.iot.cn-northwest-1.amazonaws.com.cn"),
        ({"eu": "h:1"}, "eu", "h:1"),
        ({"cn-north-1": "mine"}, "cn-north-1", "mine"),
    ],
)
def test_regions(overrides: dict[str, str], region: str, endpoint: str) -> None:
    settings = parse_settings(document(region_endpoint_overrides=overrides))
    assert settings.endpoint_of(region) == endpoint


def test_endpoint_format() -> None:
    settings = parse_settings(document(endpoint_format="%s.tunnels.example.com:8443"))
    assert settings.endpoint_of("lab") == "lab.tunnels.example.com:8443"
    assert settings.endpoint_of("cn-north-1").endswith(".amazonaws.com.cn")
    again = parse_settings(format_settings(settings))
    assert again.endpoint_of("lab") == "lab.tunnels.example.com:8443"


def written(setting: Setting) -> st.SearchStrategy[str]:
    if setting.key in ("default_bind_address", "websocket.subprotocol"):
        return st.sampled_from(["x", "a-1.0"])
    if setting.default == "true":
        return st.sampled_from(["true", "false", "1", "0"])
    return st.integers(setting.minimum, setting.maximum).map(str)


@given(
    st.fixed_dictionaries({}, optional={s.key: written(s) for s in SETTINGS}),
    st.dictionaries(st.from_regex(r"[a-z0-9-]{1,20}", fullmatch=True), st.sampled_from("xyz")),
)
def test_settings_print_and_parse(texts: dict[str, str], regions: dict[str, str]) -> None:
    tree = {PREFIX + key: text for key, text in texts.items()}
    tree |= {f"{PREFIX}region_endpoint_overrides.{region}": x for region, x in regions.items()}
    settings = parse_settings(json.dumps(tree))
    assert set(settings.values) == set(texts)
    assert settings.region_endpoints == FineSettings().region_endpoints | regions
    assert parse_settings(format_settings(settings)) == settings


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda below: st.one_of(
        st.lists(below, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["tunneling", "proxy", "tcp", "message", "region_endpoint_overrides", "eu"]
                + [setting.key.split(".")[-1] for setting in SETTINGS]
            ),
            below,
        ),
    ),
)


def in_place(value: object) -> str:
    return json.dumps({"tunneling": {"proxy": value}})


@given(st.one_of(st.text(), json_values.map(json.dumps), json_values.map(in_place)))
def test_any_text_is_settings_or_an_error(text: str) -> None:
    settings = value_unless_refused(parse_settings, text)
    if settings is not None:
        again = parse_settings(format_settings(settings))
        assert values(again) == values(settings)


REFERENCE = os.environ.get("LOCALPROXY_REFERENCE", "")


@pytest.mark.skipif(not REFERENCE, reason="LOCALPROXY_REFERENCE does not name the C++ command")
def test_export_of_the_reference_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    subprocess.run(
        [REFERENCE, "--export-default-settings", str(path)], check=True, capture_output=True
    )
    settings = parse_settings(path.read_text())
    assert settings.unknown == ()
    assert settings.without_effect() == ()
    assert set(settings.values) == EXPORTED_BY_REFERENCE
    assert settings.region_endpoints == FineSettings().region_endpoints
