"""GPU readings through NVML. Everything is empty where there is no NVML library or no GPU."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from variants.process import trim

log = logging.getLogger("trimtab.gpu")


@dataclass(frozen=True)
class GpuReading:
    """One GPU. Memory in bytes, `utilization` a fraction of 1. `processes`: pid -> bytes, where NVML says."""

    index: int
    used: int
    limit: int
    utilization: float | None
    processes: dict[int, int]


class Gpus:
    """NVML, opened when first asked. Each call blocks for about a millisecond per GPU."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._opened = False

    def _open(self) -> Any:
        if not self._opened:
            self._opened = True
            try:
                import pynvml

                pynvml.nvmlInit()
                self._nvml = pynvml
            except Exception as error:  # ImportError or NVMLError: a machine without a GPU is no fault
                log.debug("no GPU readings: %s", error)
        return self._nvml

    def read(self) -> tuple[GpuReading, ...]:
        """Every GPU that NVML shows; one that fails to answer is left out."""
        nvml = self._open()
        if nvml is None:
            return ()
        readings = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                processes = {
                    int(p.pid): int(p.usedGpuMemory or 0) for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
                }
            except nvml.NVMLError as error:
                log.debug("GPU %d does not answer: %s", index, error)
                continue
            readings.append(
                GpuReading(index, int(memory.used), int(memory.total), _utilization(nvml, handle), processes)
            )
        return tuple(readings)


def _utilization(nvml: Any, handle: Any) -> float | None:
    """None where the GPU has no such counter (a MIG slice)."""
    try:
        return float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100.0
    except nvml.NVMLError:
        return None


def _physical(index: int) -> int:
    """NVML counts all of the machine's GPUs, CUDA only the visible ones."""
    visible = [v.strip() for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return int(visible[index]) if index < len(visible) and visible[index].isdigit() else index


class GpuMemory:
    """One GPU as the memory that a host's models live in (the counterpart of `deployments.memory.ProcessMemory`).

    `used` is the process's own where NVML shows it (not in every container), else the whole GPU's.
    """

    def __init__(self, gpus: Gpus, device: str) -> None:
        """`device`: `cuda` (the first) or `cuda:1`, as CUDA counts."""
        self._gpus = gpus
        self._index = _physical(int(device.partition(":")[2] or 0))

    def _reading(self) -> GpuReading:
        for reading in self._gpus.read():
            if reading.index == self._index:
                return reading
        raise OSError(f"NVML shows no GPU {self._index}")

    def used(self) -> int:
        reading = self._reading()
        return reading.processes.get(os.getpid()) or reading.used

    def headroom(self) -> int:
        reading = self._reading()
        return max(0, reading.limit - reading.used)

    def trim(self) -> None:
        trim()
