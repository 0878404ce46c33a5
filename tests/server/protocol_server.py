"""A model host with engines of plain numpy behind both front ends, in a process of its own.

Usage: protocol_server.py HTTP_PORT GRPC_PORT [TOKENS_FILE]. With a tokens file callers are asked who they are, and the
proxy in front is believed if it knows the secret `proxy-secret-of-tests`. Models: `echo_<datatype>` (any rank-2 shape),
`pair` (a + b, a - b), `slow` (a second), `crowded` (slow, with room for one waiting request), `broken` (its engine
raises), `picky` (raises for a sample of NaN), `image` (fixed shape), `single` (not batchable).
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from deployments.config import Batching, HostConfig
from deployments.host import ModelHost
from server.auth import Authenticator, ProxyIdentity
from server.bare import serve_bare
from server.guard import Guard
from server.http_api import Limits
from variants.catalog import Catalog, Entry, Ladder, Lineage, Model, Source, TensorSpec, Variant
from variants.datatypes import DATATYPES
from variants.engines.base import LoadRequest, Residency, Tensors


class Numpy:
    """What each model computes."""

    def __init__(self, request: LoadRequest) -> None:
        self._name = request.model.name

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
        return {"y": x.copy()}

    def resident(self) -> Residency:
        return Residency(0)

    def close(self) -> None:
        pass


def entry(
    name: str, inputs: dict[str, tuple[str, tuple[int, ...]]], outputs: tuple[str, ...], max_batch: int = 8
) -> Entry:
    datatype, shape = next(iter(inputs.values()))
    model = Model(
        name=name,
        task="test",
        inputs=tuple(TensorSpec(name=n, datatype=d, shape=s) for n, (d, s) in inputs.items()),
        outputs=tuple(TensorSpec(name=n, datatype=datatype, shape=shape) for n in outputs),
        max_batch=max_batch,
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
    async with serve_bare(host, http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2]), limits=limits, guard=guard):
        print("ready", flush=True)
        await asyncio.sleep(600)


asyncio.run(main())
