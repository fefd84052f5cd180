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
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

from ...common.addresses import (
    DEFAULT_LISTEN_HOST,
    AddressError,
    LocalAddress,
    ServiceAddresses,
    TCPAddress,
    format_local_address,
    parse_tcp_address,
)
from ...common.event_loop import LoopChoice
from ...common.secret import Secret, is_client_token
from ...common.suggestions import did_you_mean
from ...errors import ConfigurationError
from ...link.proxy.settings import WebProxy, web_proxy_for, web_proxy_variable
from ...localproxy.allow_list import is_allowed
from ...localproxy.endpoints import parse_endpoint
from ...localproxy.settings import Backend, PeerVersion, ProxySettings
from ...localproxy.validation import (
    RejectedInput,
    looks_like_file_name,
    validate_access_token,
    validate_client_token,
    validate_path,
    validate_region,
)
from ...wire import Side
from ...wire.protocol import SUBPROTOCOL_V3, SUBPROTOCOLS
from .addresses import parse_bind_address, parse_service_map
from .allow_list import format_allow_list, parse_allow_list
from .argv import CommandKind, parse_argv
from .files import default_state_dir, is_filled_directory, is_missing_or_empty, read_line, read_text
from .ini import read_services
from .layers import DEFAULT_VERBOSITY, Inputs, Layer, OptionValue, Origin, gather
from .settings import CommandSettings
from .settings_json import PREFIX, SETTINGS, FineSettings, default_settings_text, parse_settings
from .values import UsageError, printable

