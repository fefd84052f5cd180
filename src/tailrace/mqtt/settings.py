"""Which broker, and how to reach it: from a URL, or from an endpoint of AWS IoT Core."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from ..common.addresses import format_host_port, is_host_name, is_ipv6
from ..common.certificate_files import certificate_error_text, refuse_passphrase
from ..common.secret import Secret
from ..common.setting_errors import SettingUnusable
from ..common.special_files import is_special
from ..link.endpoint import NetworkEndpoint, TLSOptions

__all__ = [
    "AWS_ALPN",
    "PASSWORD_VARIABLE",
    "USER_VARIABLE",
    "BrokerSettings",
    "aws_broker",
    "parse_mqtt_url",
]

USER_VARIABLE: Final = "TAILRACE_MQTT_USER"
PASSWORD_VARIABLE: Final = "TAILRACE_MQTT_PASSWORD"  # noqa: S105 - a name

AWS_ALPN: Final = "x-amzn-mqtt-ca"
"""Protocol to offer on port 443 of AWS IoT Core, for clients with a certificate (AWS IoT developer
guide, "Device communication protocols")."""

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_HTTPS_PORT: Final = 443
_MAX_CREDENTIALS: Final = 65_535
_OLD_AWS_HOST: Final = re.compile(r"[a-z0-9]+\.iot\.[a-z0-9-]+\.amazonaws\.com(\.cn)?\.?")


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """How to reach a broker; ``str`` shows no credentials."""

    host: str
    port: int
    tls: TLSOptions | None = None
    """``None``: plain TCP."""
    user: str | None = None
    password: Secret | None = None
    is_aws: bool = field(default=False)
    """Whether it is AWS IoT Core, whose refusals have reasons of their own."""

    @property
    def authority(self) -> str:
        """``host:port``."""
        return format_host_port(self.host, self.port)

    def endpoint(self, connect_timeout: float) -> NetworkEndpoint:
        """Return where the broker is; ``connect_timeout`` is in seconds, for each step.

        Without TLS, its settings there mean nothing.
        """
        return NetworkEndpoint(
            host=self.host,
            port=self.port,
            tls=self.tls or TLSOptions(),
            connect_timeout=connect_timeout,
        )

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.authority}"


def parse_mqtt_url(
    url: str,
    environment: Mapping[str, str],
    *,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
) -> BrokerSettings:
    """Read ``mqtt[s]://[user[:password]@]host[:port]``; the default ports are 1883 and 8883.

    User and password may be in ``environment`` instead, where other users of the machine
    cannot see them (``TAILRACE_MQTT_USER``, ``TAILRACE_MQTT_PASSWORD``). ``ca`` is trusted
    instead of the system's authorities; ``cert`` and ``key`` are a client certificate in
    PEM, in one file when ``key`` is ``None``.

    Raises:
        SettingUnusable: a value cannot be used. The settings are called ``mqtt_url``, ``mqtt_ca``,
            ``mqtt_cert`` and ``mqtt_key``.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    host = parts.hostname or ""
    is_host = is_host_name(host) or is_ipv6(host)
    if "%" in host and parts.scheme != "mqtt":
        is_host = False  # a zone is no name that a certificate could have
    is_more = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in _PORTS or not is_host or is_more or port == 0:
        # Without the text: it may hold a password.
        raise SettingUnusable(
            "{0} must be mqtt://HOST[:PORT] or mqtts://HOST[:PORT], for example "
            "mqtts://broker.example:8883",
            "mqtt_url",
        )
    user = unquote(parts.username) if parts.username else environment.get(USER_VARIABLE) or None
    password = (
        unquote(parts.password) if parts.password else environment.get(PASSWORD_VARIABLE) or None
    )
    _check_credentials(user, password)
    return BrokerSettings(
        host,
        _PORTS[parts.scheme] if port is None else port,
        _tls(parts.scheme, ca, cert, key),
        user,
        None if password is None else Secret(password),
    )


