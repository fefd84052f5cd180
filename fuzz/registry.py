"""All targets, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .target import Target
from .targets import (
    agent,
    api,
    configuration,
    devices,
    http,
    mqtt,
    notifications,
    operations,
    resumption,
    sessions,
    wire,
)

__all__ = ["TARGETS"]

_ALL: Final[tuple[Target[Any], ...]] = (
    wire.CODEC,
    wire.FRAMING,
    wire.FAST_PATH,
    resumption.RESUMPTION,
    sessions.SESSION_SOURCE,
    sessions.SESSION_DESTINATION,
    sessions.SURVIVAL,
    http.UPGRADE_REQUEST,
    http.UPGRADE_ANSWER,
    http.CONNECT_REPLY,
    http.PROXY_HEADER,
    mqtt.MQTT_READER,
    mqtt.MQTT_SESSION,
    configuration.INI_CONFIG,
    configuration.INI_SERVICES,
    configuration.SETTINGS_JSON,
    configuration.PORT_MAP,
    configuration.ADDRESSES,
    configuration.WEB_PROXY,
    agent.DEVICE_CLIENT,
    agent.SERVICES_TOML,
    notifications.NOTIFICATION,
    notifications.NOTIFICATION_DOCUMENTS,
    api.AWS_JSON,
    api.SIGV4,
    operations.OPERATION_CALLS,
    devices.CERTIFICATE_PIN,
    devices.EVENT_STREAM,
)

TARGETS: Final[Mapping[str, Target[Any]]] = {target.name: target for target in _ALL}
