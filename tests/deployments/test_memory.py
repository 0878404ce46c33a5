"""What the kernel's files say, and that freed memory comes back."""

from __future__ import annotations

import mmap
import os
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from deployments import memory
from deployments.gpu import GpuMemory, GpuReading, Gpus
from variants import process
from variants.engines.mapped import MappedFile

GIB = 1 << 30
MEMINFO = f"MemTotal: {8 * GIB >> 10} kB\nMemFree: 1 kB\nMemAvailable: {3 * GIB >> 10} kB\nHugePages_Total: 0\n"


@pytest.fixture
def machine(tmp_path):
    """machine(cgroup line, {path under the cgroup mount: text}) -> keyword arguments of the functions under test."""

    def make(line, files):
        proc, root = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        (proc / "meminfo").write_text(MEMINFO)
        (proc / "self" / "cgroup").write_text(line + "\n")
        root.mkdir()
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        return {"proc": proc, "root": root}

    return make


def v2(folder, limit, used, cache=0):
    return {
        f"{folder}memory.max": f"{limit}\n",
        f"{folder}memory.current": f"{used}\n",
        f"{folder}memory.stat": f"anon 5\ninactive_file {cache}\n",
    }


def test_a_machine_without_limits(machine):
    where = machine("0::/x", v2("x/", "max", GIB))
    assert memory.cgroup(**where) is None
    assert memory.bounds(**where) == memory.Limited(5 * GIB, 8 * GIB)
    assert memory.headroom(**where) == 3 * GIB


def test_a_v2_limit_counts_the_working_set(machine):
    where = machine("0::/pod/x", v2("pod/x/", 4 * GIB, 3 * GIB, cache=GIB) | v2("pod/", "max", 3 * GIB))
    assert memory.bounds(**where) == memory.Limited(2 * GIB, 4 * GIB)
    assert memory.headroom(**where) == 2 * GIB


def test_the_tightest_ancestor_decides(machine):
    where = machine("0::/pod/x", v2("pod/x/", 4 * GIB, GIB) | v2("pod/", 2 * GIB, 3 * GIB >> 1))
    assert memory.headroom(**where) == GIB >> 1


def test_the_machine_decides_where_it_has_less(machine):
    where = machine("0::/x", v2("x/", 7 * GIB, GIB))
    assert memory.headroom(**where) == 3 * GIB


def test_a_v1_limit(machine):
    files = {
        "memory/x/memory.limit_in_bytes": str(4 * GIB),
        "memory/x/memory.usage_in_bytes": str(3 * GIB),
        "memory/x/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/memory.usage_in_bytes": str(6 * GIB),
        "memory/memory.stat": "",
    }
    assert memory.bounds(**machine("4:memory:/x\n0::/", files)) == memory.Limited(2 * GIB, 4 * GIB)


def test_a_v1_cgroup_without_a_limit(machine):
    files = {
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/memory.usage_in_bytes": "1",
        "memory/memory.stat": "",
    }
    assert memory.cgroup(**machine("4:cpu,memory:/", files)) is None


def test_a_container_sees_its_own_cgroup_at_the_root_of_the_mount(machine):
    assert memory.headroom(**machine("0::/not/visible/here", v2("", 2 * GIB, GIB))) == GIB


def test_no_cgroup_file(machine, tmp_path):
    where = machine("", {})
    (tmp_path / "proc" / "self" / "cgroup").unlink()
    assert memory.bounds(**where).limit == 8 * GIB


def test_this_machine_and_process():
    assert 0 < process.held(os.getpid()) <= process.pss(os.getpid())
    assert 0 < memory.headroom() < memory.node().limit
    with pytest.raises(OSError, match=r"\d+"):
        process.held(2**22 + 1)


def test_what_is_only_read_of_a_mapped_file_is_not_held(tmp_path):
    (tmp_path / "weights").write_bytes(b"w" * (32 << 20))
    before = process.held()
    file = MappedFile(tmp_path / "weights")
    assert int(file.array[::4096].sum()) == (32 << 20) // 4096 * ord("w")  # every page is there
    assert process.held() - before < 8 << 20
    file.array[::4096] = 0
    assert process.held() - before > 24 << 20


def test_the_peak_is_of_what_was_held_not_of_what_was_read_of_files(tmp_path):
    (tmp_path / "weights").write_bytes(b"w" * (64 << 20))
    file = MappedFile(tmp_path / "weights")
    before = process.held()
    with process.Peak() as peak:
        assert int(file.array[::4096].sum())
        # malloc would keep more for itself from then on.
        for_a_while = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE)
        for_a_while[::4096] = b"1" * (len(for_a_while) // 4096)
        time.sleep(0.05)
        for_a_while.close()
    assert 24 << 20 < peak.bytes - before < 48 << 20
    assert process.held() - before < 8 << 20


def test_freed_memory_comes_back_after_a_trim():
    """Small blocks between others that stay: what malloc keeps until it is told to let go."""
    measure = memory.ProcessMemory(samples=3, pause_seconds=0.001)
    measure.trim()
    before = measure.used()
    blocks = [np.ones(6000, np.float64) for _ in range(2000)]  # 96 MB of 48 kB blocks
    held = measure.used()
    last = blocks[-1]
    del blocks
    measure.trim()
    after = measure.used()
    assert last[0] == 1
    assert held - before > 80_000_000
    assert held - after > 0.9 * (held - before)
    assert measure.headroom() > 0


def test_without_a_gpu_there_are_no_readings(monkeypatch):
    gpus = Gpus()
    monkeypatch.setattr(gpus, "_open", lambda: None)
    assert gpus.read() == ()
    with pytest.raises(OSError, match="no GPU 0"):
        GpuMemory(gpus, "cuda").used()


def test_gpu_memory_is_that_of_the_visible_device(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
    gpus = Gpus()
    readings = tuple(GpuReading(i, 100 * i, 1000, 0.5, {os.getpid(): 10 * i} if i == 1 else {}) for i in range(3))
    monkeypatch.setattr(gpus, "read", lambda: readings)
    assert (GpuMemory(gpus, "cuda:1").used(), GpuMemory(gpus, "cuda:1").headroom()) == (10, 900)
    assert GpuMemory(gpus, "cuda:0").used() == 200  # NVML does not show processes: the whole GPU's


def test_readings_from_nvml(monkeypatch):
    """A stand-in for the library: GPU 1 has fallen off the bus, GPU 2 is a MIG slice, which has no utilisation."""

    class NVMLError(Exception):
        pass

    def handle(index):
        if index == 1:
            raise NVMLError("lost")
        return index

    def rates(index):
        if index == 2:
            raise NVMLError("not supported")
        return SimpleNamespace(gpu=25)

    processes = [SimpleNamespace(pid=7, usedGpuMemory=123), SimpleNamespace(pid=8, usedGpuMemory=None)]
    library = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetMemoryInfo=lambda index: SimpleNamespace(used=10 + index, total=100),
        nvmlDeviceGetComputeRunningProcesses=lambda index: processes,
        nvmlDeviceGetUtilizationRates=rates,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert Gpus().read() == (
        GpuReading(0, 10, 100, 0.25, {7: 123, 8: 0}),
        GpuReading(2, 12, 100, None, {7: 123, 8: 0}),
    )
