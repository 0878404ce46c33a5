"""The system shared-memory extension: tensors in POSIX shared memory of this machine instead of in the message.

Source: Triton, "Shared-Memory Extension". What is registered is kept in a folder of the machine, one file a region, and
each model host of the machine opens a region when a request first names it: a client registers once, whichever host the
load balancer picks. Reads and writes go straight to the mapped memory.

A key names a file directly below `/dev/shm`, never a path. The object's size is compared again at each use, since reading
behind its end would kill the process; a client that shrinks it during its own request is not guarded against.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from variants.errors import AlreadyThere, ConfigError, InvalidInput, UnknownRegion, Unsupported

OBJECTS = Path("/dev/shm")  # nosec B108  # where POSIX shared memory is; names are checked
MOST_REGIONS = 4096
MOST_NAME_BYTES = 1024
_Stamp = tuple[int, int]


@dataclass(frozen=True)
class Region:
    """`byte_size` bytes from `offset` on in the shared-memory object `key`. In the order of Triton's answer."""

    name: str
    key: str
    offset: int
    byte_size: int


class _Mapped:
    """A region in this process. Views outlive it: the memory is unmapped when the last one goes."""

    def __init__(self, region: Region, stamp: _Stamp, objects: Path) -> None:
        self._file = -1
        self.region = region
        self.stamp = stamp
        self.end = region.offset + region.byte_size
        path = objects / _object_name(region.key)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            found = os.fstat(self._file)
        except OSError as error:
            raise InvalidInput(
                f"shared memory region {region.name!r}: key {region.key!r} cannot be opened: {error.strerror}"
            ) from error
        if not stat.S_ISREG(found.st_mode):
            raise InvalidInput(f"shared memory region {region.name!r}: key {region.key!r} is no shared-memory object")
        self.check()
        self._memory = memoryview(mmap.mmap(self._file, self.end))

    def check(self) -> None:
        """Raises InvalidInput when the object does not hold the region (any more)."""
        size = os.fstat(self._file).st_size
        if size < self.end:
            region = self.region
            raise InvalidInput(
                f"shared memory region {region.name!r}: {region.byte_size} bytes from {region.offset} on do not fit "
                f"{region.key!r}, which has {size}"
            )

    def view(self, offset: int, byte_size: int) -> memoryview:
        """Part of the region. Raises InvalidInput for what reaches out of it."""
        region = self.region
        if offset > region.byte_size or byte_size > region.byte_size - offset:
            raise InvalidInput(
                f"shared memory region {region.name!r}: {byte_size} bytes from {offset} on reach out of its "
                f"{region.byte_size} bytes"
            )
        self.check()
        start = region.offset + offset
        return self._memory[start : start + byte_size]

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)


