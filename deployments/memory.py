"""Measured memory of processes, the node (or the cgroup that bounds it) and GPUs; and giving it back to the system.

Sizes are bytes. Sources: proc(5) (`smaps_rollup`, `meminfo`), the kernel's cgroup v1 and v2 memory documentation, NVML.
Everything here blocks for milliseconds: call it off the event loop.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from variants.process import fields, held, trim

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


class Memory(Protocol):
    """What a host needs to know of memory; `ProcessMemory` is the real one."""

    def used(self) -> int:
        """Bytes that only this process can give back, now."""
        ...

    def headroom(self) -> int:
        """Bytes that can still be taken before the machine or its cgroup is full."""
        ...

    def trim(self) -> None:
        """Give freed memory back to the system."""
        ...


@dataclass(frozen=True)
class Limited:
    """How much of a limit is used."""

    used: int
    limit: int

    @property
    def free(self) -> int:
        """Bytes left, never below 0."""
        return max(0, self.limit - self.used)


def node(*, proc: Path = PROC) -> Limited:
    """The machine's memory: used is what is not available (MemTotal - MemAvailable)."""
    info = fields(proc / "meminfo")
    return Limited(info["MemTotal"] - info["MemAvailable"], info["MemTotal"])


def _ancestry(root: Path, path: str) -> Iterator[Path]:
    """A cgroup's folder and its ancestors up to the mount's root. Inside a container the path that the kernel names
    may not exist under the mount: then only the root is looked at, which is the container's own cgroup."""
    folder = root / path.strip("/")
    if not folder.is_dir():
        folder = root
    while True:
        yield folder
        if folder == root:
            return
        folder = folder.parent


def cgroup(*, proc: Path = PROC, root: Path = CGROUP) -> Limited | None:
    """The tightest memory limit among this process's cgroup and its ancestors, v1 or v2; None where there is none.

    Used is the working set: the kernel's count without inactive page cache, which it drops before it kills.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    tightest: Limited | None = None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit_file, used_file, inactive = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit_file, used_file = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            inactive = "total_inactive_file"
        else:
            continue
        for folder in _ancestry(base, path):
            limited = _read_limit(folder, limit_file, used_file, inactive)
            if limited is not None and (tightest is None or limited.free < tightest.free):
                tightest = limited
    return tightest if tightest is not None and tightest.limit < node(proc=proc).limit else None


def _read_limit(folder: Path, limit_file: str, used_file: str, inactive: str) -> Limited | None:
    try:
        limit = (folder / limit_file).read_text(encoding="ascii").strip()
        used = int((folder / used_file).read_text(encoding="ascii"))
        cache = fields(folder / "memory.stat").get(inactive, 0)
    except (OSError, ValueError):
        return None
    return None if limit == "max" else Limited(max(0, used - cache), int(limit))


def bounds(*, proc: Path = PROC, root: Path = CGROUP) -> Limited:
    """What bounds this process: its cgroup's limit where there is one, else the machine."""
    return cgroup(proc=proc, root=root) or node(proc=proc)


def headroom(*, proc: Path = PROC, root: Path = CGROUP) -> int:
    """Bytes that can be taken before the machine or the cgroup is full."""
    machine = node(proc=proc).free
    limited = cgroup(proc=proc, root=root)
    return machine if limited is None else min(machine, limited.free)


class ProcessMemory:
    """This process's host memory. `used` is the median of `samples` readings `pause_seconds` apart, so that what
    concurrent requests hold for a moment does not decide."""

    def __init__(self, samples: int = 5, pause_seconds: float = 0.01) -> None:
        self._samples = samples
        self._pause = pause_seconds

    def used(self) -> int:
        readings = [held()]
        for _ in range(self._samples - 1):
            time.sleep(self._pause)
            readings.append(held())
        return int(statistics.median(readings))

    def headroom(self) -> int:
        return headroom()

    def trim(self) -> None:
        trim()
