"""One replay, from files or from what was read of them, to a result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from budgets.replay.engine import Replay
from budgets.replay.inputs import Inputs, read_inputs
from budgets.replay.policies import POLICIES
from budgets.replay.result import summary
from variants.errors import ConfigError


def replay(cluster: Path, profiles: Path, trace: Path, policy: str, *, seed: int = 0) -> dict[str, Any]:
    """Replay a trace on a cluster under a policy (a name of `POLICIES`) and return the result, JSON-able. Raises
    ConfigError for a policy or a file that cannot be used."""
    if policy not in POLICIES:
        raise ConfigError(f"no policy {policy!r}; there are {', '.join(POLICIES)}")
    return play(read_inputs(cluster, profiles, trace), policy, seed=seed)


def play(made: Inputs, policy: str, *, seed: int = 0, watch: Callable[[float], None] | None = None) -> dict[str, Any]:
    """The same with what was read, which stays as it is. `watch` is called with the share of the trace that is done. Raises
    KeyError for a policy that there is not."""
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
