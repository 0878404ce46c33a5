"""The model repository on disk: a folder per model, atomic writes, checksums.

    <root>/<model>/model.yaml                         Model
    <root>/<model>/canary.npz                         input/<name>, output/<name>: stored inputs and reference outputs
    <root>/<model>/variants/<name>/variant.json       Variant, without profiles
    <root>/<model>/variants/<name>/<artefact …>       its files
    <root>/<model>/variants/<name>/profiles/<id>.json Profile, one per device fingerprint

A variant appears by one rename and is complete when it does. Names starting with a dot are work in progress.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import yaml
from pydantic import ValidationError

from variants.atomic import replace_folder, replacing, sweep, write_text
from variants.catalog import SOURCES, Catalog, Entry, Model, Profile, Refused, Variant
from variants.device import fingerprint
from variants.engines.base import Array
from variants.errors import ArtefactRefused, ConfigError
from variants.pareto import ladder
from variants.tasks import Task, joined

MODEL = "model.yaml"
CANARY = "canary.npz"
COMPILED = ".compiled"
VARIANT = "variant.json"
PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib")


def load_model(folder: Path) -> Model:
    """Read a model's `model.yaml`. Raises ConfigError naming the file, the field and what would be accepted."""
    path = folder / MODEL
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a mapping is expected at the top")
    try:
        model = Model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: {problems(error)}") from error
    if model.name != folder.resolve().name:
        raise ConfigError(
            f"{path}: name is {model.name!r} but the folder is {folder.resolve().name!r}; they must be equal"
        )
    if len(model.source.given) != 1:
        has = ", ".join(model.source.given) or "none"
        raise ConfigError(f"{path}: source needs exactly one of {', '.join(SOURCES)}; it has {has}")
    for kind, specs in (("inputs", model.inputs), ("outputs", model.outputs)):
        names = [s.name for s in specs]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"{path}: {kind} needs at least one tensor, and no name twice; it has {names}")
    first = model.outputs[0]
    if model.metric == "top1" and len(first.shape) < 2 and first.datatype.startswith(("FP", "BF")):
        raise ConfigError(
            f"{path}: metric top1: the first output, {first.name}, must be scores with a last axis of classes, or the classes "
            "as integers; put that output first, or use metric cosine or relative_error"
        )
    return model


