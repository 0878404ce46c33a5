"""Files that are read again when they change, by their content's identity: a rename or a symlink's new target counts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

#: What tells one state of a file from another; None: it is not there.
Stamp = tuple[int, int, int, int] | None


def stamp(path: str) -> Stamp:
    """Device, inode, size and modification time of what the path leads to. A Kubernetes volume swaps a symlink above the
    file, so the inode changes even where the time does not."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Watched:
    """Some files, and what they were when last looked at."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._stamps = {path: stamp(path) for path in paths}

    def changed(self) -> bool:
        """Whether any file differs from what it was when this was last asked."""
        now = {path: stamp(path) for path in self._stamps}
        if now == self._stamps:
            return False
        self._stamps = now
        return True
