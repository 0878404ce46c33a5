"""What an engine keeps for the shapes it has run: memory and CPU time of mixed calls, by how much may be kept.

    python -m benchmarks.shapes [--folder examples/models/minilm] [--variant int8-weights] [--calls 600]

Each row is a process of its own: OpenVINO with its defaults, and with trimtab's settings for several capacities; calls of 1 to
`max_batch` rows and 4 to 64 tokens, as sent or as trimtab runs them. CPU time, so that a busy machine matters little.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from variants.engines import openvino_
from variants.engines.base import LoadRequest
from variants.lengths import run_at, whole
from variants.process import own_bytes, trim
from variants.repository import load_catalog

UNLIMITED = 1 << 20
#: (as trimtab runs them, primitives kept for a model, oneDNN's own cache)
WAYS = (
    (False, UNLIMITED, 1024),
    (False, openvino_.KEPT_PRIMITIVES, 0),
    *((True, n, 0) for n in (UNLIMITED, openvino_.KEPT_PRIMITIVES, 256, 64)),
    *((True, n, 1024) for n in (openvino_.KEPT_PRIMITIVES, 64)),
)


def run(folder: Path, variant: str, calls: int, rounded: bool, kept: int) -> dict[str, float]:
    """MiB after the first and the last call and after the engine was closed, CPU seconds of a call over the last half."""
    openvino_.KEPT_PRIMITIVES = kept
    entry = load_catalog(folder.parent).entries[folder.name]
    model, record = entry.model, entry.variants[variant]
    baseline = own_bytes()
    engine = openvino_.load(LoadRequest(model, record, folder / "variants" / variant, threads=2, device="cpu"))
    sizes, numbers = random.Random(0), np.random.default_rng(0)
    first, spent = 0.0, 0.0
    for call in range(calls):
        rows, length = sizes.randint(1, model.max_batch), sizes.randint(4, 64)
        if rounded:
            rows, length = whole(rows, model.max_batch), run_at(length)
        inputs = {
            "input_ids": numbers.integers(1000, 20000, (rows, length)),
            "attention_mask": np.ones((rows, length), int),
        }
        before = time.process_time()
        engine.infer(inputs)
        spent += time.process_time() - before if call >= calls // 2 else 0.0
        first = first or mib(baseline)
    last = mib(baseline)
    engine.close()
    del engine
    return {"first": first, "last": last, "closed": mib(baseline), "seconds": spent / (calls - calls // 2)}


def mib(baseline: int) -> float:
    """What the process holds beyond the baseline."""
    trim()
    return (own_bytes() - baseline) / 2**20


def main() -> None:
    """Entry point of the command; with `--way`, of one row's process."""
    parser = argparse.ArgumentParser(description="Memory and CPU time of an encoder's calls of many shapes.")
    parser.add_argument("--folder", type=Path, default=Path("examples/models/minilm"))
    parser.add_argument("--variant", default="int8-weights")
    parser.add_argument("--calls", type=int, default=600)
    parser.add_argument("--way", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        rounded, kept, _ = WAYS[options.way]
        print(json.dumps(run(options.folder, options.variant, options.calls, rounded, kept)))
        return
    print(f"| lengths and rows | kept primitives | MiB after 1 call | after {options.calls} | closed | CPU ms a call |")
    print("|---|---|---|---|---|---|")
    for way, (rounded, kept, process_wide) in enumerate(WAYS):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.shapes", *sys.argv[1:], "--way", str(way)],
            env={**os.environ, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": str(process_wide), "MALLOC_MMAP_THRESHOLD_": "65536"},
            stdout=subprocess.PIPE,
            check=True,
        )
        found = json.loads(done.stdout)
        capacity = "all" if kept == UNLIMITED else str(kept)
        capacity += ", and oneDNN's own cache" if process_wide else ""
        lengths = "as trimtab runs them" if rounded else "as sent"
        cells = f"{found['first']:.0f} | {found['last']:.0f} | {found['closed']:.0f} | {found['seconds'] * 1e3:.1f}"
        print(f"| {lengths} | {capacity} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
