"""Samples for calibration and evaluation, and references to functions that a model's folder may name."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from variants.catalog import Model
from variants.datatypes import NUMPY
from variants.engines.base import Array
from variants.errors import BuildError, ConfigError

LABEL = "label"
#: An iterator of samples may have no end: so many are taken.
ITERATOR_LIMIT = 100_000


def resolve(folder: Path, reference: str) -> Callable[..., Any]:
    """The function named by `file.py:function` (a file in `folder`) or `package.module:function`.

    Raises ConfigError when the file, module or function is not there, or when the file raises as it is imported.
    """
    where, _, name = reference.rpartition(":")
    if not where or not name:
        raise ConfigError(
            f"{folder.name}: {reference!r} is not a reference; write file.py:function or package.module:function"
        )
    try:
        module = _import_file(inside(folder, where)) if where.endswith(".py") else importlib.import_module(where)
        function = getattr(module, name)
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        raise ConfigError(f"{folder.name}: cannot resolve {reference!r}: {error}") from error
    if not callable(function):
        raise ConfigError(f"{folder.name}: {reference!r} is not callable")
    return function  # type: ignore[no-any-return]


def inside(folder: Path, name: str) -> Path:
    """A file that `model.yaml` names. Raises ConfigError when it is not below the model's folder, symlinks followed."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ConfigError(f"{folder.name}: {name!r} is outside the model's folder")
    return path


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise ImportError(f"{path} does not exist")
    name = f"trimtab_model_{path.parent.name}_{path.stem}".replace("-", "_")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_data(folder: Path, spec: str, limit: int | None = None) -> dict[str, Array]:
    """Samples by input name, axis 0 = sample, labels (if any) under `label`; at most `limit` of them.

    `spec` is an `.npz` or `.parquet` file in `folder`, or a reference to a function that returns such a mapping, or an
    iterator over mappings of one sample each. Raises ConfigError when it cannot be read.
    """
    path = inside(folder, spec) if spec.endswith((".npz", ".parquet")) else folder
    if spec.endswith(".npz"):
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                data = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path}: cannot read samples: {error}") from error
    elif spec.endswith(".parquet"):
        data = _parquet(path)
    else:
        data = _called(folder, spec, limit)
    return {name: array[:limit] if array.ndim else array for name, array in data.items()}


def _parquet(path: Path) -> dict[str, Array]:
    """The columns of a parquet file: numbers, or (nested) lists of one length, each row a sample."""
    try:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
    except ImportError as error:
        raise ConfigError(f"{path}: parquet needs the package pyarrow: pip install 'trimtab[build]'") from error
    except Exception as error:
        raise ConfigError(f"{path}: cannot read samples: {error}") from error
    data: dict[str, Array] = {}
    for name in table.column_names:
        column = table.column(name)
        leaf = column.type
        while hasattr(leaf, "value_type"):
            leaf = leaf.value_type
        try:
            data[name] = np.array(column.to_pylist(), dtype=leaf.to_pandas_dtype())
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}: column {name!r}: rows differ in length or are null: {error}") from error
    return data


def _called(folder: Path, spec: str, limit: int | None) -> dict[str, Array]:
    function = resolve(folder, spec)
    try:
        data = function()
    except Exception as error:
        raise ConfigError(f"{folder.name}: {spec!r} raised {type(error).__name__}: {error}") from error
    if isinstance(data, Mapping):
        return {str(name): np.asarray(array) for name, array in data.items()}
    if not isinstance(data, Iterator):
        kind = type(data).__name__
        raise ConfigError(f"{folder.name}: {spec!r} must return a mapping of arrays or an iterator of them, not {kind}")
    samples = list(itertools.islice(data, limit or ITERATOR_LIMIT))
    if not samples or not all(isinstance(s, Mapping) and s.keys() == samples[0].keys() for s in samples):
        raise ConfigError(f"{folder.name}: {spec!r} must yield mappings with the same names, at least one")
    try:
        return {str(name): np.stack([np.asarray(s[name]) for s in samples]) for name in samples[0]}
    except ValueError as error:
        raise ConfigError(f"{folder.name}: {spec!r}: samples differ in shape: {error}") from error


def check_data(model: Model, data: Mapping[str, Array], *, what: str = "data") -> int:
    """Compare samples with the model's inputs; returns how many there are.

    Raises BuildError naming the input: absent, empty, of another length, dtype or shape, or with NaN or infinities.
    """
    single = [name for name, array in data.items() if array.ndim == 0]
    if single:
        raise BuildError(
            f"{model.name}: {what}: {', '.join(single)}: a single value; axis 0 of every array is the sample"
        )
    counts = {name: len(array) for name, array in data.items()}
    if len(set(counts.values())) > 1:
        raise BuildError(f"{model.name}: {what}: arrays differ in their number of samples: {counts}")
    for spec in model.inputs:
        if spec.name not in data:
            raise BuildError(
                f"{model.name}: {what}: no array for input {spec.name!r}; there are {', '.join(data) or 'none'}"
            )
        array = data[spec.name]
        expected = NUMPY[spec.datatype]
        if array.dtype != expected:
            raise BuildError(
                f"{model.name}: {what}: input {spec.name!r} is {array.dtype}, expected {expected} ({spec.datatype})"
            )
        fits = array.ndim == len(spec.shape) and all(
            want in (-1, got) for want, got in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits:
            raise BuildError(
                f"{model.name}: {what}: input {spec.name!r} has shape {list(array.shape)}, expected {list(spec.shape)}"
            )
        if len(array) == 0:
            raise BuildError(f"{model.name}: {what}: input {spec.name!r} has no samples")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BuildError(f"{model.name}: {what}: input {spec.name!r} has NaN or infinite values")
    return next(iter(counts.values()))


def repeated(samples: Mapping[str, Array], rows: int) -> dict[str, Array]:
    """The first so many of the samples, from the start again where there are fewer. Copies: they keep nothing else in memory."""
    return {name: array[np.arange(rows) % len(array)] for name, array in samples.items()}


def batches(model: Model, data: Mapping[str, Array], size: int) -> list[dict[str, Array]]:
    """The inputs cut into batches of at most `size` samples (1 for a model that is not batchable), labels left out."""
    size = size if model.batchable else 1
    names = [spec.name for spec in model.inputs]
    count = len(data[names[0]])
    return [{name: data[name][start : start + size] for name in names} for start in range(0, count, size)]
