"""AWS IoT Device Client's configuration, so that a device can be moved over.

Written after its sources (``source/config/Config.cpp`` of v1.10). Three JSON files count: the
configuration itself; ``aws-iot-device-client-runtime.conf``, which fleet provisioning has written
and which goes before it; and ``http-proxy.conf``. Keys that say nothing about tunnels are passed
over. Two things are deliberately not as there: paths may have ``~`` and plain variables of the
environment, but no commands, which Device Client runs; and what the options of the agent say goes
before all files.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import quote

from ..common.addresses import AddressError, is_host_name, parse_port, split_host_port
from ..common.escaping import cut, escape
from ..common.special_files import read_regular_file
from ..errors import ConfigurationError
from ..library.service_map import ServiceRule
from ..link.proxy.settings import WebProxy, parse_web_proxy
from ..mqtt.topics import is_thing_name
from .service_map import parse_services

__all__ = [
    "DeviceClientSettings",
    "check_device_client_is_not_running",
    "parse_device_client",
    "read_device_client",
]

_MAX_FILE_SIZE: Final = 5000
"""Bytes, as Device Client has it."""
_DIRECTORY: Final = ".aws-iot-device-client"
_RUNTIME_FILE: Final = "aws-iot-device-client-runtime.conf"
_PROXY_FILE: Final = "http-proxy.conf"
_PROGRAM: Final = "aws-iot-device-client"
_COMMAND_LENGTH: Final = 15
"""Bytes of a program's name that Linux keeps (proc(5), comm)."""
_SHOWN: Final = 128

_VARIABLE: Final = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)
_LEVELS: Final = {"DEBUG": "debug", "INFO": "info", "WARN": "warning", "ERROR": "error"}
_SERVICES: Final = ("SSH=22", "VNC=5900")
"""What Device Client has built in; its host is 127.0.0.1."""


@dataclass(frozen=True, slots=True)
class DeviceClientSettings:
    """What the files say about tunnels."""

    endpoint: str
    """Host of the MQTT broker; its port is 8883."""
    thing_name: str
    """Also the client id."""
    certificate: Path
    key: Path
    root_ca: Path | None = None
    """Certificates to trust, for MQTT and for tunnels; ``None``: those of the system."""
    tunneling_endpoint: str | None = None
    """``HOST`` or ``HOST:PORT`` for all tunnels, whatever their region; ``None``: by the region."""
    log_level: str | None = None
    """``debug``, ``info``, ``warning`` or ``error``; ``None`` where nothing is said."""
    web_proxy: WebProxy | None = None
    """For MQTT and for tunnels."""
    services: Mapping[str, ServiceRule] | None = None
    """The services that Device Client has built in."""
    warnings: tuple[str, ...] = ()
    """What is not as the files say, or not safe; a line each."""


# -- files -----------------------------------------------------------------------------------


def read_device_client(path: Path, environ: Mapping[str, str], home: Path) -> DeviceClientSettings:
    """Return the settings of a configuration file, and of the two files in ``home`` beside it.

    Raises:
        ConfigurationError: a file cannot be read or is not valid, or the settings cannot be used;
            the text has file and key, and no secret.
    """
    directory = home / _DIRECTORY
    runtime, proxy = directory / _RUNTIME_FILE, directory / _PROXY_FILE
    settings = parse_device_client(
        _read(path),
        str(path),
        environ,
        home,
        runtime=_read_if_any(runtime),
        proxy=_read_if_any(proxy),
    )
    warnings = list(settings.warnings)
    root_ca = settings.root_ca
    if root_ca is not None and not os.path.exists(root_ca):
        warnings.append(
            f"root-ca: there is no file {_shown(str(root_ca))}: "
            "the certificates of the system are trusted"
        )
        root_ca = None
    for each, forbidden in (
        (settings.key, stat.S_IRWXG | stat.S_IRWXO),
        (proxy, stat.S_IRWXG | stat.S_IRWXO),
        *((file, _WRITABLE) for file in (path, runtime, settings.certificate, root_ca) if file),
        *((file.parent, _WRITABLE) for file in (path, settings.key)),
    ):
        warnings += _mode_warning(each, forbidden)
    return replace(settings, root_ca=root_ca, warnings=tuple(dict.fromkeys(warnings)))


_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH


def _read(path: Path) -> bytes:
    try:
        return read_regular_file(path, _MAX_FILE_SIZE)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error


def _read_if_any(path: Path) -> bytes | None:
    # Not asked before, or what may not be looked at would count as missing.
    try:
        return _read(path)
    except ConfigurationError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise


