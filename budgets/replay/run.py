"""One replay from files to a result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from budgets.replay.engine import Replay
from budgets.replay.files import events_of, read_cluster, read_profiles, world_of
from budgets.replay.policies import POLICIES
from budgets.replay.result import summary
from budgets.replay.trace import read_trace
from variants.errors import ConfigError


def replay(
    cluster: Path,
    profiles: Path,
    trace: Path,
    policy: str,
    *,
    seed: int = 0,
    watch: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Replay a trace on a cluster under a policy (a name of `POLICIES`) and return the result, JSON-able.

    `watch` is called with the share of the trace that is done. Raises ConfigError for a policy or a file that cannot be
    used.
    """
    if policy not in POLICIES:
        raise ConfigError(f"no policy {policy!r}; there are {', '.join(POLICIES)}")
    spec, rungs, played = read_cluster(cluster), read_profiles(profiles), read_trace(trace)
    seconds = played.end - played.start
    world = world_of(spec, rungs, played.models, str(profiles))
    made = Replay(
        world,
        played.models,
        POLICIES[policy](),
        tick_seconds=spec.tick_seconds,
        start=played.start,
        end=played.end,
        first_rates=played.first_rates(),
        events=events_of(spec, played.events, str(trace)),
        watch=(lambda now: watch((now - played.start) / max(1e-9, seconds))) if watch else None,
    )
    return summary(made.run(played.chunks(seed)), seconds, policy)
