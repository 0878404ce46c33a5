"""Decisions on disk: JSON lines, append-only, one fsync each, rotated by size.

A line that was torn by a crash is ignored; no earlier one is ever rewritten.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from budgets.config import DEFAULT_GROUP
from budgets.plan import Decision, Plan

MAX_BYTES = 16 << 20
KEPT = 3


class FileJournal:
    """The journal at `path`; rotated files are `path.1` (newest) to `path.3`. Raises OSError when it cannot write."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._inputs = ""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._end_torn_line()

    def append(self, decision: Decision) -> None:
        """Add one line; it is on disk when this returns."""
        short = decision.model_copy(update={"config": None}) if decision.inputs == self._inputs else decision
        line = short.model_dump_json().encode() + b"\n"
        if self._path.exists() and self._path.stat().st_size + len(line) > self._max_bytes:
            self._rotate()  # each file says by itself what was configured
            line = decision.model_dump_json().encode() + b"\n"
        self._inputs = decision.inputs
        with self._path.open("ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def last(self) -> Decision | None:
        """The newest complete decision, or None."""
        for path in (self._path, self._path.with_name(self._path.name + ".1")):
            newest = None
            for newest in records(path):  # noqa: B007 - the last one is wanted
                pass
            if newest is not None:
                return newest
        return None

    def _rotate(self) -> None:
        for number in range(KEPT, 0, -1):
            source = self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number - 1}")
            if source.exists():
                source.replace(self._path.with_name(f"{self._path.name}.{number}"))

    def _end_torn_line(self) -> None:
        """Put a newline after a torn last line, so that the next one starts on its own."""
        try:
            with self._path.open("rb+") as stream:
                if stream.seek(0, os.SEEK_END) == 0:
                    return
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    stream.write(b"\n")
        except FileNotFoundError:
            return


def journal_of(path: Path, group: str) -> Path:
    """The journal of one host group, beside that of the default one: `journal.jsonl`, `journal.GROUP.jsonl`."""
    return path if group == DEFAULT_GROUP else path.with_name(f"{path.stem}.{group}{path.suffix}")


def journalled_groups(path: Path) -> tuple[str, ...]:
    """The host groups other than the default one that have a journal beside `path`."""
    start, end = f"{path.stem}.", path.suffix
    names = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
    return tuple(
        name[len(start) : len(name) - len(end)]
        for name in names
        if name.startswith(start) and name.endswith(end) and len(name) > len(start) + len(end)
    )


def records(path: Path) -> Iterator[Decision]:
    """The decisions of one journal file, oldest first; torn or foreign lines are left out."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        for line in stream:
            try:
                yield Decision.model_validate_json(line)
            except ValueError:
                continue


def last_plan(path: Path) -> Plan | None:
    """The plan of the newest decision in a journal, or None where there is none."""
    newest = None
    for newest in records(path):  # noqa: B007 - the last one is wanted
        pass
    return None if newest is None else newest.plan
