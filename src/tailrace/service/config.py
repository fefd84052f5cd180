"""Settings of the service, and the ready file by which programs find it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ..common.private_files import open_private
from ..common.user_directories import state_directory
from ..errors import ConfigurationError
from ..mqtt.settings import BrokerSettings
from ..mqtt.topics import AWS_TOPICS, TopicTemplate
from .errors import SettingUnusable
from .limits import DEFAULT, Limits
from .networks import Network

__all__ = [
    "Address",
    "DataSettings",
    "Endpoints",
    "OperationSettings",
    "ServiceConfig",
    "default_state_dir",
    "parse_address",
]


_EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound
"""Hosts that mean all addresses of the machine."""
_REGION: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, option: str) -> Address:
    """Parse ``HOST:PORT``, ``[IPV6]:PORT`` or ``PORT`` (on 127.0.0.1).

    Raises:
        ConfigurationError: ``text`` is none of these; ``option`` is named.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        host = "127.0.0.1"
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    valid = port.isascii() and port.isdigit() and int(port) <= 65535
    if not valid or not bare or (":" in bare and bare is host):
        raise ConfigurationError(
            f"{option} {text!r} is not HOST:PORT, for example 127.0.0.1:7443 or [::1]:7443"
        )
    return Address(bare, int(port))


def default_state_dir(environment: Mapping[str, str]) -> Path:
    """Return the default state directory (XDG base directories).

    Raises:
        ConfigurationError: it is below the user's home directory, which is not known.
    """
    try:
        return state_directory(environment)
    except ConfigurationError:
        raise SettingUnusable(
            "this user has no home directory: set HOME, or give a directory with {0}", "state_dir"
        ) from None


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Times in seconds, sizes in bytes."""

    close_timeout: float = 5.0
    """From our close frame until the link is dropped."""
    sweep_interval: float = 10.0
    write_high: int = 256 * 1024
    """Unsent bytes of one link above which the other side is not read."""
    write_low: int = 64 * 1024
    read_buffer: int = 16 * 1024
    """First size of a link's receive buffer; it doubles under load up to two frames."""
    use_aiofastnet: bool = True
    proxies: tuple[Network, ...] = ()
    """Networks of load balancers, which put a PROXY header in front of a connection."""
    forwarders: tuple[Network, ...] = ()
    """Networks of proxies that end TLS, whose field ``X-Forwarded-For`` names the client."""
    origins: frozenset[str] = frozenset()
    """Origins of web pages from which a browser may send a token in a cookie."""


@dataclass(frozen=True, slots=True)
class OperationSettings:
    """Certificates, metrics, audit log and notifications; all are optional."""

    tls_cert: Path | None = None
    """Certificate with its chain, in PEM, instead of one of the service's own authority."""
    tls_key: Path | None = None
    tls_ca: Path | None = None
    """Authorities that clients have to trust, instead of the certificate itself."""
    metrics_listen: Address | None = None
    """Where metrics and health are served over plain HTTP, instead of at the control API."""
    audit_log: Path | None = None
    mqtt: BrokerSettings | None = None
    notify_command: tuple[str, ...] = ()
    notify_topic: TopicTemplate = AWS_TOPICS
    """Topics on which things are notified, also as a command is told."""


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """The configuration of a service.

    Raises:
        SettingUnusable: the region is not the name of one.
    """

    state_dir: Path
    api_listen: Address = Address("127.0.0.1", 7443)
    data_listen: Address = Address("127.0.0.1", 7444)
    ready_file: Path | None = None
    region: str = "us-east-1"
    account_id: str = "000000000000"
    host_names: tuple[str, ...] = ()
    """Further names by which clients reach the service; the first one is advertised
    when a listener is bound to all addresses."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Where an access key may be given; see :mod:`tailrace.service.identity.key_store`."""
    data: DataSettings = field(default_factory=DataSettings)
    operation: OperationSettings = field(default_factory=OperationSettings)
    limits: Limits = DEFAULT

    def __post_init__(self) -> None:
        if not _REGION.fullmatch(self.region):
            raise SettingUnusable(
                "{0} {region!r} is not a name such as us-east-1", "region", region=self.region
            )

    @property
    def own_ready_file(self) -> Path:
        """The ready file in the state directory, by which other commands find the service."""
        return self.state_dir / "ready.json"

    @property
    def certificate_hosts(self) -> tuple[str, ...]:
        """Names that the certificate needs besides those of this machine."""
        bound = (self.api_listen.host, self.data_listen.host)
        return (*self.host_names, *(host for host in bound if host not in _EVERY_ADDRESS))

    def advertised(self, host: str, port: int) -> Address:
        """Return an address that clients can use, and the certificate names, for a listener's."""
        if host in _EVERY_ADDRESS:
            host = self.host_names[0] if self.host_names else "localhost"
        return Address(host, port)

    @property
    def database(self) -> Path:
        """The SQLite file of the tunnel store."""
        return self.state_dir / "tunnels.sqlite3"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """How clients reach a running service; the content of the ready file.

    Example: ``print(service.endpoints.api_endpoint, service.endpoints.data_endpoint)``
    """

    api_endpoint: str
    data_endpoint: str
    ca_file: str
    ca_dir: str
    region: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    """Empty for a key from the service's environment, which is never written down."""
    pid: int = 0
    api_listen: str = ""
    """Where the control API listens; ``0.0.0.0`` and ``::`` are all addresses of the machine."""
    data_listen: str = ""

    def data_endpoint_for(self, host: str) -> str:
        """Return where local proxies of a machine connect that reaches the API under ``host``."""
        api, data = (
            parse_address(text.removeprefix("https://"), "endpoint")
            for text in (self.api_endpoint, self.data_endpoint)
        )
        return str(Address(host, data.port) if api.host == data.host else data)

    def to_json(self) -> bytes:
        """Return the ready file's content."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    @classmethod
    def read(cls, path: Path) -> Endpoints:
        """Read a ready file.

        Raises:
            ConfigurationError: there is none, or it is not one.
        """
        try:
            with open(open_private(path, os.O_RDONLY), "rb") as file:
                document: dict[str, Any] = json.load(file)
            return cls(**document)
        except FileNotFoundError:
            raise ConfigurationError(f"no service is running here: {path} does not exist") from None
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, TypeError):
            raise ConfigurationError(f"{path} is not the ready file of a service") from None
