"""Imports only go down, and in no circles.

The rooms lie on floors; a module may import from its own room and from rooms on a
lower floor. Rooms that share a floor do not know each other. Inside a room, files do not import
each other in a circle, not even where only a type checker or a function does. There is no list of
exceptions: a module that needs one is in the wrong room.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from support.repository import MODULES, PACKAGE

FLOORS = {
    "errors": 0,
    "common": 1,
    "wire": 2,
    "session": 3,
    "flow": 4,
    "link": 5,
    "aws": 6,
    "checks": 6,
    "mqtt": 6,
    "localproxy": 7,
    "service": 7,
    "library": 8,
    "control": 8,
    "sync": 9,
    "agent": 10,
    "operator": 10,
    "demo": 10,
    "testing": 10,
    "cli": 11,
    "__main__": 12,
}

FORBIDDEN = {
    # The control API has nothing to do with the tunnel protocol.
    "aws": {"session", "flow"},
    # It has nothing to do with tunnels: of link it uses the way through the network.
    "mqtt": {"wire", "session"},
    # What a tunnel carries is of no concern to the checks.
    "checks": {"session", "flow"},
    # The service speaks the protocol's messages but is neither end of a tunnel.
    "service": {"session", "link", "localproxy"},
    # What it needs of a tunnel, the engine and the control API's client offer.
    "library": {"session", "flow", "service"},
    # Nothing is done in another way there.
    "sync": {"session", "flow", "link"},
    # Tunnels come from the library alone.
    "agent": {"session", "flow", "localproxy", "service"},
    "operator": {"session", "flow", "link", "localproxy", "service"},
    # It tells what the engine counts.
    "control": {"session", "flow", "link", "aws", "mqtt", "service"},
}

OFFERED = {"errors", "aws", "library", "service", "agent", "sync"}
"""Rooms whose names the package itself offers."""

PURE = {"wire", "session"}
"""Rooms without sockets, clock, chance, threads or an event loop."""

PURE_MODULES = {"tailrace.mqtt.codec", "tailrace.mqtt.session", "tailrace.mqtt.topics"}
"""Modules of that kind in rooms of another kind."""

IMPURE_MODULES = {
    "aiofastnet",
    "asyncio",
    "concurrent",
    "datetime",
    "multiprocessing",
    "os",
    "picows",
    "random",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "uuid",
    "uvloop",
    "websockets",
}


def room_of(module: str) -> str | None:
    """Return the room of a dotted module name, ``None`` for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def imported(module: str, is_package: bool, source: str) -> list[tuple[int, str]]:
    """Return line and absolute dotted name of everything a module imports, anywhere in it."""
    found = []
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            found += [(node.lineno, f"{prefix}.{alias.name}") for alias in node.names]
    return found


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """Return one line for each import the house does not allow."""
    room = room_of(module)
    if room is not None and room not in FLOORS:
        return [f"{module} is in no known room"]
    wrong = []
    for line, name in imported(module, is_package, source):
        top = name.split(".")[0]
        if top != PACKAGE:
            if top in IMPURE_MODULES and (room in PURE or module in PURE_MODULES):
                wrong.append(f"{module}:{line} imports {top}, but it is pure")
            continue
        other = room_of(name)
        if other == room or other not in FLOORS:
            continue  # the own room, or a name of the package itself
        if room is None and other in OFFERED:
            continue
        if room is None or FLOORS[other] >= FLOORS[room] or other in FORBIDDEN.get(room, ()):
            wrong.append(f"{module}:{line} imports {name}, which does not lie below it")
    return wrong


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module: str) -> None:
    path: Path = MODULES[module]
    assert violations(module, path.read_text(), path.name == "__init__.py") == []


def circle(sources: Mapping[str, str], packages: frozenset[str] = frozenset()) -> list[str]:
    """Return the modules of one room that import each other in a circle, in order; [] if none."""
    graph = {}
    for module, source in sources.items():
        names = [name for _, name in imported(module, module in packages, source)]
        # A name imported from a module stands for the module.
        found = {name if name in sources else name.rpartition(".")[0] for name in names}
        graph[module] = found & sources.keys()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        modules: list[str] = error.args[1]
        return modules
    return []


@pytest.mark.parametrize("room", FLOORS)
def test_files_of_a_room_import_each_other_in_no_circle(room: str) -> None:
    paths = {module: path for module, path in MODULES.items() if room_of(module) == room}
    packages = frozenset(module for module, path in paths.items() if path.name == "__init__.py")
    assert circle({module: path.read_text() for module, path in paths.items()}, packages) == []


