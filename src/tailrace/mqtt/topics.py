"""The topic on which a thing is notified, made from a template. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..common.setting_errors import SettingUnusable

__all__ = ["AWS_TEMPLATE", "AWS_TOPICS", "TopicTemplate", "is_thing_name", "parse_topic_template"]

AWS_TEMPLATE: Final = "$aws/things/{thing}/tunnels/notify"
"""AWS IoT developer guide, "Configure a remote device and use IoT agent"."""

_PLACE: Final = "{thing}"
_THING: Final = r"[a-zA-Z0-9:_-]{1,128}"
"""Names of things (AWS IoT API, ``thingName``)."""
_MAX_TOPIC: Final = 256
"""Bytes of a topic (AWS IoT quotas)."""
_REFUSED: Final = re.compile(r"[+#{}\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_thing_name(text: str) -> bool:
    """Return whether a thing can have this name."""
    return re.fullmatch(_THING, text) is not None


@dataclass(frozen=True, slots=True)
class TopicTemplate:
    """A topic with the name of the thing left open; made by :func:`parse_topic_template`."""

    text: str

    def topic(self, thing_name: str) -> str:
        """Return the topic of a thing."""
        return self.text.replace(_PLACE, thing_name)

    def thing_name(self, topic: str) -> str | None:
        """Return the thing whose topic this is, ``None`` if it is no thing's.

        RabbitMQ gives a ``.`` of a topic back as ``/``; names of things have neither.
        """
        prefix, _, suffix = _normalised(self.text).partition(_PLACE)
        pattern = f"{re.escape(prefix)}({_THING}){re.escape(suffix)}"
        match = re.fullmatch(pattern, _normalised(topic))
        return None if match is None else match[1]


AWS_TOPICS: Final = TopicTemplate(AWS_TEMPLATE)


def _normalised(topic: str) -> str:
    return topic.replace(".", "/")


def parse_topic_template(text: str) -> TopicTemplate:
    """Return the template that ``text`` is, such as ``devices/{thing}/notify``.

    Raises:
        SettingUnusable: ``{thing}`` does not stand in it exactly once, or no topic can have the
            rest; the setting is ``notify_topic``.
    """
    rest = text.replace(_PLACE, "", 1)
    if rest == text or _PLACE in rest:
        raise SettingUnusable(
            "{0} {text!r} must hold {place} exactly once, as in {example}",
            "notify_topic",
            text=text,
            place=_PLACE,
            example=AWS_TEMPLATE,
        )
    if _REFUSED.search(rest) or len(rest.encode()) >= _MAX_TOPIC:
        raise SettingUnusable(
            "{0} {text!r} is no topic: no wildcards, braces or control characters,"
            " and fewer than {most} bytes",
            "notify_topic",
            text=text,
            most=_MAX_TOPIC,
        )
    return TopicTemplate(text)
