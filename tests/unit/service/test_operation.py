"""Settings that are checked against each other; the command's tests have the rest."""

from pathlib import Path
from typing import Any

import pytest

from tailrace.service.config import Address, OperationSettings
from tailrace.service.errors import SettingUnusable
from tailrace.service.operation import operation_settings


def test_nothing_is_said() -> None:
    assert operation_settings(environment={}) == OperationSettings()


def test_everything_is_said() -> None:
    paths = {name: Path(name) for name in ("tls_cert", "tls_key", "tls_ca", "audit_log")}
    settings = operation_settings(
        **paths,
        metrics_listen=Address("::1", 1),
        mqtt_url="mqtt://broker",
        notify_command=["notify", "--all"],
        environment={"TAILRACE_MQTT_USER": "me"},
    )
    assert settings.mqtt is not None
    assert (settings.mqtt.host, settings.mqtt.port, settings.mqtt.user) == ("broker", 1883, "me")
    assert {name: getattr(settings, name) for name in paths} == paths
    assert settings.metrics_listen == Address("::1", 1)
    assert settings.notify_command == ("notify", "--all")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tls_key": Path("k")}, "tls_key needs tls_cert"),
        ({"tls_ca": Path("k")}, "tls_ca needs tls_cert"),
        ({"mqtt_ca": Path("k")}, "mqtt_ca needs mqtt_url"),
        ({"mqtt_cert": Path("k")}, "mqtt_cert needs mqtt_url"),
        ({"mqtt_key": Path("k")}, "mqtt_key needs mqtt_url"),
        ({"mqtt_url": "http://h"}, "mqtt_url must be mqtt://HOST"),
    ],
)
def test_what_does_not_fit(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingUnusable) as caught:
        operation_settings(**given, environment={})
    assert str(caught.value).startswith(said)
    assert caught.value.setting == next(iter(given))
