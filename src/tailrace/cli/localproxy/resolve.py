"""Build the settings of a local proxy from argv, files and environment.

Three steps, so that the command can set up its log between them: the command line
(:func:`~tailrace.cli.localproxy.argv.parse_argv`), what was given anywhere
(:func:`~tailrace.cli.localproxy.layers.gather`) and what it means (:func:`resolve`).
:func:`build_settings` is all of them.

Nothing here changes anything: files and standard input are only read. Checks come in the
order of the C++ command, so that of several mistakes the same one is reported.
"""

from __future__ import annotations

import logging
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from ...common.secret import Secret
from ...errors import ConfigurationError
from ...link.proxy.settings import WebProxy, web_proxy_for, web_proxy_variable
from ...localproxy.allow_list import is_allowed
from ...localproxy.settings import Backend, LoopChoice, PeerVersion, ProxySettings, ServiceMap
from ...wire import Side
from ...wire.protocol import SUBPROTOCOLS
from .addresses import (
    format_local_address,
    format_service_map,
    parse_bind_address,
    parse_endpoint,
    parse_service_map,
)
from .allow_list import format_allow_list, parse_allow_list
from .argv import CommandKind, CommandLine, parse_argv
from .files import Files
from .ini import read_services
from .layers import Inputs, Layer, OptionValue, Origin, gather
from .settings_json import FineSettings, default_settings_text, parse_settings
from .validation import (
    RejectedInput,
    looks_like_file_name,
    validate_access_token,
    validate_client_token,
    validate_path,
    validate_region,
)
from .values import UsageError, printable

__all__ = [
    "Action",
    "Configuration",
    "Effective",
    "action_of",
    "build_settings",
    "describe",
    "export_default_settings",
    "resolve",
    "secrets_of",
]

logger = logging.getLogger(__name__)

_STANDARD_INPUT: Final = "-"
_SHOWN_LIST: Final = 200
_DEFAULT_CONFIG_DIR: Final = "config"
_DEFAULT_LISTEN_HOST: Final = "localhost"
_SIDES: Final = {
    "src": Side.SOURCE,
    "source": Side.SOURCE,
    "dst": Side.DESTINATION,
    "destination": Side.DESTINATION,
}
_AWS_CLIENT_TOKEN: Final = re.compile(r"[a-zA-Z0-9-]{32,128}")
_NUMBERS: Final = {
    "max-connections": "max_connections",
    "linger": "linger",
    "stall-timeout": "stall_timeout",
    "dial-timeout": "dial_timeout",
    "connect-timeout": "connect_timeout",
    "json": "json_events",
}
"""Options whose value is the value of a field of ``ProxySettings``."""
_PATHS: Final = {"ready-file": "ready_file", "state-dir": "state_dir"}


@dataclass(frozen=True, slots=True)
class Action:
    """What is done instead of running a proxy."""

    kind: CommandKind
    path: str = ""
    """The file of ``--export-default-settings``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Settings, and where each of them comes from."""

    settings: ProxySettings
    verbosity: int
    origins: Mapping[str, Origin]
    """Field of ``ProxySettings``, or ``verbosity`` -> origin; fields left out have their
    default."""


@dataclass(frozen=True, slots=True)
class Effective:
    """One setting in effect, for people."""

    name: str
    value: str
    origin: Origin


def build_settings(
    argv: Sequence[str], environ: Mapping[str, str], files: Files | None = None
) -> Configuration | Action:
    """Return what the arguments (without the command's name) and the environment ask for.

    Raises:
        UsageError: the options do not go together, or their form is wrong.
        ConfigurationError: a value is not valid, or a file cannot be read.
    """
    command = parse_argv(argv)
    action = action_of(command)
    if action is not None:
        return action
    used = files if files is not None else Files()
    return resolve(gather(command, environ, used), used)


def action_of(command: CommandLine) -> Action | None:
    """Return what is done instead of running, ``None`` for running."""
    if command.kind is CommandKind.RUN:
        return None
    argument = command[CommandKind.EXPORT.value]
    return Action(command.kind, str(argument.value) if argument is not None else "")