class Regions:
    """The regions of this machine. `folder`: where its model hosts keep them, made when first needed; None: a folder of
    this process alone. `objects` stands for `/dev/shm` in tests. `enabled` False: everything but asking is refused."""

    def __init__(self, folder: Path | None = None, *, objects: Path = OBJECTS, enabled: bool = True) -> None:
        self._folder = folder
        self._objects = objects
        self._enabled = enabled
        self._mapped: dict[str, tuple[Path, _Mapped]] = {}
        self._own: tempfile.TemporaryDirectory[str] | None = None

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Raises InvalidInput (no such object, or smaller than that), AlreadyThere, Unsupported."""
        self._check_enabled()
        if not 0 < len(name.encode("utf-8", "replace")) <= MOST_NAME_BYTES:
            raise InvalidInput(f"a shared memory region's name must have 1 to {MOST_NAME_BYTES} bytes")
        if offset < 0 or byte_size <= 0:
            raise InvalidInput(
                f"shared memory region {name!r}: offset {offset} must be 0 or more, byte_size {byte_size} 1 or more"
            )
        region = Region(name, key, offset, byte_size)
        _Mapped(region, (0, 0), self._objects)  # it can be opened, and is large enough
        folder = self._made()
        if sum(1 for _ in folder.iterdir()) >= MOST_REGIONS:
            raise InvalidInput(f"{MOST_REGIONS} shared memory regions are registered already; unregister some")
        handle, temporary = tempfile.mkstemp(prefix=".", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(orjson.dumps(asdict(region)))
            os.link(temporary, self._path(name))
        except FileExistsError:
            raise AlreadyThere(f"shared memory region {name!r} is registered already; unregister it first") from None
        finally:
            Path(temporary).unlink()

    def status(self, name: str = "") -> list[Region]:
        """One region, or all of them for an empty name. Raises UnknownRegion."""
        folder = self._there()
        if name:
            region = None if folder is None else _read(self._path(name))
            if region is None:
                raise _unknown(name)
            return [region]
        if folder is None:
            return []
        found = [_read(path) for path in folder.glob("*.json")]
        return sorted([r for r in found if r is not None], key=lambda r: r.name)

    def unregister(self, name: str = "") -> None:
        """One region, or all of them for an empty name; one that is not there is no error. Requests under way keep what
        they hold."""
        folder = self._there()
        if folder is None:
            return
        for path in [self._path(name)] if name else list(folder.glob("*.json")):
            path.unlink(missing_ok=True)
        for known, (path, _) in list(self._mapped.items()):
            if not path.exists():
                del self._mapped[known]

    def view(self, name: str, offset: int, byte_size: int) -> memoryview:
        """The memory itself: what is read is the client's, what is written it sees. Raises UnknownRegion, InvalidInput,
        Unsupported."""
        self._check_enabled()
        known = self._mapped.get(name)
        if known is None and self._there() is None:
            raise _unknown(name)
        path = known[0] if known is not None else self._path(name)
        try:
            found = path.stat()
        except FileNotFoundError:
            self._mapped.pop(name, None)
            raise _unknown(name) from None
        stamp = (found.st_ino, found.st_mtime_ns)
        if known is None or known[1].stamp != stamp:  # new here, or registered anew through another host
            region = _read(path)
            if region is None:
                raise _unknown(name)
            known = self._mapped[name] = (path, _Mapped(region, stamp, self._objects))
        return known[1].view(offset, byte_size)

    def _check_enabled(self) -> None:
        if not self._enabled:
            raise Unsupported(
                "shared memory is off here: set server.shared_memory: true (it is on by itself where the server is bound "
                "to a loopback address only)"
            )

    def _path(self, name: str) -> Path:
        return self._made() / (hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest() + ".json")

    def _made(self) -> Path:
        """The folder, made where it is not there yet."""
        if self._folder is None:
            self._own = tempfile.TemporaryDirectory(prefix="trimtab-shared-memory-")
            self._folder = Path(self._own.name)
        with contextlib.suppress(FileExistsError):
            self._folder.mkdir(mode=0o700, parents=True)
        found = self._there()
        assert found is not None
        return found

    def _there(self) -> Path | None:
        """The folder, if it is there. Raises ConfigError when others can write there: they could have us open anything."""
        if self._folder is None:
            return None
        try:
            found = self._folder.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise ConfigError(f"{self._folder}: must be a folder that only this user can write to")
        return self._folder


def _object_name(key: str) -> str:
    """The file's name below `/dev/shm` (`shm_open(3)`: one leading slash is no part of it). Raises InvalidInput."""
    name = key.removeprefix("/")
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(name.encode("utf-8", "replace")) > 255:
        raise InvalidInput(
            f"shared memory key {key!r:.80} must be the name of a shared-memory object: one path component"
        )
    return name


def _read(path: Path) -> Region | None:
    try:
        return Region(**orjson.loads(path.read_bytes()))
    except FileNotFoundError:
        return None


def _unknown(name: str) -> UnknownRegion:
    return UnknownRegion(f"no shared memory region {name!r} is registered")
