"""Rows of a replay's tables: CSV, gzipped CSV or parquet, told apart by their content and not by their names."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from variants.errors import ConfigError

Row = Sequence[Any]
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"


@dataclass(frozen=True)
class Rows:
    """`unit`: what a row's number counts, `line` or `row`. The numbers are those that an editor or a reader of parquet
    would show. `numbered` yields each row once, as wide as the header."""

    path: Path
    unit: str
    header: tuple[str, ...]
    numbered: Iterator[tuple[int, Row]]

    def at(self, number: int) -> str:
        """Where a row is, for an error."""
        return f"{self.path}: {self.unit} {number}"


@contextmanager
def open_table(path: Path, needed: Sequence[str], also: Sequence[str] = ()) -> Iterator[Rows]:
    """The rows of a file with a header, in which the columns `needed` must be and those of `also` may be.

    Raises ConfigError naming the file and, where there is one, the line: also what goes wrong while rows are read.
    """
    try:
        with path.open("rb") as raw:
            magic = raw.read(4)
            raw.seek(0)
            if magic == PARQUET:
                unit, numbered = "row", _parquet(path, raw, {*needed, *also})
            else:
                unit, numbered = "line", _csv(path, gzip.GzipFile(fileobj=raw) if magic.startswith(GZIP) else raw)
            header = tuple(str(name).strip() for name in next(numbered, (0, ()))[1])
            _check(path, header, needed, also)
            yield Rows(path, unit, header, numbered)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: neither UTF-8 text, gzip nor parquet: {error}") from error
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _check(path: Path, header: Sequence[str], needed: Sequence[str], also: Sequence[str]) -> None:
    if missing := [name for name in needed if name not in header]:
        other = next((f"; fields are separated by commas, not by {s!r}" for s in ";\t|" if s in "".join(header)), "")
        raise ConfigError(
            f"{path}: no column {', '.join(missing)}; needed are {', '.join(needed)}; "
            f"there are {', '.join(filter(None, header)) or 'none'}{other}"
        )
    if twice := sorted({name for name in header if header.count(name) > 1} & {*needed, *also}):
        raise ConfigError(f"{path}: a column is there twice: {', '.join(twice)}")


def _csv(path: Path, raw: Any) -> Iterator[tuple[int, Row]]:
    with io.TextIOWrapper(raw, newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        width = 0
        for row in reader:
            if len(row) == width or not width:
                width = len(row)
                if row:
                    yield reader.line_num, row
            elif row:
                raise ConfigError(f"{path}: line {reader.line_num}: {len(row)} fields, the header has {width}")


def _parquet(path: Path, stream: IO[bytes], wanted: set[str]) -> Iterator[tuple[int, Row]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(f"{path}: parquet needs pyarrow: pip install 'trimtab[replay]'") from None
    try:
        file = parquet.ParquetFile(stream)
        named = [name for name in file.schema_arrow.names if name.strip() in wanted]
        yield 0, named
        number = 0
        for batch in file.iter_batches(columns=named):
            columns: Sequence[list[Any]] = [_values(batch.column(name)) for name in named]
            for row in zip(*columns, strict=True):
                number += 1
                yield number, row
    except pyarrow.ArrowException as error:
        raise ConfigError(f"{path}: not parquet: {error}") from error


def _values(column: Any) -> list[Any]:
    """A column's values. Categories one by one take four times as long as what they stand for."""
    values: list[Any] = (column.dictionary_decode() if hasattr(column, "dictionary_decode") else column).to_pylist()
    return values


def number_of(where: Callable[[], str], column: str, value: Any, accepted: str, *, low: float, high: float) -> float:
    """A finite number within [low, high]. Raises ConfigError saying where, what is there and what is `accepted`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = low - 1.0
    if not low <= number <= high:  # also what is no number
        raise ConfigError(f"{where()}: {column}: {value!r} is not {accepted}")
    return number
