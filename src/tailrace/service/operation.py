"""Settings of certificates, logs and notifications, read and checked against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ..mqtt.settings import parse_mqtt_url
from ..mqtt.topics import AWS_TEMPLATE, parse_topic_template
from .config import Address, OperationSettings
from .errors import SettingUnusable

__all__ = ["operation_settings"]

_NEEDED: Final = {
    "tls_key": "tls_cert",
    "tls_ca": "tls_cert",
    "mqtt_ca": "mqtt_url",
    "mqtt_cert": "mqtt_url",
    "mqtt_key": "mqtt_url",
}
"""Setting -> the one it has no meaning without."""


def operation_settings(
    *,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    tls_ca: Path | None = None,
    metrics_listen: Address | None = None,
    audit_log: Path | None = None,
    mqtt_url: str | None = None,
    mqtt_ca: Path | None = None,
    mqtt_cert: Path | None = None,
    mqtt_key: Path | None = None,
    notify_command: Sequence[str] = (),
    notify_topic: str = AWS_TEMPLATE,
    environment: Mapping[str, str],
) -> OperationSettings:
    """Return the settings; user and password of the broker may be in ``environment``.

    Raises:
        SettingUnusable: one of them is not valid, or does not go with the others.
    """
    given = {
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "tls_ca": tls_ca,
        "mqtt_url": mqtt_url,
        "mqtt_ca": mqtt_ca,
        "mqtt_cert": mqtt_cert,
        "mqtt_key": mqtt_key,
    }
    for setting, owner in _NEEDED.items():
        if given[setting] is not None and given[owner] is None:
            raise SettingUnusable("{0} needs {1}", setting, owner)
    mqtt = None
    if mqtt_url is not None:
        mqtt = parse_mqtt_url(mqtt_url, environment, ca=mqtt_ca, cert=mqtt_cert, key=mqtt_key)
    return OperationSettings(
        tls_cert,
        tls_key,
        tls_ca,
        metrics_listen,
        audit_log,
        mqtt,
        tuple(notify_command),
        parse_topic_template(notify_topic),
    )
