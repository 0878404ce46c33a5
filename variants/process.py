"""Memory of a process as the kernel counts it, and giving freed memory back. Source: proc(5), `smaps_rollup`.

Both block for milliseconds in a large process: call them off an event loop.
"""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

PROC = Path("/proc")


def fields(path: Path) -> dict[str, int]:
    """`Name: 12 kB` or `name 12` lines of a kernel file as bytes (kB) or plain numbers. Raises OSError."""
    values: dict[str, int] = {}
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        parts = line.replace(":", " ").split()
        if len(parts) >= 2 and parts[1].isdigit():
            values[parts[0]] = int(parts[1]) * (1024 if parts[-1] == "kB" else 1)
    return values


def uss(pid: int | None = None, *, proc: Path = PROC) -> int:
    """Unique set size in bytes: what ending the process (default: this one) would free. Raises OSError when it is gone
    or not ours to read."""
    rollup = fields(proc / str(pid or os.getpid()) / "smaps_rollup")
    return sum(rollup.get(name, 0) for name in ("Private_Clean", "Private_Dirty", "Private_Hugetlb"))


def own_bytes(*, proc: Path = PROC) -> int:
    """This process's unique pages without the code of shared libraries: what its data takes, wherever else the same
    libraries are loaded. Memory-mapped files that are no libraries (weights) count. Raises OSError."""
    total, library = 0, False
    for line in (proc / str(os.getpid()) / "smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        if not line[:1].isupper():
            path = line.split(maxsplit=5)[5:]
            library = bool(path) and (path[0].endswith(".so") or ".so." in path[0])
        elif line.startswith("Private_Dirty:") or (line.startswith("Private_Clean:") and not library):
            total += int(line.split()[1]) * 1024
    return total


def peak_rss(*, proc: Path = PROC) -> int:
    """The largest resident set this process ever had, in bytes. Raises OSError."""
    return fields(proc / str(os.getpid()) / "status").get("VmHWM", 0)


def pss(pid: int | None = None, *, proc: Path = PROC) -> int:
    """Proportional set size in bytes: the process's own pages and its share of shared ones. Raises OSError as `uss`."""
    return fields(proc / str(pid or os.getpid()) / "smaps_rollup").get("Pss", 0)


def trim() -> None:
    """Collect garbage and make the allocator return free blocks to the system (`malloc_trim(0)`, glibc only)."""
    gc.collect()
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
