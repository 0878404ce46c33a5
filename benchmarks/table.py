"""Measurements of interleaved rounds to one table (medians) and one figure."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True)
class Sample:
    """One server in one round. `rate`: right answers per second; quantiles in milliseconds; `cpu`: CPU seconds of all
    the server's processes for 1,000 answers; sizes in bytes. None: not measured in this case."""

    workload: str
    case: str
    server: str
    rate: float
    p50: float | None
    p99: float | None
    cpu: float
    rss: int
    pss: int
    answers: int


@dataclass(frozen=True)
class Row:
    """The medians of a server's rounds; `rounds`: how many there were, `answers`: all that were checked."""

    workload: str
    case: str
    server: str
    rate: float
    p50: float | None
    p99: float | None
    cpu: float
    rss: float
    pss: float
    rounds: int
    answers: int


def rows(samples: Iterable[Sample]) -> list[Row]:
    """One row for each server in each case, in the order in which they were first measured."""
    groups: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.workload, sample.case, sample.server), []).append(sample)
    cases = list(dict.fromkeys(key[:2] for key in groups))
    return [
        Row(
            *key,
            rate=statistics.median(s.rate for s in group),
            p50=_median([s.p50 for s in group]),
            p99=_median([s.p99 for s in group]),
            cpu=statistics.median(s.cpu for s in group),
            rss=statistics.median(s.rss for s in group),
            pss=statistics.median(s.pss for s in group),
            rounds=len(group),
            answers=sum(s.answers for s in group),
        )
        for key, group in sorted(groups.items(), key=lambda item: cases.index(item[0][:2]))
    ]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


HEAD = ("workload", "case", "server", "requests/s", "p50 ms", "p99 ms", "CPU s / 1,000", "RSS MiB", "PSS MiB")


def cells(row: Row) -> list[str]:
    """A row as text."""
    return [
        row.workload,
        row.case,
        row.server,
        f"{row.rate:,.0f}",
        "–" if row.p50 is None else f"{row.p50:.2f}",
        "–" if row.p99 is None else f"{row.p99:.2f}",
        f"{row.cpu:.2f}",
        f"{row.rss / MIB:,.0f}",
        f"{row.pss / MIB:,.0f}",
    ]


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]], text_columns: int) -> str:
    """A table in Markdown, its columns aligned in the source too; the first ones are text, the others numbers."""
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]

    def put(line: Sequence[str]) -> str:
        done = [
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return f"| {' | '.join(done)} |"

    rule = ["-" * width if i < text_columns else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([put(head), put(rule), *map(put, lines)])


def machine() -> str:
    """What it ran on, in a line."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        "unknown CPU",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cpu}, {cores} cores for the servers and the load generator together, {memory:.0f} GiB, Linux {os.uname().release}"


def report(samples: Sequence[Sample], notes: Sequence[str]) -> str:
    """The table with the machine, the rounds and what could not be measured."""
    found = rows(samples)
    rounds = sorted({row.rounds for row in found})
    said = "-".join(str(n) for n in dict.fromkeys((rounds[0], rounds[-1]))) if rounds else "no"
    lines = [
        markdown(HEAD, [cells(row) for row in found], 3),
        "",
        f"Medians of {said} interleaved rounds; {sum(row.answers for row in found):,} answers, all of them right. {machine()}.",
        *notes,
    ]
    return "\n".join(lines)


def keep(path: Path, samples: Sequence[Sample], workloads: Sequence[str], servers: Sequence[str]) -> list[Sample]:
    """Write samples beside those that the file holds of other servers and workloads; returns all, in that order of the
    workloads and of the servers."""
    done = {(sample.workload, sample.server) for sample in samples}
    old = [Sample(**s) for s in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
    kept = [s for s in old if (s.workload, s.server) not in done] + list(samples)
    kept.sort(key=lambda sample: (workloads.index(sample.workload), servers.index(sample.server)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(s) for s in kept], indent=0), encoding="utf-8")
    return kept
