"""`profiles.csv`: what each variant costs and gives on each device. The format is in the README and stays."""

from __future__ import annotations

import math
from pathlib import Path

from budgets.fleet.world import Rung
from budgets.replay.tables import open_table
from variants.errors import ConfigError

NAMES = ("model", "variant", "device")
PROFILE = (*NAMES, "batch", "latency_seconds", "memory_bytes", "load_seconds", "quality")
#: No engine takes more at once; a table of seconds by batch size is kept for each variant.
MOST_BATCH = 65536
#: Qualities in different units: shares of one are at most SHARE, and what is above PER_CENT is none.
SHARE, PER_CENT = 1.0, 20.0
_SIZES = "a number of 0 or more"
_LIMITS = {
    "latency_seconds": (5e-324, "a number above 0"),
    "memory_bytes": (0.0, _SIZES),
    "load_seconds": (0.0, _SIZES),
    "quality": (-math.inf, "a number"),
}
Key = tuple[str, str, str]


def read_profiles(path: Path) -> tuple[Rung, ...]:
    """CSV, gzipped CSV or parquet. Raises ConfigError naming the file, the line and what was wrong."""
    seconds: dict[Key, dict[int, tuple[float, str]]] = {}
    facts: dict[Key, tuple[float, float, float]] = {}
    lines: dict[Key, str] = {}
    with open_table(path, PROFILE) as rows:
        place = [rows.header.index(c) for c in PROFILE]
        for number, row in rows.numbered:
            where, line = rows.at(number), f"{rows.unit} {number}"
            fields = dict(zip(PROFILE, (_plain(row[i]) for i in place), strict=True))
            if empty := [c for c in NAMES if not fields[c]]:
                raise ConfigError(f"{where}: no {', '.join(empty)}")
            model, variant, device = (fields[c] for c in NAMES)
            key = (model, variant, device)
            latency, memory, load, quality = (_number(where, c, fields[c]) for c in _LIMITS)
            batch = _batch(where, fields["batch"])
            same = seconds.setdefault(key, {})
            if batch in same:
                raise ConfigError(f"{where}: {'/'.join(key)} has batch {batch} on {same[batch][1]} already")
            same[batch] = latency, line
            old = facts.setdefault(key, (memory, load, quality))
            if old[2] != quality:
                raise ConfigError(f"{where}: quality: {'/'.join(key)} has {old[2]:g} on {lines[key]}")
            lines.setdefault(key, line)
            facts[key] = (max(old[0], memory), max(old[1], load), quality)
    if not facts:
        raise ConfigError(f"{path}: no profiles")
    _check_units(path, facts, lines)
    return tuple(Rung(*key, facts[key][2], facts[key][0], facts[key][1], _batches(seconds[key])) for key in facts)


def _plain(value: object) -> str:
    return "" if value is None else str(value).strip()


def _number(where: str, column: str, text: str) -> float:
    low, accepted = _LIMITS[column]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < low:
        raise ConfigError(f"{where}: {column}: {text!r} is not {accepted}")
    return value


def _batch(where: str, text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1 <= value <= MOST_BATCH or value != int(value):
        raise ConfigError(f"{where}: batch: {text!r} is not a whole number from 1 to {MOST_BATCH}")
    return int(value)


def _check_units(path: Path, facts: dict[Key, tuple[float, float, float]], lines: dict[Key, str]) -> None:
    """A model's variants are weighed against each other: a share of one beside a percentage would count for nothing."""
    share: dict[str, Key] = {}
    other: dict[str, Key] = {}
    for key, (_, _, quality) in facts.items():
        if 0 < quality <= SHARE:
            share.setdefault(key[0], key)
        elif quality > PER_CENT:
            other.setdefault(key[0], key)
    for model in sorted(share.keys() & other.keys()):
        one, two = share[model], other[model]
        raise ConfigError(
            f"{path}: quality: {facts[one][2]:g} of {'/'.join(one)} ({lines[one]}) and {facts[two][2]:g} of "
            f"{'/'.join(two)} ({lines[two]}) are not of one unit: all shares of one, or all per cent"
        )


def _batches(rows: dict[int, tuple[float, str]]) -> tuple[tuple[int, float], ...]:
    made: list[tuple[int, float]] = []
    for batch, (seconds, _) in sorted(rows.items()):
        # A larger batch that was measured faster is noise: it takes at least as long as the smaller one.
        made.append((batch, max(seconds, made[-1][1] if made else 0.0)))
    if made[0][0] > 1:
        made.insert(0, (1, made[0][1]))
    return tuple(made)
