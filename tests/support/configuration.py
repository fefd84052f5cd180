"""Helpers for tests of parsers: any text gives a value or the documented error."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar
from urllib.parse import quote

from tailrace.errors import ConfigurationError
from tailrace.link.proxy.settings import WebProxy

__all__ = ["proxy_url", "refusal", "value_unless_refused"]

P = ParamSpec("P")
T = TypeVar("T")


def value_unless_refused(parse: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Return what ``parse`` returns, ``None`` if it refuses with a fit message."""
    try:
        return parse(*args, **kwargs)
    except ConfigurationError as error:
        said = f"{error}{getattr(error, 'hint', '')}"
    assert said.isprintable(), said
    return None


def refusal(parse: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> str:
    """Return the message with which ``parse`` refuses, "" if it does not."""
    try:
        parse(*args, **kwargs)
    except ConfigurationError as error:
        return str(error)
    return ""


def proxy_url(proxy: WebProxy) -> str:
    """Return the URL that names a web proxy, with its password."""
    user = ""
    if proxy.username:
        user = f"{quote(proxy.username, safe='')}:{quote(proxy.password.reveal(), safe='')}@"
    return proxy.place.replace("://", f"://{user}")
