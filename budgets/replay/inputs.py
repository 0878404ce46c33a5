"""A replay's three files, read and checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from budgets.fleet.world import World
from budgets.replay.engine import Event
from budgets.replay.files import events_of, read_cluster, world_of
from budgets.replay.profiles import read_profiles
from budgets.replay.trace import Trace, read_trace
from variants.errors import ConfigError

#: Three years of seconds. A trace that is longer mixes clocks or units, and would not end.
MOST_TICKS = 100_000_000


@dataclass(frozen=True)
class Inputs:
    """What is played. `events` are on the trace's clock, `tick_seconds` is how often a policy looks."""

    world: World
    trace: Trace
    events: list[Event]
    tick_seconds: float


def read_inputs(cluster: Path, profiles: Path, trace: Path) -> Inputs:
    """Raises ConfigError naming the file, the place in it and what was wrong."""
    spec, rungs, played = read_cluster(cluster), read_profiles(profiles), read_trace(trace)
    first = {model: f"{trace}: {where}" for model, where in played.first.items()}
    world = world_of(spec, rungs, first, str(profiles))
    if (played.end - played.start) / spec.tick_seconds > MOST_TICKS:
        raise ConfigError(
            f"{trace}: time_seconds: from {played.start:.0f} to {played.end:.0f} are more than {MOST_TICKS:,} ticks of "
            f"{spec.tick_seconds:g} s; times are seconds of one clock"
        )
    return Inputs(world, played, events_of(spec, played.events, str(trace)), spec.tick_seconds)