def _mode_warning(path: Path, forbidden: int) -> list[str]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return []  # who needs the file will tell
    if os.name != "posix" or not mode & forbidden:
        return []
    return [
        f"{_shown(str(path))} is open to other users (mode {mode:o}): "
        f"chmod {mode & ~forbidden:o} {_shown(str(path))}"
    ]


def check_device_client_is_not_running(proc: Path = Path("/proc")) -> None:
    """Refuse to run beside Device Client, which is connected with the same client id.

    A broker lets only one of them be connected, and both would come back for ever.

    Raises:
        ConfigurationError: it runs.
    """
    for entry in proc.glob("[0-9]*"):
        if _is_device_client(entry):
            raise ConfigurationError(
                f"{_PROGRAM} is running (process {entry.name}) and holds the client id of this "
                "thing: stop and disable it, or give this agent another one with --client-id"
            )


def _is_device_client(process: Path) -> bool:
    try:
        if (process / "comm").read_text().strip() != _PROGRAM[:_COMMAND_LENGTH]:
            return False
        program = (process / "cmdline").read_bytes().partition(b"\0")[0]
    except (OSError, UnicodeDecodeError):
        return False  # it has ended
    return os.path.basename(os.fsdecode(program)) == _PROGRAM


# -- what is in them ---------------------------------------------------------------------------


def parse_device_client(
    config: bytes,
    name: str,
    environ: Mapping[str, str],
    home: Path,
    *,
    runtime: bytes | None = None,
    proxy: bytes | None = None,
) -> DeviceClientSettings:
    """Return the settings of the contents of the files; ``name`` stands for the first in errors.

    Raises:
        ConfigurationError: see :func:`read_device_client`.
    """
    main = _Table(_document(config, name), f"{name}: ")
    warnings: list[str] = []
    _refuse_secure_element(main)
    found = _provisioned(runtime, warnings)
    if found is None:
        found = main
        if _is_on(main.get("fleet-provisioning")):
            raise ConfigurationError(
                f"{name}: fleet-provisioning.enabled, and {_RUNTIME_FILE} does not say that it is "
                "completed: let Device Client provision the device first"
            )
    thing_name = found.required("thing-name")
    if not is_thing_name(thing_name):
        raise found.error("thing-name", "is not the name of a thing")
    tunneling = main.table("tunneling")
    if not tunneling.flag("enabled", True):
        warnings.append(f"{name}: tunneling.enabled is false: tunnels are served all the same")
    root_ca = main.text("root-ca")
    if not root_ca:
        warnings.append(f"{name}: root-ca is not given: the certificates of the system are trusted")
    warnings += _features(main, name)
    return DeviceClientSettings(
        endpoint=_host(main, "endpoint"),
        thing_name=thing_name,
        certificate=found.path("cert", environ, home),
        key=found.path("key", environ, home),
        root_ca=main.path("root-ca", environ, home) if root_ca else None,
        tunneling_endpoint=_tunneling_endpoint(tunneling),
        log_level=_log_level(main.table("logging"), warnings),
        web_proxy=None if proxy is None else _web_proxy(proxy),
        services=parse_services(_SERVICES),
        warnings=tuple(warnings),
    )


