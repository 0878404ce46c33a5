"""Fetches a model repository from object storage, or from anywhere else that fsspec reaches, and verifies it.

A repository is taken whole or not at all: it is fetched beside what is there, every checksum is compared, and only then
does it replace what an earlier fetch left. What is there already with the right checksum is not fetched again.

S3 (and what speaks its protocol), Google Cloud Storage and Azure are read by obstore, which takes credentials from the
environment variables and metadata services of each; other schemes are fsspec's own or those of installed packages.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import fsspec
from pydantic import ValidationError

from variants.catalog import Frozen, Variant
from variants.errors import ArtefactRefused, ConfigError, FetchFailed, TrimtabError
from variants.repository import MODEL, VARIANT, load_catalog

#: In the source, optional: checksums of all its files, as `sha256sum` prints them.
SUMS = "SHA256SUMS"
MARKER = ".fetched"
STAGING = ".fetching"
PARALLEL = 8
CHUNK = 8 << 20
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "adl", "abfs", "abfss")


class Fetched(Frozen):
    """What a fetch did. `reused` files were there already; `bytes` were transferred."""

    models: tuple[str, ...]
    files: int
    reused: int
    bytes: int


def fetch(
    url: str,
    folder: Path,
    *,
    options: Mapping[str, Any] | None = None,
    sums_sha256: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Fetched:
    """Make `folder` a copy of the repository at `url`, such as `s3://bucket/models`, verified.

    Each variant's files are compared with the checksums of its `variant.json`; where the source has a SHA256SUMS, every
    file with that. `sums_sha256` is the checksum of SHA256SUMS itself: then nothing but that content is accepted, whoever
    can write to the source. `options` are the file system's (obstore: `endpoint`, `region`, `client_options`, …).

    Raises ConfigError for a URL or folder that cannot be meant, FetchFailed when the source cannot be read,
    ArtefactRefused when something differs from its checksum or cannot be served. Then `folder` is as it was.
    """
    place = _shown(url)
    _check_target(folder)
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        source, root = _open(url, options or {})
        with _reading(place):
            sizes = _listing(source, root)
        if not any(PurePosixPath(name).match(f"*/{MODEL}") for name in sizes):
            raise FetchFailed(f"{place}: no model here: a repository has a folder per model, each with a {MODEL}")
        report(f"{len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB in {place}")

        def get(name: str) -> str:
            with _reading(f"{place}/{name}"):
                return _copy(source, f"{root}/{name}", staging / name)

        small = [n for n in sizes if n == SUMS or PurePosixPath(n).name == VARIANT]
        found = {name: get(name) for name in small}
        expected = _sums(staging, sums_sha256, place) if SUMS in sizes else _variant_sums(staging, small)
        if SUMS not in sizes and sums_sha256 is not None:
            raise ArtefactRefused(f"{place}: has no {SUMS}, but a checksum of it is required")
        rest = [name for name in sizes if name not in found]
        reused = {name for name in rest if name in expected and _reuse(folder / name, staging / name, expected[name])}
        missing = [name for name in rest if name not in reused]
        wanted = sum(sizes[name] for name in missing)
        free = shutil.disk_usage(folder).free
        if wanted > free:
            raise FetchFailed(f"{folder}: {wanted / 1e6:.0f} MB are to be fetched, {free / 1e6:.0f} MB are free")
        with ThreadPoolExecutor(PARALLEL) as pool:
            found |= zip(missing, pool.map(get, missing), strict=True)
        found |= {name: expected[name] for name in reused}
        _verify(found, expected, whole=SUMS in sizes, place=place)
        models = _served(staging, place)
        _keep_profiles(folder, staging)
        (folder / MARKER).touch()
        _replace(folder, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    transferred = sum(sizes[name] for name in (*small, *missing))
    return Fetched(models=models, files=len(sizes), reused=len(reused), bytes=transferred)


def _shown(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/") if parts.scheme else url


def _check_target(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    foreign = [p.name for p in _entries(folder)]
    if foreign and not (folder / MARKER).exists():
        raise ConfigError(f"{folder}: holds {foreign[0]!r}, which was not fetched; name an empty folder")


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, but for work in progress and a volume's own."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name != "lost+found")


def _open(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    scheme = urlsplit(url).scheme
    if not scheme:
        raise ConfigError(f"{url}: not a URL; such as s3://bucket/models, gs://bucket/models or file:///srv/models")
    if scheme in OBJECT_STORES:
        if importlib.util.find_spec("obstore") is None:
            raise ConfigError(f"{_shown(url)}: {scheme} needs pip install 'trimtab[object-storage]'")
        from obstore.fsspec import register

        register(scheme)
    try:
        source, root = fsspec.core.url_to_fs(url, **options)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"{_shown(url)}: {error}") from error
    return source, str(root).rstrip("/")


@contextlib.contextmanager
def _reading(place: str) -> Iterator[None]:
    """Turns whatever a file system raises into FetchFailed: each of them has errors of its own."""
    try:
        yield
    except TrimtabError:
        raise
    except FileNotFoundError as error:
        raise FetchFailed(f"{place}: not there") from error
    except Exception as error:
        raise FetchFailed(f"{place}: {type(error).__name__}: {error}") from error


def _listing(source: Any, root: str) -> dict[str, int]:
    """Size by name relative to the root. Work in progress is left out; a name that leads elsewhere is refused."""
    sizes: dict[str, int] = {}
    for path, details in sorted(source.find(root, detail=True).items()):
        name = str(path).removeprefix(root).lstrip("/")
        parts = PurePosixPath(name).parts
        if not parts or name.endswith("/") or details.get("type") == "directory":
            continue
        if ".." in parts or "\\" in name or not str(path).startswith(root + "/"):
            raise ArtefactRefused(f"{path}: a name that leads out of the repository")
        if not any(part.startswith(".") for part in parts):
            sizes[name] = int(details["size"])
    return sizes


def _copy(source: Any, path: str, target: Path) -> str:
    """Copy one file and return its sha256."""
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open(path, "rb") as stream, target.open("wb") as out:
        while chunk := bytes(stream.read(CHUNK)):
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _sums(staging: Path, sums_sha256: str | None, place: str) -> dict[str, str]:
    text = (staging / SUMS).read_bytes()
    actual = hashlib.sha256(text).hexdigest()
    if sums_sha256 is not None and actual != sums_sha256.lower():
        raise ArtefactRefused(f"{place}/{SUMS}: its sha256 is {actual}, {sums_sha256} is required")
    expected = {}
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        value, _, name = line.partition(" ")
        if len(value) != 64 or not name.strip(" *"):
            raise ArtefactRefused(f"{place}/{SUMS}, line {number}: not a line of sha256sum")
        expected[name.strip(" *").removeprefix("./")] = value.lower()
    expected.pop(SUMS, None)
    return expected


def _variant_sums(staging: Path, names: list[str]) -> dict[str, str]:
    expected: dict[str, str] = {}
    for name in names:
        try:
            variant = Variant.model_validate_json((staging / name).read_bytes())
        except ValidationError:
            continue  # refused with its reason when the catalog is loaded
        expected |= {str(PurePosixPath(name).parent / file): value for file, value in variant.files.items()}
    return expected


def _reuse(here: Path, target: Path, expected: str) -> bool:
    """Link a file that is here already, if it is the one that is expected."""
    if not here.is_file():
        return False
    with here.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != expected:
            return False
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(here, target)
    return True


def _verify(found: Mapping[str, str], expected: Mapping[str, str], *, whole: bool, place: str) -> None:
    for name, value in expected.items():
        if name not in found:
            raise ArtefactRefused(f"{place}/{name}: missing; its checksum is listed")
        if found[name] != value:
            raise ArtefactRefused(f"{place}/{name}: corrupt: sha256 is {found[name][:12]}…, {value[:12]}… is listed")
    if whole and (extra := sorted(set(found) - set(expected) - {SUMS})):
        raise ArtefactRefused(f"{place}/{extra[0]}: not listed in {SUMS}")


def _served(staging: Path, place: str) -> tuple[str, ...]:
    """The models, as the server would load them. Raises ArtefactRefused unless that is all of them."""
    catalog = load_catalog(staging)
    if catalog.refused:
        reasons = "; ".join(f"{Path(r.path).relative_to(staging)}: {r.reason}" for r in catalog.refused)
        raise ArtefactRefused(f"{place}: {reasons}".replace(f"{staging}/", ""))
    return tuple(catalog.entries)


def _keep_profiles(folder: Path, staging: Path) -> None:
    """Profiles are measured where models run: those of a variant that has not changed stay."""
    for path in staging.glob(f"*/variants/*/{VARIANT}"):
        before = folder / path.relative_to(staging)
        if before.is_file() and before.read_bytes() == path.read_bytes():
            for profile in (before.parent / "profiles").glob("*"):
                target = path.parent / "profiles" / profile.name
                target.parent.mkdir(exist_ok=True)
                if not target.exists():
                    os.link(profile, target)


def _replace(folder: Path, staging: Path) -> None:
    """From here on a fetch that dies leaves something partial, which the next one replaces."""
    for path in _entries(folder):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in _entries(staging):
        path.rename(folder / path.name)
