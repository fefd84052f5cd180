"""What Python is like on Windows and on macOS, as far as Linux can show it.

``python -m support.processes.other_systems SYSTEM MODULE ARGUMENT ...`` runs a module of the
package as ``windows`` or ``macos`` would: without the modules, names and methods that CPython does
not have there, according to its documentation ("Availability: ..."); on Windows also with its two
event loops, of which the usual one has no readiness callbacks, and with ``select`` for sockets
only. ``-c`` and a program in the place of a module runs that; ``RUNNER`` in it is an
:class:`asyncio.Runner` with the usual loop.

Only our package, what is below it and the program see this; the standard library stays as it is.
What it cannot show: paths with backslashes and drives, files that cannot be replaced while they are
open, the console, and how the network of another system fails.
"""

from __future__ import annotations

import asyncio
import builtins
import ctypes  # noqa: F401 - to be replaced
import os
import runpy
import select
import signal
import socket
import stat
import struct
import sys
from asyncio import selector_events
from collections.abc import Mapping
from dataclasses import dataclass, field
from selectors import SelectSelector
from types import ModuleType
from typing import Any, Final

__all__ = ["ProactorEventLoop", "SelectorEventLoop", "main", "pretend"]

_SEEN_BY: Final = ("tailrace", "websockets", "python_socks", "__main__")


@dataclass(frozen=True)
class _System:
    """What a system does not have, and what is different there."""

    without_modules: str = ""
    without_packages: str = ""
    """Those that pip does not install there."""
    without_names: Mapping[str, str] = field(default_factory=dict)
    without_methods: str = ""
    """Of sockets."""
    other_names: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class _Missing:
    """A method that is not there."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> object:
        raise AttributeError(f"'socket' object has no attribute '{self._name}'")


class SelectorEventLoop(selector_events.BaseSelectorEventLoop):
    """The loop with readiness callbacks: ``select`` below it, no signals, no child processes."""

    def __init__(self) -> None:
        super().__init__(SelectSelector())


class ProactorEventLoop(SelectorEventLoop):
    """The usual loop, which has no readiness callbacks for others than itself."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        self._check_caller()
        self._add_reader(fd, callback, *args)

    def remove_reader(self, fd: Any) -> bool:
        self._check_caller()
        return self._remove_reader(fd)

    def add_writer(self, fd: Any, callback: Any, *args: Any) -> None:
        self._check_caller()
        self._add_writer(fd, callback, *args)

    def remove_writer(self, fd: Any) -> bool:
        self._check_caller()
        return self._remove_writer(fd)

    def _check_caller(self) -> None:
        if not sys._getframe(2).f_globals["__name__"].startswith("asyncio."):
            raise NotImplementedError


def _select(read: Any, write: Any, fail: Any, timeout: float | None = None) -> Any:
    for each in (*read, *write, *fail):
        fd = each if isinstance(each, int) else each.fileno()
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(10038, "An operation was attempted on something that is not a socket")
    return select.select(read, write, fail, timeout)


def _socketpair(*_: object) -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = socket.create_connection(listening.getsockname())
        there, _peer = listening.accept()
    return here, there


_setsockopt = socket.socket.setsockopt


def _set_option(sock: socket.socket, level: int, name: int, *value: Any) -> None:
    """Take what Winsock takes: SO_LINGER is two numbers of 16 bits."""
    if (level, name) == (socket.SOL_SOCKET, socket.SO_LINGER):
        value = (struct.pack("ii", *struct.unpack("hh", value[0])),)
    _setsockopt(sock, level, name, *value)


def _kill(pid: int, number: int) -> None:
    """Refuse what Windows takes for Ctrl-C, to a process that is only looked for."""
    if number == 0:
        raise AssertionError("os.kill(pid, 0) interrupts the process")
    os.kill(pid, number)


class _Kernel:
    """Functions of kernel32 that tell whether a process runs."""

    def __init__(self, name: str, use_last_error: bool) -> None:
        assert name == "kernel32"

    def OpenProcess(self, access: int, inherit: bool, pid: int) -> int:
        return pid if os.path.exists(f"/proc/{pid}") else 0

    def WaitForSingleObject(self, handle: int, patience: int) -> int:
        return 0x102

    def CloseHandle(self, handle: int) -> None:
        pass


