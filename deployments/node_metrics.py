"""Memory, CPU and GPU gauges of a process and its node, measured at each scrape."""

from __future__ import annotations

import os
from collections.abc import Iterable

import psutil
from prometheus_client.core import GaugeMetricFamily, Metric

from budgets import exposition as names
from deployments import memory
from deployments.gpu import Gpus
from variants.process import pss


class NodeCollector:
    """`role` names this process in `trimtab_process_memory_bytes`. Called in the exporter's threads, and safe there.

    CPU utilisation is that since the previous scrape, whoever made it.
    """

    def __init__(self, gpus: Gpus, *, role: str) -> None:
        self._gpus = gpus
        self._role = role
        psutil.cpu_percent(None)  # the first reading has nothing to compare with

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus_client."""
        pid = os.getpid()
        process = GaugeMetricFamily(
            names.PROCESS_MEMORY, "Proportional set size of one of trimtab's processes, bytes", labels=["pid", "role"]
        )
        process.add_metric([str(pid), self._role], float(pss(pid)))
        yield process
        bounds = memory.bounds()
        yield GaugeMetricFamily(
            names.NODE_MEMORY_USED,
            "Memory in use on the node, or in its cgroup where that has a limit",
            float(bounds.used),
        )
        yield GaugeMetricFamily(
            names.NODE_MEMORY_LIMIT, "The node's memory, or its cgroup's limit", float(bounds.limit)
        )
        yield GaugeMetricFamily(
            names.NODE_CPU, "Fraction of all cores in use since the last scrape", psutil.cpu_percent(None) / 100.0
        )
        yield from self._gpu(pid)

    def _gpu(self, pid: int) -> Iterable[Metric]:
        used = GaugeMetricFamily(names.GPU_MEMORY_USED, "Memory in use on the GPU", labels=["gpu"])
        limit = GaugeMetricFamily(names.GPU_MEMORY_LIMIT, "The GPU's memory", labels=["gpu"])
        busy = GaugeMetricFamily(names.GPU_UTILIZATION, "Fraction of time the GPU was busy", labels=["gpu"])
        own = GaugeMetricFamily(names.PROCESS_GPU_MEMORY, "GPU memory of this process", labels=["pid", "gpu"])
        readings = self._gpus.read()
        for gpu in readings:
            label = str(gpu.index)
            used.add_metric([label], float(gpu.used))
            limit.add_metric([label], float(gpu.limit))
            if gpu.utilization is not None:
                busy.add_metric([label], gpu.utilization)
            if pid in gpu.processes:
                own.add_metric([str(pid), label], float(gpu.processes[pid]))
        if readings:
            yield from (used, limit, busy, own)
