"""What a server's processes use, all of them summed: CPU seconds, resident and proportional set size."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

#: An environment variable that is set to a server's mark before it starts, and so for everything it starts.
MARK = "TRIMTAB_BENCHMARK_MARK"
PROC = Path("/proc")


def family(parents: Mapping[int, int], seeds: set[int]) -> set[int]:
    """The seeds and all their descendants, from each process's parent."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    left = [pid for pid in seeds if pid in parents]
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += children.get(pid, [])
    return found


def processes(mark: str, root: int) -> list[psutil.Process]:
    """A server's processes: the root's descendants and those that carry its mark (daemons leave their parent; what sets
    its title overwrites its environment, so that neither finds all), with the descendants of both."""
    parents: dict[int, int] = {}
    seeds = {root}
    wanted = f"{MARK}={mark}".encode()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            parents[process.pid] = process.ppid()
            if wanted in (PROC / str(process.pid) / "environ").read_bytes().split(b"\0"):
                seeds.add(process.pid)
    found = []
    for pid in family(parents, seeds):
        with contextlib.suppress(psutil.Error):
            found.append(psutil.Process(pid))
    return found


@dataclass(frozen=True)
class Usage:
    """`cpu`: seconds by process (pid and start). Sizes are bytes."""

    cpu: Mapping[tuple[int, float], float]
    rss: int
    pss: int

    def cpu_since(self, before: Usage) -> float:
        """CPU seconds since then of the processes that are still there; one that ended takes its seconds with it."""
        return sum(seconds - before.cpu.get(process, 0.0) for process, seconds in self.cpu.items())


def usage(mark: str, root: int) -> Usage:
    """What a server's processes have used so far, and hold now."""
    cpu: dict[tuple[int, float], float] = {}
    rss = pss = 0
    for process in processes(mark, root):
        with contextlib.suppress(psutil.Error, OSError):
            times = process.cpu_times()
            memory = proportional((PROC / str(process.pid) / "smaps_rollup").read_text())
            rss += process.memory_info().rss
            pss += memory
            cpu[process.pid, process.create_time()] = times.user + times.system
    return Usage(cpu, rss, pss)


def proportional(rollup: str) -> int:
    """Bytes of the `Pss:` line of a `smaps_rollup`."""
    return next(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:"))
