"""A trace's columns: checked row by row, and compact from the first row on."""

from __future__ import annotations

import datetime
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from budgets.replay.tables import Rows, number_of, open_table
from variants.errors import ConfigError

NEEDED = ("time_seconds", "model")
RATE = "requests_per_second"
#: Of an event, besides its time.
EVENT = ("event", "target", "value")
#: The year 5138 in seconds since 1970; in milliseconds it is 1973, before which no trace was taken.
LATEST = 1e11


@dataclass
class Columns:
    """`index` says which of `models` each row is of; `rates` are there when the file has them. `first`: where each model
    was read first. `events`: where each was read, and its fields."""

    times: npt.NDArray[np.float64]
    models: list[str]
    index: npt.NDArray[np.int64]
    rates: npt.NDArray[np.float64] | None
    first: dict[str, str]
    events: list[tuple[str, dict[str, Any]]]


def read_columns(path: Path) -> Columns:
    """Raises ConfigError naming the file, the line (parquet: row) and what was wrong."""
    with open_table(path, NEEDED, (RATE, *EVENT)) as rows:
        return _collect(rows)


def _collect(rows: Rows) -> Columns:
    at = {name: i for i, name in enumerate(rows.header)}
    time_at, model_at = (at[name] for name in NEEDED)
    rate_at, event_at = at.get(RATE), at.get("event")
    times, index, rates = array("d"), array("q"), array("d")
    models: dict[str, int] = {}
    first: dict[str, str] = {}
    known: dict[Any, int] = {}
    events: list[tuple[str, dict[str, Any]]] = []
    for number, row in rows.numbered:
        if event_at is not None and row[event_at] not in ("", None):
            named = {k: row[at[k]] for k in ("time_seconds", *EVENT) if k in at}
            events.append((f"{rows.unit} {number}", named))
            continue
        try:
            time = float(row[time_at])
        except (TypeError, ValueError):
            time = -1.0
        if not 0 <= time < LATEST:
            raise ConfigError(_no_time(rows.at(number), row[time_at], time))
        times.append(time)
        model = row[model_at]
        place = known.get(model)
        if place is None:
            name = "" if model is None or model != model else str(model).strip()
            if not name:
                raise ConfigError(f"{rows.at(number)}: no model")
            place = known[model] = models.setdefault(name, len(models))
            first.setdefault(name, f"{rows.unit} {number}")
        index.append(place)
        if rate_at is not None:
            rates.append(
                number_of(
                    lambda: rows.at(number),  # noqa: B023 (called at once)
                    RATE,
                    row[rate_at],
                    "a number of 0 or more",
                    low=0.0,
                    high=1e12,
                )
            )
    return Columns(
        np.frombuffer(times, dtype=np.float64),
        list(models),
        np.frombuffer(index, dtype=np.int64),
        None if rate_at is None else np.frombuffer(rates, dtype=np.float64),
        first,
        events,
    )


def rows_at(path: Path, model: str, time: float) -> list[int]:
    """The numbers of the rows (CSV: lines) of a model at a time, read again. Raises ConfigError."""
    with open_table(path, NEEDED) as rows:
        time_at, model_at = (rows.header.index(name) for name in NEEDED)
        event_at = rows.header.index("event") if "event" in rows.header else None
        return [
            number
            for number, row in rows.numbered
            if (event_at is None or row[event_at] in ("", None))
            and float(row[time_at]) == time
            and str(row[model_at]).strip() == model
        ]


def _no_time(where: str, value: Any, time: float) -> str:
    if LATEST <= time < float("inf"):
        return f"{where}: time_seconds: {value!r} is too late for seconds: milliseconds, or finer? Seconds are needed"
    hint = "; of dates, seconds since any moment are needed" if _dated(value) else ""
    shown = value if isinstance(value, (str, int, float)) or value is None else str(value)
    return f"{where}: time_seconds: {shown!r} is not a number of 0 or more{hint}"


def _dated(value: Any) -> bool:
    """It is a date, or reads like one."""
    if isinstance(value, datetime.date):
        return True
    try:
        datetime.datetime.fromisoformat(str(value).strip())
    except ValueError:
        return False
    return True