def export_default_settings(path: str) -> None:
    """Write the fine-grained settings with their default values to ``path``.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    validate_path(path)
    try:
        Path(path).write_text(default_settings_text(), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"{printable(path)}: cannot open file ({error.strerror})"
        ) from None


def resolve(inputs: Inputs, files: Files) -> Configuration:
    """Return the configuration that ``inputs`` mean; mistakes that do no harm are logged.

    Raises:
        UsageError: the options do not go together.
        ConfigurationError: a value is not valid, or a file cannot be read.
    """
    if inputs.positional:
        logger.warning("%d arguments belong to no option: ignored", inputs.positional)
    build = _Build(inputs, files)
    fine = build.fine_settings()
    build.require_token_and_endpoint()
    build.tokens()
    build.endpoint(fine)
    build.web_proxy()
    build.side()
    build.services()
    build.allow_list()
    build.fine_values(fine)
    build.bind_address()
    build.trust()
    build.own_options()
    return build.configuration()


class _Build:
    """Collects the fields of the settings, step by step."""

    def __init__(self, inputs: Inputs, files: Files) -> None:
        self._inputs = inputs
        self._files = files
        self._fields: dict[str, Any] = {}
        self._origins: dict[str, Origin] = {}

    def configuration(self) -> Configuration:
        verbose = self._inputs.get("verbose")
        if verbose is not None:
            self._origins["verbosity"] = verbose.origin
        return Configuration(
            settings=ProxySettings(**self._fields),
            verbosity=self._inputs.verbosity,
            origins=self._origins,
        )

    def _set(self, name: str, value: object, origin: Origin) -> None:
        self._fields[name] = value
        self._origins[name] = origin

    def fine_settings(self) -> FineSettings:
        given = self._inputs.get("settings-json")
        if given is None:
            return FineSettings()
        path = given.text
        validate_path(path)
        name = printable(path)
        logger.info("Using settings specified in file: %s", name)
        try:
            fine = parse_settings(self._files.read_text(path))
        except OSError as error:
            raise ConfigurationError(f"{name}: cannot open file ({error.strerror})") from None
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from None
        for key in fine.unknown:
            logger.warning("%s: unknown key %s: ignored", name, printable(key))
        for key in fine.without_effect():
            logger.warning("%s: %s has no effect here", name, key)
        return fine

    def require_token_and_endpoint(self) -> None:
        inputs = self._inputs
        if inputs.get("access-token-file") is None:
            inputs.require("access-token")
        if (inputs.get("region") is None) == (inputs.get("proxy-endpoint") is None):
            raise UsageError(
                "Must specify one and only one of --region/-r or --proxy-endpoint/-e options",
                inputs.elsewhere("region", "proxy-endpoint"),
            )

    def tokens(self) -> None:
        given, token = self._access_token()
        self._set("access_token", Secret(token), given.origin)
        client = self._inputs.get("client-token")
        if client is not None and client.text:
            validate_client_token(client.text)
            if not _AWS_CLIENT_TOKEN.fullmatch(client.text):
                logger.warning(
                    "The client token has other characters than letters, digits and hyphens;"
                    " AWS refuses it"
                )
            self._set("client_token", Secret(client.text), client.origin)

    def _access_token(self) -> tuple[OptionValue, str]:
        given = self._token_source()
        if given.option.name == "access-token" and given.text != _STANDARD_INPUT:
            if given.origin.layer is Layer.COMMAND_LINE:
                logger.warning(
                    "Found access token supplied via CLI arg. Consider using environment variable"
                    " AWSIOT_TUNNEL_ACCESS_TOKEN instead"
                )
            token = given.text
            validate_access_token(token)
            if looks_like_file_name(token) or self._files.exists(token):
                raise RejectedInput(
                    "access-token",
                    "looks like a file name",
                    "Access token is the name of a file; to read the token from it use"
                    " --access-token-file",
                )
            return given, token
        token = self._read_token(given.text)
        validate_access_token(token)
        return given, token

    def _token_source(self) -> OptionValue:
        """Return the option that holds the token or says where it is."""
        direct, file = self._inputs.get("access-token"), self._inputs.get("access-token-file")
        if direct is None or file is None:
            found = direct or file
            assert found is not None
            return found
        if direct.origin.layer is file.origin.layer:
            raise UsageError(
                "Must specify one and only one of --access-token/-t or --access-token-file",
                self._inputs.elsewhere("access-token", "access-token-file"),
            )
        return min(direct, file, key=lambda given: given.origin.layer)

    def _read_token(self, path: str) -> str:
        try:
            if path == _STANDARD_INPUT:
                return self._files.read_line("Access token: ").strip()
            validate_path(path)
            return self._files.read_text(path).strip()
        except OSError as error:
            raise ConfigurationError(
                f"Cannot read the access token from {printable(path)}: {error.strerror or error}"
            ) from None
        except (EOFError, UnicodeDecodeError):
            raise ConfigurationError("Cannot read the access token from standard input") from None

    def endpoint(self, fine: FineSettings) -> None:
        given = self._inputs.get("region")
        if given is not None:
            validate_region(given.text)
            host, port = parse_endpoint(fine.endpoint_of(given.text))
        else:
            given = self._inputs.require("proxy-endpoint")
            host, port = parse_endpoint(given.text)
        self._set("host", host, given.origin)
        self._set("port", port, given.origin)

    def web_proxy(self) -> None:
        environ = self._inputs.environ
        proxy = web_proxy_for(self._fields["host"], self._fields["port"], environ)
        variable = web_proxy_variable(environ)
        if proxy is not None:
            logger.info(
                "Found Web proxy information in the environment variables, will use %s", proxy
            )
            self._set("web_proxy", proxy, Origin(Layer.ENVIRONMENT, variable))
        elif variable:
            logger.info("The web proxy of %s is not used: no_proxy has the endpoint", variable)

    def side(self) -> None:
        inputs = self._inputs
        asked = inputs.get("mode")
        side = _SIDES.get(asked.text) if asked is not None else None
        if asked is not None and side is None:
            raise UsageError(
                "Mode value is wrong! Allowed values are: src, dst, source, destination",
                inputs.elsewhere("mode"),
            )
        self._peer_version()
        listen, apps = inputs.get("source-listen-port"), inputs.get("destination-app")
        hint = inputs.elsewhere("source-listen-port", "destination-app", "mode")
        if listen is not None and apps is not None:
            raise UsageError(
                "Must specify one and only one of --source-listen-port/-s or --destination-app/-d",
                hint,
            )
        if listen is not None and side is Side.DESTINATION:
            raise UsageError(
                "-s and --mode have mismatched mode. Mode is set to destination!", hint
            )
        if apps is not None and side is Side.SOURCE:
            raise UsageError("-s and --mode have mismatched mode. Mode is set to source!", hint)
        given = asked or listen or apps
        if given is None:
            raise UsageError(
                "Must specify one of --source-listen-port/-s or --destination-app/-d or --mode"
            )
        if side is None:
            side = Side.SOURCE if listen is not None else Side.DESTINATION
        self._set("side", side, given.origin)

    def _peer_version(self) -> None:
        given = self._inputs.get("destination-client-type")
        if given is None:
            return
        version = PeerVersion.V3
        if given.text in ("V1", "V2"):
            version = PeerVersion(given.text)
            logger.info("setting source protocol to %s", given.text)
        elif given.text != "V3":
            logger.warning(
                "unknown value for destination-client-type, assuming default protocol V3."
            )
        self._set("peer_version", version, given.origin)

    def services(self) -> None:
        side: Side = self._fields["side"]
        name = "source-listen-port" if side is Side.SOURCE else "destination-app"
        given = self._inputs.get(name)
        services: ServiceMap = parse_service_map(given.text, side) if given is not None else {}
        if given is not None and services:
            self._set("services", services, given.origin)
        self._fallback_services(side, needed=not services)
        if side is Side.DESTINATION and not services and not self._fields.get("fallback_services"):
            raise UsageError(
                "Destination mode needs --destination-app/-d, or a map of services in --config-dir"
            )

    def _fallback_services(self, side: Side, *, needed: bool) -> None:
        given = self._inputs.get("config-dir")
        directory = given.text if given is not None else _DEFAULT_CONFIG_DIR
        if given is not None:
            validate_path(directory)
        if not self._files.is_filled_directory(directory):
            if given is not None:
                raise ConfigurationError(f"Invalid configuration directory: {printable(directory)}")
            return
        if not needed:
            return
        found = read_services(directory, side, self._files, strict=given is not None)
        origin = Origin(Layer.CONFIG_DIRECTORY, printable(directory))
        self._set("fallback_services", found, origin)

    def allow_list(self) -> None:
        given = self._inputs.get("allow")
        if given is None:
            return
        allowed = parse_allow_list(given.text)
        self._set("allowed", allowed, given.origin)
        if self._fields["side"] is Side.SOURCE:
            return
        for name in ("services", "fallback_services"):
            for service_id, address in self._fields.get(name, {}).items():
                if not is_allowed(address, allowed):
                    service = f" of service {service_id}" if service_id else ""
                    raise ConfigurationError(
                        f"{printable(format_local_address(address))}, the application{service} from"
                        f" the {self._origins[name]}, is not in the allow-list from the"
                        f" {given.origin}: {printable(format_allow_list(allowed), _SHOWN_LIST)}"
                    )

    def fine_values(self, fine: FineSettings) -> None:
        for name, (value, key) in fine.values().items():
            if name != "bind_address" or self._fields["side"] is Side.SOURCE:
                self._set(name, value, Origin(Layer.SETTINGS_FILE, key))
        subprotocol = self._fields.get("subprotocol", SUBPROTOCOLS[0])
        if subprotocol not in SUBPROTOCOLS:
            logger.warning("The service is asked for the unknown subprotocol %s", subprotocol)

    def bind_address(self) -> None:
        given = self._inputs.get("local-bind-address")
        if given is not None:
            address = parse_bind_address(given.text)
            if address:
                self._set("bind_address", address, given.origin)
        if self._fields["side"] is Side.SOURCE and not self._fields.get("bind_address"):
            self._set("bind_address", _DEFAULT_LISTEN_HOST, Origin())

    def trust(self) -> None:
        given = self._inputs.get("capath")
        if given is not None:
            validate_path(given.text)
            if not self._files.is_filled_directory(given.text):
                logger.warning("--capath %s has no certificates: ignored", printable(given.text))
            self._set("capath", Path(given.text), given.origin)
        given = self._inputs.get("no-ssl-host-verify")
        if given is not None and given.value:
            logger.warning(
                "SECURITY WARNING: SSL host verification is DISABLED (-k flag): anybody between"
                " here and the service can read and change what goes through the tunnel"
            )
            self._set("verify_tls", False, given.origin)

    def own_options(self) -> None:
        for name, field_name in _NUMBERS.items():
            given = self._inputs.get(name)
            if given is not None:
                self._set(field_name, given.value, given.origin)
        for name, field_name in _PATHS.items():
            given = self._inputs.get(name)
            if given is not None:
                validate_path(given.text)
                self._set(field_name, Path(given.text), given.origin)
        given = self._inputs.get("link")
        if given is not None:
            self._set("backend", Backend(given.text), given.origin)
        given = self._inputs.get("loop")
        if given is not None:
            self._set("loop", LoopChoice(given.text), given.origin)


def secrets_of(settings: ProxySettings) -> tuple[Secret, ...]:
    """Return all texts that must not be seen, in each form in which they go on the wire."""
    found = [settings.access_token]
    if settings.client_token is not None:
        found.append(settings.client_token)
    proxy = settings.web_proxy
    if proxy is not None and proxy.password:
        password = proxy.password.reveal()
        basic = b64encode(f"{proxy.username}:{password}".encode()).decode()
        found += [proxy.password, Secret(quote(password, safe="")), Secret(basic)]
    return tuple(found)


def describe(configuration: Configuration) -> tuple[Effective, ...]:
    """Return every setting with its value as text and its origin; no secret is shown."""
    default = Origin()
    rows = [
        Effective(
            item.name,
            _printed(getattr(configuration.settings, item.name)),
            configuration.origins.get(item.name, default),
        )
        for item in fields(ProxySettings)
    ]
    verbosity = configuration.origins.get("verbosity", default)
    return (*rows, Effective("verbosity", str(configuration.verbosity), verbosity))


def _printed(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case Enum():
            return str(value.value)
        case WebProxy() | Secret() | str() | int() | Path():
            return str(value)
        case float():
            return f"{value:g}"
        case Mapping():
            return format_service_map(value)
        case tuple():
            return format_allow_list(value)
        case _:
            raise AssertionError(f"no way to print {type(value).__name__}")
