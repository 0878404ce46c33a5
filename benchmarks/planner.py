"""How long the joint program takes: `make bench-planner`.

Instances are drawn at random: models with a ladder of eight rungs each, Zipf-shaped traffic, hosts of several kinds that
share their memory among models, less memory than every model's best rung would need. Each is solved twice: from nothing,
and from the plan in force after every rate has changed by up to 20 % (what a tick asks). The gap is against a bound that
holds for the whole program.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from budgets.fleet.program import solve
from budgets.fleet.table import Demand, Terms
from budgets.fleet.world import Aim, Group, Rung, World

RUNGS = ((1.0, 1.0, 1.0), (0.8, 0.998, 0.8), (0.62, 0.995, 0.66), (0.5, 0.99, 0.52), (0.4, 0.98, 0.44),
         (0.3, 0.965, 0.34), (0.22, 0.94, 0.25), (0.15, 0.9, 0.18))  # fmt: skip
BATCHES = (1, 2, 4, 8, 16)
MIB = 2**20


def instance(models: int, kinds: int, hosts: int, seed: int) -> tuple[World, dict[str, float]]:
    """A world of `kinds` groups with `hosts` hosts in all, and rates of twice what it could serve at full quality."""
    draw = np.random.default_rng(seed)
    names = [f"m{i:04d}" for i in range(models)]
    milliseconds = draw.lognormal(1.5, 0.7, models)
    mib = draw.lognormal(5.5, 0.6, models)
    rungs = tuple(
        Rung(
            name,
            f"v{v}",
            f"kind{k}",
            quality - 0.002 * draw.random(),
            float(mib[i] * memory * MIB),
            0.3 + mib[i] * memory / 1000,
            tuple((b, milliseconds[i] / 1e3 * work / (1 + k) * (0.4 + 0.6 * b)) for b in BATCHES),
        )
        for i, name in enumerate(names)
        for v, (work, quality, memory) in enumerate(RUNGS)
        for k in range(kinds)
    )
    each = hosts // kinds
    room = float(mib.sum() * MIB * 0.6 / hosts * 1.5)
    groups = tuple(Group(f"g{k}", f"kind{k}", each, room, streams=4) for k in range(kinds))
    shares = draw.permutation(1.0 / np.arange(1, models + 1))
    seconds = float((shares / shares.sum() * milliseconds / 1e3 * 0.65).sum())
    total = 2.0 * sum(4 * each * (1 + k) for k in range(kinds)) / seconds
    aims = {n: Aim(n, slo_seconds=0.5, weight=float(draw.choice([1.0, 1.0, 2.0])), park=False) for n in names}
    return World(groups, rungs, aims), dict(zip(names, (total * shares / shares.sum()).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(f"{'models x rungs, hosts':26}{'from':>9}{'median s':>10}{'worst s':>9}{'median gap':>12}{'worst gap':>11}")
    for models, kinds, hosts in ((200, 2, 8), (1000, 4, 32)):
        taken: dict[str, list[tuple[float, float]]] = {"nothing": [], "the plan": []}
        for seed in range(options.rounds):
            world, rates = instance(models, kinds, hosts, seed)
            terms = Terms(slack=0.0, time_limit=10.0)
            started = time.perf_counter()
            first = solve(world, Demand(rates), {}, terms)
            taken["nothing"].append((time.perf_counter() - started, first.gap))
            draw = np.random.default_rng(seed)
            moved = {m: r * draw.uniform(0.8, 1.2) for m, r in rates.items()}
            started = time.perf_counter()
            second = solve(world, Demand(moved), first.hosts, Terms(swap_price=0.05, slack=0.0, time_limit=10.0))
            taken["the plan"].append((time.perf_counter() - started, second.gap))
        for kind, rounds in taken.items():
            seconds, gaps = zip(*rounds, strict=True)
            label = f"{models} x {len(RUNGS)}, {hosts} of {kinds} kinds"
            print(
                f"{label:26}{kind:>9}{statistics.median(seconds):10.3f}{max(seconds):9.3f}"
                f"{statistics.median(gaps):12.2%}{max(gaps):11.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
