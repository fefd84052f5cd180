"""Tell things about their tunnels: over MQTT, or through a command."""

from .announcer import Announcer
from .base import Notification, Notifier, NotifyFailed
from .command import CommandNotifier, parse_command
from .mqtt import MqttNotifier, MqttSettings, parse_mqtt_url
from .outbox import Outbox, OutboxSettings

__all__ = [
    "Announcer",
    "CommandNotifier",
    "MqttNotifier",
    "MqttSettings",
    "Notification",
    "Notifier",
    "NotifyFailed",
    "Outbox",
    "OutboxSettings",
    "parse_command",
    "parse_mqtt_url",
]
