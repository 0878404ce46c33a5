"""Memory of the processes outside trimtab that share a budget with it, as a metric."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil
from prometheus_client.core import GaugeMetricFamily, Metric

from budgets.config import Budget, Neighbour
from budgets.exposition import NEIGHBOUR_MEMORY
from variants.process import pss


def measure(neighbour: Neighbour) -> int:
    """Bytes a neighbour uses now: the proportional set size of its process tree, or its cgroup's `memory.current`.

    0 when it is not running (its pid file is absent, its process has ended). Raises OSError when it may not be read.
    """
    if neighbour.cgroup is not None:
        return int((Path(neighbour.cgroup) / "memory.current").read_text())
    pid = neighbour.pid
    if neighbour.pid_file is not None:
        try:
            pid = int(Path(neighbour.pid_file).read_text())
        except (FileNotFoundError, ValueError):
            return 0
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
                total += pss(member.pid)
    return total


class NeighbourCollector:
    """Exports `trimtab_neighbour_memory_bytes` for every neighbour of every budget, measured at each scrape. One that
    cannot be measured is left out, so that a sum over the named ones is missing rather than too small."""

    def __init__(self, budgets: Iterable[Budget]) -> None:
        self.watch(budgets)

    def watch(self, budgets: Iterable[Budget]) -> None:
        """Measure the neighbours of these budgets from now on."""
        self._neighbours = {n.name: n for b in budgets for n in b.neighbours}

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus_client at each scrape."""
        family = GaugeMetricFamily(NEIGHBOUR_MEMORY, "Memory of a neighbour, bytes", labels=["neighbour"])
        for name, neighbour in self._neighbours.items():
            with contextlib.suppress(OSError, ValueError, psutil.Error):
                family.add_metric([name], float(measure(neighbour)))
        yield family
