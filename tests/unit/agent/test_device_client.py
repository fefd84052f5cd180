from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.oracles.nesting import said_of_nesting
from tailrace.agent.device_client import (
    DeviceClientSettings,
    check_device_client_is_not_running,
    parse_device_client,
    read_device_client,
)
from tailrace.agent.service_map import parse_services
from tailrace.errors import ConfigurationError

HOME = Path("/home/pump")
NAME = "client.conf"
PASSWORD = "p@ss:w/rd"
MINIMAL: dict[str, Any] = {
    "endpoint": "a1b2-ats.iot.eu-west-1.amazonaws.com",
    "cert": "/etc/iot/cert.pem",
    "key": "/etc/iot/key.pem",
    "root-ca": "/etc/iot/ca.pem",
    "thing-name": "pump-7",
    "jobs": {"enabled": False},
}
RUNTIME = {
    "runtime-config": {
        "completed-fp": True,
        "cert": "~/keys/cert.pem",
        "key": "~/keys/key.pem",
        "thing-name": "pump-8",
        "device-config": "",
    }
}
PROXY = {
    "http-proxy-enabled": True,
    "http-proxy-host": "10.0.0.9",
    "http-proxy-port": "8888",
    "http-proxy-auth-method": "UserNameAndPassword",
    "http-proxy-username": "user",
    "http-proxy-password": PASSWORD,
}


def encoded(document: object) -> bytes:
    return document if isinstance(document, bytes) else json.dumps(document).encode()


def parsed(
    changes: dict[str, Any] | None = None,
    *,
    environ: dict[str, str] | None = None,
    runtime: object = None,
    proxy: object = None,
) -> DeviceClientSettings:
    return parse_device_client(
        encoded(MINIMAL | (changes or {})),
        NAME,
        environ or {},
        HOME,
        runtime=None if runtime is None else encoded(runtime),
        proxy=None if proxy is None else encoded(proxy),
    )


def refused(**arguments: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parsed(**arguments)
    assert str(caught.value).isprintable()
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


# -- what is in it ------------------------------------------------------------------------------


def test_the_keys_that_matter():
    assert parsed() == DeviceClientSettings(
        endpoint="a1b2-ats.iot.eu-west-1.amazonaws.com",
        thing_name="pump-7",
        certificate=Path("/etc/iot/cert.pem"),
        key=Path("/etc/iot/key.pem"),
        root_ca=Path("/etc/iot/ca.pem"),
        services=parse_services(["SSH=22", "VNC=5900"]),
    )


def test_what_says_nothing_about_tunnels_is_passed_over():
    assert parsed({"sample-shadow": "?", "fleet-provisioning": 7, "zz": [{"a": None}]}) == parsed()


@pytest.mark.parametrize(
    ("tunneling", "expected"),
    [
        ({}, None),
        ({"enabled": True, "endpoint": ""}, None),
        ({"endpoint": "data.example"}, "data.example"),
        ({"endpoint": "data.example:8443"}, "data.example:8443"),
        ({"endpoint": "[::1]:1"}, "[::1]:1"),
    ],
)
def test_the_endpoint_of_tunnels(tunneling: dict[str, Any], expected: str | None):
    assert parsed({"tunneling": tunneling}).tunneling_endpoint == expected


def test_tunnels_that_are_switched_off_are_served_with_a_warning():
    assert parsed({"tunneling": {"enabled": False}}).warnings == (
        "client.conf: tunneling.enabled is false: tunnels are served all the same",
    )


@pytest.mark.parametrize(
    ("logging", "expected"),
    [
        ({}, None),
        ({"level": ""}, None),
        ({"level": "DEBUG"}, "debug"),
        ({"level": "Info", "type": "stdout"}, "info"),
        ({"level": "warn"}, "warning"),
        ({"level": "ERROR", "enable-sdk-logging": True, "sdk-log-level": "Trace"}, "error"),
    ],
)
def test_the_level_of_the_log(logging: dict[str, Any], expected: str | None):
    found = parsed({"logging": logging})
    assert found.log_level == expected
    assert found.warnings == ()


def test_there_is_no_file_for_the_log():
    found = parsed({"logging": {"type": "file", "file": "/var/log/x.log"}})
    assert found.warnings == ("logging.type is FILE: the log goes to standard error",)


def test_features_that_stay_with_device_client():
    found = parsed(
        {
            "jobs": {"handler-directory": "x"},
            "device-defender": {"enabled": True, "interval": 300},
            "samples": {"pub-sub": {"enabled": True}},
            "config-shadow": {"enabled": True},
            "sample-shadow": {"enabled": True},
            "sensor-publish": {"sensors": [{"enabled": False}, {"enabled": True}]},
        }
    )
    assert found.warnings == (
        "client.conf: only tunnels are served; jobs, device-defender, samples.pub-sub, "
        "config-shadow, sample-shadow, sensor-publish stay with Device Client",
    )
    by_default = parse_device_client(
        encoded({key: value for key, value in MINIMAL.items() if key != "jobs"}), NAME, {}, HOME
    )
    assert "served; jobs stay" in by_default.warnings[0]


def test_without_a_root_ca_the_system_is_trusted_with_a_warning():
    for root_ca in ("", None):
        found = parsed({"root-ca": root_ca})
        assert found.root_ca is None
        assert found.warnings == (
            "client.conf: root-ca is not given: the certificates of the system are trusted",
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~/key.pem", "/home/pump/key.pem"),
        ("~", "/home/pump"),
        ("$KEYS/key.pem", "/run/keys/key.pem"),
        ("/a/${KEYS}x/$N", "/a//run/keysx/7"),
        ("relative/key.pem", "relative/key.pem"),
        ("/a b/key$.pem", "/a b/key$.pem"),
        ("/a/~/key.pem", "/a/~/key.pem"),
        ("$TRICK", "$(reboot)"),
    ],
)
def test_paths_have_a_home_and_plain_variables(text: str, expected: str):
    environ = {"KEYS": "/run/keys", "N": "7", "TRICK": "$(reboot)"}
    assert parsed({"key": text}, environ=environ).key == Path(expected)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("$(touch /tmp/x)", "has a command in its path, which is not run: write the path"),
        ("/a/`id`", "has a command in its path, which is not run: write the path"),
        ("~root/key.pem", "names the home of another user: write the path"),
        ("${NONE}/key.pem", "has the variable ${NONE}, which is not set"),
        ("/a\0b", "is not a path"),
        ("/\ud800", "is not a path"),
        (7, "is not a string"),
        ("", "is missing"),
        (None, "is missing"),
    ],
)
def test_paths_that_cannot_be(text: object, sentence: str):
    assert refused(changes={"key": text}) == f"client.conf: key {sentence}"


