"""Whole conversations of a proxy with a service, as they were recorded: each cause and its frames.

A conversation is a list of steps. A step says what is done to the proxy, by the service, a client
or an application, and which frames the proxy has sent for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypedDict

from conformance.lab import Lab, Proxy
from conformance.rigs import QUICK
from conformance.sockets import Application, Socket
from conformance.stage import Link, Stage
from support.network.ports import free_port

__all__ = ["Conversation", "Player", "Step", "load"]

_FILE: Final = Path(__file__).parent.parent / "vectors" / "conversations.json"
_HOST: Final = "data.tunneling.iot.eu-west-1.amazonaws.com"
_CLIENT_TOKEN: Final = "0f4c9a52-6c1e-4d8b-9a55-3a7d5e1b2c3d"
_VARYING: Final = ("sec-websocket-key", "user-agent", "host", "access-token")
"""Fields of a request whose values are other ones each time, or depend on the machine."""
_OFFER: Final = "x-tailrace-capabilities"
"""The one field that was added, to requests that do not go to AWS."""


class Step(TypedDict, total=False):
    """One step of a conversation."""

    do: list[str]
    request: list[str]
    """Of a new link: the lines of its upgrade request."""
    sent: list[str]
    """The frames that follow, in hex."""


class Conversation(TypedDict):
    """A recorded conversation."""

    name: str
    side: str
    aws: bool
    """Whether the endpoint has AWS' name."""
    answer: str
    """Further header fields of the service's answer to the upgrade."""
    arguments: list[str]
    steps: list[Step]


def load() -> list[Conversation]:
    """Return all of them."""
    found: list[Conversation] = json.loads(_FILE.read_text())["conversations"]
    return found


@dataclass
class Player:
    """Plays the part of everybody but the proxy."""

    lab: Lab
    stage: Stage
    proxy: Proxy
    answer: str
    is_aws: bool
    ports: Mapping[str, int] = field(default_factory=dict)
    applications: Mapping[str, Application] = field(default_factory=dict)
    sockets: dict[str, Socket] = field(default_factory=dict)
    seen: int = 0
    """Frames of this link that have been looked at."""

    @classmethod
    def start(cls, lab: Lab, conversation: Conversation) -> Player:
        """Start the proxy of a conversation."""
        is_aws = conversation["aws"]
        stage = lab.stage(plain=is_aws)
        given: dict[str, Any] = {}
        ports: dict[str, int] = {}
        applications: dict[str, Application] = {}
        where = ["-e", stage.endpoint]
        if is_aws:
            where = ["-r", "eu-west-1"]
            given["https_proxy"] = f"http://127.0.0.1:{stage.port}"
        if conversation["side"] == "source":
            ports = {name: free_port() for name in ("SSH1", "WEB1")}
            where += ["-b", "127.0.0.1", "-s", _mapping(ports)]
        else:
            applications = {name: lab.application() for name in ("SSH1", "WEB1")}
            where += ["-d", _mapping({name: each.port for name, each in applications.items()})]
        proxy = lab.proxy(
            *(*where, "-i", _CLIENT_TOKEN, *conversation["arguments"]),
            settings=QUICK,
            ours=("--linger", "0.3"),
            **given,
        )
        return cls(lab, stage, proxy, conversation["answer"], is_aws, ports, applications)

    async def play(self, conversation: Conversation) -> None:
        """Take all steps, and compare what the proxy sends."""
        for number, step in enumerate(conversation["steps"], 1):
            request = await self.do(step["do"])
            where = f"step {number} of '{conversation['name']}', {' '.join(step['do'])}"
            assert request == step.get("request", []), f"{where}: the request was {request}"
            expected = step["sent"]
            await self._wait_for(len(expected), where)
            sent = self.take()
            assert sent == expected, f"{where}: {sent} instead of {expected}"

    async def _wait_for(self, count: int, where: str) -> None:
        """Wait for so many frames, and then for those that should not come."""
        if not self.link.gone:
            end = self.seen + count
            await self.link.until(lambda: len(self.link.frames) >= end, where)
            await self.link.settled()

    def take(self) -> list[str]:
        """Return the frames that were not looked at, in hex."""
        found = [each.payload.hex() for each in self.link.frames[self.seen :]]
        self.seen = len(self.link.frames)
        return found

    async def do(self, what: Sequence[str]) -> list[str]:
        """Take a step; return the lines of an upgrade request if it is a link."""
        verb, *rest = what
        if verb == "link":
            return await self._accept_link()
        if verb == "service":
            await self.link.send(*rest)
        elif verb == "drop":
            self.link.drop()
            await self.link.over()
        elif verb == "connect":
            name, service = rest
            self.sockets[name] = await self.lab.client(self.ports[service])
        elif verb == "accept":
            name, service = rest
            self.sockets[name] = await self.applications[service].accept()
        elif verb == "stop listening":
            self.applications[rest[0]].stop_listening()
        else:
            await self._use(verb, *rest)
        return []

    async def _use(self, verb: str, name: str, text: str = "") -> None:
        sock = self.sockets[name]
        if verb == "send":
            await sock.send(text.encode())
        elif verb == "gets":
            await sock.expect(text.encode())
        elif verb == "half-close":
            sock.half_close()
        elif verb == "close":
            sock.close()
        elif verb == "ends":
            await sock.expect_eof()
        else:
            assert verb == "is cut", f"nothing is called {verb!r}"
            await sock.expect_cut(b"", told=True)

    async def _accept_link(self) -> list[str]:
        self.seen = 0
        self.link: Link = await self.stage.call()
        await self.link.begin()
        if self.is_aws:
            await self._open_tunnel()
        request = await self.link.read_request()
        await self.link.accept(more=f"channel-id: channel-7\r\n{self.answer}")
        fields = [
            (name, value)
            for name, value in request.headers
            if self.is_aws or name.lower() != _OFFER
        ]
        return [request.line, *map(_fixed, fields)]

    async def _open_tunnel(self) -> None:
        """Be a web proxy that leads to AWS, and AWS behind it."""
        assert (await self.link.head())[0] == f"CONNECT {_HOST}:443 HTTP/1.1"
        await self.link.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        certificates = self.lab.certificates
        self.link.take_over(certificates.server_context(certificates.ca.issue_cert(_HOST)))
        await self.link.start_tls()


def _mapping(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}={port}" for name, port in ports.items())


def _fixed(header: tuple[str, str]) -> str:
    name, value = header
    return f"{name}: {'*' if name.lower() in _VARYING else value}"
