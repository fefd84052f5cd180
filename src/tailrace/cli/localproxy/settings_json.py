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
from typing import Final, TypeAlias

from ...errors import ConfigurationError
from ...wire.protocol import MAX_PAYLOAD, SUBPROTOCOL_V3
from .addresses import parse_bind_address, parse_endpoint
from .validation import validate_region, validate_subprotocol
from .values import printable

__all__ = [
    "PREFIX",
    "SETTINGS",
    "FineSettings",
    "Setting",
    "default_settings_text",
    "format_settings",
    "parse_settings",
]

PREFIX: Final = "tunneling.proxy."
"""What all keys begin with."""

_ENDPOINT_FORMAT: Final = "data.tunneling.iot.%s.amazonaws.com"
_REGION_ENDPOINTS: Final = {
    region: f"data.tunneling.iot.{region}.amazonaws.com.cn"
    for region in ("cn-north-1", "cn-northwest-1")
}
_ENDPOINT_FORMAT_KEY: Final = "endpoint_format"
_OVERRIDES_KEY: Final = "region_endpoint_overrides"
_DAY_MS: Final = 86_400_000
_MAX_COUNT: Final = 2_147_483_647
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}

SettingValue: TypeAlias = str | int | float | bool


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
    field: str = ""
    """The field of ``ProxySettings`` it sets; "" when the key means nothing here."""
    minimum: int = 0
    maximum: int = _MAX_COUNT
    exported: bool = True


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("default_bind_address", _Type.ADDRESS, "localhost", "bind_address"),
    Setting("message.data_length_size", _Type.INTEGER, "2"),
    Setting("message.data_frame_max_size", _Type.INTEGER, "65538"),
    Setting(
        "message.max_payload_size", _Type.INTEGER, str(MAX_PAYLOAD), "max_payload", 1, MAX_PAYLOAD
    ),
    Setting("message.max_size", _Type.INTEGER, "65536"),
    Setting("tcp.connection_retry_count", _Type.INTEGER, "0", "dial_retry_count", -1),
    Setting(
        "tcp.connection_retry_delay_ms", _Type.MILLISECONDS, "2500", "dial_retry_delay", 1, _DAY_MS
    ),
    Setting("tcp.read_buffer_size", _Type.INTEGER, "131076"),
    Setting("tcp.write_buffer_size", _Type.INTEGER, "131076", exported=False),
    Setting("tcp.max_active_connections", _Type.INTEGER, "0", "max_connections", 0, 1_000_000),
    Setting("websocket.ping_period_ms", _Type.MILLISECONDS, "20000", "ping_period", 100, _DAY_MS),
    Setting("websocket.retry_delay_ms", _Type.MILLISECONDS, "2500", "retry_delay", 1, _DAY_MS),
    Setting("websocket.connect_retry_count", _Type.INTEGER, "-1", "connect_retry_count", -1),
    Setting("websocket.reconnect_on_data_error", _Type.BOOLEAN, "true", "reconnect_on_data_error"),
    Setting("websocket.subprotocol", _Type.SUBPROTOCOL, SUBPROTOCOL_V3, "subprotocol"),
    Setting("websocket.max_frame_size", _Type.INTEGER, "131076"),
    Setting("websocket.write_buffer_size", _Type.INTEGER, "131076"),
    Setting("websocket.read_buffer_size", _Type.INTEGER, "131076"),
)