# -- runtime file and web proxy --------------------------------------------------------------------


def test_what_fleet_provisioning_has_written_goes_first():
    found = parsed({"fleet-provisioning": {"enabled": True}}, runtime=RUNTIME)
    assert (found.thing_name, found.certificate, found.key) == (
        "pump-8",
        HOME / "keys/cert.pem",
        HOME / "keys/key.pem",
    )
    assert found.endpoint == MINIMAL["endpoint"]


@pytest.mark.parametrize(
    "runtime", [{}, {"runtime-config": {}}, {"runtime-config": {"completed-fp": False}}]
)
def test_what_has_not_been_provisioned_is_not_used(runtime: dict[str, Any]):
    assert parsed(runtime=runtime) == parsed()
    text = refused(changes={"fleet-provisioning": {"enabled": True}}, runtime=runtime)
    assert text.endswith("is completed: let Device Client provision the device first")


def test_a_runtime_file_with_something_missing_is_passed_over():
    runtime = {"runtime-config": RUNTIME["runtime-config"] | {"cert": ""}}
    found = parsed(runtime=runtime)
    assert found.thing_name == "pump-7"
    assert found.warnings == ("aws-iot-device-client-runtime.conf: passed over, without cert",)


@pytest.mark.parametrize("port", ["8888", 8888])
def test_a_web_proxy_with_a_password(port: object):
    web_proxy = parsed(proxy=PROXY | {"http-proxy-port": port}).web_proxy
    assert web_proxy is not None
    assert (web_proxy.place, web_proxy.username) == ("http://10.0.0.9:8888", "user")
    assert web_proxy.password.reveal() == PASSWORD
    assert PASSWORD not in repr(parsed(proxy=PROXY))


