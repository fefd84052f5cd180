"""Requests to one HTTPS host, over one connection that is kept alive in between.

Enough of HTTP/1.1 (RFC 9112) for an API whose requests and responses are small, and for streams of
events (:meth:`HTTPSHost.stream`). What a server may send is bounded: 64 KiB of head, 16 MiB of
body, of a stream 64 KiB in one piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ..common.addresses import format_host, format_host_port
from ..common.network_errors import network_error_text
from ..errors import ConfigurationError
from ..link import NetworkEndpoint, TLSOptions
from ..link.proxy.settings import web_proxy_for
from ..link.tcp import open_socket

__all__ = ["HTTPSHost", "NoResponse", "Response", "Stream", "https_place"]

IDLE_SECONDS: Final = 20.0
"""How long a connection is kept for the next request: less than servers do."""

_HTTPS_PORT: Final = 443
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_MAX_HEAD: Final = 64 * 1024
_MAX_FIELDS: Final = 100
_MAX_BODY: Final = 16 * 1024 * 1024
_MAX_INTERIM: Final = 10
"""Interim responses (RFC 9110 section 15.2) before the final one."""
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) +([1-9]\d\d)(?: .*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
_LENGTH: Final = re.compile(r"\d{1,9}", re.ASCII)
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,7})[ \t]*(?:;.*)?\r\n")
_WITHOUT_BODY: Final = frozenset({204, 304})


class NoResponse(Exception):
    """There is no response; the text says why.

    ``was_sent`` says that the server may have had the whole request.
    """

    def __init__(self, text: str, *, was_sent: bool = True) -> None:
        super().__init__(text)
        self.was_sent = was_sent


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response."""

    status: int
    fields: Mapping[str, str]
    """Header fields, names in lower case."""
    body: bytes


class _Closed(Exception):
    """The connection ended before the first byte of a response."""


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    expiry: asyncio.TimerHandle | None = None
    """Ends the connection if no request comes; ``None`` during one."""

    def is_alive(self) -> bool:
        return not (self.reader.at_eof() or self.writer.is_closing())


