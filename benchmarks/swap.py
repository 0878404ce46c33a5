"""`make bench-swap`: what clients see of ten swaps under load.

    python -m benchmarks.swap [--model minilm] [--variants int8 bf16-hint] [--swaps 10] [--seconds 6] [--share 0.4]

One open loop at a share of what the slower variant carries. First without swaps, as long on each variant as later with
them; then a swap every few seconds, back and forth, by the admin API, under the same plan of requests. Every answer is
checked, and names the variant that computed it: so the swaps are counted in the answers themselves.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.clients import Result, closed_loop, message, open_loop, poisson
from benchmarks.models import ROOT, Served, example
from benchmarks.servers import Server, running, stop_on_sigterm
from benchmarks.table import machine, markdown
from server.client import AdminClient

PAYLOADS = 64
#: So many answers in a row make a variant count as in force: calls of the old one end among the first of the new one.
SETTLED = 10
OUT = ROOT / "out" / "bench" / "swap.md"


@dataclass(frozen=True)
class Phase:
    """What a phase's answers come to; quantiles in milliseconds, from when a request was due."""

    requests: int
    failed: int
    p50: float
    p99: float
    worst: float
    changes: int


def phase(results: Sequence[Result], failed: int, variants: Sequence[str]) -> Phase:
    """`variants`: which one computed each answer, in the order of the requests."""
    taken = np.array([result.ended - result.request.at for result in results if result.status == 200]) * 1e3
    runs = [(name, sum(1 for _ in group)) for name, group in itertools.groupby(variants)]
    settled = [name for name, length in runs if length >= SETTLED]
    changes = sum(a != b for a, b in itertools.pairwise(settled))
    p50, p99 = np.quantile(taken, (0.5, 0.99)).tolist()
    return Phase(len(results), failed, p50, p99, float(taken.max()), changes)


def variant_of(result: Result) -> str:
    """The variant that an answer names; empty for none."""
    try:
        return str(json.loads(result.body)["parameters"]["variant"])
    except (ValueError, KeyError):
        return ""


class Bench:
    """A server with one model in two variants."""

    def __init__(self, server: Server, model: Served, variants: Sequence[str]) -> None:
        self._server = server
        self._model = model
        self.variants = variants
        self._admin = AdminClient(f"http://127.0.0.1:{server.ports.admin}")
        self._port = server.ports.http
        self._messages = [message(server.url(model), body) for body in model.bodies]

    def pin(self, variant: str) -> None:
        self._admin.post("pin", model=self._model.name, variant=variant)

    def pinned(self, variant: str) -> None:
        """Pin a variant and wait until it answers, and the old one is gone."""
        self.pin(variant)
        deadline = time.monotonic() + 60
        while json.loads(self._server.ask(self._model))["parameters"]["variant"] != variant:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{variant} did not come into force within a minute")
            time.sleep(0.2)
        time.sleep(2)

    def capacity(self, seconds: float) -> float:
        """What eight clients get through of the variant in force."""
        draw = np.random.default_rng(0)
        results = closed_loop(self._messages, self._port, 8, seconds, lambda: int(draw.integers(PAYLOADS)))
        return len(results) / seconds

    def load(self, rate: float, seconds: float, seed: int) -> list[Result]:
        return open_loop(self._messages, self._port, poisson(rate, seconds, [1.0] * PAYLOADS, seed), seconds)

    def wrong(self, results: Sequence[Result]) -> int:
        """How many were not answered right; the first of them is shown."""
        bad = [r for r in results if not self._model.right(r.request.index, r.status, r.body)]
        for result in bad[:1]:
            print(f"at {result.request.at:.1f} s: {result.status} {result.body[:300]!r}")
        return len(bad)

    def swapping(self, rate: float, swaps: int, seconds: float, seed: int) -> list[Result]:
        """The load, with a swap ordered every `seconds`; the variant in force is the last of `variants`."""
        stop = threading.Event()

        def order() -> None:
            for number in range(swaps):
                self.pin(self.variants[number % len(self.variants)])
                if stop.wait(seconds):
                    return

        thread = threading.Thread(target=order)
        thread.start()
        try:
            return self.load(rate, (swaps + 1) * seconds, seed)  # the last one has its time too
        finally:
            stop.set()
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swap", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--variants", nargs=2, default=["int8", "bf16-hint"])
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=6.0, help="from one swap to the next")
    parser.add_argument("--share", type=float, default=0.4, help="of the slower variant's capacity")
    options = parser.parse_args()
    stop_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as scratch:
        model = example(Path(scratch, "models"), options.model, threads=2, count=PAYLOADS, variants=options.variants)
        with running("trimtab", [model], Path(scratch), threads=2) as server:
            bench = Bench(server, model, options.variants)
            capacity, still, half = np.inf, [], options.swaps * options.seconds / 2
            for variant in options.variants:
                bench.pinned(variant)
                print(f"{variant} is in force", flush=True)
                capacity = min(capacity, bench.capacity(3.0))
            rate = options.share * capacity
            for number, variant in enumerate(options.variants):
                bench.pinned(variant)
                still += bench.load(rate, half, number)
            without = phase(still, bench.wrong(still), [])
            moving = bench.swapping(rate, options.swaps, options.seconds, 0)
            during = phase(moving, bench.wrong(moving), [name for r in moving if (name := variant_of(r))])
    lines = [
        [title, str(p.requests), str(p.failed), str(p.changes), f"{p.p50:.1f}", f"{p.p99:.1f}", f"{p.worst:.1f}"]
        for title, p in (("without swaps", without), (f"with {options.swaps} swaps", during))
    ]
    head = ("", "requests", "failed", "swaps seen", "p50 ms", "p99 ms", "worst ms")
    text = (
        f"{markdown(head, lines, 1)}\n\n{options.model}, {' and '.join(options.variants)} in turn, {rate:.0f} requests/s; "
        f"p99 with swaps is {during.p99 / without.p99:.2f} times that without. {machine()}."
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(text + "\n", encoding="utf-8")
    print(text)
    if during.changes < options.swaps or during.failed:
        raise SystemExit("not every swap was seen in the answers, or a request failed")


if __name__ == "__main__":
    main()
