"""Topics of things: made from a template, and recognised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.common.setting_errors import SettingUnusable
from tailrace.mqtt.topics import AWS_TOPICS, is_thing_name, parse_topic_template

things = st.from_regex(r"[a-zA-Z0-9:_-]{1,128}", fullmatch=True)


def test_the_topic_of_aws() -> None:
    assert AWS_TOPICS.topic("pump-7") == "$aws/things/pump-7/tunnels/notify"
    assert AWS_TOPICS.thing_name("$aws/things/pump-7/tunnels/notify") == "pump-7"


@given(
    things,
    st.sampled_from(
        ["{thing}", "a/{thing}", "{thing}/b", "a.b/dev-{thing}.x/ä (1)", "[a]{thing}$"]
    ),
)
def test_there_and_back(thing: str, text: str) -> None:
    topics = parse_topic_template(text)
    assert topics.thing_name(topics.topic(thing)) == thing


@given(things)
def test_names_of_things(thing: str) -> None:
    assert is_thing_name(thing)
    assert not is_thing_name(thing + "/")
    assert not is_thing_name(thing + "\n")
    assert not is_thing_name(thing + "x" * 128)


def test_rabbitmq_gives_a_dot_back_as_a_slash() -> None:
    topics = parse_topic_template("plant.north/{thing}/notify")
    assert topics.thing_name("plant/north/pump/notify") == "pump"
    assert topics.thing_name("plant.north/pump/notify") == "pump"


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "things/pump/tunnels/notify",
        "$aws/things//tunnels/notify",
        "$aws/things/a/b/tunnels/notify",
        "$aws/things/pümp/tunnels/notify",
        "$aws/things/pump/tunnels/notify/x",
        "$aws/things/pump/tunnels/notify\n",
        f"$aws/things/{'x' * 129}/tunnels/notify",
    ],
)
def test_topics_of_no_thing(topic: str) -> None:
    assert AWS_TOPICS.thing_name(topic) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "exactly once"),
        ("devices/notify", "exactly once"),
        ("{thing}/{thing}", "exactly once"),
        ("{thing}/+", "no wildcards"),
        ("{thing}/#", "no wildcards"),
        ("{thing}/{region}", "braces"),
        ("{thing}\0", "control characters"),
        ("{thing}\n", "control characters"),
        ("{thing}\ud800", "control characters"),
        ("{thing}/" + "x" * 255, "fewer than 256 bytes"),
    ],
)
def test_texts_that_are_no_template(text: str, reason: str) -> None:
    with pytest.raises(SettingUnusable, match=reason) as caught:
        parse_topic_template(text)
    assert caught.value.setting == "notify_topic"
