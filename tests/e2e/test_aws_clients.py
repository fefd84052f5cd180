"""The AWS CLI and boto3, as they are: what they sign is accepted, and nothing else."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from support.processes.child import clean_environment, installed
from support.service import ServiceProcess
from support.waiting import HANG
from tailrace.service.config import Endpoints

NAME = "IoTSecuredTunneling"
HEAD_END = b"\r\n\r\n"

UNSIGNED = {
    "accept-encoding",
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "connection",
    "content-length",
    "user-agent",
}
"""Headers that may be left out of a signature: they do not say what is asked for."""


def shell(endpoints: Endpoints) -> dict[str, str]:
    """What ``tailrace env`` puts into the environment of a shell."""
    return {
        "AWS_ENDPOINT_URL_IOTSECURETUNNELING": endpoints.api_endpoint,
        "AWS_CA_BUNDLE": endpoints.ca_file,
        "AWS_ACCESS_KEY_ID": endpoints.access_key_id,
        "AWS_SECRET_ACCESS_KEY": endpoints.secret_access_key,
        "AWS_REGION": endpoints.region,
        "AWS_DEFAULT_REGION": endpoints.region,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


COMMANDS = """
import contextlib, io, json, sys
from awscli.clidriver import create_clidriver
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = create_clidriver().main(json.loads(line))
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""
"""Many runs of the command ``aws`` in one process: it takes a second to be imported."""


class CommandLine:
    """``aws iotsecuretunneling``, in a shell where ``tailrace env`` was used."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMANDS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(**shell(endpoints)),
        )

    def run(self, *argv: str) -> tuple[int, str, str]:
        """Return status, standard output and standard error of one run."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(["iotsecuretunneling", *argv, "--output", "json"]) + "\n")
        process.stdin.flush()
        status, out, err = json.loads(process.stdout.readline())
        return status, out, err

    def ask(self, *argv: str) -> Any:
        """Return what a run that must not fail has printed."""
        status, out, err = self.run(*argv)
        assert status == 0, err
        return json.loads(out or "null")

    def close(self) -> None:
        self._process.communicate()


def test_the_command_line_goes_through_all_operations(service: ServiceProcess):
    with contextlib.closing(CommandLine(service.endpoints)) as line:
        opened = line.ask(
            *("open-tunnel", "--description", "caf\u00e9", "--tags", "key=a,value=b"),
            *("--destination-config", "thingName=pump-7,services=SSH,VNC"),
            *("--timeout-config", "maxLifetimeTimeoutMinutes=30"),
        )
        tunnel, arn = ("--tunnel-id", opened["tunnelId"]), ("--resource-arn", opened["tunnelArn"])
        described = line.ask("describe-tunnel", *tunnel)["tunnel"]
        assert described["status"] == "OPEN"
        assert described["description"] == "caf\u00e9"
        assert described["destinationConfig"] == {"thingName": "pump-7", "services": ["SSH", "VNC"]}
        assert described["timeoutConfig"] == {"maxLifetimeTimeoutMinutes": 30}
        assert described["sourceConnectionState"]["status"] == "DISCONNECTED"
        listed = line.ask("list-tunnels", "--thing-name", "pump-7")["tunnelSummaries"]
        assert opened["tunnelId"] in [summary["tunnelId"] for summary in listed]
        rotated = line.ask("rotate-tunnel-access-token", *tunnel, "--client-mode", "ALL")
        names = ("sourceAccessToken", "destinationAccessToken")
        assert len({document[name] for document in (opened, rotated) for name in names}) == 4
        line.ask("tag-resource", *arn, "--tags", "key=c,value=d")
        line.ask("untag-resource", *arn, "--tag-keys", "a")
        tags = line.ask("list-tags-for-resource", *arn)
        assert tags == {"tags": [{"key": "c", "value": "d"}]}
        line.ask("close-tunnel", *tunnel, "--delete")
        status, _, said = line.run("describe-tunnel", *tunnel)
        assert status != 0
        assert "(ResourceNotFoundException)" in said


