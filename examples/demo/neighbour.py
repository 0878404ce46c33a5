"""A process beside trimtab that takes real memory, holds it, and gives it back.

Usage: python -m examples.demo.neighbour --bytes N --rate BYTES_PER_SECOND --pid-file FILE

Every page is written with random bytes, so that it is neither shared nor zero. Writes JSON lines on stdout,
`{"at": unix seconds, "bytes": taken}`, while it takes; holds until its stdin ends or a SIGTERM comes, gives everything
back, removes the pid file and exits. It cannot outlive the process that started it: its stdin ends with that one.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import select
import signal
import sys
import time
from pathlib import Path

import numpy as np

CHUNK = 8 << 20
TELL_SECONDS = 0.25


class Hoard:
    """Memory taken page by page."""

    def __init__(self) -> None:
        self._chunks: list[mmap.mmap] = []
        self._random = np.random.Generator(np.random.SFC64(os.getpid()))
        self.bytes = 0

    def take(self, size: int) -> None:
        """Map `size` more bytes and write random bytes into all of them. Raises OSError when there are none."""
        chunk = mmap.mmap(-1, size)
        chunk.write(self._random.bytes(size))
        self._chunks.append(chunk)
        self.bytes += size

    def free(self) -> None:
        """Unmap everything."""
        for chunk in self._chunks:
            chunk.close()
        self._chunks.clear()
        self.bytes = 0


class _Stop(Exception):
    pass


def _stop(*_: object) -> None:
    raise _Stop


def hold(target: int, rate: float, hoard: Hoard) -> None:
    """Take `target` bytes at `rate` bytes per second, then wait until stdin ends (or SIGTERM raises out of here)."""
    started = time.monotonic()
    told = 0.0
    while hoard.bytes < target:
        hoard.take(min(CHUNK, target - hoard.bytes))
        ahead = started + hoard.bytes / rate - time.monotonic()
        if time.monotonic() - told >= TELL_SECONDS:
            tell(hoard)
            told = time.monotonic()
        if _ended(max(0.0, ahead)):
            return
    tell(hoard)
    while not _ended(1.0):
        pass


def _ended(seconds: float) -> bool:
    """Wait up to `seconds` for the end of stdin."""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and not os.read(sys.stdin.fileno(), 4096)


def tell(hoard: Hoard) -> None:
    """One line about what is held now. Nobody may be listening any more."""
    try:
        print(json.dumps({"at": time.time(), "bytes": hoard.bytes}), flush=True)
    except BrokenPipeError:
        return


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(description="Takes memory, holds it, gives it back.")
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="bytes per second")
    parser.add_argument("--pid-file", type=Path, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    temporary = options.pid_file.with_suffix(".tmp")
    temporary.write_text(str(os.getpid()))
    temporary.replace(options.pid_file)
    hoard = Hoard()
    try:
        hold(options.bytes, options.rate, hoard)
    except _Stop:
        pass
    finally:
        hoard.free()
        options.pid_file.unlink(missing_ok=True)
        tell(hoard)


if __name__ == "__main__":
    main()
