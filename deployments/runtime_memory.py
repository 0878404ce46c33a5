"""What Ray's own processes on this node cost, as a metric beside the hosts' and the controller's own."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable

import psutil
from prometheus_client.core import GaugeMetricFamily, Metric

from budgets.exposition import PROCESS_MEMORY
from variants.process import pss

REFRESH_SECONDS = 30.0


def runtime_processes(pid: int) -> list[int]:
    """The pids of the Ray runtime around one of its workers: the raylet, its other workers, and the raylet's siblings
    (GCS, monitors, agents); model hosts and the worker itself, which report their own memory, are left out."""
    with contextlib.suppress(psutil.Error):
        raylet = psutil.Process(pid).parent()
        if raylet is None or "raylet" not in raylet.name():
            return []
        launcher = raylet.parent()
        family = {raylet.pid, *(child.pid for child in raylet.children(recursive=True))}
        if launcher is not None and launcher.pid > 1:
            family.add(launcher.pid)
            family.update(child.pid for child in launcher.children(recursive=True))
        return sorted(p for p in family - {pid} if not _is_host(p))
    return []


def _is_host(pid: int) -> bool:
    try:
        return HOST_TITLE in " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return True


#: Ray titles a Serve replica's process `ray::ServeReplica:<application>:<deployment>`.
HOST_TITLE = "ray::ServeReplica:"


class RuntimeMemoryCollector:
    """Exports `trimtab_process_memory_bytes` for the control process (measured at each scrape) and for the Ray runtime
    around it (a sum, measured at most every 30 s, since it hardly changes and costs a walk over some ten processes)."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._runtime_bytes = 0
        self._measured = 0.0

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus_client at each scrape."""
        now = time.monotonic()
        if self._measured == 0.0 or now - self._measured > REFRESH_SECONDS:
            total = 0
            for pid in runtime_processes(self._pid):
                with contextlib.suppress(OSError):
                    total += pss(pid)
            self._runtime_bytes, self._measured = total, now
        family = GaugeMetricFamily(
            PROCESS_MEMORY, "Proportional set size of one of trimtab's processes, bytes", labels=["pid", "role"]
        )
        family.add_metric([str(self._pid), "control"], float(pss(self._pid)))
        family.add_metric([str(os.getppid()), "runtime"], float(self._runtime_bytes))
        yield family
