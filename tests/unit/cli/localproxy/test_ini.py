"""``--config`` files and the files of ``--config-dir``: parse, print, parse again."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.oracles.configuration import format_config, format_services
from support.oracles.refusals import value_unless_refused
from tailrace.cli.localproxy.ini import (
    NotAnIniFile,
    parse_config,
    parse_services,
    read_config,
    read_services,
)
from tailrace.cli.localproxy.options import OPTIONS, Option
from tailrace.cli.localproxy.values import UsageError, parse_value
from tailrace.common.addresses import TCPAddress, UnixAddress
from tailrace.errors import ConfigurationError
from tailrace.wire import Side

DESTINATION = Side.DESTINATION
TOKEN = "AQGAAXlKn0Tqd8Vn3Cn4Zf2bPzAAQABAAdU="


def pairs(text: str) -> dict[str, object]:
    return {entry.option.name: entry.value for entry in parse_config(text)}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_may_stand_in_a_file(option: Option) -> None:
    text = option.choices[0] if option.choices else "1"
    (entry,) = parse_config(f"{option.name} = {text}\n")
    assert entry.option is option
    assert entry.value == parse_value(option, text, option.name)
    assert entry.line == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# region = us\n\n   \n", {}),
        ("region=us", {"region": "us"}),
        ("  region   =   us  \r\nmode = src\r\n", {"region": "us", "mode": "src"}),
        ("region = us#comment", {"region": "us"}),
        ("region =\n", {"region": ""}),
        ("source-listen-port = a=1,b=2", {"source-listen-port": "a=1,b=2"}),
        ('access-token = "x"', {"access-token": '"x"'}),
        ("verbose = 5\nverbose = 6", {"verbose": 6}),
        ("no-ssl-host-verify = true", {"no-ssl-host-verify": True}),
        ("no-ssl-host-verify =", {"no-ssl-host-verify": True}),
        ("json = off", {"json": False}),
        ("[section]\n", {}),
    ],
)
def test_config(text: str, expected: dict[str, object]) -> None:
    assert pairs(text) == expected


@pytest.mark.parametrize(
    ("text", "sentence", "hint"),
    [
        ("foo = 1", "unrecognised option 'foo'", "c.ini, line 1"),
        ("\nRegion = us", "unrecognised option 'Region'", "c.ini, line 2. Did you mean 'region'?"),
        ("t = abc", "unrecognised option 't'", "c.ini, line 1"),
        ("--region = us", "unrecognised option", "c.ini, line 1. Did you mean 'region'?"),
        (" = us", "unrecognised option", "c.ini, line 1"),
        (
            "[a]\nregion = us",
            "unrecognised option 'a.region'",
            "c.ini, line 2. Did you mean 'region'?",
        ),
        ("[a.]\nb = us", "unrecognised option 'a.b'", "c.ini, line 2"),
        ("[]\nregion = us", "unrecognised option", "c.ini, line 2. Did you mean 'region'?"),
        (
            "junk",
            "the options configuration file contains an invalid line 'junk'",
            "c.ini, line 1: expected NAME = VALUE.",
        ),
        (
            "region : us",
            "the options configuration file contains an invalid line 'region ...'",
            "c.ini, line 1: expected NAME = VALUE.",
        ),
        (
            "[a",
            "the options configuration file contains an invalid line",
            "c.ini, line 1: expected NAME = VALUE.",
        ),
        (
            "region = a\nregion = b",
            "option 'region' cannot be specified more than once",
            "c.ini, line 2",
        ),
        (
            "verbose = abc",
            "the argument ('abc') for option 'verbose' is invalid",
            "c.ini, line 1. Give a whole number from 0 to 65535.",
        ),
        (
            "no-ssl-host-verify = maybe",
            "the argument ('maybe') for option 'no-ssl-host-verify' is invalid. Valid choices are"
            " 'on|off', 'yes|no', '1|0' and 'true|false'",
            "c.ini, line 1.",
        ),
    ],
)
def test_mistakes(text: str, sentence: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config(text, "c.ini")
    assert str(caught.value) == sentence
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        TOKEN[:-1],
        f"access-token {TOKEN}",
        f"access-token: {TOKEN}",
        f"acces-token = {TOKEN}",
        f"region = us\n[{TOKEN}]\nregion = us",
        TOKEN[:20] + "==",
    ],
)
def test_tokens_are_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config(text)
    said = f"{caught.value} {caught.value.hint}"
    assert TOKEN[:20] not in said


def test_entries_do_not_show_values() -> None:
    assert TOKEN not in repr(parse_config(f"access-token = {TOKEN}"))


texts = st.text(alphabet=st.characters(exclude_characters="#\n\r")).map(
    lambda text: text.strip(" \t\r\n\v\f")
)


@given(st.dictionaries(st.sampled_from([o.name for o in OPTIONS if o.kind.value == "text"]), texts))
def test_config_prints_and_parses(values: dict[str, str]) -> None:
    text = "".join(f"{name} = {value}\n" for name, value in values.items())
    entries = parse_config(text)
    assert {entry.option.name: entry.value for entry in entries} == values
    assert format_config(entries) == text


ini_texts = st.one_of(
    st.text(),
    st.lists(
        st.one_of(
            st.text(alphabet="ab=[]#;. \t:1", max_size=10),
            st.builds(
                "{} = {}".format, st.sampled_from([o.name for o in OPTIONS]), st.text(max_size=5)
            ),
        )
    ).map("\n".join),
)


@given(ini_texts)
def test_any_text_is_a_config_or_a_usage_error(text: str) -> None:
    entries = value_unless_refused(parse_config, text, "c.ini")
    if entries is None:
        return
    again = parse_config(format_config(entries))
    assert [(e.option, e.value) for e in again] == [(e.option, e.value) for e in entries]


def test_read_config(tmp_path: Path) -> None:
    path = tmp_path / "c.ini"
    path.write_bytes(b"\xef\xbb\xbfregion = us\nsource-listen-port = /run/\xff\n")
    entries = read_config(str(path))
    assert [entry.value for entry in entries] == ["us", "/run/\udcff"]


def test_read_config_that_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "nothing")
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert str(caught.value).startswith("can not read options configuration file '")
    assert caught.value.hint == "No such file or directory."
    with pytest.raises(UsageError) as caught:
        read_config(str(tmp_path))
    assert caught.value.hint == "Is a directory."


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("", "Path cannot be empty"), ("a\0", "Path contains invalid null byte")],
)
def test_read_config_of_no_path(path: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        read_config(path)


def test_services() -> None:
    text = "; a comment\n# another\n\nSSH1=22\r\n a:b =  10.0.0.1:80 \nunix = /run/x#1\n"
    services = parse_services(text, DESTINATION)
    assert services == {
        "SSH1": TCPAddress("", 22),
        "a:b": TCPAddress("10.0.0.1", 80),
        "unix": UnixAddress("/run/x#1"),
    }


def test_names_that_are_no_service_ids_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        services = parse_services("a=1\na b=2\n[sec]\na=3\n", DESTINATION)
    assert services == {"a": TCPAddress("", 1)}
    assert [message.partition(" of ")[0] for message in caplog.messages] == ["line 2", "line 4"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a=1\njunk", "line 2: expected ID = ADDRESS"),
        ("=1", "line 1: expected ID = ADDRESS"),
        ("a=1\na=2", "line 2: duplicate name"),
        ("[a\nb=1", "line 1: the section has no ']' or is a duplicate"),
        ("[a]\n[a]", "line 2: the section has no ']' or is a duplicate"),
    ],
)
def test_what_is_no_service_file(text: str, sentence: str) -> None:
    with pytest.raises(NotAnIniFile) as caught:
        parse_services(text, DESTINATION)
    assert str(caught.value) == sentence


def test_addresses_that_are_not_valid(caplog: pytest.LogCaptureFixture) -> None:
    text = "a=1\nb=0\nc=x\n"
    with pytest.raises(ConfigurationError, match=r"^line 2: Port must be between 1 and 65535$"):
        parse_services(text, DESTINATION)
    with caplog.at_level(logging.WARNING):
        assert list(parse_services(text, DESTINATION, strict=False)) == ["a"]
    assert len(caplog.messages) == 2


@given(ini_texts)
def test_any_text_is_services_or_an_error(text: str) -> None:
    services = value_unless_refused(parse_services, text, DESTINATION)
    if services is None:
        return
    assert parse_services(format_services(services), DESTINATION) == services


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    files = {
        "b.ini": "SSH=22\nHTTP=80\n",
        "a/z.conf": "HTTP=81\n",
        "c": "VNC=5900\nSSH=23\n",
        "README.md": "not an INI file\n",
        "twice.ini": "x=1\nx=2\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_read_services(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        services = read_services(str(directory), DESTINATION, strict=True)
    assert services == {
        "SSH": TCPAddress("", 22),
        "HTTP": TCPAddress("", 80),
        "VNC": TCPAddress("", 5900),
    }
    assert [os.path.basename(m.split(":")[0]) for m in caplog.messages] == [
        "README.md",
        "twice.ini",
    ]


def test_read_services_with_a_mistake(directory: Path) -> None:
    (directory / "a" / "bad.ini").write_text("OK=1\nBAD=none\n")
    with pytest.raises(ConfigurationError, match=r"a/bad\.ini, line 2: Address 'none' has no port"):
        read_services(str(directory), DESTINATION, strict=True)
    services = read_services(str(directory), DESTINATION, strict=False)
    assert services["OK"] == TCPAddress("", 1)
    assert "BAD" not in services


@pytest.mark.parametrize("ids", [["A", "B", "C"], ["C", "B", "A"], ["B", "A", "C"]])
def test_fully_mapped_ids_are_honoured_in_any_order(tmp_path: Path, ids: list[str]) -> None:
    for name in ids:
        (tmp_path / f"{name}.ini").write_text(f"{name} = {ord(name)}\n")
    services = read_services(str(tmp_path), Side.SOURCE, strict=True)
    assert dict(services) == {name: TCPAddress("", ord(name)) for name in ids}
