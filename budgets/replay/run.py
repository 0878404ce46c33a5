"""One replay from files to a result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from budgets.replay.engine import Replay
from budgets.replay.inputs import read_inputs
from budgets.replay.policies import POLICIES
from budgets.replay.result import summary
from variants.errors import ConfigError


def replay(
    cluster: Path,
    profiles: Path,
    trace: Path,
    policy: str,
    *,
    seed: int = 0,
    watch: Callable[[float], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Replay a trace on a cluster under a policy (a name of `POLICIES`) and return the result, JSON-able.

    `watch` is called with the share of the trace that is done, `warn` with what is odd about the files. Raises ConfigError
    for a policy or a file that cannot be used.
    """
    if policy not in POLICIES:
        raise ConfigError(f"no policy {policy!r}; there are {', '.join(POLICIES)}")
    made = read_inputs(cluster, profiles, trace)
    if warn is not None:
        for model, why in made.unservable().items():
            warn(f"{model}: no request can be served: {why}")
    played, seconds = made.trace, made.trace.end - made.trace.start
    replayed = Replay(
        made.world,
        played.models,
        POLICIES[policy](),
        tick_seconds=made.tick_seconds,
        start=played.start,
        end=played.end,
        first_rates=played.first_rates(),
        events=made.events,
        watch=(lambda now: watch((now - played.start) / max(1e-9, seconds))) if watch else None,
    )
    return summary(replayed.run(played.chunks(seed)), seconds, policy)
