from tailrace.service.relay.handshake import RequestLine
from tailrace.service.relay.health_check import answer_health_check


def test_what_is_a_health_check() -> None:
    for version in ("HTTP/1.0", "HTTP/1.1"):
        answer = answer_health_check(RequestLine("GET", "/healthz", version))
        assert answer is not None
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nok\n")
        head = answer_health_check(RequestLine("HEAD", "/healthz", version))
        assert head is not None
        assert head + b"ok\n" == answer


def test_what_is_none() -> None:
    lines = [
        None,
        RequestLine("POST", "/healthz"),
        RequestLine("GET", "/healthz/"),
        RequestLine("GET", "/tunnel?local-proxy-mode=source"),
    ]
    assert [answer_health_check(line) for line in lines] == [None] * 4
