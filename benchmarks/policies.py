"""Every policy in every scenario of tests/scenarios, in one table: `make bench-policies`.

`bound`: no policy, not one that knew the trace, serves a higher mean quality while it keeps memory and is late with and
drops no more than this one (`budgets.replay.oracle`). A quality above it was had by breaking a memory budget.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from budgets.replay.oracle import Oracle
from budgets.replay.policies import POLICIES
from budgets.replay.result import HEAD, row
from budgets.replay.run import replay
from tests.scenarios.library import SCENARIOS

OURS = "trimtab"
RIVALS = ("reactive-ladder", "infaas-like", "proteus-like")


#: A difference of so small a share of all requests is chance: it is a request in ten thousand.
CHANCE = 1e-4


def kept(ours: dict[str, Any], other: dict[str, Any]) -> bool:
    """At most half of a rival's violations, or next to none."""
    return bool(ours["slo_violations"] <= max(0.5 * other["slo_violations"], CHANCE * ours["requests"]))


def _limit(oracle: Oracle, made: dict[str, Any], share: int) -> str:
    """The bound for so many times fewer violations."""
    most = oracle.best(late=made["late"] // share, dropped=made["dropped"] // share)
    return "-" if most is None else f"{most:.4f}"


def _priced(cluster: Path, cost: float) -> Path:
    """The same cluster where an unserved request costs so much."""
    made = cluster.with_name(f"cluster-{cost:g}.yaml")
    made.write_text(yaml.safe_dump({**yaml.safe_load(cluster.read_text()), "unserved_cost": cost}))
    return made


def verdict(results: dict[str, dict[str, Any]], oracle: Oracle) -> str:
    """Ours against each rival: the ratio of violations, the difference in quality of what was completed, and over all
    requests where those late or dropped count 0 (who drops the hard ones completes the rest at a higher mean); what a rival
    owes its numbers to where it broke a memory budget; and where its quality is above ours, what could at most be had with our violations
    and with half of its own."""
    ours = results[OURS]
    said = []
    for name in RIVALS:
        other = results.get(name)
        if other is None:
            continue
        mine, theirs = ours["slo_violations"], other["slo_violations"]
        ratio = f"{mine / theirs:.2f} x" if theirs else ("none either" if not mine else f"{mine} against none")
        quality, timely = ((ours[k] or 0.0) - (other[k] or 0.0) for k in ("effective_quality", "timely_quality"))
        broke = other["memory_over_budget_seconds"]
        note = f", which was {broke:.0f} s over its memory" if broke else ""
        if quality < 0:
            limits = [_limit(oracle, ours, 1), _limit(oracle, other, 2)]
            note += f"; nobody could exceed {limits[0]} with ours, {limits[1]} with half of its violations"
        mark = "" if kept(ours, other) or broke else "MORE THAN HALF: "
        said.append(f"{mark}{name}: {ratio} its violations at {quality:+.4f} quality, {timely:+.4f} in time{note}")
    return "\n".join(f"    {line}" for line in said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", nargs="*", default=list(SCENARIOS))
    parser.add_argument("--policy", nargs="*", default=list(POLICIES))
    parser.add_argument("--seed", type=int, default=0, help="of the rates' noise and of the requests drawn from them")
    parser.add_argument("--size", type=int, default=1, help="times the hosts and the requests")
    parser.add_argument(
        "--unserved-cost",
        type=float,
        nargs="*",
        default=(),
        help="trimtab's rows beside the default's: see cluster.yaml",
    )
    parser.add_argument("--json", type=Path, help="write all results here")
    options = parser.parse_args()
    every: dict[str, dict[str, Any]] = {}
    for name in options.scenario:
        print(f"\n{name}\n{HEAD}{'bound':>9}")
        with tempfile.TemporaryDirectory() as folder:
            files = SCENARIOS[name](options.seed, options.size).write(Path(folder))
            oracle = Oracle.of(*files, seed=options.seed)
            results = every[name] = {}
            for policy in options.policy:
                made = results[policy] = replay(*files, policy, seed=options.seed)
                print(f"{row(made)}{_limit(oracle, made, 1):>9}", flush=True)
            for cost in options.unserved_cost:
                made = results[f"{OURS} {cost:g}"] = replay(
                    _priced(files[0], cost), *files[1:], OURS, seed=options.seed
                )
                print(f"{row({**made, 'policy': f'{OURS} {cost:g}'})}{_limit(oracle, made, 1):>9}", flush=True)
        if OURS in results:
            print(verdict(results, oracle), flush=True)
    if options.json:
        options.json.write_text(json.dumps(every))


if __name__ == "__main__":
    main()