class HTTPSHost:
    """Sends one request after the other; the caller sees to it that they do not overlap.

    Args:
        context: what TLS is checked against.
        ca: certificates for a web proxy with TLS, besides the system's.
        timeout: seconds for each of name resolution, TCP, TLS, and request with response.
        environment: where ``https_proxy`` and ``no_proxy`` are looked up.
    """

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext,
        ca: Path | None,
        timeout: float,
        environment: Mapping[str, str],
    ) -> None:
        self._host = host
        self._port = port
        self._context = context
        self._ca = ca
        self._timeout = timeout
        self._environment = environment
        self._idle: _Connection | None = None
        self._closings = 0
        """How often :meth:`close` was called: no connection is kept beyond it."""

    async def request(self, request: bytes, *, repeatable: bool = True) -> Response:
        """Send a request and return its response.

        A server may close an idle connection at the moment in which the request is sent; then it
        is sent once more, over a new one. One that is not ``repeatable`` has a new one at once:
        nothing tells whether the server had read it.

        Raises:
            NoResponse: the connection was lost, the time was over, or this is not HTTP.
            ssl.SSLCertVerificationError: the certificate of the host does not verify.
            LinkError, ConfigurationError: as :func:`~tailrace.link.tcp.open_socket` and the way
                through a web proxy raise them.
        """
        kept = self._take()
        if kept is not None and not repeatable:
            await _end(kept)
        elif kept is not None:
            try:
                return await self._exchange(kept, request)
            except _Closed:
                pass
        try:
            return await self._exchange(await self._connect(), request)
        except _Closed as error:
            raise NoResponse(str(error)) from None

    @contextlib.asynccontextmanager
    async def stream(self, request: bytes, silence: float) -> AsyncIterator[Stream]:
        """Send a request over a connection of its own; the body has the response as it comes.

        ``silence`` are the seconds in which something has to come.

        Raises:
            NoResponse, ssl.SSLCertVerificationError, LinkError, ConfigurationError: as
                :meth:`request`, also while the body reads the stream.
        """
        connection = await self._connect()
        try:
            with _faults_named(self._timeout):
                async with asyncio.timeout(self._timeout):
                    connection.writer.write(request)
                    try:
                        first = await _first_byte(connection)
                    except _Closed as error:
                        raise NoResponse(str(error)) from None
                    _, status, fields = await _read_head(connection.reader, first)
            yield Stream(connection.reader, status, fields, self._timeout, silence)
        finally:
            await _end(connection)

    async def close(self) -> None:
        """Close the connection, if there is one; that of a request under way ends with it."""
        self._closings += 1
        kept = self._take()
        if kept is not None:
            await _end(kept)

    def _take(self) -> _Connection | None:
        """Return the kept connection if it is alive; it is not kept any more."""
        kept, self._idle = self._idle, None
        if kept is None:
            return None
        if kept.expiry is not None:
            kept.expiry.cancel()
        if kept.is_alive():
            return kept
        kept.writer.transport.abort()
        return None

    def _keep(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.expiry = loop.call_later(IDLE_SECONDS, connection.writer.transport.abort)
        self._idle = connection

    async def _connect(self) -> _Connection:
        proxy = web_proxy_for(self._host, self._port, self._environment)
        if proxy is None:
            sock = await open_socket(self._host, self._port, self._timeout)
        else:
            # Few need it, and it takes its time to import.
            from ..link.proxy.through_proxy import open_through_proxy

            endpoint = NetworkEndpoint(
                host=self._host,
                port=self._port,
                tls=TLSOptions(self._ca),
                connect_timeout=self._timeout,
            )
            sock = await open_through_proxy(endpoint, proxy)
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await asyncio.open_connection(
                    sock=sock,
                    ssl=self._context,
                    server_hostname=self._host.rstrip("."),
                    limit=_MAX_HEAD,
                )
        except TimeoutError:
            raise NoResponse(
                f"the TLS handshake timed out after {self._timeout:g} s", was_sent=False
            ) from None
        except ssl.SSLCertVerificationError:
            raise
        except OSError as error:
            raise NoResponse(_tls_failure(error), was_sent=False) from None
        return _Connection(reader, writer)

    async def _exchange(self, connection: _Connection, request: bytes) -> Response:
        is_kept, closings = False, self._closings
        try:
            with _faults_named(self._timeout):
                async with asyncio.timeout(self._timeout):
                    connection.writer.write(request)
                    first = await _first_byte(connection)
                    response, may_stay = await _read_response(connection.reader, first)
            is_kept = may_stay and closings == self._closings
        finally:
            if is_kept:
                self._keep(connection)
            else:
                connection.writer.transport.abort()
        return response


class Stream:
    """A response that comes bit by bit."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        status: int,
        fields: Mapping[str, str],
        timeout: float,
        silence: float,
    ) -> None:
        self.status = status
        self.fields = fields
        """Header fields, names in lower case."""
        self._reader = reader
        self._timeout = timeout
        self._silence = silence

    async def body(self) -> bytes:
        """Return the whole body, of a response that is no stream after all.

        Raises:
            NoResponse: it does not come.
        """
        with _faults_named(self._timeout):
            async with asyncio.timeout(self._timeout):
                body, _ = await _read_body(self._reader, self.status, self.fields)
        return body

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield what comes, in pieces of no meaning, until the server ends it.

        Raises:
            NoResponse: the connection was lost, nothing has come for too long, or this is not
                HTTP.
        """
        coding = self.fields.get("transfer-encoding")
        is_chunked = coding is not None
        if coding is not None and coding.lower() != "chunked":
            raise NoResponse("the response has a body of unknown length")
        while True:
            with _faults_named(self._silence):
                async with asyncio.timeout(self._silence):
                    read = self._read_chunk() if is_chunked else self._reader.read(_MAX_HEAD)
                    piece = await read
            if not piece:
                return
            yield piece

    async def _read_chunk(self) -> bytes:
        """Return the content of the next chunk, b"" for the last one."""
        size = await _chunk_size(self._reader)
        if size > _MAX_HEAD:
            raise NoResponse("the response has a chunk that is too long")
        piece = await self._reader.readexactly(size)
        if size and await self._reader.readexactly(2) != b"\r\n":
            raise NoResponse("the response has a chunk without an end")
        return piece


@contextlib.contextmanager
def _faults_named(seconds: float) -> Iterator[None]:
    """Raise what goes wrong with a response as :class:`NoResponse`."""
    try:
        yield
    except TimeoutError:
        raise NoResponse(f"timed out after {seconds:g} s") from None
    except asyncio.IncompleteReadError:
        raise NoResponse("the response ended early") from None
    except asyncio.LimitOverrunError:
        raise NoResponse("the response has a head or a line that is too long") from None
    except OSError as error:
        raise NoResponse(f"the connection was lost: {network_error_text(error)}") from None


async def _end(connection: _Connection) -> None:
    connection.writer.transport.abort()
    with contextlib.suppress(OSError):  # closed it is in any case
        await connection.writer.wait_closed()


async def _first_byte(connection: _Connection) -> bytes:
    """Send the request to its end, and return the first byte of the response.

    Raises:
        _Closed: there will be none.
    """
    try:
        await connection.writer.drain()
        first = await connection.reader.read(1)
    except OSError as error:
        raise _Closed(f"the connection was lost: {network_error_text(error)}") from None
    if not first:
        raise _Closed("the connection was closed without a response")
    return first


async def _read_response(reader: asyncio.StreamReader, start: bytes) -> tuple[Response, bool]:
    """Return a response, and whether the connection may stay open.

    Raises:
        NoResponse, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError: there is none.
    """
    version, status, fields = await _read_head(reader, start)
    body, is_delimited = await _read_body(reader, status, fields)
    tokens = {token.strip().lower() for token in fields.get("connection", "").split(",")}
    may_stay = is_delimited and version == b"1" and "close" not in tokens
    return Response(status, fields, body), may_stay


async def _read_head(
    reader: asyncio.StreamReader, start: bytes
) -> tuple[bytes, int, dict[str, str]]:
    """Return minor version, status and fields of a response."""
    for _ in range(_MAX_INTERIM):
        head = start + await reader.readuntil(b"\r\n\r\n")
        start = b""
        status_line, *lines = head[:-4].split(b"\r\n")
        found = _STATUS_LINE.fullmatch(status_line)
        if found is None:
            raise NoResponse("what came is no HTTP response")
        status = int(found[2])
        if status >= 200:
            break
    else:
        raise NoResponse("the response does not come to an end")
    return found[1], status, _read_fields(lines)


def _read_fields(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > _MAX_FIELDS:
        raise NoResponse("the response has too many header lines")
    fields: dict[str, str] = {}
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise NoResponse("the response has a header line that is not valid")
        name, value = found[1].decode().lower(), found[2].decode("latin-1")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


async def _read_body(
    reader: asyncio.StreamReader, status: int, fields: Mapping[str, str]
) -> tuple[bytes, bool]:
    """Return the body, and whether its end was told by something else than that of the connection.

    In the order of RFC 9112 section 6.3.
    """
    if status in _WITHOUT_BODY:
        return b"", True
    coding, length = fields.get("transfer-encoding"), fields.get("content-length")
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise NoResponse("the response has a body of unknown length")
        return await _read_chunks(reader), True
    if length is not None:
        if not _LENGTH.fullmatch(length) or int(length) > _MAX_BODY:
            raise NoResponse("the response has a body that is too long, or a length that is none")
        return await reader.readexactly(int(length)), True
    body = bytearray()
    while data := await reader.read(_MAX_HEAD):
        body += data
        _check_size(len(body))
    return bytes(body), False


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        size = await _chunk_size(reader)
        _check_size(len(body) + size)
        if not size:
            break
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise NoResponse("the response has a chunk without an end")
    trailer = 0
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        trailer += len(line)
        if trailer > _MAX_HEAD:
            raise NoResponse("the response has a trailer that is too long")
    return bytes(body)


async def _chunk_size(reader: asyncio.StreamReader) -> int:
    found = _CHUNK.fullmatch(await reader.readuntil(b"\r\n"))
    if found is None:
        raise NoResponse("the response has a chunk without a length")
    return int(found[1], 16)


def _check_size(size: int) -> None:
    if size > _MAX_BODY:
        raise NoResponse(f"the response has more than {_MAX_BODY >> 20} MiB")


def _tls_failure(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or error.strerror or "unknown reason"
        return f"the TLS handshake failed: {reason.lower().replace('_', ' ')}"
    return f"the connection was lost during the TLS handshake: {network_error_text(error)}"


def https_place(endpoint: str) -> tuple[str, int, str]:
    """Return host, port and ``Host`` header of an endpoint.

    Raises:
        ConfigurationError: it is not an https URL of a host.
    """
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    else:
        if parts.scheme != "https" or parts.path not in ("", "/") or parts.query or "@" in endpoint:
            host = None
    if not host or not _HOST.fullmatch(host) or port == 0 or not endpoint.isprintable():
        shown = endpoint.rpartition("@")[2]  # what stands before it may be a password
        raise ConfigurationError(f"endpoint {shown!r} is not https://HOST or https://HOST:PORT")
    header = format_host_port(host, port) if port else format_host(host)
    return host, port or _HTTPS_PORT, header
