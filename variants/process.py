"""Memory of a process as the kernel counts it, and giving freed memory back. Source: proc(5), `smaps_rollup`.

Both block for milliseconds in a large process: call them off an event loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from pathlib import Path

PROC = Path("/proc")


def smaps_rollup(pid: int, *, proc: Path = PROC) -> dict[str, int]:
    """The fields of a process's `smaps_rollup`, in bytes. Raises OSError when it is gone or not ours to read."""
    values: dict[str, int] = {}
    for line in (proc / str(pid) / "smaps_rollup").read_text(encoding="ascii", errors="replace").splitlines():
        parts = line.replace(":", " ").split()
        if len(parts) == 3 and parts[1].isdigit() and parts[2] == "kB":
            values[parts[0]] = int(parts[1]) * 1024
    return values


def uss(pid: int | None = None, *, proc: Path = PROC) -> int:
    """Unique set size in bytes: what ending the process (default: this one) would free. Raises OSError."""
    fields = smaps_rollup(pid or os.getpid(), proc=proc)
    return sum(fields.get(name, 0) for name in ("Private_Clean", "Private_Dirty", "Private_Hugetlb"))


def pss(pid: int | None = None, *, proc: Path = PROC) -> int:
    """Proportional set size in bytes: the process's own pages and its share of shared ones. Raises OSError."""
    return smaps_rollup(pid or os.getpid(), proc=proc).get("Pss", 0)


def give_back() -> None:
    """Collect garbage, then have the C library return free heap pages to the system (`malloc_trim`, glibc only)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
