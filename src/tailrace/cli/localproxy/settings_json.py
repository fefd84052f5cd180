"""The fine-grained settings: ``--settings-json`` and ``--export-default-settings``. Pure.

The file has the keys, the nesting and the string values of the C++ command. Keys that
mean nothing here are accepted; values are checked when the file is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, TypeVar

from ...common.addresses import DEFAULT_LISTEN_HOST
from ...errors import ConfigurationError
from ...wire.protocol import MAX_PAYLOAD, SUBPROTOCOL_V3
from .addresses import parse_bind_address, parse_endpoint
from .layers import Layer, OptionValue, Origin
from .validation import validate_region, validate_subprotocol
from .values import printable

__all__ = [
    "BIND_ADDRESS",
    "CONNECT_RETRY_COUNT",
    "DIAL_RETRY_COUNT",
    "DIAL_RETRY_DELAY",
    "MAX_CONNECTIONS",
    "MAX_PAYLOAD_SIZE",
    "PING_PERIOD",
    "PREFIX",
    "RECONNECT_ON_DATA_ERROR",
    "RETRY_DELAY",
    "SETTINGS",
    "SUBPROTOCOL",
    "FineSettings",
    "Setting",
    "default_settings_text",
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

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Setting(Generic[T_co]):
    """One key of the file."""

    key: str
    """Dotted, without :data:`PREFIX`."""
    default: str
    expected: str
    """What a value must be, for people."""
    parse: Callable[[str], T_co | None]
    """Returns the value that a text means, ``None`` if it is not what is expected."""
    has_effect: bool = True
    """Whether the value means anything here."""
    exported: bool = True


def _integer(key: str, default: int, minimum: int = 0, maximum: int = _MAX_COUNT) -> Setting[int]:
    parse = partial(_parse_integer, minimum, maximum)
    return Setting(key, str(default), "a whole number", parse)


def _milliseconds(key: str, default: int, minimum: int = 1) -> Setting[float]:
    """Return a setting in milliseconds, at most a day, whose value is in seconds."""

    def parse(text: str) -> float | None:
        number = _parse_integer(minimum, _DAY_MS, text)
        return None if number is None else number / 1000

    return Setting(key, str(default), "a whole number of milliseconds", parse)


def _ignored(key: str, default: int, *, exported: bool = True) -> Setting[int]:
    parse = partial(_parse_integer, 0, _MAX_COUNT)
    return Setting(key, str(default), "a whole number", parse, has_effect=False, exported=exported)


def _parse_integer(minimum: int, maximum: int, text: str) -> int | None:
    if not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    if not minimum <= number <= maximum:
        raise ConfigurationError(f"must be between {minimum} and {maximum}")
    return number


def _parse_subprotocol(text: str) -> str:
    validate_subprotocol(text)
    return text


BIND_ADDRESS: Final = Setting(
    "default_bind_address",
    DEFAULT_LISTEN_HOST,
    "a host name or an IP address",
    parse_bind_address,
)
MAX_PAYLOAD_SIZE: Final = _integer("message.max_payload_size", MAX_PAYLOAD, 1, MAX_PAYLOAD)
DIAL_RETRY_COUNT: Final = _integer("tcp.connection_retry_count", 0, -1)
DIAL_RETRY_DELAY: Final = _milliseconds("tcp.connection_retry_delay_ms", 2500)
MAX_CONNECTIONS: Final = _integer("tcp.max_active_connections", 0, 0, 1_000_000)
PING_PERIOD: Final = _milliseconds("websocket.ping_period_ms", 20_000, 100)
RETRY_DELAY: Final = _milliseconds("websocket.retry_delay_ms", 2500)
CONNECT_RETRY_COUNT: Final = _integer("websocket.connect_retry_count", -1, -1)
RECONNECT_ON_DATA_ERROR: Final = Setting(
    "websocket.reconnect_on_data_error", "true", "true or false", _TRUTH.get
)
SUBPROTOCOL: Final = Setting(
    "websocket.subprotocol",
    SUBPROTOCOL_V3,
    "the name of a WebSocket subprotocol",
    _parse_subprotocol,
)

SETTINGS: Final[tuple[Setting[object], ...]] = (
    BIND_ADDRESS,
    _ignored("message.data_length_size", 2),
    _ignored("message.data_frame_max_size", 65_538),
    MAX_PAYLOAD_SIZE,
    _ignored("message.max_size", 65_536),
    DIAL_RETRY_COUNT,
    DIAL_RETRY_DELAY,
    _ignored("tcp.read_buffer_size", 131_076),
    _ignored("tcp.write_buffer_size", 131_076, exported=False),
    MAX_CONNECTIONS,
    PING_PERIOD,
    RETRY_DELAY,
    CONNECT_RETRY_COUNT,
    RECONNECT_ON_DATA_ERROR,
    SUBPROTOCOL,
    _ignored("websocket.max_frame_size", 131_076),
    _ignored("websocket.write_buffer_size", 131_076),
    _ignored("websocket.read_buffer_size", 131_076),
)

_BY_KEY: Final = {setting.key: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class FineSettings:
    """What a settings file says."""

    texts: Mapping[str, str] = field(default_factory=dict)
    """Key -> valid value as text, for the keys of :data:`SETTINGS` that the file has."""
    endpoint_format: str = _ENDPOINT_FORMAT
    region_endpoints: Mapping[str, str] = field(default_factory=lambda: dict(_REGION_ENDPOINTS))
    """Region -> endpoint; those of China are always there."""
    unknown: tuple[str, ...] = ()
    """Dotted keys of the file that no version of the command has."""

    def get(self, setting: Setting[T]) -> OptionValue[T] | None:
        """Return the value in the file, ``None`` when it has none."""
        text = self.texts.get(setting.key)
        value = None if text is None else setting.parse(text)
        if value is None:
            return None
        return OptionValue(value, Origin(Layer.SETTINGS_FILE, PREFIX + setting.key))

    def without_effect(self) -> tuple[str, ...]:
        """Return the full dotted keys whose values differ from the default in vain."""
        return tuple(
            PREFIX + setting.key
            for setting in SETTINGS
            if not setting.has_effect
            and self.texts.get(setting.key, setting.default) != setting.default
        )

    def endpoint_of(self, region: str) -> str:
        """Return the endpoint, ``HOST`` or ``HOST:PORT``, of the service in ``region``."""
        override = self.region_endpoints.get(region)
        return override if override is not None else self.endpoint_format.replace("%s", region)


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


def default_settings_text() -> str:
    """Return what ``--export-default-settings`` writes: the keys that the C++ command exports."""
    root: dict[str, object] = {}
    for setting in SETTINGS:
        parent, _, leaf = setting.key.rpartition(".")
        branch = root.setdefault(parent, {}) if parent else root
        if setting.exported and isinstance(branch, dict):
            branch[leaf] = setting.default
    root[_OVERRIDES_KEY] = _REGION_ENDPOINTS
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


def _checked(setting: Setting[object], value: object) -> str:
    """Return a valid value as text, in the way it is exported."""
    key = PREFIX + setting.key
    text = _text_of(value)
    if text is None:
        raise ConfigurationError(f"{key} must be {setting.expected}")
    try:
        understood = setting.parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{key}: {error}") from None
    if understood is None:
        raise ConfigurationError(f"{key}: must be {setting.expected}")
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