_MACOS: Final = _System(
    without_names={
        "os": "O_PATH memfd_create pidfd_open pipe2 posix_fadvise sched_getaffinity",
        "select": "epoll",
        "signal": "SIGPWR SIGSTKFLT",
        "socket": """AF_NETLINK MSG_NOSIGNAL SOCK_CLOEXEC SOCK_NONBLOCK SO_PEERCRED TCP_INFO
            TCP_QUICKACK TCP_USER_TIMEOUT""",
    },
    other_names={"sys": {"platform": "darwin"}},
)
_WINDOWS: Final = _System(
    without_modules="fcntl grp pwd pty readline resource syslog termios tty",
    without_packages="aiofastnet picows uvloop",
    without_names={
        "os": """O_CLOEXEC O_DIRECTORY O_NOCTTY O_NOFOLLOW O_NONBLOCK WNOHANG chown fchmod fchown
            fork forkpty get_blocking getegid geteuid getgid getgroups getpgid getsid getuid killpg
            lchown mkfifo pidfd_open pipe2 posix_spawn posix_spawnp pread pwrite register_at_fork
            sched_getaffinity sendfile set_blocking setpgid setsid statvfs sysconf uname wait""",
        "select": "epoll poll",
        "signal": """SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGTTIN
            SIGTTOU SIGUSR1 SIGUSR2 SIGWINCH SIGXFSZ pthread_sigmask setitimer sigwait
            siginterrupt""",
        "socket": """AF_NETLINK AF_UNIX CMSG_SPACE MSG_DONTWAIT MSG_NOSIGNAL SOCK_CLOEXEC
            SOCK_NONBLOCK SO_PEERCRED SO_REUSEPORT TCP_INFO TCP_NOTSENT_LOWAT TCP_QUICKACK
            TCP_USER_TIMEOUT recv_fds send_fds""",
        "asyncio": "open_unix_connection start_unix_server",
    },
    without_methods="recvmsg recvmsg_into sendmsg",
    other_names={
        "os": {"name": "nt", "kill": _kill},
        "sys": {"platform": "win32"},
        "ctypes": {"WinDLL": _Kernel, "get_last_error": lambda: 87, "FormatError": os.strerror},
        "select": {"select": _select},
        "signal": {"SIGBREAK": signal.SIGQUIT, "CTRL_C_EVENT": 0},
        "socket": {"socketpair": _socketpair},
        "asyncio": {
            "SelectorEventLoop": SelectorEventLoop,
            "ProactorEventLoop": ProactorEventLoop,
            "new_event_loop": ProactorEventLoop,
        },
    },
)
_SYSTEMS: Final = {"macos": _MACOS, "windows": _WINDOWS}


class _Module(ModuleType):
    """A module of the standard library as it is on another system."""

    def __init__(self, name: str, system: _System) -> None:
        super().__init__(name)
        hidden = frozenset(system.without_names.get(name, "").split())
        vars(self).update(_original=sys.modules[name], _hidden=hidden)
        vars(self).update(system.other_names.get(name, {}))

    def __getattr__(self, name: str) -> Any:
        if name in vars(self)["_hidden"]:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(vars(self)["_original"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_original"], name, value)


def pretend(system: _System) -> None:
    """Let this process see another system, from now on."""
    for name in system.without_methods.split():
        missing = _Missing()
        missing.__set_name__(socket.socket, name)
        setattr(socket.socket, name, missing)
    for name in system.without_packages.split():
        vars(sys)["modules"][name] = None
    names = {*system.without_names, *system.other_names}
    modules = {name: _Module(name, system) for name in names}
    no_modules = system.without_modules.split()
    real_import = builtins.__import__

    def load(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Any = None,
        fromlist: Any = (),
        level: int = 0,
    ) -> ModuleType:
        importer = str((globals or {}).get("__name__", ""))
        if level == 0 and importer.partition(".")[0] in _SEEN_BY:
            if name in no_modules:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in modules:
                return modules[name]
        return real_import(name, globals, locals, fromlist or (), level)

    builtins.__import__ = load


def main() -> None:
    """Run what the arguments say."""
    system = sys.argv[1]
    del sys.argv[:2]
    if system == "windows":
        socket.socket.setsockopt = _set_option
    pretend(_SYSTEMS[system])
    if sys.argv[0] == "-c":
        usual = ProactorEventLoop if system == "windows" else asyncio.SelectorEventLoop
        scope = {"__name__": "__main__", "RUNNER": asyncio.Runner(loop_factory=usual)}
        exec(compile(sys.argv.pop(1), "program", "exec"), scope)
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
