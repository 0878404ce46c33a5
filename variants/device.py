"""This machine as the profiles know it: a stable fingerprint, and how much of its CPU is ours."""

from __future__ import annotations

import functools
import importlib.metadata
import math
import os
import platform
from collections.abc import Set
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
#: CPU flags that change what an engine can do.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "i8mm", "bf16")
#: Any of these flags: int8 products are added up in 32 bits.
EXACT = {"avx512_vnni", "avx_vnni", "amx_int8"}
X86 = {"x86_64", "AMD64"}
LIBRARIES = ("openvino", "onnxruntime", "torch")


@functools.cache
def fingerprint() -> str:
    """A readable name of the device and of what executes on it: CPU model, its relevant flags, CPUs, GPU, libraries.

    The same on every start of the same machine with the same libraries; a profile counts only where it matches.
    """
    model, flags = _cpu()
    parts = [model, "+".join(f for f in FLAGS if f in flags) or "baseline", f"{os.cpu_count() or 1} cpus"]
    parts += list(gpu_names())
    parts += [f"{name} {_version(name)}" for name in LIBRARIES if _version(name)]
    return "; ".join(parts)


def exact_products(flags: Set[str] | None = None) -> bool:
    """Whether the CPU (or one with these flags) adds up int8 products without saturating. x86 without VNNI adds pairs of them in
    16 bits (`pmaddubsw`), which two large weights overflow."""
    return bool((_cpu()[1] if flags is None else flags) & EXACT) or platform.machine() not in X86


@functools.cache
def gpu_names() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs that NVML sees, with their compute capability and driver; empty where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return ()
    names = []
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        driver = driver if isinstance(driver, str) else driver.decode()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            name = pynvml.nvmlDeviceGetName(handle)
            names.append(f"{name if isinstance(name, str) else name.decode()} sm_{major}{minor} driver {driver}")
    except pynvml.NVMLError:
        return tuple(names)
    finally:
        pynvml.nvmlShutdown()
    return tuple(names)


def cpu_share() -> float:
    """CPUs this process may use: the smallest of its cgroup's quota (v2 or v1), its affinity, and what there is."""
    share = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota = cgroup_quota(CGROUP)
    return min(share, quota) if quota is not None else share


def cgroup_quota(root: Path) -> float | None:
    """The CPU quota of the cgroup mounted at `root`, in CPUs; None when unlimited or unknown."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)


def calls_at_once(threads: int) -> int:
    """How many engine calls of `threads` threads each the CPU share carries: at least 1."""
    return max(1, int(cpu_share() // max(1, threads)))


def default_threads() -> int:
    """Threads that fit the CPU share: its floor, at least 1. For work that has the machine to itself."""
    return max(1, math.floor(cpu_share()))


def call_threads(device: str = "cpu") -> int:
    """Threads of an engine call in a host. On a CPU half of the share, so that two calls run at once: a call's threads wait for
    each other at every layer, the more the smaller the call is and the busier the cores are."""
    return max(1, default_threads() // 2) if device == "cpu" else default_threads()


def _cpu() -> tuple[str, set[str]]:
    model, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = " ".join(value.split())
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
            if flags and model:
                continue
    except OSError:
        pass
    return model, flags


@functools.cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
