"""The fine-grained settings: ``--settings-json`` and ``--export-default-settings``. Pure.

The file has the keys, the nesting and the string values of the C++ command. Keys that
mean nothing here are accepted; values are checked when the file is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias, TypeVar

from ...common.addresses import DEFAULT_LISTEN_HOST
from ...errors import ConfigurationError
from ...localproxy.endpoints import (
    ENDPOINT_FORMAT,
    REGION_ENDPOINTS,
    endpoint_of,
    parse_endpoint,
)
from ...localproxy.validation import validate_region, validate_subprotocol
from ...wire.protocol import MAX_PAYLOAD, SUBPROTOCOL_V3
from .addresses import parse_bind_address
from .layers import Layer, OptionValue, Origin
from .values import printable

__all__ = [
    "PREFIX",
    "SETTINGS",
    "FineSettings",
    "Setting",
    "default_settings_text",
    "parse_settings",
]

PREFIX: Final = "tunneling.proxy."
"""What all keys begin with."""

_ENDPOINT_FORMAT_KEY: Final = "endpoint_format"
_OVERRIDES_KEY: Final = "region_endpoint_overrides"
_DAY_MS: Final = 86_400_000
_MAX_COUNT: Final = 2_147_483_647
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}

SettingValue: TypeAlias = str | int | float | bool
T = TypeVar("T")


class _Type(Enum):
    INTEGER = "a whole number"
    MILLISECONDS = "a whole number of milliseconds"
    BOOLEAN = "true or false"
    ADDRESS = "a host name or an IP address"
    SUBPROTOCOL = "the name of a WebSocket subprotocol"


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the file."""

    key: str
    """Dotted, without :data:`PREFIX`."""
    type: _Type
    default: str
    minimum: int = 0
    maximum: int = _MAX_COUNT
    has_effect: bool = True
    """Whether the value means anything here."""
    exported: bool = True


def _ignored(key: str, default: int, *, exported: bool = True) -> Setting:
    return Setting(key, _Type.INTEGER, str(default), has_effect=False, exported=exported)


SETTINGS: Final = (
    Setting("default_bind_address", _Type.ADDRESS, DEFAULT_LISTEN_HOST),
    _ignored("message.data_length_size", 2),
    _ignored("message.data_frame_max_size", 65_538),
    Setting("message.max_payload_size", _Type.INTEGER, str(MAX_PAYLOAD), 1, MAX_PAYLOAD),
    _ignored("message.max_size", 65_536),
    Setting("tcp.connection_retry_count", _Type.INTEGER, "0", -1),
    Setting("tcp.connection_retry_delay_ms", _Type.MILLISECONDS, "2500", 1, _DAY_MS),
    _ignored("tcp.read_buffer_size", 131_076),
    _ignored("tcp.write_buffer_size", 131_076, exported=False),
    Setting("tcp.max_active_connections", _Type.INTEGER, "12000", 0, 1_000_000),
    Setting("websocket.ping_period_ms", _Type.MILLISECONDS, "20000", 100, _DAY_MS),
    Setting("websocket.retry_delay_ms", _Type.MILLISECONDS, "2500", 1, _DAY_MS),
    Setting("websocket.connect_retry_count", _Type.INTEGER, "-1", -1),
    Setting("websocket.reconnect_on_data_error", _Type.BOOLEAN, "true"),
    Setting("websocket.subprotocol", _Type.SUBPROTOCOL, SUBPROTOCOL_V3),
    _ignored("websocket.max_frame_size", 131_076),
    _ignored("websocket.write_buffer_size", 131_076),
    _ignored("websocket.read_buffer_size", 131_076),
)

