"""CONNECT (RFC 9110 section 9.3.6): how a web proxy is asked, and what its response means. Pure.

Bytes in, verdict out; :mod:`tailrace.link.proxy.through_proxy` moves the bytes.
"""

from __future__ import annotations

import base64
import html
import re
from typing import Final, NoReturn

from ...common.secret import Secret
from ...errors import ProxyRefused, RemoteProtocolError
from ..endpoint import NetworkEndpoint
from ..proxy.settings import WebProxy
from .login_page import find_login_page, login_words
from .response import Response, ResponseReader, scrub

__all__ = ["ConnectParser", "build_connect", "password_advice", "permission_advice"]

_MAX_TEXT: Final = 300
"""Characters of a proxy's page that are quoted."""
_MAX_CHALLENGE: Final = 1000
"""Characters of a field that is searched for authentication schemes."""

# What is read of a page may end anywhere.
_INVISIBLE: Final = re.compile(r"(?is)<!--.*?(?:-->|\Z)|<(script|style|title)\b.*?(?:</\1\s*>|\Z)")
_TAG: Final = re.compile(r"<[a-zA-Z!/?][^>]*(?:>|\Z)")
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_SCHEME: Final = re.compile(r"(?:^|,)\s*([\w!#$%&'*+.^`|~-]+)(?=\s+[^\s=,]|\s*(?:,|$))", re.ASCII)


def password_advice(proxy: WebProxy) -> str:
    """Say what to do when a proxy wants credentials, or refuses those it got."""
    if proxy.username:
        return "check user and password in https_proxy (percent-encode special characters)"
    place = proxy.place.replace("://", "://USER:PASSWORD@")
    return f"the proxy wants a user and a password: set https_proxy={place}"


def permission_advice(endpoint: NetworkEndpoint) -> str:
    """Say what to do when a proxy does not allow connections to the service."""
    return (
        f"the proxy has to allow connections to {endpoint.authority},"
        f" or no_proxy to name {endpoint.host}"
    )


def build_connect(endpoint: NetworkEndpoint, proxy: WebProxy, agent: str) -> bytes:
    """Return the request for a connection to the service.

    Holds the credentials in clear: for the wire only.
    """
    fields = [("Host", endpoint.authority)]
    if proxy.username:
        fields.append(("Proxy-Authorization", f"Basic {_basic(proxy)}"))
    fields.append(("User-Agent", agent))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"CONNECT {endpoint.authority} HTTP/1.1\r\n{lines}\r\n".encode("ascii")


class ConnectParser:
    """Judges a proxy's response to one CONNECT, in pieces of any size.

    Raises:
        ProxyRefused: from each method, if the proxy does not connect; the text names the proxy,
            quotes its response and shows no credentials.
    """

    __slots__ = ("_endpoint", "_proxy", "_reader", "_secrets")

    def __init__(self, endpoint: NetworkEndpoint, proxy: WebProxy) -> None:
        self._endpoint = endpoint
        self._proxy = proxy
        self._secrets = _secrets(proxy)
        self._reader = ResponseReader("CONNECT", self._secrets)

    def feed(self, data: bytes) -> Response | None:
        """Take the next bytes; return the acceptance, or ``None`` while more are needed."""
        try:
            response = self._reader.feed(data)
        except RemoteProtocolError as error:
            self._fail(f"{error}; is this a web proxy?")
        if response is None:
            return None
        if not 200 <= response.status < 300:
            self._refuse(response)
        if response.leftover:
            # In TLS the service speaks second: these bytes do not come from there.
            self._fail(f"unexpected bytes follow the answer{_login_advice(response)}")
        return response

    def finish(self, cause: str) -> NoReturn:
        """Judge a response of which no more will come: the connection ended, or time ran out."""
        try:
            response = self._reader.finish(cause)
        except RemoteProtocolError as error:
            self._fail(str(error))
        self._refuse(response)

    def _refuse(self, response: Response) -> NoReturn:
        status = f"{response.status} {response.shown_reason(self._secrets)}".rstrip()
        text = _text_of(response, self._secrets)
        said = f'{status}: "{text}"' if text else status
        # Most 4xx: the fault is in our request, and the next one would be the same. A password
        # that is tried again and again may get its account locked.
        final = not response.may_pass
        remedy = f"; {self._remedy(response)}" if final else ""
        login = _login_advice(response)
        raise ProxyRefused(
            f"{self._who} refused to connect to {self._endpoint.authority}: {said}{remedy}{login}",
            retryable=not final,
            retryable_once_worked=300 <= response.status < 400,
            retry_after=response.retry_after,
        )

    def _remedy(self, response: Response) -> str:
        # 401 is for servers, but tinyproxy sends it for a wrong password.
        if response.status not in (401, 407):
            return permission_advice(self._endpoint)
        offered = _schemes(response)
        if offered and "basic" not in {each.lower() for each in offered}:
            names = scrub(", ".join(offered), self._secrets, cut=False) or "another scheme"
            return f"the proxy wants {names}, and only Basic is supported"
        return password_advice(self._proxy)

    def _fail(self, cause: str) -> NoReturn:
        raise ProxyRefused(f"{self._who} did not connect to {self._endpoint.authority}: {cause}")

    @property
    def _who(self) -> str:
        return f"web proxy {self._proxy.place}"


def _login_advice(response: Response) -> str:
    page = find_login_page(response)
    return "" if page is None else f"; {login_words(page)}"


def _basic(proxy: WebProxy) -> str:
    """Return the credentials as RFC 7617 wants them."""
    pair = f"{proxy.username}:{proxy.password.reveal()}"
    return base64.b64encode(pair.encode()).decode()


def _secrets(proxy: WebProxy) -> tuple[Secret, ...]:
    """Return what no message may show, in the forms a proxy may quote it in."""
    if not proxy.username:
        return ()
    password = proxy.password.reveal()
    forms = {_basic(proxy), password, password.encode().decode("latin-1")}
    return tuple(Secret(form) for form in forms if form)


def _text_of(response: Response, secrets: tuple[Secret, ...]) -> str:
    """Return what a person would read of the body, in one line."""
    page = response.body.decode("utf-8", "replace")
    kinds = "".join(response.values("content-type")).lower()
    if "html" in kinds or page.lstrip()[:1] == "<":
        # Here too, not only below: a password may contain what looks like a tag.
        page = scrub(page, secrets, cut=response.cut)
        page = html.unescape(_TAG.sub(" ", _INVISIBLE.sub(" ", page)))
    text = scrub(page, secrets, cut=response.cut)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT].rstrip()}…"


def _schemes(response: Response) -> list[str]:
    """Return the authentication schemes a 407 offers (RFC 9110 section 11.6.1)."""
    fields = (
        _QUOTED.sub('""', each[:_MAX_CHALLENGE]) for each in response.values("proxy-authenticate")
    )
    return [match[1] for each in fields for match in _SCHEME.finditer(each)]