def problems(error: ValidationError) -> str:
    """A validation error as one line: each field with what is wrong."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'top level'}: {e['msg']}" for e in error.errors())


def load_catalog(root: Path, device: str | None = None, *, trust_code: bool = True) -> Catalog:
    """Every model and variant under `root` that can be served; `refused` holds the others with path and reason.

    `trust_code` False refuses variants that would run code of the repository when loaded, whatever `model.yaml` says.
    `device` is the fingerprint whose profiles make the ladders (default: this machine's). Raises ConfigError when `root`
    is not a folder.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: not a folder of models")
    device = device or fingerprint()
    entries: dict[str, Entry] = {}
    refused: list[Refused] = []
    found: dict[str, Task] = {}
    for folder in sorted(p.parent for p in root.glob(f"*/{MODEL}") if not p.parent.name.startswith(".")):
        try:
            model = load_model(folder)
        except ConfigError as error:
            refused.append(Refused(model=folder.name, variant=None, path=str(folder), reason=str(error)))
            continue
        try:
            joining = {name: joined(found.get(name), name, model) for name in model.serves}
        except ValueError as error:
            refused.append(
                Refused(model=model.name, variant=None, path=str(folder), reason=f"{folder / MODEL}: {error}")
            )
            continue
        variants: dict[str, Variant] = {}
        for path in _variant_folders(folder, model):
            try:
                variant = _load_variant(path, model, trust_code)
            except ArtefactRefused as error:
                refused.append(Refused(model=model.name, variant=path.name, path=str(path), reason=str(error)))
            else:
                variants[variant.name] = variant
        if variants:
            # The reference is what was made of the source, wherever `build` names it.
            variants = dict(sorted(variants.items(), key=lambda item: item[1].lineage.parent is not None))
            rungs = ladder(model.name, variants, device, model.floor)
            found.update(joining)
            entries[model.name] = Entry(model=model, variants=variants, ladder=rungs, path=str(folder))
        else:
            reason = "no variant to serve; `trimtab build` makes some"
            refused.append(Refused(model=model.name, variant=None, path=str(folder), reason=reason))
    return Catalog(device=device, entries=entries, refused=tuple(refused))


def variant_folder(model_folder: Path, name: str) -> Path:
    """Where a variant's files are."""
    return model_folder / "variants" / name


def verify(folder: Path, variant: Variant) -> None:
    """Compare a variant's files with their checksums. Raises ArtefactRefused naming the file and what differs."""
    for name, expected in variant.files.items():
        path = folder / name
        try:
            with path.open("rb") as stream:
                actual = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise ArtefactRefused(f"{path}: cannot be read: {error.strerror}") from error
        if actual != expected:
            raise ArtefactRefused(f"{path}: corrupt: sha256 is {actual[:12]}…, {expected[:12]}… was stored")


def write_variant(model_folder: Path, variant: Variant, fill: Callable[[Path], Variant | None]) -> Variant:
    """Store a variant: `fill(folder)` writes its files, then it appears at once, complete, in place of an older one.
    `fill` may return a changed record of the same name, to be stored instead.

    Returns the variant with its checksums. When `fill` raises, or the process dies, nothing has changed.
    """
    parent = model_folder / "variants"
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{variant.name}.", suffix=f".{os.getpid()}", dir=parent))
    try:
        variant = fill(temporary) or variant
        if not (temporary / variant.artefact).is_file():
            raise ArtefactRefused(f"{temporary / variant.artefact}: the builder did not write it")
        files = {}
        for path in sorted(p for p in temporary.rglob("*") if p.is_file()):
            with path.open("rb") as stream:
                files[str(path.relative_to(temporary))] = hashlib.file_digest(stream, "sha256").hexdigest()
                os.fsync(stream.fileno())
        stored = variant.model_copy(update={"files": files, "profiles": ()})
        write_text(temporary / VARIANT, stored.model_dump_json(indent=2, exclude={"profiles"}))
        replace_folder(temporary, parent / variant.name)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return stored


def copy_files(source: Path, variant: Variant, target: Path) -> None:
    """Copy a variant's files from its folder into another."""
    for name in variant.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def write_profile(model_folder: Path, variant: str, profile: Profile, compiled: bytes | None = None) -> None:
    """Store what a variant measured on a device, atomically, and what its engine made of it there (see `compiled`); older
    ones of that device are replaced."""
    folder = variant_folder(model_folder, variant)
    path = _profile_path(folder, profile.device)
    path.parent.mkdir(exist_ok=True)
    stored = path.with_suffix(COMPILED)
    if compiled is None:
        stored.unlink(missing_ok=True)
    else:
        with replacing(stored) as temporary, temporary.open("wb") as stream:
            stream.write(compiled)
            stream.flush()
            os.fsync(stream.fileno())
    digest = "" if compiled is None else hashlib.sha256(compiled).hexdigest()
    write_text(path, profile.model_copy(update={"compiled": digest}).model_dump_json(indent=2))


def compiled(folder: Path, profile: Profile | None) -> Path | None:
    """The file of what an engine made of the artefact in a variant's folder on the profile's device, where it is stored and
    is what was stored; else None: the artefact has to be loaded."""
    if profile is None or not profile.compiled:
        return None
    path = _profile_path(folder, profile.device).with_suffix(COMPILED)
    try:
        with path.open("rb") as stream:
            same = hashlib.file_digest(stream, "sha256").hexdigest() == profile.compiled
    except OSError:
        return None
    return path if same else None


def _profile_path(folder: Path, device: str) -> Path:
    return folder / "profiles" / f"{hashlib.sha256(device.encode()).hexdigest()[:16]}.json"


def write_canary(model_folder: Path, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
    """Store canary inputs and the reference variant's outputs on them (arrays by name, axis 0 = sample)."""
    arrays = {f"input/{n}": a for n, a in inputs.items()} | {f"output/{n}": a for n, a in outputs.items()}
    with replacing(model_folder / CANARY) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
        stream.flush()
        os.fsync(stream.fileno())


def read_canary(model_folder: Path) -> tuple[dict[str, Array], dict[str, Array]] | None:
    """Canary inputs and reference outputs, or None when none are stored. Raises ArtefactRefused when unreadable."""
    path = model_folder / CANARY
    try:
        with np.load(path, allow_pickle=False) as arrays:
            inputs = {n.removeprefix("input/"): arrays[n] for n in arrays.files if n.startswith("input/")}
            outputs = {n.removeprefix("output/"): arrays[n] for n in arrays.files if n.startswith("output/")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ArtefactRefused(f"{path}: cannot be read: {error}") from error
    return inputs, outputs


def _variant_folders(folder: Path, model: Model) -> list[Path]:
    """A model's variant folders: those that `build` names first, in its order."""
    order = [name.replace("+", "-") for name in model.build]
    found = [p for p in (folder / "variants").glob("*") if p.is_dir() and not p.name.startswith(".")]
    return sorted(found, key=lambda p: (order.index(p.name) if p.name in order else len(order), p.name))


def _load_variant(folder: Path, model: Model, trust_code: bool) -> Variant:
    path = folder / VARIANT
    try:
        variant = Variant.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ArtefactRefused(f"{path}: missing; the variant is half-written") from None
    except ValidationError as error:
        raise ArtefactRefused(f"{path}: {problems(error)}") from error
    except (OSError, ValueError) as error:
        raise ArtefactRefused(f"{path}: cannot be read: {error}") from error
    if variant.name != folder.name:
        raise ArtefactRefused(f"{path}: names variant {variant.name!r}, but its folder is {folder.name!r}")
    if variant.artefact not in variant.files:
        raise ArtefactRefused(f"{path}: artefact {variant.artefact!r} is not among its files")
    for name in variant.files:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise ArtefactRefused(f"{path}: file {name!r} is outside the variant's folder")
    if not trust_code and "factory" in variant.options:
        raise ArtefactRefused(
            f"{path}: {variant.options['factory']} is Python that would run when it is loaded; set "
            "`trust_repository_code: true` in the server's configuration to allow it"
        )
    verify(folder, variant)
    if not (model.trust and trust_code):
        for name in variant.files:
            if runs_code(folder / name):
                raise ArtefactRefused(
                    f"{folder / name}: can run code when loaded; set `trust: true` in model.yaml to allow it, and for "
                    "serving `trust_repository_code: true` in the server's configuration"
                )
    return variant.model_copy(update={"profiles": tuple(_profiles(folder))})


def runs_code(path: Path) -> bool:
    """Whether loading a file can run code that it carries: pickles, and archives that hold them.

    A `.bin` beside an `.xml` of its name holds OpenVINO's raw weights.
    """
    if path.suffix in PICKLE_SUFFIXES:
        return path.suffix != ".bin" or not path.with_suffix(".xml").is_file()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith((".pkl", ".pickle")) for name in archive.namelist())
    return False


def _profiles(folder: Path) -> Iterator[Profile]:
    for path in sorted((folder / "profiles").glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            yield Profile.model_validate_json(path.read_text(encoding="utf-8"))
