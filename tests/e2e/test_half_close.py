"""Programs that end their sending half, through a tunnel as over a TCP connection."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import tailrace
from support.network.applications import application, noise
from support.network.ports import free_port, is_listening
from support.processes.child import clean_environment, process, server_process
from support.processes.sshd import needs_sshd, sshd
from support.service import ServiceProcess
from support.tunnel import both_proxies, tunnel_of
from support.waiting import HANG, until
from tailrace.common.addresses import TCPAddress
from tailrace.wire import Side

SIZE = 3_000_000
NC = shutil.which("nc.openbsd")
needs_nc = pytest.mark.skipif(NC is None, reason="netcat-openbsd is not installed (`make apt`)")


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not shutil.which(name), reason=f"{name} is not installed (`make apt`)"
    )


@dataclass(frozen=True)
class Done:
    """What came of a program."""

    status: int
    output: bytes


async def run(command: Sequence[str], stdin: Path | None = None, **environment: str) -> Done:
    """Run a program to its end."""
    given = stdin.open("rb") if stdin is not None else subprocess.DEVNULL
    try:
        started = await asyncio.create_subprocess_exec(
            *command,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=clean_environment(**environment),
        )
    finally:
        if not isinstance(given, int):
            given.close()
    try:
        async with asyncio.timeout(HANG):
            output, _ = await started.communicate()
    except TimeoutError:
        started.kill()
        await started.wait()
        raise
    assert started.returncode is not None
    return Done(started.returncode, output)


@asynccontextmanager
async def both_ways(service: ServiceProcess, port: int) -> AsyncIterator[tuple[int, int]]:
    """Two ports of one application: its own, and that of a tunnel to it."""
    with tunnel_of(service, "APP") as tunnel:
        async with both_proxies(
            tunnel.settings(Side.SOURCE),
            tunnel.settings(Side.DESTINATION, services={"APP": TCPAddress("127.0.0.1", port)}),
        ) as ends:
            listening = ends.listening["APP"]
            assert isinstance(listening, TCPAddress)
            yield port, listening.port


async def compare(
    service: ServiceProcess,
    port: int,
    command: Callable[[int], Sequence[str]],
    stdin: Path | None = None,
    **environment: str,
) -> Done:
    """Run a program over TCP and through a tunnel; return what comes of it either way."""
    async with both_ways(service, port) as (directly, tunnelled):
        expected = await run(command(directly), stdin, **environment)
        assert await run(command(tunnelled), stdin, **environment) == expected
        return expected


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "file"
    path.write_bytes(noise(SIZE))
    return path


# -- applications that read to the end before they answer --------------------------------------


async def digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with the digest of everything, long after the end."""
    content = await reader.read(-1)
    writer.write(hashlib.sha256(content).hexdigest().encode() + content)
    await writer.drain()


def netcat(port: int) -> list[str]:
    assert NC is not None
    return [NC, "-N", "127.0.0.1", str(port)]


@needs_nc
async def test_netcat(service: ServiceProcess, file: Path):
    async with application(digest) as where:
        assert isinstance(where, TCPAddress)
        done = await compare(service, where.port, netcat, file)
    assert done.status == 0
    assert done.output[:64].decode() == hashlib.sha256(noise(SIZE)).hexdigest()
    assert done.output[64:] == noise(SIZE)


@needs_nc
async def test_netcat_that_is_told_the_end_first(service: ServiceProcess, file: Path):
    """The application ends its sending half at once, and gets everything all the same."""
    came: asyncio.Queue[bytes] = asyncio.Queue()

    async def greet_and_listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"that is all\n")
        writer.write_eof()
        came.put_nowait(await reader.read(-1))

    async with application(greet_and_listen) as where:
        assert isinstance(where, TCPAddress)
        async with both_ways(service, where.port) as ports:
            for port in ports:
                assert await run(netcat(port), file) == Done(0, b"that is all\n")
                async with asyncio.timeout(HANG):
                    assert await came.get() == noise(SIZE)


@needs_nc
async def test_a_web_server_of_old(service: ServiceProcess, file: Path, tmp_path: Path):
    """A request, the end of it, and an answer of which the end of the connection is the end."""
    request = tmp_path / "request"
    request.write_bytes(b"GET /file HTTP/1.0\r\n\r\n")
    port = free_port()
    server = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    with server_process("server", [*server, "--directory", str(file.parent)], tmp_path, port):
        async with both_ways(service, port) as ports:
            answers = [await run(netcat(each), request) for each in ports]
    for answer in answers:  # they differ in the time of day
        assert answer.status == 0
        head, _, body = answer.output.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 200 OK")
        assert body == noise(SIZE)


