"""Files and folders that appear at once or not at all, whenever their writer dies. Names starting with a dot are work in
progress, and end in the pid of their writer."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def sweep(parent: Path) -> None:
    """Clear up after dead processes: dot folders end in the pid of their writer. One that died between taking an old
    variant away and putting the new one there gets the old one put back."""
    for path in parent.glob(".*"):
        pid = path.suffix.removeprefix(".")
        if not pid.isdigit() or int(pid) == os.getpid() or Path(f"/proc/{pid}").exists():
            continue
        name, _, rest = path.name.removeprefix(".").rpartition(".old.")
        if name and rest == pid and not (parent / name).exists():
            path.rename(parent / name)
        else:
            shutil.rmtree(path, ignore_errors=True)


def replace_folder(new: Path, target: Path) -> None:
    """Put a folder where another one may be, by renaming."""
    old = target.with_name(f".{target.name}.old.{os.getpid()}")
    new.chmod(0o755)
    if target.exists():
        os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old, ignore_errors=True)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the context ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file at once, and to the disk."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
