"""What the command says about an error: the reference's words, facts, and what to do."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from tailrace.cli.localproxy.error_hints import describe, explain
from tailrace.common.addresses import ServiceAddresses, TCPAddress, UnixAddress
from tailrace.common.installing import how_to_install
from tailrace.common.secret import Secret
from tailrace.errors import (
    AccessRefused,
    CertificateFault,
    CertificateRejected,
    ConfigurationError,
    ConnectFailed,
    HandshakeAltered,
    HandshakeFailed,
    LinkError,
    ListenError,
    NameResolutionFailed,
    NotTunnelingService,
    ProxyRefused,
    ServiceIdMismatch,
    ServiceUnavailable,
    TLSFailed,
    TokenRotated,
)
from tailrace.localproxy.service_map import destination_services
from tailrace.localproxy.settings import ProxySettings
from tailrace.session.services import match_service_ids
from tailrace.wire import Side


def settings(side: Side) -> ProxySettings:
    return ProxySettings(
        side=side, host="data.tunneling.iot.eu-west-1.amazonaws.com", access_token=Secret("t0ken")
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NameResolutionFailed("x"), "Could not resolve DNS hostname of proxy host: x"),
        (ConnectFailed("x"), "Could not connect to proxy server: x"),
        (TLSFailed("x"), "Could not perform SSL handshake with proxy server: x"),
        (ServiceUnavailable("x"), "Proxy server rejected web socket upgrade request: x"),
        (HandshakeFailed("x"), "x"),
        (LinkError("x"), "x"),
    ],
)
def test_failures_begin_as_the_reference_words_them(error: LinkError, line: str):
    assert describe(error) == line


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            400,
            "Invalid access token: The access token was previously used and can not be used again.",
            ["rotate-tunnel-access-token", "--client-mode SOURCE", "--state-dir"],
        ),
        (
            400,
            "Invalid client token: The provided client token does not match the client token "
            "that was previously set.",
            ["rotate-tunnel-access-token", "--client-mode SOURCE"],
        ),
        (400, "Tunnel is closed", ["open a new one"]),
        (
            400,
            "Invalid access token: The access token is for the other local proxy mode.",
            ["token of the destination", "source token"],
        ),
        (
            403,
            "Invalid access-token",
            ["region of data.tunneling.iot.eu-west-1.amazonaws.com", "source token"],
        ),
        (404, "not here", ["data.tunneling.iot.eu-west-1.amazonaws.com:443", "-e", "-r"]),
    ],
)
def test_a_refusal_says_what_to_do(status: int, body: str, words: list[str]):
    text = explain(AccessRefused(status, "Reason", body), settings(Side.SOURCE))
    beginning, advice = text.split('". ', 1)
    assert beginning == f'HTTP/1.1 {status} Reason: "{body}'
    for word in words:
        assert word in advice
    assert "t0ken" not in text


def test_something_else_that_answered_is_not_a_refused_token():
    assert explain(NotTunnelingService("something else"), settings(Side.SOURCE)) == (
        "something else. Check that data.tunneling.iot.eu-west-1.amazonaws.com:443 is a tunneling"
        " data endpoint (-e, -r), and that this network wants no login"
    )


def test_a_login_page_asks_for_the_login():
    error = NotTunnelingService("something else", login_page="http://portal.example")
    said = (
        "something else; this looks like the login page of a network at http://portal.example:"
        " log in there with a browser"
    )
    assert describe(error) == said
    assert explain(error, settings(Side.SOURCE)) == (
        f"{said}, or check that data.tunneling.iot.eu-west-1.amazonaws.com:443 is a tunneling"
        " data endpoint (-e, -r)"
    )


def test_a_changed_request_is_not_a_refused_token():
    error = HandshakeAltered("got another request", 426, "Upgrade Required", "no header Upgrade")
    text = explain(error, settings(Side.SOURCE))
    assert text.startswith("got another request. A proxy in between has to pass WebSocket upgrades")
    assert "token is" not in text
    assert "rotate" not in text


def test_what_came_too_late_names_the_option():
    error = ProxyRefused("web proxy did not connect: no answer within 10 s")
    error.setting = "connect_timeout"
    assert describe(error).endswith("no answer within 10 s; --connect-timeout allows more time")
    once = replace(settings(Side.SOURCE), connect_retry_count=0)
    assert "--connect-timeout" in explain(error, once)


@pytest.mark.parametrize(
    ("host", "port", "data"),
    [
        (
            "api.tunneling.iot.eu-west-1.amazonaws.com",
            443,
            "give data.tunneling.iot.eu-west-1.amazonaws.com, or its region with -r (-e)",
        ),
        (
            "localhost",
            7443,
            'give the address behind "local proxies" in the output of tailrace serve (-e)',
        ),
    ],
)
def test_the_control_api_is_told_from_the_data_endpoint(host: str, port: int, data: str):
    error = NotTunnelingService('something else: "{"__type": "UnknownOperationException"}"')
    there = replace(settings(Side.SOURCE), host=host, port=port)
    said = f"{host}:{port} is the control API, not the data endpoint; {data}"
    assert explain(error, there) == f"{error}. {said}"
    # That of AWS is known by its name, whatever it answers.
    refused = AccessRefused(403, "Forbidden", "Missing Authentication Token")
    assert explain(refused, there).endswith(said) is host.startswith("api.")


def test_a_rotated_token_asks_for_the_new_one():
    assert explain(TokenRotated("rotated"), settings(Side.DESTINATION)) == (
        "rotated; start again with the new destination token"
    )


def test_the_advice_is_for_the_side_that_was_refused():
    text = explain(AccessRefused(400, "Bad", "previously used"), settings(Side.DESTINATION))
    assert "--client-mode DESTINATION" in text


def test_the_last_failure_says_how_many_tries_there_were():
    thrice = replace(settings(Side.SOURCE), connect_retry_count=2)
    assert explain(ConnectFailed("x"), thrice) == (
        "Could not connect to proxy server: x; gave up after 3 tries: "
        "check the endpoint (-e, -r) and the network"
    )
    once = replace(settings(Side.SOURCE), connect_retry_count=0)
    assert explain(LinkError("x"), once) == "x; gave up after 1 try"


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (CertificateFault.UNTRUSTED, "add the CA that signed it with -c"),
        (CertificateFault.WRONG_NAME, "check the endpoint's name"),
        (CertificateFault.OUT_OF_DATE, "check this machine's clock"),
    ],
)
def test_a_certificate_has_a_remedy(fault: CertificateFault, remedy: str):
    error = CertificateRejected("certificate does not verify", fault=fault)
    said = f"certificate does not verify; {remedy} (-k skips the check, for testing only)"
    assert explain(error, settings(Side.SOURCE)) == said
    # One that verified before is tried again.
    assert describe(error) == f"Could not perform SSL handshake with proxy server: {said}"


def test_other_final_failures_are_left_alone():
    error = ProxyRefused("web proxy: 407", retryable=False)
    assert explain(error, settings(Side.SOURCE)) == "web proxy: 407"


@pytest.mark.parametrize(
    ("number", "service_id", "hint"),
    [
        (errno.EADDRINUSE, "SSH", "another process has the port, choose another one for -s SSH=22"),
        (errno.EADDRINUSE, "", "another process has the port, choose another one for -s 22"),
        (errno.EACCES, "", "choose a port above 1023 for -s 22"),
        (errno.EPERM, "SSH", "choose a port above 1023 for -s SSH=22"),
        (errno.EADDRNOTAVAIL, "SSH", "check -b and -s SSH=22"),
    ],
)
def test_a_port_that_cannot_be_bound_has_a_hint(number: int, service_id: str, hint: str):
    error = ListenError("text", setting="services", service_id=service_id, port=22, errno=number)
    assert explain(error, settings(Side.SOURCE)) == f"text; {hint}"


@pytest.mark.parametrize(
    ("services", "service_id", "number", "option"),
    [
        ({"": TCPAddress("", 5555)}, "", errno.EADDRINUSE, "-s 5556"),
        ({"": TCPAddress("", 22)}, "", errno.EACCES, "-s 10022"),
        ({"": TCPAddress("", 65_535)}, "", errno.EADDRINUSE, "-s 5555"),
        (
            {"A": TCPAddress("", 1), "B": TCPAddress("::1", 8080), "C": UnixAddress("/x")},
            "B",
            errno.EADDRINUSE,
            "-s A=1,B=[::1]:8081,C=/x",
        ),
    ],
)
def test_a_busy_port_comes_with_the_option_to_write(
    services: ServiceAddresses, service_id: str, number: int, option: str
):
    address = services[service_id]
    assert isinstance(address, TCPAddress)
    error = ListenError(
        "text", setting="services", service_id=service_id, port=address.port, errno=number
    )
    said = explain(error, replace(settings(Side.SOURCE), services=services))
    assert said.endswith(f", such as {option}")


@pytest.mark.parametrize(
    ("side", "given", "tunnel", "option"),
    [
        (
            Side.SOURCE,
            {"ssh": TCPAddress("", 5555)},
            ("SSH",),
            "-s SSH=5555 (upper and lower case differ: ssh is not SSH)",
        ),
        (
            Side.DESTINATION,
            {"Web": TCPAddress("db", 1), "SSH": TCPAddress("", 22)},
            ("SSH", "WEB", "VNC"),
            "-d SSH=22,WEB=db:1,VNC=HOST:PORT (upper and lower case differ: Web is not WEB)",
        ),
        (Side.SOURCE, {"VNC": TCPAddress("", 1)}, ("SSH",), "-s SSH=PORT"),
        (Side.SOURCE, {"": TCPAddress("", 1)}, ("A", "B"), "-s A=1,B=PORT"),
        (Side.DESTINATION, {"SSH": UnixAddress("/x")}, (), "-d /x"),
    ],
)
def test_other_service_ids_come_with_the_option_to_write(
    side: Side, given: ServiceAddresses, tunnel: tuple[str, ...], option: str
):
    with pytest.raises(ServiceIdMismatch) as caught:
        match_service_ids(tuple(given), tunnel)
    said = explain(caught.value, replace(settings(side), services=given))
    assert said == f"{caught.value}; write {option}"


def test_a_service_that_no_file_has_comes_with_the_option_to_write():
    here = replace(settings(Side.DESTINATION), fallback_services={"ssh": TCPAddress("", 22)})
    with pytest.raises(ServiceIdMismatch) as caught:
        destination_services(here, ("SSH",))
    assert explain(caught.value, here) == (
        f"{caught.value}; give one with -d or --config-dir: -d SSH=22"
        " (upper and lower case differ: ssh is not SSH)"
    )


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ListenError("text", setting="bind_address"), "; check -b"),
        (ListenError("text", setting="path"), "; choose another path with -s"),
        (ListenError("text"), ""),
        (ServiceIdMismatch("text", setting="destinations"), "; give one with -d or --config-dir"),
        (ServiceIdMismatch("text", setting="dialect"), "; leave out -y V1"),
        (ServiceIdMismatch("text"), ""),
        (ConfigurationError("text", setting="state_dir"), "; check --state-dir"),
        (
            ConfigurationError("text", setting="loop"),
            f"; use --loop auto, or install it: {how_to_install('uvloop')}",
        ),
        (ConfigurationError("text"), ""),
    ],
)
def test_a_setting_at_fault_is_named_as_its_option(error: Exception, hint: str):
    assert explain(error, settings(Side.SOURCE)) == f"text{hint}"
