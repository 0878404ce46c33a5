"""Memory of a process as the kernel counts it, and giving freed memory back. Source: proc(5), `smaps_rollup`.

Both block for milliseconds in a large process: call them off an event loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
from collections.abc import Mapping
from pathlib import Path

PROC = Path("/proc")
PEAK_SECONDS = 0.002


def fields(path: Path) -> dict[str, int]:
    """`Name: 12 kB` or `name 12` lines of a kernel file as bytes (kB) or plain numbers. Raises OSError."""
    values: dict[str, int] = {}
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        parts = line.replace(":", " ").split()
        if len(parts) >= 2 and parts[1].isdigit():
            values[parts[0]] = int(parts[1]) * (1024 if parts[-1] == "kB" else 1)
    return values


def held(pid: int | None = None, *, proc: Path = PROC) -> int:
    """Bytes that this process (default: this one) has in no file, so that only it can give them back; what it shares with a process
    that it was forked from counts, too. What it reads of mapped files (weights where they lie, code) the system takes back where it
    needs memory; how much of that is there at a moment says little. Raises OSError when the process is gone or not ours to read."""
    return fields(proc / str(pid or os.getpid()) / "smaps_rollup").get("Anonymous", 0)


class Peak:
    """The most that this process held, as `held` counts it, while the context was open: looked at every `PEAK_SECONDS`, so that what
    is let go of sooner may be missed. Linux only: 0 elsewhere."""

    def __init__(self, *, proc: Path = PROC) -> None:
        self.bytes = 0
        self._status = proc / str(os.getpid()) / "status"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _look(self) -> None:
        with contextlib.suppress(OSError):
            self.bytes = max(self.bytes, fields(self._status).get("RssAnon", 0))

    def _watch(self) -> None:
        while not self._over.wait(PEAK_SECONDS):
            self._look()


def pss(pid: int | None = None, *, proc: Path = PROC) -> int:
    """Proportional set size in bytes: the process's own pages and its share of shared ones. Raises OSError as `held`."""
    return fields(proc / str(pid or os.getpid()) / "smaps_rollup").get("Pss", 0)


#: What the allocator of processes that host models, or measure what a host will need, finds in its environment (glibc; elsewhere
#: without effect). Blocks of 64 KiB and more are mapped apart, so that freeing a model returns them to the system instead of leaving
#: holes in the heap; two arenas keep many threads from holding one each.
ALLOCATOR: Mapping[str, str] = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2"}


def trim() -> None:
    """Collect garbage and make the allocator return free blocks to the system (`malloc_trim(0)`, glibc only)."""
    gc.collect()
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
