"""How fast the simulator replays ten million requests: `make bench-replay`.

The exclusive fleet of tests/scenarios at a load that comes and goes for three hours, drawn from rates; or with --shared the
hosts that share their memory. --arrivals reads the requests one by one from a file of that length.
"""

from __future__ import annotations

import argparse
import csv
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from budgets.replay.run import replay
from budgets.replay.trace import read_trace
from tests.scenarios import library

MEAN = {"pool": 950.0, "shared": 700.0}
SWING = {"pool": 0.6, "shared": 0.1}


def files(folder: Path, requests: int, kind: str, *, arrivals: bool) -> tuple[Path, Path, Path]:
    """cluster.yaml, profiles.csv and a trace of so many requests (about, if of rates)."""
    made = {"pool": library.pool, "shared": library.shared}[kind](np.ones(library.SECONDS), 1)
    cluster, profiles, trace = made.write(folder)
    seconds = max(1, round(requests / MEAN[kind]))
    shares = {model: float(rates[0]) for model, rates in made.rates.items()}
    with trace.open("w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(["time_seconds", "model", "requests_per_second"])
        for second in range(seconds):
            total = MEAN[kind] * (1 - SWING[kind] * np.cos(2 * np.pi * second / 600))
            lines.writerows([second, m, round(total * share, 3)] for m, share in shares.items())
    if arrivals:
        drawn = read_trace(trace)
        with trace.open("w") as stream:
            stream.write("time_seconds,model\n")
            for times, index in drawn.chunks(0):
                stream.writelines(f"{t:.6f},{drawn.models[i]}\n" for t, i in zip(times, index, strict=True))
    return cluster, profiles, trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000_000)
    parser.add_argument("--policy", default="trimtab")
    parser.add_argument("--shared", action="store_true", help="hosts that share memory")
    parser.add_argument("--arrivals", action="store_true", help="a trace of single requests")
    options = parser.parse_args()
    kind = "shared" if options.shared else "pool"
    with tempfile.TemporaryDirectory() as folder:
        made = files(Path(folder), options.requests, kind, arrivals=options.arrivals)
        started, computed = time.perf_counter(), time.process_time()
        result = replay(*made, options.policy)
        wall, cpu = time.perf_counter() - started, time.process_time() - computed
    print(
        f"{options.policy}, {kind}, {'arrivals' if options.arrivals else 'rates'}: {result['requests']:,} requests of "
        f"{result['seconds']:,.0f} s in {wall:.1f} s ({cpu:.1f} s of processor): {result['requests'] / wall:,.0f} a second, "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB; "
        f"{result['planner']['plans']:,} plans, {result['planner']['seconds_total']:.1f} s of it; "
        f"{result['slo_violation_ratio']:.3%} violated, {result['flaps']} flaps, "
        f"{result['memory_over_budget_seconds']:.1f} s over memory"
    )


if __name__ == "__main__":
    main()
