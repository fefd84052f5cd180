from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import socket
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tailrace.cli.localproxy.reporters import (
    JSONReporter,
    LogReporter,
    ReadyFile,
    SystemdNotifier,
    dropped_events,
)
from tailrace.common.addresses import TCPAddress, UnixAddress
from tailrace.common.queued_output import QueuedOutput
from tailrace.common.systemd import ServiceManager
from tailrace.errors import ConfigurationError, ConnectFailed, LinkError
from tailrace.localproxy.events import (
    Connected,
    Connecting,
    ConnectionClosed,
    ConnectionCut,
    ConnectionOpened,
    ConnectionRefused,
    Ended,
    Listening,
    ListeningOnNetwork,
    PeerDialectLearned,
    PeerJoined,
    PeerLeft,
    PeerSilent,
    ProxyEvent,
    Reconnecting,
    ServicesMapped,
    Started,
    TunnelPaused,
    TunnelResumed,
)
from tailrace.wire import Side

SOURCE_RUN: list[ProxyEvent] = [
    Started(Side.SOURCE),
    Connecting("localhost:443"),
    Connected("localhost:443", "c-1", "picows"),
    ServicesMapped({"SSH": TCPAddress("", 5555), "WEB": TCPAddress("", 0)}),
    Listening("SSH", TCPAddress("127.0.0.1", 5555), False),
    Listening("WEB", TCPAddress("127.0.0.1", 40001), True),
    ConnectionOpened("SSH", 1, "127.0.0.1:9"),
    ConnectionClosed("SSH", 1, "127.0.0.1:9", 10, 20),
    ConnectionRefused("SSH", 0, "the limit of 1 connections is reached"),
    Reconnecting(LinkError("connection lost"), 1.234),
    Ended(1000, "Tunnel is closed"),
]


def local(port: int) -> dict[str, object]:
    return {"host": "127.0.0.1", "port": port}


def written(out: io.StringIO) -> list[dict[str, object]]:
    """Return the JSON objects of a stream, without what all of them have."""
    found = [json.loads(line) for line in out.getvalue().splitlines()]
    for each in found:
        assert datetime.fromisoformat(each.pop("time")).tzinfo is UTC
        assert each.pop("tunnel") == "a-tunnel"
    return found


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


