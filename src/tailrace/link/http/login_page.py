"""The login page of a network (a captive portal), which answers in place of the server asked for.

A network that wants a login sends visitors there: with a redirection, with the page itself, or with
status 511 (RFC 6585 section 6). Pure.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from .response import Response

__all__ = ["find_login_page", "is_page", "login_words"]

_LOGIN_REQUIRED: Final = 511
_PAGE_STARTS: Final = (b"<!doctype html", b"<html", b"<head", b"<!--")
_MAX_ORIGIN: Final = 100


def is_page(response: Response) -> bool:
    """Return whether a response holds HTML, as no tunneling service's does."""
    kinds = "".join(response.values("content-type")).lower()
    start = (response.body or response.leftover)[:256].lstrip().lower()
    return "html" in kinds or start.startswith(_PAGE_STARTS)


def find_login_page(response: Response) -> str | None:
    """Return the site that a response sends visitors to, "" if it does not tell.

    ``None``: the response does not look like a network's. Only scheme, host and port are
    returned: the rest of the address may identify the visitor.
    """
    status = response.status
    if status == _LOGIN_REQUIRED or (200 <= status < 300 and is_page(response)):
        return ""
    locations = response.values("location")
    if not (300 <= status < 400 and locations):
        return None
    try:
        parts = urlsplit(locations[0][:1000])
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    known = parts.scheme in ("http", "https") and host.isascii() and host.isprintable()
    return f"{parts.scheme}://{host}" if known and 0 < len(host) <= _MAX_ORIGIN else ""


def login_words(page: str) -> str:
    """Say what :func:`find_login_page` has found."""
    at = f" at {page}" if page else ""
    return f"this looks like the login page of a network{at}: log in there with a browser"