_BY_KEY: Final = {setting.key: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class FineSettings:
    """What a settings file says."""

    values: Mapping[str, SettingValue] = field(default_factory=dict)
    """Key -> value, for the keys of :data:`SETTINGS` that the file has."""
    endpoint_format: str = ENDPOINT_FORMAT
    region_endpoints: Mapping[str, str] = field(default_factory=lambda: dict(REGION_ENDPOINTS))
    """Region -> endpoint; those of China are always there."""
    unknown: tuple[str, ...] = ()
    """Dotted keys of the file that no version of the command has."""

    def get(self, key: str, kind: type[T]) -> OptionValue[T] | None:
        """Return the value of a key, ``None`` when the file has none; times are in seconds."""
        value = self.values.get(key)
        if value is None:
            return None
        assert isinstance(value, kind)
        return OptionValue(value, Origin(Layer.SETTINGS_FILE, PREFIX + key))

    def without_effect(self) -> tuple[str, ...]:
        """Return the full dotted keys whose values differ from the default in vain."""
        return tuple(
            PREFIX + setting.key
            for setting in SETTINGS
            if not setting.has_effect
            and str(self.values.get(setting.key, setting.default)) != setting.default
        )

    def endpoint_of(self, region: str) -> str:
        """Return the endpoint, ``HOST`` or ``HOST:PORT``, of the service in ``region``."""
        return endpoint_of(region, self.region_endpoints, self.endpoint_format)


def parse_settings(text: str) -> FineSettings:
    """Return what the text of a settings file says.

    Values are strings; numbers and booleans are accepted too.

    Raises:
        ConfigurationError: it is not a JSON object, or a value is not valid for its key.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"not valid JSON: {printable(str(error))}") from None
    values: dict[str, SettingValue] = {}
    unknown: list[str] = []
    endpoint_format = ENDPOINT_FORMAT
    region_endpoints = dict(REGION_ENDPOINTS)
    for full_key, value in _leaves(document):
        key = full_key.removeprefix(PREFIX) if full_key.startswith(PREFIX) else ""
        parent, _, region = key.partition(".")
        if key in _BY_KEY:
            values[key] = _checked(_BY_KEY[key], value)
        elif key == _ENDPOINT_FORMAT_KEY:
            endpoint_format = _checked_format(value)
        elif parent == _OVERRIDES_KEY and region:
            region_endpoints[region] = _checked_endpoint(region, value)
        else:
            unknown.append(full_key)
    return FineSettings(values, endpoint_format, region_endpoints, tuple(unknown))


def default_settings_text() -> str:
    """Return what ``--export-default-settings`` writes: the keys that the C++ command exports."""
    root: dict[str, object] = {}
    for setting in SETTINGS:
        parent, _, leaf = setting.key.rpartition(".")
        branch = root.setdefault(parent, {}) if parent else root
        if setting.exported and isinstance(branch, dict):
            branch[leaf] = setting.default
    root[_OVERRIDES_KEY] = dict(REGION_ENDPOINTS)
    return json.dumps({"tunneling": {"proxy": root}}, indent=4) + "\n"


def _leaves(document: object) -> Iterator[tuple[str, object]]:
    """Yield the values of a JSON document with their dotted keys, at any depth."""
    if not isinstance(document, dict):
        raise ConfigurationError("not a JSON object")
    waiting: list[tuple[str, object]] = [("", document)]
    while waiting:
        key, value = waiting.pop(0)
        if isinstance(value, dict):
            waiting += [(f"{key}.{name}" if key else name, below) for name, below in value.items()]
        else:
            yield key, value


def _checked(setting: Setting, value: object) -> SettingValue:
    key = PREFIX + setting.key
    text = _text_of(value)
    if text is None:
        raise ConfigurationError(f"{key} must be {setting.type.value}")
    try:
        return _value_of(setting, text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{key}: {error}") from None


def _text_of(value: object) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if abs(value) <= _MAX_COUNT else ""
        case str():
            return value
        case _:
            return None


def _value_of(setting: Setting, text: str) -> SettingValue:
    match setting.type:
        case _Type.BOOLEAN if text in _TRUTH:
            return _TRUTH[text]
        case _Type.ADDRESS:
            return parse_bind_address(text)
        case _Type.SUBPROTOCOL:
            validate_subprotocol(text)
            return text
        case _Type.INTEGER | _Type.MILLISECONDS if _INTEGER.fullmatch(text):
            number = int(text)
            if not setting.minimum <= number <= setting.maximum:
                raise ConfigurationError(f"must be between {setting.minimum} and {setting.maximum}")
            return number / 1000 if setting.type is _Type.MILLISECONDS else number
        case _:
            raise ConfigurationError(f"must be {setting.type.value}")


def _checked_format(value: object) -> str:
    key = PREFIX + _ENDPOINT_FORMAT_KEY
    if not isinstance(value, str) or value.count("%s") != 1:
        raise ConfigurationError(f"{key} must be a host name with one %s, for the region")
    try:
        parse_endpoint(value.replace("%s", "region"))
    except ConfigurationError as error:
        raise ConfigurationError(f"{key}: {error}") from None
    return value


def _checked_endpoint(region: str, value: object) -> str:
    key = f"{PREFIX}{_OVERRIDES_KEY}.{printable(region)}"
    if not isinstance(value, str):
        raise ConfigurationError(f"{key} must be a host name")
    try:
        validate_region(region)
        parse_endpoint(value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{key}: {error}") from None
    return value
