"""Notify over MQTT 3.1.1.

Needs the extra ``[mqtt]``, which is imported with the first connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from ...common.certificate_files import certificate_error_text, refuse_passphrase
from ...common.installing import how_to_install_extra
from ...common.secret import Secret
from ..errors import SettingUnusable
from .base import Notification, NotifierDown, NotifyFailed

if TYPE_CHECKING:
    import aiomqtt

__all__ = ["MqttNotifier", "MqttSettings", "parse_mqtt_url"]

USER_VARIABLE: Final = "TAILRACE_MQTT_USER"
PASSWORD_VARIABLE: Final = "TAILRACE_MQTT_PASSWORD"  # noqa: S105 - a name

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_KEEP_ALIVE: Final = 15
"""Seconds between pings of an idle connection, and what paho allows for the TLS handshake."""
_TIMEOUT: Final = 10.0
"""Seconds for the broker to answer a connect or a publish."""
_DISCONNECT_TIMEOUT: Final = 1.0


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """How to reach a broker."""

    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    user: str | None = None
    password: Secret | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def parse_mqtt_url(
    url: str,
    environment: Mapping[str, str],
    *,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
) -> MqttSettings:
    """Read ``mqtt[s]://[user[:password]@]host[:port]``; the default ports are 1883 and 8883.

    User and password may be in ``environment`` instead, where other users of the machine
    cannot see them (``TAILRACE_MQTT_USER``, ``TAILRACE_MQTT_PASSWORD``). ``ca`` is trusted
    instead of the system's authorities; ``cert`` and ``key`` are a client certificate in
    PEM, in one file when ``key`` is ``None``.

    Raises:
        SettingUnusable: a value cannot be used, or the extra is not installed.
    """
    if importlib.util.find_spec("aiomqtt") is None:
        raise SettingUnusable(
            "{0} needs the package aiomqtt: {command}",
            "mqtt_url",
            command=how_to_install_extra("mqtt"),
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/") or parts.query:
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
    if password is not None and user is None:
        raise SettingUnusable(
            "an MQTT password needs a user: give it in {0} or in {variable}",
            "mqtt_url",
            variable=USER_VARIABLE,
        )
    return MqttSettings(
        parts.hostname,
        _PORTS[parts.scheme] if port is None else port,
        _tls(parts.scheme, ca, cert, key),
        user,
        None if password is None else Secret(password),
    )


def _tls(
    scheme: str, ca: Path | None, cert: Path | None, key: Path | None
) -> ssl.SSLContext | None:
    if scheme == "mqtt":
        for setting, value in (("mqtt_ca", ca), ("mqtt_cert", cert), ("mqtt_key", key)):
            if value is not None:
                raise SettingUnusable("{0} needs an {1} with mqtts://", setting, "mqtt_url")
        return None
    if key is not None and cert is None:
        raise SettingUnusable("{0} needs {1}", "mqtt_key", "mqtt_cert")
    context = ssl.create_default_context()
    try:
        if ca is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(ca)
    except OSError as error:
        reason = certificate_error_text(error)
        raise SettingUnusable("{0} {ca}: {reason}", "mqtt_ca", ca=ca, reason=reason) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _TidySocket
    try:
        if cert is not None:
            context.load_cert_chain(cert, key, password=refuse_passphrase)
    except OSError as error:
        reason = certificate_error_text(error, missing="no certificate or no key in PEM")
        raise SettingUnusable(
            "{0} {cert}, {1} {key}: {reason}",
            "mqtt_cert",
            "mqtt_key",
            cert=cert,
            key=key,
            reason=reason,
        ) from None
    return context


class _TidySocket(ssl.SSLSocket):
    """Closes itself when its handshake fails, which paho leaves to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


class MqttNotifier:
    """Publishes at QoS 1 over one connection, which is opened again after it was lost."""

    def __init__(self, settings: MqttSettings, timeout: float = _TIMEOUT) -> None:
        self._settings = settings
        self._timeout = timeout
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    @property
    def name(self) -> str:
        """The broker's address."""
        return str(self._settings)

    async def deliver(self, notification: Notification) -> None:
        """Publish a notification and wait for the broker to acknowledge it.

        Raises:
            NotifierDown: the broker cannot be reached.
            NotifyFailed: it does not answer in time, or the connection was lost.
        """
        import aiomqtt

        connection = await self._connected()
        try:
            await connection.publish(notification.topic, notification.payload())
        except (aiomqtt.MqttError, OSError, ValueError) as error:
            # Also for others that are under way, whose answers may be lost as well.
            if self._connection is connection:
                await self.close()
            raise NotifyFailed(str(error) or type(error).__name__) from None

    async def _connected(self) -> _Connection:
        import aiomqtt

        async with self._connecting:
            if self._connection is None or self._connection.lost:
                await self.close()
                try:
                    self._connection = await _Connection.open(self._settings, self._timeout)
                except (aiomqtt.MqttError, OSError, ValueError) as error:
                    raise NotifierDown(str(error) or type(error).__name__) from None
            return self._connection

    async def close(self) -> None:
        """Disconnect from the broker."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class _Connection:
    """One connection to the broker, and a task that notices its loss."""

    def __init__(self, client: aiomqtt.Client, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    @classmethod
    async def open(cls, settings: MqttSettings, timeout: float) -> _Connection:
        import aiomqtt

        client = aiomqtt.Client(
            settings.host,
            settings.port,
            username=settings.user,
            password=settings.password.reveal() if settings.password else None,
            tls_context=settings.tls,
            keepalive=_KEEP_ALIVE,
            timeout=timeout,
            logger=_quiet_logger(),
        )
        # aiomqtt connects in a thread, which cannot be cancelled.
        opening = asyncio.get_running_loop().create_task(client.__aenter__())
        try:
            await asyncio.shield(opening)
        except BaseException:
            await asyncio.wait([opening])
            await _disconnect(client)
            raise
        return cls(client, timeout)

    @property
    def lost(self) -> bool:
        """Whether the connection is lost."""
        return self._watcher.done()

    async def publish(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 1; return when it is acknowledged."""
        import aiomqtt

        publishing = asyncio.get_running_loop().create_task(
            self._client.publish(topic, payload, qos=1, timeout=self._timeout)
        )
        try:
            await asyncio.wait([publishing, self._watcher], return_when=asyncio.FIRST_COMPLETED)
            if publishing.done():
                publishing.result()
            else:
                raise aiomqtt.MqttError("the connection was lost")
        finally:
            publishing.cancel()
            await asyncio.wait([publishing])

    async def close(self) -> None:
        """Disconnect."""
        self._watcher.cancel()
        await asyncio.wait([self._watcher])
        await _disconnect(self._client)

    async def _watch(self) -> None:
        """End with the connection; only who waits for messages notices that."""
        import aiomqtt

        with contextlib.suppress(aiomqtt.MqttError):
            async for _ in self._client.messages:
                pass


async def _disconnect(client: aiomqtt.Client) -> None:
    """Send DISCONNECT if the broker still reads; the socket is closed in any case."""
    import aiomqtt

    with contextlib.suppress(aiomqtt.MqttError, OSError, ValueError, TimeoutError):
        async with asyncio.timeout(_DISCONNECT_TIMEOUT):
            await client.__aexit__(None, None, None)


def _quiet_logger() -> logging.Logger:
    """Return a logger for paho that never logs packets: they hold tokens."""
    logger = logging.getLogger(f"{__name__}.paho")
    logger.setLevel(logging.ERROR)
    return logger
