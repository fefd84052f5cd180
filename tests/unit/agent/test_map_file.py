from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from support.plugins.clock import ClockLoop
from tailrace.agent.map_file import MAX_FILE_SIZE, MapFile, parse_map
from tailrace.agent.service_map import parse_services, rule_of
from tailrace.errors import ConfigurationError
from tailrace.library import ServiceMap, ServiceRule

FULL = """
[services]
SSH = 22
DB = "/run/db.sock"

[services.WEB]
target = "camera.local:80"
allow = ["10.0.0.0/8", "fd00::1"]
max-connections = 8
bandwidth = "800kB/s"

[services."PLC-*"]
target = 502

[services."*"]
target = "localhost:1"
"""

# -- what is in it ----------------------------------------------------------------------------


def test_rules_of_a_file():
    expected = {
        **parse_services(["SSH=22", "DB=/run/db.sock", "PLC-*=502", "*=localhost:1"]),
        "WEB": rule_of(
            "WEB",
            "camera.local:80",
            allow=["10.0.0.0/8", "fd00::1"],
            max_connections=8,
            bandwidth=800_000,
        ),
    }
    assert parse_map(FULL.encode(), "f") == expected
    assert parse_map(b"\xef\xbb\xbf" + FULL.encode(), "f") == expected
    assert parse_map(b"", "f") == {}
    assert parse_map(b"[services]", "f") == {}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("services = 1", "f.toml: services is an integer, not a table"),
        ("service.SSH = 22", "f.toml: unknown key service: all stands in tables of [services]"),
        ("[services]\nSSH = 2.2", "[services.SSH]: target is a float, not a string or a port"),
        ("[services]\nSSH = true", "[services.SSH]: target is a boolean, not"),
        ("[services]\nSSH = 1979-05-27", "[services.SSH]: target is a date or a time, not"),
        ("[services]\nSSH = 0", "[services.SSH]: target is not in 1..65535"),
        ("[services]\nSSH = 0x" + 9000 * "f", "[services.SSH]: target is not in 1..65535"),
        ("[services]\nSSH = 'h'", "f.toml: [services.SSH]: 'h' has no port; write HOST:PORT"),
        ("[services]\nSSH = '" + 301 * "h" + "'", "target has a string of more than 300 char"),
        ("[services]\n'A B' = 22", 'f.toml: [services."A B"]: Service ID must contain only'),
        ("[services.'A\\n']\ntarget = 22", "Service ID must contain only"),
        ("[services.WEB]\nallow = ['::1']", "f.toml: [services.WEB]: target is missing"),
        (
            "[services.WEB]\ntarget = 1\nalow = []",
            "f.toml: [services.WEB]: unknown key alow: the keys are target, allow,"
            " max-connections, bandwidth",
        ),
        ("[services.WEB]\ntarget = 1\nallow = '::1'", "allow is not a list of strings, as"),
        ("[services.WEB]\ntarget = 1\nallow = [1]", "allow is not a list of strings"),
        ("[services.WEB]\ntarget = 'h:1'\nallow = []", "at least one"),
        ("[services.WEB]\ntarget = 'h:1'\nallow = ['x']", "allow='x' is not a network"),
        ("[services.WEB]\ntarget = 1\nallow = ['::1']", "allow= does not have the target 1"),
        ("[services.WEB]\ntarget = 1\nmax-connections = '8'", "max-connections is a string, not"),
        ("[services.WEB]\ntarget = 1\nmax-connections = true", "max-connections is a boolean"),
        ("[services.WEB]\ntarget = 1\nmax-connections = 0", "max-connections is not in 1..1000000"),
        ("[services.WEB]\ntarget = 1\nbandwidth = 8000", "bandwidth is an integer, not a string"),
        ("[services.WEB]\ntarget = 1\nbandwidth = '8 MB'", "'8 MB' is not a bandwidth"),
        ("[services.WEB]\ntarget = 1\nbandwidth = '999B/s'", "bandwidth is less than 1000B/s"),
        ("[services]\nSSH = {a = [{}]}", "[services.SSH]: unknown key a"),
        ("[services]\nSSH = 22\nSSH = 23", "f.toml is not valid TOML: "),
        ("SSH = ", "f.toml is not valid TOML: Invalid value (at end of document)"),
        ("a = " + 5000 * "9", "f.toml is not valid TOML: "),
        ("a = " + 5000 * "[", "f.toml is nested too deeply"),
        ("[services]\n" + "\n".join(f"A{n} = 1" for n in range(1001)), "f.toml: there are 1001 s"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_its_place(content: str, sentence: str):
    with pytest.raises(ConfigurationError) as caught:
        parse_map(content.encode(), "f.toml")
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("f.toml")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_file_that_is_no_text():
    with pytest.raises(ConfigurationError, match=r"^f is not UTF-8 text$"):
        parse_map(b"\xff\xfe", "f")


# -- the file -----------------------------------------------------------------------------------


class Rig:
    """A map file that is watched; its loop's time is the test's."""

    def __init__(self, path: Path, loop: ClockLoop, *options: str) -> None:
        self.path = path
        self.services = ServiceMap({})
        self.file = MapFile(path, self.services, parse_services(options))
        self._loop = loop

    def watch(self) -> None:
        self._task = self._loop.create_task(self.file.watch())
        self.pass_time(0.5)

    def pass_time(self, seconds: float) -> None:
        self._loop.run_until_complete(asyncio.sleep(seconds))

    def end(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)


@pytest.fixture
def rig(tmp_path: Path, loop: ClockLoop) -> Rig:
    path = tmp_path / "services.toml"
    path.write_text("[services]\nSSH = 22\n")
    return Rig(path, loop)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_options_go_before_the_file(tmp_path: Path, loop: ClockLoop):
    path = tmp_path / "services.toml"
    path.write_text("[services]\nSSH = 22\nWEB = 80\n")
    rig = Rig(path, loop, "SSH=2222", "*=1")
    rig.file.load()
    assert rig.services.rules == parse_services(["SSH=2222", "WEB=80", "*=1"])


def test_a_file_that_cannot_be_read(tmp_path: Path, loop: ClockLoop):
    rig = Rig(tmp_path / "none.toml", loop)
    with pytest.raises(ConfigurationError, match=r"cannot read .*none.toml: No such file"):
        rig.file.load()
    os.mkfifo(rig.path)
    with pytest.raises(ConfigurationError, match="it is not a regular file"):
        rig.file.load()
    rig.path.unlink()
    rig.path.write_text(MAX_FILE_SIZE * "#")
    rig.file.load()
    rig.path.write_text(MAX_FILE_SIZE * "#" + "#")
    with pytest.raises(ConfigurationError, match="it has more than 262144 bytes"):
        rig.file.load()


def test_a_change_is_read_and_told(rig: Rig, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    rig.file.load()
    rig.watch()
    rig.path.write_text("[services]\nSSH = 2222\nWEB = 80\n")
    rig.pass_time(1.0)
    assert rig.services.find("WEB") is None, "it may not be complete"
    rig.pass_time(1.0)
    assert rig.services.rules == parse_services(["SSH=2222", "WEB=80"])
    assert messages(caplog) == ["services: +WEB, SSH 22 -> 2222"]
    rig.pass_time(60.0)
    assert messages(caplog) == []
    rig.end()


def test_a_file_that_breaks_changes_nothing_and_is_told_once(
    rig: Rig, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    rig.file.load()
    rig.watch()
    rig.path.write_text("[services]\nSSH = \n")
    rig.pass_time(60.0)
    assert rig.services.rules == parse_services(["SSH=22"])
    (told,) = messages(caplog)
    assert told.startswith(f"the services stay as they were: {rig.path} is not valid TOML: ")
    rig.path.unlink()
    rig.pass_time(60.0)
    (told,) = messages(caplog)
    assert told == (
        f"the services stay as they were: cannot read {rig.path}: No such file or directory"
    )
    rig.path.write_text("[services]\nSSH = 22\nX = 1\n")
    rig.pass_time(60.0)
    assert messages(caplog) == ["services: +X"]
    rig.end()


def test_a_file_that_is_being_replaced_is_waited_for(rig: Rig, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    rig.file.load()
    rig.watch()
    rig.path.unlink()
    rig.pass_time(1.0)
    rig.path.write_text("[services]\nSSH = 23\n")
    rig.pass_time(3.0)
    assert messages(caplog) == ["services: SSH 22 -> 23"]
    rig.end()


def test_it_is_read_at_once_when_asked(rig: Rig, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    rig.file.load()
    rig.file.reload()
    rig.path.write_text("[services]\nSSH = 23\n")
    rig.file.reload()
    assert messages(caplog) == ["services: unchanged", "services: SSH 22 -> 23"]
    assert rig.services.find("SSH") == ServiceRule(parse_services(["A=23"])["A"].target)