class _Table:
    """An object of a file, and where it stands: ``FILE: tunneling.``."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self._values = values
        self._place = place

    def error(self, key: str, fault: str) -> ConfigurationError:
        return ConfigurationError(f"{self._place}{key} {fault}")

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def text(self, key: str) -> str:
        """Return a string, empty if it is missing."""
        value = self._values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(key, "is not a string")
        return value

    def required(self, key: str) -> str:
        text = self.text(key)
        if not text:
            raise self.error(key, "is missing")
        return text

    def flag(self, key: str, default: bool) -> bool:
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, "is neither true nor false")
        return value

    def table(self, key: str) -> _Table:
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "is not an object")
        return _Table(value, f"{self._place}{key}.")

    def path(self, key: str, environ: Mapping[str, str], home: Path) -> Path:
        """Return a path with its ``~`` and its variables replaced."""
        text = self.required(key)
        if "`" in text or "$(" in text:
            raise self.error(key, "has a command in its path, which is not run: write the path")
        if text == "~" or text.startswith("~/"):
            text = f"{home}{text[1:]}"
        elif text.startswith("~"):
            raise self.error(key, "names the home of another user: write the path")

        def value_of(variable: re.Match[str]) -> str:
            value = environ.get(variable[1] or variable[2])
            if value is None:
                raise self.error(key, f"has the variable {_shown(variable[0])}, which is not set")
            return value

        path = _VARIABLE.sub(value_of, text)
        try:
            is_path = b"\0" not in os.fsencode(path)
        except UnicodeEncodeError:
            is_path = False
        if not is_path:
            raise self.error(key, "is not a path")
        return Path(path)


def _document(content: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(content.decode("utf-8-sig"), parse_constant=_no_constant)
    except RecursionError:
        raise ConfigurationError(f"{name} is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"{name} is not valid JSON: line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError:
        raise ConfigurationError(f"{name} is not valid JSON") from None
    if not isinstance(document, dict):
        raise ConfigurationError(f"{name} is not a JSON object")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _refuse_secure_element(main: _Table) -> None:
    if main.table("secure-element").flag("enabled", False):
        raise main.error(
            "secure-element.enabled",
            "is true, and keys in a secure element are not supported: let a program that can use "
            "them bring the notifications, with --notify-stdin",
        )


def _provisioned(content: bytes | None, warnings: list[str]) -> _Table | None:
    """Return what fleet provisioning has written, ``None`` if it has not been completed."""
    if content is None:
        return None
    table = _Table(_document(content, _RUNTIME_FILE), f"{_RUNTIME_FILE}: ").table("runtime-config")
    if not table.flag("completed-fp", False):
        return None
    missing = [key for key in ("cert", "key", "thing-name") if not table.text(key)]
    if missing:
        warnings.append(f"{_RUNTIME_FILE}: passed over, without {', '.join(missing)}")
        return None
    return table


def _features(main: _Table, name: str) -> list[str]:
    """Return a warning that names the features in use that have nothing to do with tunnels."""
    samples = main.get("samples")
    sensors = main.get("sensor-publish")
    sensors = sensors.get("sensors") if isinstance(sensors, dict) else None
    found = {
        "jobs": _is_on(main.get("jobs"), default=True),
        "device-defender": _is_on(main.get("device-defender")),
        "samples.pub-sub": isinstance(samples, dict) and _is_on(samples.get("pub-sub")),
        "config-shadow": _is_on(main.get("config-shadow")),
        "sample-shadow": _is_on(main.get("sample-shadow")),
        "sensor-publish": isinstance(sensors, list) and any(map(_is_on, sensors)),
    }
    used = [feature for feature, is_used in found.items() if is_used]
    if not used:
        return []
    return [f"{name}: only tunnels are served; {', '.join(used)} stay with Device Client"]


def _is_on(value: Any, default: bool = False) -> bool:
    """Return whether a feature is enabled."""
    enabled = value.get("enabled", default) if isinstance(value, dict) else default
    return enabled is True


def _host(table: _Table, key: str) -> str:
    host = table.required(key)
    if not is_host_name(host):
        raise table.error(key, "is not a host name")
    return host.lower()


def _tunneling_endpoint(tunneling: _Table) -> str | None:
    text = tunneling.text("endpoint")
    if not text:
        return None
    try:
        _, port = split_host_port(text)
        if port is not None:
            parse_port(port)
    except AddressError:
        raise tunneling.error("endpoint", "is neither HOST nor HOST:PORT") from None
    return text


def _log_level(logging: _Table, warnings: list[str]) -> str | None:
    if logging.text("type").upper() == "FILE":
        warnings.append("logging.type is FILE: the log goes to standard error")
    text = logging.text("level")
    if not text:
        return None
    level = _LEVELS.get(text.upper())
    if level is None:
        raise logging.error("level", f"is none of {', '.join(_LEVELS)}")
    return level


def _web_proxy(content: bytes) -> WebProxy | None:
    """Return the web proxy of its file, ``None`` if that is switched off."""
    table = _Table(_document(content, _PROXY_FILE), f"{_PROXY_FILE}: ")
    if not table.flag("http-proxy-enabled", False):
        return None
    host = _host(table, "http-proxy-host")
    method = table.text("http-proxy-auth-method")
    if method not in ("", "None", "UserNameAndPassword"):
        raise table.error("http-proxy-auth-method", "is neither UserNameAndPassword nor None")
    credentials = ""
    if method == "UserNameAndPassword":
        user = table.required("http-proxy-username")
        password = table.required("http-proxy-password")
        credentials = f"{_quoted(user)}:{_quoted(password)}@"
    try:
        return parse_web_proxy(f"http://{credentials}{host}:{_port(table, 'http-proxy-port')}")
    except ConfigurationError as error:
        raise ConfigurationError(f"{_PROXY_FILE}: {error}") from None


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


def _port(table: _Table, key: str) -> int:
    """Return a port, which Device Client has as a string and people write as a number."""
    value = table.get(key)
    text = str(value) if isinstance(value, int) and abs(value) < 1 << 20 else value
    try:
        return parse_port(text) if isinstance(text, str) else parse_port("")
    except AddressError:
        raise table.error(key, "is not a port") from None


def _shown(text: str) -> str:
    return escape(cut(text, _SHOWN))