class Listener:
    """Takes one HTTP request as it comes, and answers that all went well."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(HANG)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.request = b""
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        with self._listening, self._listening.accept()[0] as connection:
            connection.settimeout(HANG)
            self.request = read_message(connection, b"")
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def taken(self) -> bytes:
        self._thread.join(HANG)
        return self.request


def read_message(connection: socket.socket, content: bytes) -> bytes:
    """Read one HTTP message that says how long its body is."""
    while HEAD_END not in content:
        content += receive(connection)
    length = re.search(rb"(?i)content-length: *(\d+)", content)
    missing = content.index(HEAD_END) + 4 + int(length[1] if length else 0) - len(content)
    while missing > 0:
        content += (more := receive(connection))
        missing -= len(more)
    return content


def receive(connection: socket.socket) -> bytes:
    content = connection.recv(65536)
    if not content:
        raise ConnectionError("closed")
    return content


def of_the_command_line(endpoints: Endpoints) -> bytes:
    listener = Listener()
    subprocess.run(
        [installed("aws"), "--endpoint-url", listener.url, "iotsecuretunneling", "open-tunnel"],
        env=clean_environment(**shell(endpoints)),
        stdout=subprocess.DEVNULL,
        timeout=HANG,
        check=True,
    )
    return listener.taken()


def of_boto3(endpoints: Endpoints) -> bytes:
    listener = Listener()
    client = client_of(endpoints, listener.url)
    client.open_tunnel(description="x", tags=[{"key": "a", "value": "b"}])
    client.close()
    return listener.taken()


def presigned_by_boto3(endpoints: Endpoints) -> bytes:
    client = client_of(endpoints, endpoints.api_endpoint)
    url = client.generate_presigned_url("open_tunnel", ExpiresIn=600, HttpMethod="POST")
    client.close()
    host, _, query = url.removeprefix("https://").partition("/")
    return (
        f"POST /{query} HTTP/1.1\r\nHost: {host}\r\nX-Amz-Target: {NAME}.OpenTunnel\r\n"
        "Content-Type: application/x-amz-json-1.1\r\nContent-Length: 0\r\n\r\n"
    ).encode()


def client_of(endpoints: Endpoints, url: str) -> Any:
    return boto3.session.Session().client(
        "iotsecuretunneling",
        endpoint_url=url,
        region_name=endpoints.region,
        aws_access_key_id=endpoints.access_key_id,
        aws_secret_access_key=endpoints.secret_access_key,
        verify=endpoints.ca_file,
    )


class Replay:
    """Sends requests byte by byte as they are, over connections that last as long as they may."""

    def __init__(self, endpoints: Endpoints) -> None:
        host, _, port = endpoints.api_endpoint.removeprefix("https://").rpartition(":")
        self._address = (host, int(port))
        self._tls = ssl.create_default_context(cafile=endpoints.ca_file)
        self._connection: ssl.SSLSocket | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __call__(self, request: bytes) -> int:
        """Return the status of the answer."""
        try:
            return self._ask(request)
        except OSError:
            # The service has closed it behind its last answer: that is its right.
            self.close()
            return self._ask(request)

    def _ask(self, request: bytes) -> int:
        if self._connection is None:
            plain = socket.create_connection(self._address, timeout=HANG)
            self._connection = self._tls.wrap_socket(plain, server_hostname=self._address[0])
        self._connection.sendall(request)
        answer = read_message(self._connection, b"")
        if b"connection: close" in answer.lower():
            self.close()
        return int(answer.split(b" ", 2)[1])


def signed_bytes(request: bytes) -> Iterator[int]:
    """Yield where a byte of the request is part of what was signed, or of the signature.

    Not the version of HTTP, not headers that the signature does not list, and not the
    ends of the last line of the head: without them, the request has just not ended yet.
    """
    head_end = request.index(HEAD_END)
    (listed,) = re.findall(rb"(?:X-Amz-)?SignedHeaders=([^,& ]+)", request[:head_end])
    signed = set(re.split(r";|%3B", listed.decode())) | {"authorization"}
    begin = 0
    for line in request[:head_end].split(b"\r\n"):
        name = line.partition(b":")[0].decode().lower()
        if begin == 0:
            yield from range(line.rindex(b" "))
        elif name in signed:
            yield from range(begin, min(begin + len(line) + 2, head_end))
        else:
            assert name in UNSIGNED
        begin += len(line) + 2
    yield from range(head_end + 4, len(request))


@pytest.mark.parametrize("signer", [of_the_command_line, of_boto3, presigned_by_boto3])
def test_one_flipped_byte_is_refused(service: ServiceProcess, signer: Any):
    endpoints = service.endpoints
    request = signer(endpoints)
    replay = Replay(endpoints)
    client = client_of(endpoints, endpoints.api_endpoint)

    def count() -> int:
        pages, token = 0, {}
        while True:
            page = client.list_tunnels(**token)
            pages += len(page["tunnelSummaries"])
            if "nextToken" not in page:
                return pages
            token = {"nextToken": page["nextToken"]}

    before = count()
    assert replay(request) == 200
    let_in = []
    places = list(signed_bytes(request))
    assert len(places) > 300
    for at in places:
        flipped = bytearray(request)
        flipped[at] ^= 1
        if replay(bytes(flipped)) not in (400, 403, 404):
            let_in.append((at, bytes(flipped[max(0, at - 20) : at + 20])))
    assert let_in == []
    assert count() == before + 1
    replay.close()
    client.close()
