"""What an engine keeps for the shapes it has run: memory and CPU time of mixed calls, by how much may be kept and shared.

    python -m benchmarks.shapes [--folder examples/models/minilm] [--variant int8-weights] [--calls 600]

Each row is a process of its own, with the artefact as it was built: OpenVINO with its defaults, and with trimtab's settings for one
call at a time of two threads and two calls of one each; calls of 1 to `max_batch` rows and 4 to 64 tokens, as sent or as trimtab
runs them. CPU time, so that a busy machine matters little.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from variants.engines import openvino_, openvino_primitives
from variants.engines.base import LoadRequest
from variants.lengths import run_at, whole
from variants.process import ALLOCATOR, held, trim
from variants.repository import load_catalog

UNLIMITED = 1 << 20
KEPT, SHARED = openvino_.KEPT_PRIMITIVES, openvino_primitives.CAPACITY


@dataclass(frozen=True)
class Way:
    """`rounded`: as trimtab runs them. `kept`: primitives for each stream; `shared`: in oneDNN's cache, for the process."""

    rounded: bool
    kept: int
    shared: int
    streams: int = 1


WAYS = (
    Way(False, UNLIMITED, 1024),
    Way(False, KEPT, 0),
    *(Way(True, kept, 0) for kept in (UNLIMITED, KEPT, 256, 64)),
    Way(True, KEPT, SHARED),
    Way(True, KEPT, 0, streams=2),
    *(Way(True, KEPT, shared, streams=2) for shared in (SHARED // 4, SHARED // 2, SHARED, 1024)),
)


def run(folder: Path, variant: str, calls: int, way: Way) -> dict[str, float]:
    """MiB after the first and the last call and after the engine was closed, CPU seconds of a call over the last half."""
    openvino_.KEPT_PRIMITIVES = way.kept
    entry = load_catalog(folder.parent).entries[folder.name]
    model, record = entry.model, entry.variants[variant]
    baseline = held()
    threads = 2 // way.streams
    engine = openvino_.load(LoadRequest(model, record, folder / "variants" / variant, threads, calls=way.streams))

    def some(seed: int, count: int) -> None:
        sizes, numbers = random.Random(seed), np.random.default_rng(seed)
        for _ in range(count):
            rows, length = sizes.randint(1, model.max_batch), sizes.randint(4, 64)
            if way.rounded:
                rows, length = whole(rows, model.max_batch), run_at(length)
            tokens = numbers.integers(1000, 20000, (rows, length))
            engine.infer({"input_ids": tokens, "attention_mask": np.ones((rows, length), int)})

    some(0, 1)
    first = mib(baseline)
    half = calls // 2
    with ThreadPoolExecutor(way.streams) as pool:
        list(pool.map(some, range(way.streams), [half // way.streams] * way.streams))
        before = time.process_time()
        list(pool.map(some, range(2, 2 + way.streams), [half // way.streams] * way.streams))
        spent = time.process_time() - before
    last = mib(baseline)
    engine.close()  # what it was compiled into goes with that
    return {"first": first, "last": last, "closed": mib(baseline), "seconds": spent / half}


def mib(baseline: int) -> float:
    """What the process holds beyond the baseline."""
    trim()
    return (held() - baseline) / 2**20


def main() -> None:
    """Entry point of the command; with `--way`, of one row's process."""
    parser = argparse.ArgumentParser(description="Memory and CPU time of an encoder's calls of many shapes.")
    parser.add_argument("--folder", type=Path, default=Path("examples/models/minilm"))
    parser.add_argument("--variant", default="int8-weights")
    parser.add_argument("--calls", type=int, default=600)
    parser.add_argument("--way", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(run(options.folder, options.variant, options.calls, WAYS[options.way])))
        return
    columns = ("lengths and rows", "calls at once", "kept primitives", "oneDNN's own cache", "MiB after 1 call")
    print(f"| {' | '.join(columns)} | after {options.calls} | closed | CPU ms a call |")
    print("|---|---|---|---|---|---|---|---|")
    for number, way in enumerate(WAYS):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.shapes", *sys.argv[1:], "--way", str(number)],
            env={**os.environ, openvino_primitives.VARIABLE: str(way.shared), **ALLOCATOR},
            stdout=subprocess.PIPE,
            check=True,
        )
        found = json.loads(done.stdout)
        kept = "all" if way.kept == UNLIMITED else way.kept
        lengths = "as trimtab runs them" if way.rounded else "as sent"
        cells = f"{found['first']:.0f} | {found['last']:.0f} | {found['closed']:.0f} | {found['seconds'] * 1e3:.1f}"
        print(f"| {lengths} | {way.streams} | {kept} | {way.shared or 'none'} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