_BY_KEY: Final = {setting.key: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class FineSettings:
    """What a settings file says."""

    texts: Mapping[str, str] = field(default_factory=dict)
    """Key -> value as text, for the keys of :data:`SETTINGS` that the file has."""
    endpoint_format: str = _ENDPOINT_FORMAT
    region_endpoints: Mapping[str, str] = field(default_factory=lambda: dict(_REGION_ENDPOINTS))
    """Region -> endpoint; those of China are there whatever the file has."""
    unknown: tuple[str, ...] = ()
    """Dotted keys of the file that no version of the command has."""

    def values(self) -> dict[str, tuple[SettingValue, str]]:
        """Return field of ``ProxySettings`` -> its value and the full dotted key."""
        return {
            setting.field: (_value_of(setting, self.texts[setting.key]), PREFIX + setting.key)
            for setting in SETTINGS
            if setting.field and setting.key in self.texts
        }

    def without_effect(self) -> tuple[str, ...]:
        """Return the full dotted keys whose values differ from the default in vain."""
        return tuple(
            PREFIX + setting.key
            for setting in SETTINGS
            if not setting.field and self.texts.get(setting.key, setting.default) != setting.default
        )

    def endpoint_of(self, region: str) -> str:
        """Return the endpoint, ``HOST`` or ``HOST:PORT``, of the service in ``region``."""
        override = self.region_endpoints.get(region)
        return override if override is not None else self.endpoint_format.replace("%s", region)


def parse_settings(text: str) -> FineSettings:
    """Return what the text of a settings file says.

    Values are strings; numbers and booleans are accepted too.

    Raises:
        ConfigurationError: it is no JSON object, or a value is not one of its key's.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"no JSON: {printable(str(error))}") from None
    texts: dict[str, str] = {}
    unknown: list[str] = []
    endpoint_format = _ENDPOINT_FORMAT
    region_endpoints = dict(_REGION_ENDPOINTS)
    for full_key, value in _leaves(document):
        key = full_key.removeprefix(PREFIX) if full_key.startswith(PREFIX) else ""
        parent, _, region = key.partition(".")
        if key in _BY_KEY:
            texts[key] = _checked(_BY_KEY[key], value)
        elif key == _ENDPOINT_FORMAT_KEY:
            endpoint_format = _checked_format(value)
        elif parent == _OVERRIDES_KEY and region:
            region_endpoints[region] = _checked_endpoint(region, value)
        else:
            unknown.append(full_key)
    return FineSettings(texts, endpoint_format, region_endpoints, tuple(unknown))


def format_settings(settings: FineSettings) -> str:
    """Return the text of a settings file that says what ``settings`` does.

    It has the keys that the C++ command exports, and those ``settings`` has besides.
    """
    root: dict[str, object] = {}
    for setting in SETTINGS:
        if setting.exported or setting.key in settings.texts:
            _put(root, setting.key, settings.texts.get(setting.key, setting.default))
    if settings.endpoint_format != _ENDPOINT_FORMAT:
        root[_ENDPOINT_FORMAT_KEY] = settings.endpoint_format
    root[_OVERRIDES_KEY] = dict(settings.region_endpoints)
    return json.dumps({"tunneling": {"proxy": root}}, indent=4) + "\n"


def default_settings_text() -> str:
    """Return what ``--export-default-settings`` writes."""
    return format_settings(FineSettings())


def _put(root: dict[str, object], key: str, value: str) -> None:
    parent, dot, leaf = key.partition(".")
    if not dot:
        root[key] = value
        return
    branch = root.setdefault(parent, {})
    assert isinstance(branch, dict)
    branch[leaf] = value


def _leaves(document: object) -> Iterator[tuple[str, object]]:
    """Yield the values of a JSON document with their dotted keys, at any depth."""
    if not isinstance(document, dict):
        raise ConfigurationError("no JSON object")
    waiting: list[tuple[str, object]] = [("", document)]
    while waiting:
        key, value = waiting.pop(0)
        if isinstance(value, dict):
            waiting += [(f"{key}.{name}" if key else name, below) for name, below in value.items()]
        else:
            yield key, value


def _checked(setting: Setting, value: object) -> str:
    """Return the value as text if it is one of ``setting``, in the way it is exported."""
    key = PREFIX + setting.key
    text = _text_of(value)
    if text is None:
        raise ConfigurationError(f"{key} must be {setting.type.value}")
    try:
        _value_of(setting, text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{key}: {error}") from None
    return text


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
