import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.link.http.login_page import find_login_page, is_page, login_words
from tailrace.link.http.response import Response


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (Response(200, "", {}, b" <HTML><body>"), True),
        (Response(200, "", {}, leftover=b"<!DOCTYPE html>"), True),
        (Response(403, "", {"content-type": ["text/html"]}), True),
        (Response(403, "", {"content-type": ["text/plain"]}, b"no"), False),
        (Response(403, "", {}, b"<access-token>"), False),
    ],
)
def test_pages(response: Response, expected: bool) -> None:
    assert is_page(response) is expected


@pytest.mark.parametrize(
    ("location", "page"),
    [
        ("http://portal.example/login?mac=12:34", "http://portal.example"),
        ("https://user:secret@portal.example:8443/", "https://portal.example:8443"),
        ("/login", ""),
        ("javascript:alert(1)", ""),
        ("http://[broken", ""),
        ("http://" + "x" * 101, ""),
        ("http://p\xf6rtal/", ""),
    ],
)
def test_where_visitors_are_sent_to(location: str, page: str) -> None:
    assert find_login_page(Response(302, "Found", {"location": [location]})) == page


def test_what_sends_visitors_nowhere() -> None:
    assert find_login_page(Response(302, "Found", {})) is None
    assert find_login_page(Response(403, "No", {"location": ["http://x/"]}, b"<html>")) is None
    assert find_login_page(Response(200, "OK", {}, b"hello")) is None
    assert find_login_page(Response(511, "Network Authentication Required", {})) == ""


@given(st.text(max_size=80), st.integers(200, 599))
def test_any_location_gives_one_clean_line(location: str, status: int) -> None:
    page = find_login_page(Response(status, "", {"location": [location]}))
    assert page is None or (page.isascii() and " " not in page)


def test_the_words() -> None:
    assert login_words("http://a") == (
        "this looks like the login page of a network at http://a: log in there with a browser"
    )
    assert login_words("").startswith("this looks like the login page of a network: ")