__all__ = [
    "Configuration",
    "build_settings",
    "export_default_settings",
    "resolve",
    "secrets_of",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_STANDARD_INPUT: Final = "-"
_SHOWN_LENGTH: Final = 200
_DEFAULT_CONFIG_DIR: Final = "config"
_SIDES: Final = {
    "src": Side.SOURCE,
    "source": Side.SOURCE,
    "dst": Side.DESTINATION,
    "destination": Side.DESTINATION,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Settings, and where each of them comes from."""

    settings: CommandSettings
    origins: Mapping[str, Origin]
    """Field of the settings -> origin; fields left out have their default."""


def build_settings(
    argv: Sequence[str], environ: Mapping[str, str], *, with_token: bool = True
) -> Configuration:
    """Return what the arguments (without the command's name) and the environment ask for.

    Without ``with_token`` no access token is needed, nor read from where one is named.

    Raises:
        UsageError: the options do not go together, their form is wrong, or they ask for
            something other than a proxy.
        ConfigurationError: a value is not valid, or a file cannot be read.
    """
    command = parse_argv(argv)
    if command.kind is not CommandKind.RUN:
        raise UsageError("leave out --help, --version and --export-default-settings")
    return resolve(gather(command, environ), with_token=with_token)


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


def resolve(inputs: Inputs, *, with_token: bool = True) -> Configuration:
    """Return the configuration that ``inputs`` mean; mistakes that do no harm are logged.

    Without ``with_token`` the access token is empty: for those who want to see the rest.

    Raises:
        UsageError: the options do not go together.
        ConfigurationError: a value is not valid, or a file cannot be read.
    """
    if inputs.positional:
        logger.warning("%d arguments belong to no option: ignored", inputs.positional)
    values = _Values(inputs)
    fine = values.fine_settings()
    if with_token:
        values.require_token()
    values.require_endpoint()
    access_token = values.access_token() if with_token else values.unread_token()
    client_token = values.client_token()
    host, port = values.endpoint(fine)
    web_proxy = values.web_proxy(host, port)
    mode = values.mode()
    peer_version = values.peer_version()
    side = values.side(mode)
    services = values.services(side)
    fallback_services = values.fallback_services(side, needed=not services)
    if side is Side.DESTINATION and not services and not fallback_services:
        raise UsageError(
            "Destination mode needs --destination-app/-d, or a map of services in --config-dir"
        )
    proxy = ProxySettings(
        side=side,
        host=host,
        port=port,
        access_token=access_token,
        client_token=client_token,
        web_proxy=web_proxy,
        peer_version=peer_version,
        services=services,
        fallback_services=fallback_services,
        allowed=values.allowed(side, services or {}, fallback_services),
        subprotocol=values.subprotocol(fine),
        bind_address=values.bind_address(side, fine),
        capath=values.capath(),
        verify_tls=values.verify_tls(),
        backend=values.backend(),
    )
    settings = values.command_settings(values.fine_options(proxy, fine))
    return Configuration(settings=settings, origins=values.origins)


class _Values:
    """What the inputs mean, group by group; notes where each field of the settings comes from."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self.origins: dict[str, Origin] = {}

    def _note(self, field: str, value: T, origin: Origin) -> T:
        self.origins[field] = origin
        return value

    def _choose(self, field: str, default: T, *given: OptionValue[T] | None) -> T:
        """Return the first value that was given for a field, ``default`` if none was."""
        found = next((each for each in given if each is not None), None)
        return default if found is None else self._note(field, found.value, found.origin)

    def fine_settings(self) -> FineSettings:
        given = self._inputs.text("settings-json")
        if given is None:
            return FineSettings()
        path = given.value
        validate_path(path)
        name = printable(path)
        logger.info("Using settings specified in file: %s", name)
        try:
            fine = parse_settings(read_text(path))
        except OSError as error:
            raise ConfigurationError(f"{name}: cannot open file ({error.strerror})") from None
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from None
        for key in fine.unknown:
            meant = did_you_mean(key.removeprefix(PREFIX), (setting.key for setting in SETTINGS))
            question = f". {meant}" if meant else ""
            logger.warning("%s: unknown key %s: ignored%s", name, printable(key), question)
        for key in fine.without_effect():
            logger.warning("%s: %s has no effect here", name, key)
        return fine

    # -- tokens ----------------------------------------------------------------------------

    def require_token(self) -> None:
        if self._inputs.text("access-token-file") is None:
            self._inputs.require("access-token")

    def require_endpoint(self) -> None:
        inputs = self._inputs
        if (inputs.text("region") is None) == (inputs.text("proxy-endpoint") is None):
            raise UsageError(
                "Must specify one and only one of --region/-r or --proxy-endpoint/-e options",
                inputs.elsewhere("region", "proxy-endpoint"),
            )

    def access_token(self) -> Secret:
        given, is_file = self._token_source()
        if is_file or given.value == _STANDARD_INPUT:
            token = self._read_token(given.value)
            validate_access_token(token)
        else:
            token = given.value
            self._check_given_token(token, given.origin)
        return self._note("access_token", Secret(token), given.origin)

    def unread_token(self) -> Secret:
        """Return the access token, empty where it was not given or would have to be read."""
        inputs = self._inputs
        if inputs.text("access-token") is None and inputs.text("access-token-file") is None:
            return Secret("")
        given, is_file = self._token_source()
        if is_file or given.value == _STANDARD_INPUT:
            return self._note("access_token", Secret(""), given.origin)
        return self.access_token()

    def _token_source(self) -> tuple[OptionValue[str], bool]:
        """Return the option that holds the token or names its file, and whether it is a file."""
        direct = self._inputs.text("access-token")
        file = self._inputs.text("access-token-file")
        if file is None:
            return self._inputs.require("access-token"), False
        if direct is not None and direct.origin.layer is file.origin.layer:
            raise UsageError(
                "Must specify one and only one of --access-token/-t or --access-token-file",
                self._inputs.elsewhere("access-token", "access-token-file"),
            )
        if direct is not None and direct.origin.layer < file.origin.layer:
            return direct, False
        return file, True

    def _check_given_token(self, token: str, origin: Origin) -> None:
        if origin.layer is Layer.COMMAND_LINE:
            logger.warning(
                "Found access token supplied via CLI arg. Consider using environment variable"
                " AWSIOT_TUNNEL_ACCESS_TOKEN instead"
            )
        validate_access_token(token)
        if looks_like_file_name(token) or os.path.exists(token):
            raise RejectedInput(
                "access-token",
                "looks like a file name",
                "Access token is the name of a file; to read the token from it use"
                " --access-token-file",
            )

    def _read_token(self, path: str) -> str:
        try:
            if path == _STANDARD_INPUT:
                return read_line("Access token: ").strip()
            validate_path(path)
            return read_text(path).strip()
        except OSError as error:
            raise ConfigurationError(
                f"Cannot read the access token from {printable(path)}: {error.strerror or error}"
            ) from None
        except (EOFError, UnicodeDecodeError):
            raise ConfigurationError("Cannot read the access token from standard input") from None

    def client_token(self) -> Secret | None:
        given = self._inputs.text("client-token")
        if given is None or not given.value:
            return None
        validate_client_token(given.value)
        if not is_client_token(given.value):
            logger.warning(
                "The client token has characters other than letters, digits and hyphens;"
                " AWS refuses it"
            )
        return self._note("client_token", Secret(given.value), given.origin)

    # -- endpoint --------------------------------------------------------------------------

    def endpoint(self, fine: FineSettings) -> tuple[str, int]:
        given = self._inputs.text("region")
        if given is not None:
            validate_region(given.value)
            host, port = parse_endpoint(fine.endpoint_of(given.value))
        else:
            given = self._inputs.require("proxy-endpoint")
            host, port = parse_endpoint(given.value)
        return self._note("host", host, given.origin), self._note("port", port, given.origin)

    def web_proxy(self, host: str, port: int) -> WebProxy | None:
        environ = self._inputs.environ
        proxy = web_proxy_for(host, port, environ)
        variable = web_proxy_variable(environ)
        if proxy is not None:
            logger.info(
                "Found Web proxy information in the environment variables, will use %s", proxy
            )
            self.origins["web_proxy"] = Origin(Layer.ENVIRONMENT, variable)
        elif variable:
            logger.info("The web proxy of %s is not used: no_proxy covers the endpoint", variable)
        return proxy

    # -- mode ------------------------------------------------------------------------------

    def mode(self) -> Side | None:
        """Return the side that ``--mode`` names, ``None`` without it."""
        given = self._inputs.text("mode")
        if given is None:
            return None
        side = _SIDES.get(given.value)
        if side is None:
            raise UsageError(
                "Mode value is wrong! Allowed values are: src, dst, source, destination",
                self._inputs.elsewhere("mode"),
            )
        return side

    def peer_version(self) -> PeerVersion:
        given = self._inputs.text("destination-client-type")
        if given is None:
            return PeerVersion.AUTO
        version = PeerVersion.V3
        if given.value in ("V1", "V2"):
            version = PeerVersion(given.value)
            logger.info("setting source protocol to %s", given.value)
        elif given.value != "V3":
            logger.warning(
                "unknown value for destination-client-type, assuming default protocol V3."
            )
        return self._note("peer_version", version, given.origin)

    def side(self, mode: Side | None) -> Side:
        inputs = self._inputs
        listen, apps = inputs.text("source-listen-port"), inputs.text("destination-app")
        hint = inputs.elsewhere("source-listen-port", "destination-app", "mode")
        if listen is not None and apps is not None:
            raise UsageError(
                "Must specify one and only one of --source-listen-port/-s or --destination-app/-d",
                hint,
            )
        if listen is not None and mode is Side.DESTINATION:
            raise UsageError(
                "-s and --mode have mismatched mode. Mode is set to destination!", hint
            )
        if apps is not None and mode is Side.SOURCE:
            raise UsageError("-s and --mode have mismatched mode. Mode is set to source!", hint)
        given = inputs.text("mode") or listen or apps
        if given is None:
            raise UsageError(
                "Must specify one of --source-listen-port/-s or --destination-app/-d or --mode"
            )
        side = mode or (Side.SOURCE if listen is not None else Side.DESTINATION)
        return self._note("side", side, given.origin)

    # -- services --------------------------------------------------------------------------

    def services(self, side: Side) -> ServiceAddresses | None:
        name = "source-listen-port" if side is Side.SOURCE else "destination-app"
        given = self._inputs.text(name)
        services = parse_service_map(given.value, side) if given is not None else {}
        if given is None or not services:
            return None
        return self._note("services", services, given.origin)

    def fallback_services(self, side: Side, *, needed: bool) -> ServiceAddresses:
        given = self._inputs.text("config-dir")
        directory = given.value if given is not None else _DEFAULT_CONFIG_DIR
        if given is not None:
            validate_path(directory)
        if not is_filled_directory(directory):
            if given is not None:
                raise ConfigurationError(f"Invalid configuration directory: {printable(directory)}")
            return {}
        if not needed:
            return {}
        found = read_services(directory, side, strict=given is not None)
        origin = Origin(Layer.CONFIG_DIRECTORY, printable(directory))
        return self._note("fallback_services", found, origin)

    def allowed(
        self, side: Side, services: ServiceAddresses, fallback_services: ServiceAddresses
    ) -> tuple[LocalAddress, ...] | None:
        given = self._inputs.text("allow")
        if given is None:
            return None
        allowed = parse_allow_list(given.value)
        for field, mapped in (("services", services), ("fallback_services", fallback_services)):
            for service_id, address in mapped.items():
                if side is Side.DESTINATION and not is_allowed(address, allowed):
                    service = f" of service {service_id}" if service_id else ""
                    raise ConfigurationError(
                        f"{printable(format_local_address(address))}, the application{service} from"
                        f" the {self.origins[field]}, is not in the allow-list from the"
                        f" {given.origin}: {printable(format_allow_list(allowed), _SHOWN_LENGTH)}"
                    )
        return self._note("allowed", allowed, given.origin)

    # -- the link --------------------------------------------------------------------------

    def subprotocol(self, fine: FineSettings) -> str:
        name = self._choose("subprotocol", SUBPROTOCOL_V3, fine.get("websocket.subprotocol", str))
        if name not in SUBPROTOCOLS:
            logger.warning("The service is asked for the unknown subprotocol %s", name)
        return name

    def bind_address(self, side: Side, fine: FineSettings) -> str:
        address = ""
        if side is Side.SOURCE:
            address = self._choose("bind_address", "", fine.get("default_bind_address", str))
        given = self._inputs.text("local-bind-address")
        if given is not None and (parsed := parse_bind_address(given.value)):
            address = self._note("bind_address", parsed, given.origin)
        if side is Side.SOURCE and not address:
            address = self._note("bind_address", DEFAULT_LISTEN_HOST, Origin())
        return address

    def capath(self) -> Path | None:
        path = self._path("capath", "capath")
        # A file, or a directory that cannot be read, is judged when it is loaded.
        if path is not None and is_missing_or_empty(str(path)):
            shown = printable(str(path), _SHOWN_LENGTH)
            logger.warning("--capath %s has no certificates: ignored", shown)
        return path

    def verify_tls(self) -> bool:
        given = self._inputs.get("no-ssl-host-verify", bool)
        if given is None or not given.value:
            return True
        logger.warning(
            "SECURITY WARNING: SSL host verification is DISABLED (-k flag): anybody between"
            " here and the service can read and change what goes through the tunnel"
        )
        return self._note("verify_tls", False, given.origin)

    def backend(self) -> Backend:
        return Backend(self._choose("backend", Backend.AUTO.value, self._inputs.text("link")))

    def fine_options(self, proxy: ProxySettings, fine: FineSettings) -> ProxySettings:
        """Return ``proxy`` with the numbers and switches of options and of the settings file."""

        def pick(field: str, default: T, key: str = "") -> T:
            option = self._inputs.get(field.replace("_", "-"), type(default))
            return self._choose(field, default, option, fine.get(key, type(default)))

        return replace(
            proxy,
            max_payload=pick("max_payload", proxy.max_payload, "message.max_payload_size"),
            max_connections=pick(
                "max_connections", proxy.max_connections, "tcp.max_active_connections"
            ),
            ping_period=pick("ping_period", proxy.ping_period, "websocket.ping_period_ms"),
            connect_timeout=pick("connect_timeout", proxy.connect_timeout),
            connect_retry_count=pick(
                "connect_retry_count", proxy.connect_retry_count, "websocket.connect_retry_count"
            ),
            retry_delay=pick("retry_delay", proxy.retry_delay, "websocket.retry_delay_ms"),
            reconnect_on_data_error=pick(
                "reconnect_on_data_error",
                proxy.reconnect_on_data_error,
                "websocket.reconnect_on_data_error",
            ),
            dial_timeout=pick("dial_timeout", proxy.dial_timeout),
            dial_retry_count=pick(
                "dial_retry_count", proxy.dial_retry_count, "tcp.connection_retry_count"
            ),
            dial_retry_delay=pick(
                "dial_retry_delay", proxy.dial_retry_delay, "tcp.connection_retry_delay_ms"
            ),
            linger=pick("linger", proxy.linger),
            stall_timeout=pick("stall_timeout", proxy.stall_timeout),
            resume_timeout=pick("resume_timeout", proxy.resume_timeout),
        )

    # -- the command -----------------------------------------------------------------------

    def command_settings(self, proxy: ProxySettings) -> CommandSettings:
        inputs = self._inputs
        choose = self._choose
        state_dir = self._state_dir()
        return CommandSettings(
            proxy=proxy,
            json_events=choose("json_events", False, inputs.get("json", bool)),
            ready_file=self._path("ready-file", "ready_file"),
            state_dir=state_dir,
            state_needed="state_dir" in self.origins and state_dir is not None,
            control=self._control(),
            metrics_listen=self._metrics_listen(),
            loop=LoopChoice(choose("loop", LoopChoice.AUTO.value, inputs.text("loop"))),
            verbosity=choose("verbosity", DEFAULT_VERBOSITY, inputs.get("verbose", int)),
        )

    def _state_dir(self) -> Path | None:
        given, none = self._inputs.text("state-dir"), self._inputs.get("no-state", bool)
        if none is not None and none.value:
            if given is None or none.origin.layer < given.origin.layer:
                return self._note("state_dir", None, none.origin)
            if none.origin.layer is given.origin.layer:
                raise UsageError(
                    "Must specify only one of --state-dir and --no-state",
                    self._inputs.elsewhere("state-dir", "no-state"),
                )
        if given is not None:
            return self._path("state-dir", "state_dir")
        found = default_state_dir(self._inputs.environ)
        if found is None and self._inputs.text("client-token") is None:
            logger.warning(
                "This user has no home directory to keep the client token in: the access token"
                " will be refused after a restart of this command, unless --state-dir names a"
                " directory (--no-state asks for none)"
            )
        return found

    def _control(self) -> bool:
        given = self._inputs.get("no-control", bool)
        return True if given is None else self._note("control", not given.value, given.origin)

    def _metrics_listen(self) -> TCPAddress | None:
        given = self._inputs.text("metrics-listen")
        if given is None:
            return None
        try:
            address = parse_tcp_address(given.value, DEFAULT_LISTEN_HOST, minimum_port=0)
        except AddressError as error:
            raise ConfigurationError(f"--metrics-listen: {error}") from None
        return self._note("metrics_listen", address, given.origin)

    def _path(self, option: str, field: str) -> Path | None:
        given = self._inputs.text(option)
        if given is None:
            return None
        validate_path(given.value)
        return self._note(field, Path(given.value), given.origin)


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