def test_every_room_of_the_package_is_known() -> None:
    assert {room_of(module) for module in MODULES} <= {None, *FLOORS}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tailrace.wire.codec", "from ..session import machine"),
        ("tailrace.wire.codec", "from ..common import secret\nfrom .. import session"),
        ("tailrace.wire", "import tailrace.link.interface"),
        ("tailrace.wire.codec", "def f():\n    import time"),
        ("tailrace.session.machine", "from asyncio import Queue"),
        ("tailrace.session.machine", "import os.path"),
        ("tailrace.mqtt.codec", "import asyncio"),
        ("tailrace.mqtt.connection", "from ..wire import Message"),
        ("tailrace.mqtt.settings", "from ..aws import Client"),
        ("tailrace.session.machine", "if TYPE_CHECKING:\n    from ..link.port import Link"),
        ("tailrace.link.interface", "from tailrace.localproxy.settings import Mode"),
        ("tailrace.localproxy.pump", "from ..service.relay import Relay"),
        ("tailrace.service.relay.relay_end", "from ...session import machine"),
        ("tailrace.service.relay.relay_end", "from ...link import port"),
        ("tailrace.service.relay.relay_end", "from tailrace import localproxy"),
        ("tailrace.service.relay.relay_end", "from ...cli import serve"),
        ("tailrace.session.machine", "from ..aws import Credentials"),
        ("tailrace.aws.client", "from ..session import machine"),
        ("tailrace.errors", "from .common.secret import Secret"),
        ("tailrace.errors", "from . import wire"),
        ("tailrace.library.tunnel", "from ..session import Session"),
        ("tailrace.localproxy.proxy", "from ..library import Tunnel"),
        ("tailrace.library.tunnel", "from ..sync import Tunnel"),
        ("tailrace.sync.tunnel", "from ..link import Link"),
        ("tailrace.agent.tunnels", "from ..localproxy.proxy import LocalProxy"),
        ("tailrace.operator.doctor.subject", "from ...link.endpoint import NetworkEndpoint"),
        ("tailrace.checks.server", "from ..mqtt.settings import BrokerSettings"),
        ("tailrace", "from .wire import Message"),
        ("tailrace.shed.tools", "import json"),
    ],
)
def test_the_rule_can_fail(module: str, source: str) -> None:
    is_package = module in {"tailrace", "tailrace.wire"}
    assert len(violations(module, source, is_package)) == 1


LOWER = {"tailrace.link": "from .tcp import dial", "tailrace.link.tcp": "import socket"}


@pytest.mark.parametrize(
    "source",
    [
        "from .tls.context import build",
        "from .tls import context",
        "import tailrace.link.tls.context",
        "from tailrace.link.tls.context import build as make",
        "def f():\n    from .tls import context",
        "if TYPE_CHECKING:\n    from .tls.context import Trust",
    ],
)
def test_a_circle_is_found(source: str) -> None:
    sources = LOWER | {"tailrace.link.proxy": source}
    for back in ("from ..proxy import ask", "from .transport import start"):
        sources["tailrace.link.tls.context"] = back
        sources["tailrace.link.tls.transport"] = "from ...link import proxy"
        found = circle(sources, frozenset({"tailrace.link"}))
        assert {"tailrace.link.proxy", "tailrace.link.tls.context"} <= set(found)


def test_files_that_meet_in_a_third_one_make_no_circle() -> None:
    sources = LOWER | {
        "tailrace.link.proxy": "from .tcp import dial\nfrom .tls.context import build",
        "tailrace.link.tls.context": "from .. import tcp\nfrom ...common.tcp import proxy",
    }
    assert circle(sources, frozenset({"tailrace.link"})) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tailrace.wire.codec", "from ..errors import DecodeError\nfrom .limits import MAX_FRAME"),
        ("tailrace.wire", "from .codec import decode\nfrom . import limits"),
        (
            "tailrace.service.relay.relay_end",
            "from ...wire import decode\nfrom ...common.secret import Secret",
        ),
        ("tailrace", "from .aws import Client\nfrom .errors import TailraceError"),
        ("tailrace", "from .library import Tunnel\nfrom .errors import TailraceError"),
        ("tailrace", "from .service.service import Service"),
        ("tailrace.library.tunnel", "from ..localproxy.proxy import LocalProxy"),
        ("tailrace.library.connector", "from ..aws import Client"),
        ("tailrace.sync.tunnel", "from .. import library"),
        ("tailrace", "from . import sync"),
        ("tailrace.cli.tailrace", "from .. import __version__\nfrom tailrace import __version__"),
        ("tailrace.cli.tailrace", "import tailrace\nimport time\nfrom ..agent import run"),
        ("tailrace.link.interface", "import timeit\nimport asyncio"),
        ("tailrace.mqtt.connection", "import asyncio\nfrom ..link.tcp import resolve"),
        ("tailrace.service.notify.mqtt", "from ...mqtt.connection import open_connection"),
    ],
)
def test_what_the_rule_allows(module: str, source: str) -> None:
    assert violations(module, source, module in {"tailrace", "tailrace.wire"}) == []
