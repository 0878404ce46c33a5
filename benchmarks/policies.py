"""Every policy in every scenario of tests/scenarios, in one table: `make bench-policies`."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from budgets.replay.policies import POLICIES
from budgets.replay.run import replay
from tests.scenarios.library import SCENARIOS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", nargs="*", default=list(SCENARIOS))
    parser.add_argument("--policy", nargs="*", default=list(POLICIES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    head = (
        "scenario",
        "policy",
        "requests",
        "violated",
        "quality",
        "worst drop",
        "over s",
        "swaps",
        "flaps",
        "plan p50",
        "p99",
        "took",
    )
    print(("{:21}{:16}" + "{:>10}" * 10).format(*head))
    for name in options.scenario:
        with tempfile.TemporaryDirectory() as folder:
            files = SCENARIOS[name]().write(Path(folder))
            for policy in options.policy:
                started = time.perf_counter()
                r = replay(*files, policy, seed=options.seed)
                took = time.perf_counter() - started
                print(
                    f"{name:22}{policy:17}{r['requests']:10}{r['slo_violation_ratio']:10.2%}"
                    f"{r['effective_quality_share'] or 0:10.4f}{r['max_quality_drop']:10.4f}"
                    f"{r['memory_over_budget_seconds']:10.1f}{r['swaps']:10}{r['flaps']:10}"
                    f"{r['planner']['seconds_p50'] * 1e3:8.1f}ms{r['planner']['seconds_p99'] * 1e3:8.1f}ms{took:9.1f}s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