def test_a_web_proxy_without_a_password():
    for method in ("None", ""):
        found = parsed(proxy=PROXY | {"http-proxy-auth-method": method}).web_proxy
        assert found is not None
        assert not found.username
    assert parsed(proxy={"http-proxy-enabled": False, "http-proxy-port": "x"}).web_proxy is None
    assert parsed(proxy={}).web_proxy is None


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"endpoint": ""}, "client.conf: endpoint is missing"),
        ({"endpoint": "https://h"}, "client.conf: endpoint is not a host name"),
        ({"thing-name": None}, "client.conf: thing-name is missing"),
        ({"thing-name": "a/b"}, "client.conf: thing-name is not the name of a thing"),
        ({"thing-name": "a\n"}, "client.conf: thing-name is not the name of a thing"),
        ({"cert": 1}, "client.conf: cert is not a string"),
        ({"tunneling": []}, "client.conf: tunneling is not an object"),
        ({"tunneling": {"enabled": "yes"}}, "client.conf: tunneling.enabled is neither true nor"),
        ({"tunneling": {"endpoint": "h:x"}}, "tunneling.endpoint is neither HOST nor HOST:PORT"),
        ({"tunneling": {"endpoint": "h:"}}, "tunneling.endpoint is neither HOST nor HOST:PORT"),
        ({"logging": {"level": "TRACE"}}, "logging.level is none of DEBUG, INFO, WARN, ERROR"),
        (
            {"secure-element": {"enabled": True, "secure-element-pin": "1234"}},
            "client.conf: secure-element.enabled is true, and keys in a secure element are not"
            " supported: let a program that can use them bring the notifications, with"
            " --notify-stdin",
        ),
    ],
)
def test_settings_that_cannot_be_used(changes: dict[str, Any], sentence: str):
    assert sentence in refused(changes=changes)
    assert "1234" not in refused(changes=changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"http-proxy-host": ""}, "http-proxy.conf: http-proxy-host is missing"),
        ({"http-proxy-host": "a b"}, "http-proxy.conf: http-proxy-host is not a host name"),
        ({"http-proxy-port": "x"}, "http-proxy.conf: http-proxy-port is not a port"),
        ({"http-proxy-port": None}, "http-proxy.conf: http-proxy-port is not a port"),
        ({"http-proxy-port": True}, "http-proxy.conf: http-proxy-port is not a port"),
        ({"http-proxy-port": 10**5000}, "http-proxy.conf is not valid JSON"),
        ({"http-proxy-auth-method": "Basic"}, "is neither UserNameAndPassword nor None"),
        ({"http-proxy-username": ""}, "http-proxy.conf: http-proxy-username is missing"),
        ({"http-proxy-password": 1}, "http-proxy.conf: http-proxy-password is not a string"),
        ({"http-proxy-username": "a:b"}, "http-proxy.conf: The user name has a colon"),
        ({"http-proxy-password": f"{PASSWORD}\n"}, "The credentials have a control character"),
        ({"http-proxy-password": "\ud800"}, "http-proxy.conf: The credentials are not UTF-8"),
        ({"http-proxy-enabled": "true"}, "http-proxy-enabled is neither true nor false"),
    ],
)
def test_web_proxies_that_cannot_be_used(changes: dict[str, Any], sentence: str):
    proxy: object = PROXY | changes
    if changes.get("http-proxy-port") == 10**5000:
        # More digits than Python turns into a number.
        proxy = json.dumps(PROXY).replace('"8888"', 5000 * "9").encode()
    assert sentence in refused(proxy=proxy)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "client.conf is not valid JSON: line 1, column 1"),
        (b'{"endpoint": }', "client.conf is not valid JSON: line 1, column 14"),
        (b'{"a": NaN}', "client.conf is not valid JSON"),
        (b"\xff", "client.conf is not valid JSON"),
        (
            4000 * b"[",
            "client.conf is " + said_of_nesting(4000 * b"[", "not valid JSON: line 1, column 4001"),
        ),
        (b"[]", "client.conf is not a JSON object"),
    ],
)
def test_what_is_no_configuration(content: bytes, sentence: str):
    with pytest.raises(ConfigurationError) as caught:
        parse_device_client(content, NAME, {}, HOME)
    assert str(caught.value) == sentence


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with all files, as Device Client wants them."""
    home = tmp_path / "home"
    keys = home / "keys"
    for directory in (home, home / ".aws-iot-device-client", keys):
        directory.mkdir(mode=0o700)
    for name, mode in (("cert.pem", 0o644), ("key.pem", 0o600), ("ca.pem", 0o644)):
        (keys / name).touch()
        (keys / name).chmod(mode)
    config = {"cert": "~/keys/cert.pem", "key": "~/keys/key.pem", "root-ca": "~/keys/ca.pem"}
    write(home / "client.conf", MINIMAL | config, 0o640)
    return home


def write(path: Path, document: object, mode: int) -> None:
    path.write_bytes(encoded(document))
    path.chmod(mode)


def test_all_three_files_are_read(home: Path):
    directory = home / ".aws-iot-device-client"
    alone = read_device_client(home / "client.conf", {}, home)
    assert (alone.thing_name, alone.web_proxy, alone.warnings) == ("pump-7", None, ())
    assert alone.root_ca == home / "keys" / "ca.pem"
    write(directory / "aws-iot-device-client-runtime.conf", RUNTIME, 0o640)
    write(directory / "http-proxy.conf", PROXY, 0o600)
    found = read_device_client(home / "client.conf", {}, home)
    assert found.thing_name == "pump-8"
    assert str(found.web_proxy) == "http://user:<redacted>@10.0.0.9:8888"
    assert found.warnings == ()


def test_a_root_ca_that_does_not_exist(home: Path):
    (home / "keys" / "ca.pem").unlink()
    found = read_device_client(home / "client.conf", {}, home)
    assert found.root_ca is None
    assert found.warnings == (
        f"root-ca: there is no file {home}/keys/ca.pem: the certificates of the system are trusted",
    )


def test_files_that_others_may_read_or_write(home: Path):
    proxy = home / ".aws-iot-device-client" / "http-proxy.conf"
    write(proxy, PROXY, 0o644)
    (home / "keys" / "key.pem").chmod(0o640)
    (home / "keys" / "cert.pem").chmod(0o666)
    (home / "keys").chmod(0o770)
    (home / "client.conf").chmod(0o644)
    assert read_device_client(home / "client.conf", {}, home).warnings == (
        f"{home}/keys/key.pem is open to other users (mode 640): chmod 600 {home}/keys/key.pem",
        f"{proxy} is open to other users (mode 644): chmod 600 {proxy}",
        f"{home}/keys/cert.pem is open to other users (mode 666): chmod 644 {home}/keys/cert.pem",
        f"{home}/keys is open to other users (mode 770): chmod 750 {home}/keys",
    )


def test_keys_that_are_not_there_are_for_others_to_tell(home: Path):
    (home / "keys" / "key.pem").unlink()
    assert read_device_client(home / "client.conf", {}, home).warnings == ()


def test_files_that_cannot_be_read(home: Path):
    with pytest.raises(ConfigurationError, match=r"cannot read .*none.conf: No such file"):
        read_device_client(home / "none.conf", {}, home)
    write(home / "client.conf", MINIMAL | {"x": 5000 * "x"}, 0o640)
    with pytest.raises(ConfigurationError, match=r"client.conf: it has more than 5000 bytes"):
        read_device_client(home / "client.conf", {}, home)
    write(home / "client.conf", MINIMAL, 0o640)
    os.mkfifo(home / ".aws-iot-device-client" / "http-proxy.conf")
    with pytest.raises(ConfigurationError, match=r"proxy.conf: it is not a regular file"):
        read_device_client(home / "client.conf", {}, home)


# -- processes ------------------------------------------------------------------------------------


def test_a_device_client_that_runs_is_noticed(tmp_path: Path):
    program = tmp_path / "aws-iot-device-client"
    shutil.copy(shutil.which("cat") or "/bin/cat", program)
    process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(b"x\n")
        process.stdin.flush()
        process.stdout.readline()  # it has been loaded, name and all
        with pytest.raises(ConfigurationError, match=f"is running .process {process.pid}. and"):
            check_device_client_is_not_running()
    finally:
        process.communicate()
    check_device_client_is_not_running()


def test_other_programs_are_left_alone(tmp_path: Path):
    for pid, comm, cmdline in (
        ("1", b"systemd\n", b"/sbin/init\0"),
        ("2", b"aws-iot-device-\n", b"/opt/aws-iot-device-defender\0x\0"),
        ("3", b"\xff\n", b""),
    ):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "comm").write_bytes(comm)
        (tmp_path / pid / "cmdline").write_bytes(cmdline)
    (tmp_path / "4").mkdir()
    (tmp_path / "self").mkdir()
    check_device_client_is_not_running(tmp_path)
    check_device_client_is_not_running(tmp_path / "none")
    (tmp_path / "2" / "cmdline").write_bytes(b"/sbin/aws-iot-device-client\0--config-file\0")
    with pytest.raises(ConfigurationError, match=r"is running \(process 2\)"):
        check_device_client_is_not_running(tmp_path)
