"""What the kernel knows about processes: CPU time, memory, listening ports, children."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "MachineTime",
    "cpu_seconds",
    "is_listening",
    "machine_time",
    "peak_rss",
    "proportional_set",
    "reset_peak_rss",
    "rss",
    "tree",
]

_TICK: Final = os.sysconf("SC_CLK_TCK")
_LISTEN: Final = "0A"


def _fields(pid: int) -> list[str]:
    """Return the fields of ``stat`` behind the command's name."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """Return a process and all its descendants; empty when it is gone."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                children.setdefault(int(_fields(int(entry))[1]), []).append(int(entry))
            except OSError:
                continue
    if not Path(f"/proc/{root}").exists():
        return []
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used; 0 when it is gone.

    The scheduler's own count has nanoseconds; ``stat`` (ticks of 10 ms) is the
    way out where the kernel does not keep it.
    """
    try:
        total = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        if total:
            return total / 1e9
    except (OSError, IndexError):
        pass
    try:
        fields = _fields(pid)
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICK


def _status(pid: int, name: str, file: str = "status") -> int:
    try:
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def rss(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 when it is gone."""
    return _status(pid, "VmRSS")


def peak_rss(pid: int) -> int:
    """Return the highest resident memory so far in bytes; 0 when the process is gone."""
    return _status(pid, "VmHWM")


def proportional_set(pid: int) -> int:
    """Return resident memory in bytes where pages shared by n processes count 1/n."""
    return _status(pid, "Pss", "smaps_rollup")


def reset_peak_rss(pid: int) -> None:
    """Let the peak start again from now (proc(5), clear_refs)."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return


def is_listening(pid: int, port: int) -> bool:
    """Tell whether anybody listens on a TCP port in the network namespace of a process."""
    suffix = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()
        except OSError:
            continue
        for line in lines[1:]:
            fields = line.split(None, 4)
            if fields[3] == _LISTEN and fields[1].endswith(suffix):
                return True
    return False


@dataclass(frozen=True, slots=True)
class MachineTime:
    """CPU time of the whole machine since it was started, in seconds."""

    busy: float
    steal: float
    """Time the hypervisor gave to others."""
    total: float


def machine_time() -> MachineTime:
    """Read the first line of ``/proc/stat``."""
    with Path("/proc/stat").open() as file:
        values = [int(value) / _TICK for value in file.readline().split()[1:9]]
    user, nice, system, idle, iowait, irq, softirq, steal = values
    busy = user + nice + system + irq + softirq
    return MachineTime(busy, steal, busy + idle + iowait + steal)
