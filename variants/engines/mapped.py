"""A file of weights that an engine works on where it lies, in the page cache.

What an engine copies into a form of its own it reads once; the pages that it does go on reading come back by themselves when they
are forgotten, from the page cache, or from disk where the system needed the memory.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt


class MappedFile:
    """`array`: its bytes (uint8), valid as long as this object is. It can be written to, which the file does not see, until
    `protect`. Raises OSError, ValueError for an empty file."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        self.array: npt.NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)

    def protect(self) -> None:
        """From now on whoever writes to it ends the process: `forget` would undo what was written."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        if libc.mprotect(self.array.ctypes.data, len(self._map), mmap.PROT_READ):
            raise OSError(ctypes.get_errno(), "mprotect")

    def forget(self) -> None:
        """Give its pages back. Also while it is read."""
        self._map.madvise(mmap.MADV_DONTNEED)