def test_the_lines_scripts_wait_for_at_a_source(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    report = LogReporter(Side.SOURCE)
    for event in SOURCE_RUN:
        report(event)
    rule = "-" * 33
    assert lines(caplog) == [
        "Starting proxy in source mode",
        "Attempting to establish web socket connection with endpoint wss://localhost:443",
        "Web socket session ID: c-1",
        "Successfully established websocket connection with proxy server: wss://localhost:443",
        "Use port mapping:",
        rule,
        "SSH = 5555",
        "WEB = 0",
        rule,
        "Listening for new connection on port 5555",
        "Listen port assigned for service id WEB. New port mapping: ",
        "WEB = 40001",
        "Listening for new connection on port 40001",
        "creating tcp connection id 1",
        "Accepted tcp connection on port 5555 from 127.0.0.1:9",
        "Disconnected from: 127.0.0.1:9",
        "the limit of 1 connections is reached",
        "connection lost; trying again in 1.2 s",
        "Web socket close received. Code: 1000; Reason: Tunnel is closed",
    ]


@pytest.mark.parametrize(
    ("peer", "line"),
    [
        ("127.0.0.1:22", "Connected to 127.0.0.1, port: 22"),
        ("22", "Connected to 127.0.0.1, port: 22"),
        ("[::1]:22", "Connected to [::1], port: 22"),
        ("/run/app.sock", "Connected to Unix socket: /run/app.sock"),
    ],
)
def test_the_lines_scripts_wait_for_at_a_destination(
    peer: str, line: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    LogReporter(Side.DESTINATION)(ConnectionOpened("SSH", 1, peer))
    assert lines(caplog) == [line]


def test_the_lines_of_connections_have_records_like_any_other(caplog: pytest.LogCaptureFixture):
    """They are made in another way, as there are many."""
    caplog.set_level(logging.DEBUG)
    report = LogReporter(Side.SOURCE)
    report(Started(Side.SOURCE))
    for _ in range(2):
        report(ConnectionOpened("SSH", 1, "127.0.0.1:9"))
        report(ConnectionClosed("SSH", 1, "127.0.0.1:9", 10, 20))
    usual, *records = caplog.records
    own = ("msg", "args", "message", "lineno", "funcName", "created", "msecs", "relativeCreated")
    about, numbers = vars(usual).keys() - own, set()
    for record in (each for each in records if each.levelno == logging.INFO):
        assert vars(record).keys() == vars(usual).keys()
        assert {name: vars(record)[name] for name in about} == {
            name: vars(usual)[name] for name in about
        }
        made = logging.makeLogRecord({})
        assert usual.created <= record.created <= made.created
        assert usual.relativeCreated <= record.relativeCreated <= made.relativeCreated
        assert record.msecs == int(record.created % 1 * 1000)
        numbers.add(record.lineno)
    assert len(numbers) == 3, "floods are told apart by the line of the call"


def test_the_lines_of_connections_go_with_their_level(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    LogReporter(Side.SOURCE)(ConnectionOpened("SSH", 1, "127.0.0.1:9"))
    assert not caplog.records


def test_unix_listeners(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    report = LogReporter(Side.SOURCE)
    report(Listening("SSH", UnixAddress("/run/c.sock"), False))
    report(ConnectionOpened("SSH", 1, "unix client"))
    assert lines(caplog) == [
        "Listening for new connection on socket /run/c.sock",
        "creating tcp connection id 1",
        "Accepted tcp connection on socket from unix client",
    ]


@pytest.mark.parametrize(
    ("service_id", "received", "line"),
    [
        ("SSH", 0, "connection 3 of SSH was reset before any byte: no destination is connected"),
        ("SSH", 1, "connection 3 of SSH was reset after 1 bytes: no destination is connected"),
        ("", 0, "connection 3 was reset before any byte: no destination is connected"),
    ],
)
def test_a_cut_says_how_far_it_came_and_why(
    service_id: str, received: int, line: str, caplog: pytest.LogCaptureFixture
):
    cut = ConnectionCut(service_id, 3, "127.0.0.1:9", received, "no destination is connected")
    LogReporter(Side.SOURCE)(cut)
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(logging.WARNING, line)]
    out = io.StringIO()
    JSONReporter(out, "a-tunnel")(cut)
    assert written(out) == [
        {
            "event": "connection_cut",
            "service": service_id,
            "connection": 3,
            "peer": "127.0.0.1:9",
            "bytes_received": received,
            "reason": "no destination is connected",
        }
    ]


@pytest.mark.parametrize("peer", Side)
def test_the_other_side_comes_and_goes(peer: Side, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    out = io.StringIO()
    for event in (PeerLeft(peer), PeerJoined(peer)):
        LogReporter(peer.other)(event)
        JSONReporter(out, "a-tunnel")(event)
    assert lines(caplog) == [f"No {peer.value} is connected", f"The {peer.value} is connected"]
    assert written(out) == [
        {"event": "peer_left", "peer": peer.value},
        {"event": "peer_joined", "peer": peer.value},
    ]


def test_a_pause_is_told_with_how_many_wait_and_for_how_long(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    out = io.StringIO()
    for event in (TunnelPaused("link lost", 3, 120.0), TunnelResumed(3.2109, 3, 1_100_000)):
        LogReporter(Side.SOURCE)(event)
        JSONReporter(out, "a-tunnel")(event)
    assert lines(caplog) == [
        "paused: link lost, 3 connections wait up to 120 s",
        "resumed after 3.2 s, 1.1 MB sent again",
    ]
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert written(out) == [
        {"event": "paused", "cause": "link lost", "connections": 3, "timeout": 120.0},
        {"event": "resumed", "after": 3.211, "connections": 3, "bytes_again": 1_100_000},
    ]


def test_warnings_name_the_options(caplog: pytest.LogCaptureFixture):
    report = LogReporter(Side.SOURCE)
    report(ListeningOnNetwork(TCPAddress("0.0.0.0", 5555)))
    report(PeerDialectLearned("V2"))
    report(PeerSilent("SSH", 10.0))
    assert lines(caplog) == [
        "Listening on 0.0.0.0:5555: whoever reaches this host can use the tunnel; "
        "-b 127.0.0.1 keeps it on this machine",
        "The peer speaks V2: one connection at a time for each service; "
        "say so from the start with --destination-client-type V2",
        "The peer has answered nothing on service 'SSH' for 10 s. If the device runs an older "
        "client (Device Client, Greengrass, console), start this side with "
        "--destination-client-type V1 (-y V1)",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    out = io.StringIO()
    for event in (PeerDialectLearned("V2"), PeerSilent("SSH", 10.0)):
        JSONReporter(out)(event)
    JSONReporter(out)(ListeningOnNetwork(TCPAddress("0.0.0.0", 5555)))
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("10.0.0.1:22 -- not in the allow-list", "10.0.0.1:22 -- not in the allow-list (--allow)"),
        (
            "::1: no local address of its family in the bind address; 127.0.0.1:22 -- refused",
            "::1: no local address of its family in -b; 127.0.0.1:22 -- refused",
        ),
        ("the limit of 1 connections is reached", "the limit of 1 connections is reached"),
    ],
)
def test_refusals_name_the_options(reason: str, line: str, caplog: pytest.LogCaptureFixture):
    refused = ConnectionRefused("SSH", 1, reason)
    LogReporter(Side.DESTINATION)(refused)
    assert lines(caplog) == [line]
    out = io.StringIO()
    JSONReporter(out)(refused)
    assert json.loads(out.getvalue())["reason"] == line


def test_no_close_is_logged_that_never_came(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    LogReporter(Side.SOURCE)(Ended(1000, "", True))
    assert lines(caplog) == []


def test_a_failed_try_begins_as_the_reference_words_it(caplog: pytest.LogCaptureFixture):
    failed = Reconnecting(ConnectFailed("refused"), 1.0)
    LogReporter(Side.SOURCE)(failed)
    text = "Could not connect to proxy server: refused"
    assert lines(caplog) == [f"{text}; trying again in 1.0 s"]
    out = io.StringIO()
    JSONReporter(out)(failed)
    assert json.loads(out.getvalue())["cause"] == text


def test_services_of_this_process_have_no_address(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    mapped = ServicesMapped({"SSH": None})
    LogReporter(Side.SOURCE)(mapped)
    assert "SSH = in process" in lines(caplog)
    out = io.StringIO()
    JSONReporter(out, "a-tunnel")(mapped)
    assert written(out) == [{"event": "services", "services": {"SSH": "in process"}}]


def test_json_is_one_object_a_line():
    out = io.StringIO()
    report = JSONReporter(out, "a-tunnel")
    for event in [*SOURCE_RUN, Listening("U", UnixAddress("/run/c.sock"), False)]:
        report(event)
    report(Ended(1000, "", True))
    report.failed(3, "AccessRefused", "refused")
    out.write(dropped_events("a-tunnel", 7))
    assert written(out) == [
        {"event": "started", "mode": "source", "pid": os.getpid()},
        {"event": "connecting", "endpoint": "localhost:443"},
        {
            "event": "connected",
            "endpoint": "localhost:443",
            "channel_id": "c-1",
            "link": "picows",
        },
        {"event": "services", "services": {"SSH": "5555", "WEB": "0"}},
        {"event": "listening", "service": "SSH", **local(5555), "assigned": False},
        {"event": "listening", "service": "WEB", **local(40_001), "assigned": True},
        {"event": "connection_opened", "service": "SSH", "connection": 1, "peer": "127.0.0.1:9"},
        {
            "event": "connection_closed",
            "service": "SSH",
            "connection": 1,
            "peer": "127.0.0.1:9",
            "bytes_sent": 10,
            "bytes_received": 20,
        },
        {
            "event": "connection_refused",
            "service": "SSH",
            "connection": 0,
            "reason": "the limit of 1 connections is reached",
        },
        {"event": "reconnecting", "cause": "connection lost", "delay": 1.234},
        {"event": "closed", "code": 1000, "reason": "Tunnel is closed", "by": "service"},
        {"event": "listening", "service": "U", "path": "/run/c.sock", "assigned": False},
        {"event": "closed", "code": 1000, "reason": "", "by": "request"},
        {"event": "failed", "exit": 3, "error": "AccessRefused", "message": "refused"},
        {"event": "events_dropped", "count": 7},
    ]


def test_json_survives_a_reader_that_has_gone():
    read, write = os.pipe()
    os.close(read)
    out = os.fdopen(write, "w", buffering=1)
    queued = QueuedOutput(out, str)
    report = JSONReporter(queued)
    for event in SOURCE_RUN:
        report(event)
    queued.close()
    out.close()


def test_a_source_is_ready_when_it_listens_for_every_service(tmp_path: Path):
    path = tmp_path / "ready.json"
    ready = ReadyFile(path, Side.SOURCE)
    present = []
    for event in SOURCE_RUN:
        ready(event)
        present.append(path.exists())
        if isinstance(event, ConnectionOpened):
            assert json.loads(path.read_text()) == {
                "pid": os.getpid(),
                "mode": "source",
                "services": {
                    "SSH": {"host": "127.0.0.1", "port": 5555},
                    "WEB": {"host": "127.0.0.1", "port": 40001},
                },
            }
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert present == [False] * 5 + [True] * 4 + [False] * 2
    assert list(tmp_path.iterdir()) == []


def test_a_destination_is_ready_when_its_services_are_mapped(tmp_path: Path):
    path = tmp_path / "ready.json"
    ready = ReadyFile(path, Side.DESTINATION)
    ready(ServicesMapped({"SSH": TCPAddress("10.0.0.1", 22), "U": UnixAddress("/x")}))
    assert json.loads(path.read_text())["services"] == {
        "SSH": {"host": "10.0.0.1", "port": 22},
        "U": {"path": "/x"},
    }
    ready.remove()
    ready.remove()
    assert not path.exists()


def test_a_ready_file_that_cannot_be_written_is_named(tmp_path: Path):
    ready = ReadyFile(tmp_path / "none" / "ready.json", Side.DESTINATION)
    with pytest.raises(ConfigurationError, match=r"ready\.json.*--ready-file"):
        ready(ServicesMapped({"SSH": TCPAddress("", 22)}))


def test_a_ready_file_that_cannot_be_written_is_named_at_the_start(tmp_path: Path):
    (tmp_path / "taken").mkdir()
    for path in (tmp_path / "none" / "ready.json", tmp_path / "taken"):
        with pytest.raises(ConfigurationError, match=f"{path.name}: .*--ready-file"):
            ReadyFile(path, Side.DESTINATION)(Started(Side.DESTINATION))
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_ready_file_that_became_unwritable_leaves_nothing_behind(tmp_path: Path):
    path = tmp_path / "ready.json"
    ready = ReadyFile(path, Side.DESTINATION)
    ready(Started(Side.DESTINATION))
    path.mkdir()
    with pytest.raises(ConfigurationError, match="--ready-file"):
        ready(ServicesMapped({"SSH": TCPAddress("", 22)}))
    assert list(tmp_path.iterdir()) == [path]


def test_a_ready_file_that_cannot_be_written_again_is_no_reason_to_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "ready.json"
    ready = ReadyFile(path, Side.DESTINATION)
    mapped = ServicesMapped({"SSH": TCPAddress("", 22)})
    ready(mapped)
    ready(Reconnecting(LinkError("lost"), 1.0))
    path.mkdir()
    ready(mapped)
    assert "Cannot write the ready file" in caplog.text
    path.rmdir()
    ready(mapped)
    assert path.is_file()
    assert list(tmp_path.iterdir()) == [path]


def test_the_ready_file_of_an_earlier_run_goes_at_the_start(tmp_path: Path):
    path = tmp_path / "ready.json"
    path.write_text("{}")
    ReadyFile(path, Side.SOURCE)(Started(Side.SOURCE))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, abstract: bool):
    address = f"@tailrace-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if abstract else address)
        manager.settimeout(5)
        notify = SystemdNotifier(ServiceManager({"NOTIFY_SOCKET": address}))
        for event in SOURCE_RUN:
            notify(event)
        told = [manager.recv(1000).decode() for _ in range(3)]
    assert told == [
        "READY=1\nSTATUS=Connected",
        "STATUS=Reconnecting: connection lost",
        "STOPPING=1",
    ]


def test_a_manager_that_reads_nothing_holds_up_nobody(tmp_path: Path):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(b"x", address)
        SystemdNotifier(ServiceManager({"NOTIFY_SOCKET": address}))(Ended(1000, ""))
        assert manager.recv(1000) == b"x"


def test_a_missing_manager_is_no_reason_to_stop(tmp_path: Path):
    SystemdNotifier(ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}))(Ended(1000, ""))