async def test_a_handler_that_reads_to_the_end_before_it_answers(service: ServiceProcess):
    with tunnel_of(service, "CMD") as tunnel:
        where = {"endpoint": tunnel.endpoints.data_endpoint, "ca": tunnel.endpoints.ca_file}
        tokens = {side: tunnel.tokens[side].reveal() for side in Side}
        async with (
            tailrace.Tunnel.destination(tokens[Side.DESTINATION], {"CMD": digest}, **where),
            tailrace.Tunnel.source(tokens[Side.SOURCE], **where) as source,
        ):
            reader, writer = await source.open_connection("CMD")
            writer.write(noise(SIZE))
            writer.write_eof()
            async with asyncio.timeout(HANG):
                answer = await reader.read(-1)
            writer.close()
    assert answer == hashlib.sha256(noise(SIZE)).hexdigest().encode() + noise(SIZE)


# -- ssh, and what uses it ---------------------------------------------------------------------


@dataclass(frozen=True)
class Login:
    """A server that can be logged into."""

    port: int
    home: Path

    def ssh(self, port: int) -> list[str]:
        files = self.home / ".ssh"
        return [
            *("ssh", "-F", "none", "-p", str(port), "-i", str(files / "id_ed25519")),
            *("-o", f"UserKnownHostsFile={files / 'known_hosts'}", "-o", "HostKeyAlias=there"),
            *("-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"),
        ]


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    directory = tmp_path_factory.mktemp("sshd")
    home = directory / "home"
    home.mkdir()
    port = free_port()
    with sshd(directory, port, "there", home):
        yield Login(port, home)


@needs_sshd
@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("sha256sum", hashlib.sha256(noise(SIZE)).hexdigest().encode() + b"  -\n"),
        ("cat", noise(SIZE)),
        ("cat >/dev/null; echo all; exit 3", b"all\n"),
    ],
)
async def test_ssh_with_a_file(
    service: ServiceProcess, login: Login, file: Path, remote: str, expected: bytes
):
    done = await compare(
        service, login.port, lambda port: [*login.ssh(port), "127.0.0.1", remote], file
    )
    assert done == Done(3 if "exit" in remote else 0, expected)


def make_tree(directory: Path) -> None:
    """Fill a directory with files that take more and less than one message."""
    for number, size in enumerate((0, 1, 64_512, 64_513, 700_000)):
        below = directory / f"{number % 2}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{number}").write_bytes(noise(size, number))


def tree_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@needs_sshd
@needs("rsync")
async def test_rsync(service: ServiceProcess, login: Login, tmp_path: Path):
    make_tree(tmp_path / "here")
    for there in ("up", "down"):
        (tmp_path / there).mkdir()
    async with both_ways(service, login.port) as ports:
        said = []
        for port in ports:
            shell = " ".join(login.ssh(port))
            up, down = tmp_path / "up" / str(port), tmp_path / "down" / str(port)
            options = ["rsync", "-a", "--out-format=%n", "-e", shell]
            sent = await run([*options, f"{tmp_path}/here/", f"127.0.0.1:{up}"])
            got = await run([*options, f"127.0.0.1:{up}/", str(down)])
            assert tree_of(down) == tree_of(tmp_path / "here")
            said.append((sent, got))
    assert said[0] == said[1]
    assert [done.status for done in said[0]] == [0, 0]


@needs("git")
async def test_git(service: ServiceProcess, tmp_path: Path):
    """Git's own protocol, bare on TCP: clone, push and fetch."""
    identity = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "a"), ("EMAIL", "a@b"), ("DATE", "2026-01-01T00:00:00Z"))
    } | {"HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    port = free_port()

    async def git(*words: str) -> bytes:
        done = await run(["git", "-c", "init.defaultBranch=main", *words], **identity)
        assert done.status == 0, words
        return done.output

    served = tmp_path / "served"
    daemon = ["git", "daemon", "--export-all", "--enable=receive-pack", "--reuseaddr"]
    daemon += [f"--base-path={served}", "--listen=127.0.0.1", f"--port={port}"]
    heads = []
    served.mkdir()
    with process("git-daemon", daemon, tmp_path, clean_environment(**identity)):
        await until(lambda: is_listening(port), "git daemon")
        async with both_ways(service, port) as ports:
            for each in ports:
                repository = f"{each}.git"
                await git("init", "-q", "--bare", str(served / repository))
                url = f"git://127.0.0.1:{each}/{repository}"
                clone, other = tmp_path / f"clone-{each}", tmp_path / f"other-{each}"
                await git("clone", "-q", url, str(clone))
                make_tree(clone)
                await git("-C", str(clone), "add", "-A")
                await git("-C", str(clone), "commit", "-qm", "all")
                await git("-C", str(clone), "push", "-q", "origin", "HEAD")
                await git("clone", "-q", url, str(other))
                heads.append(await git("-C", str(other), "rev-parse", "HEAD"))
                (other / ".git").rename(tmp_path / f"git-{each}")
                assert tree_of(other) == {
                    name: content
                    for name, content in tree_of(clone).items()
                    if not name.startswith(".git/")
                }
    assert heads[0] == heads[1]
