"""The process in which `variants.profiler` measures one variant: `python -m variants.measure compile|measure FOLDER`.

FOLDER holds `order.json` and `inputs.npz`; `answer.json` and `outputs.npz` are written there.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from variants import engines, varying
from variants.catalog import Model, Variant
from variants.data import batches as cut
from variants.data import repeated
from variants.engines.base import Array, CompilingEngine, Engine, LoadRequest, Tensors
from variants.errors import EngineFailed
from variants.process import Peak, held, trim
from variants.quality import concatenate

#: Rounds of measuring, and the fewest calls of each.
ROUNDS, MIN_CALLS = 6, 3
WARM_CALLS = 3
EVALUATION_BATCH = 8
#: Other shapes are run for so long at most.
SHAPES_SECONDS = 60.0
#: Loads before the one that is measured: the fastest counts, as of calls.
LOADS = 3
#: The file of FOLDER for what an engine made of the artefact.
COMPILED = "compiled"


def main(folder: Path, step: str) -> None:
    """`compile`: write what the engine makes of the artefact. `measure`: what `order.json` asks for, loaded from that where it is
    there, as a host loads it."""
    order = json.loads((folder / "order.json").read_text())
    model = Model.model_validate(order["model"])
    variant = Variant.model_validate(order["variant"])
    with np.load(folder / "inputs.npz", allow_pickle=False) as arrays:
        data: dict[str, Array] = {name: arrays[name] for name in arrays.files}
    request = LoadRequest(
        model,
        variant,
        Path(order["folder"]),
        threads=order["threads"],
        device=variant.runs_on,
        calls=order["calls"],
    )
    warm = next(iter(cut(model, data, 1)))
    if step == "compile":
        _store(request, folder / COMPILED, warm)
        return
    if (folder / COMPILED).exists():
        request = replace(request, compiled=folder / COMPILED)
    if order["batches"]:
        # What a runtime keeps when its models are gone (thread pools, caches of compiled code) is no variant's.
        times = [_loaded(request, warm) for _ in range(LOADS)]
        trim()
    baseline, device_baseline = held(), gpu_bytes()
    with Peak() as peak:
        engine = engines.load(request)
        after_load = held() - baseline
        engine.infer(warm)
        width = variant.width(order["calls"])
        abreast, inputs = Abreast(engine, order["calls"] // width), inputs_only(model, data)
        for size in order["batches"]:
            abreast.infer(repeated(inputs, size))
        run_each(abreast, model, varying.typical(model, inputs))
    # What an engine needed for its first calls only it has let go of after these.
    results = measure_batches(engine, model, data, order["batches"], order["seconds_per_batch"])
    trim()
    resident, account = held() - baseline, engine.resident()
    answer = {
        "resident_bytes": max(0, resident),
        "device_bytes": max(0, gpu_bytes() - device_baseline),
        "loaded_bytes": max(0, after_load),
        "peak_bytes": max(0, resident, peak.bytes - baseline),
        "width": width,
        "engine_bytes": account.host_bytes + account.device_bytes,
        "batches": results,
    }
    if order["batches"]:
        answer["load_seconds"], answer["warmup_seconds"] = (min(each) for each in zip(*times, strict=True))
    if shapes := run_each(abreast, model, varying.calls(model, inputs, order["batches"])):
        trim()
        answer["shapes"] = shapes
        answer["shapes_bytes"] = max(0, held() - baseline - resident)
    outputs = concatenate([engine.infer(batch) for batch in cut(model, data, min(EVALUATION_BATCH, model.max_batch))])
    engine.close()
    np.savez(folder / "outputs.npz", **outputs)  # type: ignore[arg-type]
    (folder / "answer.json").write_text(json.dumps(answer))


def _store(request: LoadRequest, path: Path, sample: dict[str, Array]) -> None:
    """Write what the engine makes of the artefact. Raises EngineFailed when it computes something else from that."""
    engine = engines.load(request)
    assert isinstance(engine, CompilingEngine)
    path.write_bytes(engine.compiled())
    expected = engine.infer(sample)
    outputs = engines.load(replace(request, compiled=path)).infer(sample)
    if not all(np.allclose(outputs[name], expected[name], 1e-3, 1e-4) for name in expected):
        raise EngineFailed(f"{request.variant.name}: computes something else once it is stored compiled")


def _loaded(request: LoadRequest, sample: dict[str, Array]) -> tuple[float, float]:
    """Load, call once and close; returns the seconds that loading and the call took."""
    started = time.perf_counter()
    engine = engines.load(request)
    loaded = time.perf_counter()
    engine.infer(sample)
    called = time.perf_counter()
    engine.close()
    return loaded - started, called - loaded


class Abreast:
    """Makes each call as often at once as a host would: an engine keeps something for each of its streams."""

    def __init__(self, engine: Engine, calls: int) -> None:
        self._engine = engine
        self._calls = calls
        self._pool = ThreadPoolExecutor(calls)
        self._together = threading.Barrier(calls)

    def infer(self, inputs: Tensors) -> None:
        """Returns when the last of the calls has. Raises what the engine raises."""
        for made in [self._pool.submit(self._one, inputs) for _ in range(self._calls)]:
            made.result()

    def _one(self, inputs: Tensors) -> None:
        self._together.wait()
        self._engine.infer(inputs)


def measure_batches(
    engine: Any, model: Model, data: dict[str, Array], sizes: Sequence[int], seconds: float
) -> list[dict[str, float]]:
    """Latency of calls with so many samples each, for about `seconds` of every size, after a warm-up.

    In several rounds over all sizes, of which the fastest counts for each: what a variant costs is what it costs by
    itself, and what disturbs a machine for a while slows some rounds.
    """
    inputs = inputs_only(model, data)
    batches = {n: repeated(inputs, n) for n in sizes}
    for batch in batches.values():
        for _ in range(WARM_CALLS):
            engine.infer(batch)
    times: dict[int, list[list[float]]] = {n: [] for n in sizes}
    for _ in range(ROUNDS):
        for size, batch in batches.items():
            times[size].append(_round(engine, batch, seconds / ROUNDS))
    return [_figures(size, min(times[size], key=lambda t: float(np.median(t)))) for size in sizes]


def run_each(engine: Any, model: Model, calls: Iterable[dict[str, Array]], seconds: float = SHAPES_SECONDS) -> int:
    """Make these calls of a model whose inputs vary (`variants.varying`), for `seconds` and one call at most, so that the
    engine keeps what it keeps for each shape; returns how many were made.

    A shape of the data that the engine refuses is left out; raises EngineFailed for one at which a padded model is run.
    """
    end, made = time.perf_counter() + seconds, 0
    for call in calls:
        if made and time.perf_counter() >= end:
            break
        try:
            engine.infer(call)
            made += 1
        except EngineFailed:
            if model.pad:
                raise
    return made


def _round(engine: Any, batch: dict[str, Array], seconds: float) -> list[float]:
    engine.infer(batch)  # the first call of another shape is not like the others
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_CALLS or time.perf_counter() < end:
        before = time.perf_counter()
        engine.infer(batch)
        times.append(time.perf_counter() - before)
    return times


def _figures(size: int, times: list[float]) -> dict[str, float]:
    p50, p99 = (float(q) for q in np.quantile(times, (0.5, 0.99)))
    return {"batch": size, "p50_seconds": p50, "p99_seconds": p99, "throughput": size * len(times) / sum(times)}


def inputs_only(model: Model, data: dict[str, Array]) -> dict[str, Array]:
    """The model's inputs, without labels."""
    return {spec.name: data[spec.name] for spec in model.inputs}


def gpu_bytes() -> int:
    """What this process holds on all GPUs by NVML's count, else what torch's allocator holds; 0 without a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    return nvml_bytes() or int(torch.cuda.memory_reserved())


def nvml_bytes() -> int:
    """This process's memory on all GPUs as NVML counts it; 0 where it cannot say (another pid namespace, no driver)."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        running = [p for h in handles for p in pynvml.nvmlDeviceGetComputeRunningProcesses(h)]
    except Exception:
        return 0
    return sum(p.usedGpuMemory or 0 for p in running if p.pid == os.getpid())


if __name__ == "__main__":
    main(Path(sys.argv[2]), sys.argv[1])
