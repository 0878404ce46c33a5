"""What the host adds to an engine call: requests per second and microseconds per request, in process, with an engine
that does next to nothing.

    python -m benchmarks.host_overhead [--seconds 3] [--uvloop] [--profile]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import time

import numpy as np
from prometheus_client import CollectorRegistry

from deployments.config import HostConfig
from deployments.host import ModelHost
from variants.catalog import Catalog, Entry, Ladder, Lineage, Model, Source, TensorSpec, Variant
from variants.engines.base import LoadRequest, Residency, Tensors


class Trivial:
    """y = x."""

    def __init__(self, request: LoadRequest) -> None:
        pass

    def infer(self, inputs: Tensors) -> dict[str, np.ndarray]:
        return {"y": np.array(inputs["x"])}

    def resident(self) -> Residency:
        return Residency(0)

    def close(self) -> None:
        pass


def build_host() -> ModelHost:
    spec = {"datatype": "FP32", "shape": (-1, 16)}
    model = Model(
        name="m",
        task="none",
        inputs=(TensorSpec(name="x", **spec),),
        outputs=(TensorSpec(name="y", **spec),),
        max_batch=32,
        source=Source(onnx="none"),
    )
    variant = Variant(
        name="v", engine="onnx", precision="fp32", artefact="none", lineage=Lineage(technique="none"), tolerance=0
    )
    entry = Entry(model=model, variants={"v": variant}, ladder=Ladder(model="m", rungs=("v",)), path="none")
    return ModelHost(
        Catalog(device="none", entries={"m": entry}),
        HostConfig(),
        registry=CollectorRegistry(),
        host_id="benchmark",
        load=Trivial,
        check=lambda folder, variant: None,
        read_canary=lambda folder: None,
    )


async def measure(host: ModelHost, concurrency: int, seconds: float) -> tuple[float, float, float]:
    """Requests per second, their mean batch, and CPU seconds of this process per second."""
    inputs = {"x": np.ones((1, 16), np.float32)}
    count = batches = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal count, batches
        while time.perf_counter() < end:
            answer = await host.infer("m", inputs)
            count += 1
            batches += answer.batch

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    elapsed = time.perf_counter() - started
    return count / elapsed, batches / count, (time.process_time() - cpu) / elapsed


async def main(seconds: float, profile: bool) -> None:
    host = build_host()
    await host.start()
    await measure(host, 16, 0.3)
    for concurrency in (1, 16, 64):
        rate, batch, cpu = await measure(host, concurrency, seconds)
        print(
            f"concurrency {concurrency:3}: {rate:8.0f} requests/s, {1e6 / rate:6.1f} us per request, "
            f"mean batch {batch:4.1f}, {cpu:.2f} cores"
        )
    if profile:
        profiler = cProfile.Profile()
        profiler.enable()
        await measure(host, 16, seconds)
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
    await host.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--uvloop", action="store_true", help="on uvloop, as in the server")
    args = parser.parse_args()
    if args.uvloop:
        import uvloop

        uvloop.run(main(args.seconds, args.profile))
    else:
        asyncio.run(main(args.seconds, args.profile))