def aws_broker(
    endpoint: str,
    *,
    cert: Path,
    key: Path | None = None,
    ca: Path | None = None,
    port: int = _PORTS["mqtts"],
    alpn: str | None = None,
) -> BrokerSettings:
    """Return the broker of AWS IoT Core at ``endpoint``, a host name without a port.

    ``alpn`` is the protocol to offer in TLS; without it, that is ``x-amzn-mqtt-ca`` on port 443
    and none elsewhere, as AWS wants it.

    Raises:
        SettingUnusable: a value cannot be used. The settings are called ``endpoint``, ``mqtt_ca``,
            ``mqtt_cert``, ``mqtt_key`` and ``alpn``.
    """
    if not is_host_name(endpoint):
        raise SettingUnusable(
            "{0} {endpoint!r} must be the name of a host, as printed by: {command}",
            "endpoint",
            endpoint=endpoint,
            command="aws iot describe-endpoint --endpoint-type iot:Data-ATS",
        )
    if _OLD_AWS_HOST.fullmatch(endpoint.lower()):
        raise SettingUnusable(
            "{0} {endpoint} has a certificate that systems do not trust any more; use the one"
            " with -ats in its name, as printed by: {command}",
            "endpoint",
            endpoint=endpoint,
            command="aws iot describe-endpoint --endpoint-type iot:Data-ATS",
        )
    if alpn is None:
        alpn = AWS_ALPN if port == _HTTPS_PORT else ""
    try:
        offered = (alpn,) if alpn else ()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_alpn_protocols(list(offered))
    except (ssl.SSLError, UnicodeEncodeError):
        raise SettingUnusable(
            "{0} {alpn!r} is not the name of a protocol: 1 to 255 ASCII characters",
            "alpn",
            alpn=alpn,
        ) from None
    _check_files(ca, cert, key)
    tls = TLSOptions(authorities=ca, certificate=cert, key=key, alpn=offered)
    return BrokerSettings(endpoint, port, tls, is_aws=True)


def _check_credentials(user: str | None, password: str | None) -> None:
    if password is not None and user is None:
        raise SettingUnusable(
            "an MQTT password needs a user: give it in {0} or in {variable}",
            "mqtt_url",
            variable=USER_VARIABLE,
        )
    for text in filter(None, (user, password)):
        try:
            is_fit = len(text.encode()) <= _MAX_CREDENTIALS and "\0" not in text
        except UnicodeEncodeError:
            is_fit = False
        if not is_fit:
            raise SettingUnusable(
                "user and password of {0} must be UTF-8 without NUL, of up to {most} bytes",
                "mqtt_url",
                most=_MAX_CREDENTIALS,
            )


def _tls(scheme: str, ca: Path | None, cert: Path | None, key: Path | None) -> TLSOptions | None:
    if scheme == "mqtt":
        for setting, value in (("mqtt_ca", ca), ("mqtt_cert", cert), ("mqtt_key", key)):
            if value is not None:
                raise SettingUnusable("{0} needs {1} with mqtts://", setting, "mqtt_url")
        return None
    if key is not None and cert is None:
        raise SettingUnusable("{0} needs {1}", "mqtt_key", "mqtt_cert")
    _check_files(ca, cert, key)
    return TLSOptions(authorities=ca, certificate=cert, key=key)


def _check_files(ca: Path | None, cert: Path | None, key: Path | None) -> None:
    """Read the files once: what is wrong with them is told before anything is connected."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for setting, path in (("mqtt_ca", ca), ("mqtt_cert", cert), ("mqtt_key", key)):
        if path is not None and is_special(path):
            raise SettingUnusable(
                "{0} {path} is a pipe or a device, and no file", setting, path=path
            )
    try:
        if ca is not None:
            context.load_verify_locations(ca)
    except OSError as error:
        reason = certificate_error_text(error)
        raise SettingUnusable("{0} {ca}: {reason}", "mqtt_ca", ca=ca, reason=reason) from None
    try:
        if cert is not None:
            context.load_cert_chain(cert, key, password=refuse_passphrase)
    except OSError as error:
        reason = certificate_error_text(error, missing="no certificate or no key in PEM")
        template = "{0} {cert}: {reason}" if key is None else "{0} {cert}, {1} {key}: {reason}"
        raise SettingUnusable(
            template, "mqtt_cert", "mqtt_key", cert=cert, key=key, reason=reason
        ) from None
