"""A model host with engines of plain numpy behind both front ends, in a process of its own.

Usage: protocol_server.py HTTP_PORT GRPC_PORT [TOKENS_FILE]. With a tokens file callers are asked who they are, and the
proxy in front is believed if it knows the secret `proxy-secret-of-tests`. Models: `echo_<datatype>` (any rank-2 shape),
`pair` (a + b, a - b), `slow` (a second), `crowded` (slow, with room for one waiting request), `broken` (its engine
raises), `picky` (raises for a sample of NaN), `image` (fixed shape), `single` (not batchable), `labelled` (its classes have labels),
`repeat` and `repeat_batch` (stream 0, 1, … as many as x says; raise for a negative x), `cached` (adds how often its engine
was called).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from deployments.config import Batching, HostConfig
from deployments.host import ModelHost
from server.auth import Authenticator, ProxyIdentity
from server.bare import serve_bare
from server.guard import Guard
from server.http_api import Limits
from server.response_cache import ResponseCache
from variants.catalog import Catalog, Entry, Ladder, Lineage, Model, Source, TensorSpec, Variant
from variants.datatypes import DATATYPES
from variants.engines.base import LoadRequest, Residency, Tensors
from variants.errors import EngineFailed


class Numpy:
    """What each model computes."""

    def __init__(self, request: LoadRequest) -> None:
        self._name = request.model.name
        self._calls = 0

    def infer(self, inputs: Tensors) -> dict[str, np.ndarray]:
        if self._name == "pair":
            return {"sum": inputs["a"] + inputs["b"], "difference": inputs["a"] - inputs["b"]}
        if self._name in ("slow", "crowded"):
            time.sleep(1.0)
        if self._name == "broken":
            raise RuntimeError("a secret of the inside")
        x = inputs["x"]
        if self._name == "picky" and np.isnan(x).any():
            raise ValueError("NaN in the batch")
        if self._name == "cached":
            self._calls += 1
            return {"y": x + self._calls}
        return {"y": x.copy()}

    def stream(self, inputs: Tensors) -> Iterator[dict[str, np.ndarray]]:
        x = inputs["x"]
        if (x < 0).any():
            raise EngineFailed("a negative number")
        for number in range(int(x.reshape(-1)[0])):
            yield {"y": np.full_like(x, number)}

    def resident(self) -> Residency:
        return Residency(0)

    def close(self) -> None:
        pass


def entry(
    name: str,
    inputs: dict[str, tuple[str, tuple[int, ...]]],
    outputs: tuple[str, ...],
    max_batch: int = 8,
    *,
    labels: tuple[str, ...] = (),
    streams: bool = False,
) -> Entry:
    datatype, shape = next(iter(inputs.values()))
    model = Model(
        name=name,
        task="test",
        inputs=tuple(TensorSpec(name=n, datatype=d, shape=s) for n, (d, s) in inputs.items()),
        outputs=tuple(TensorSpec(name=n, datatype=datatype, shape=shape, labels=labels) for n in outputs),
        max_batch=max_batch,
        streams=streams,
        source=Source(onnx="none"),
    )
    variant = Variant(
        name="only",
        engine="onnx",
        precision="fp32",
        artefact="none",
        files={"none": ""},
        lineage=Lineage(technique="none"),
    )
    return Entry(
        model=model, variants={"only": variant}, ladder=Ladder(model=name, rungs=("only",)), path="/nonexistent"
    )


def catalog() -> Catalog:
    free = (-1, -1)
    entries = [entry(f"echo_{d}", {"x": (d, free)}, ("y",)) for d in DATATYPES]
    entries += [
        entry("pair", {"a": ("INT32", free), "b": ("INT32", free)}, ("sum", "difference")),
        entry("slow", {"x": ("FP32", free)}, ("y",)),
        entry("crowded", {"x": ("FP32", free)}, ("y",), max_batch=1),
        entry("broken", {"x": ("FP32", free)}, ("y",)),
        entry("picky", {"x": ("FP32", free)}, ("y",)),
        entry("image", {"x": ("FP32", (-1, 2, 3))}, ("y",)),
        entry("single", {"x": ("FP32", (3,))}, ("y",), max_batch=1),
        entry("labelled", {"x": ("FP32", (-1, 4))}, ("y",), labels=("ant", "bee", "cat", "dog")),
        entry("repeat", {"x": ("INT32", (1,))}, ("y",), max_batch=1, streams=True),
        entry("repeat_batch", {"x": ("INT32", (-1, 1))}, ("y",), streams=True),
        entry("cached", {"x": ("FP32", free)}, ("y",)),
    ]
    return Catalog(device="test", entries={e.model.name: e for e in entries})


async def main() -> None:
    config = HostConfig(threads=2, concurrent_batches=4, models={"crowded": Batching(queue=1)})

    host = ModelHost(
        catalog(),
        config,
        registry=CollectorRegistry(),
        host_id="test",
        load=Numpy,
        check=lambda folder, variant: None,
        read_canary=lambda folder: None,
    )
    await host.start()
    limits = Limits(max_body_bytes=1 << 20, body_seconds=2.0)
    guard = None
    if len(sys.argv) > 3:
        guard = Guard(Authenticator(Path(sys.argv[3])), ProxyIdentity("proxy-secret-of-tests"))
    cache = ResponseCache({"cached": 1 << 20})
    async with serve_bare(
        host, http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2]), limits=limits, guard=guard, cache=cache
    ):
        print("ready", flush=True)
        await asyncio.sleep(3600)  # longer than any test


if __name__ == "__main__":
    asyncio.run(main())
