"""A replay's three files, read and checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from budgets.fleet.options import options_of
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

    def unservable(self) -> dict[str, str]:
        """Models that no host can serve as the fleet is described, with why: their requests will be dropped, whatever the
        policy. Units that were mixed up show here."""
        able = {o.rung.model for o in options_of(self.world)}
        return {m: _why(self.world, m) for m in self.trace.models if m not in able}


def _why(world: World, model: str) -> str:
    aim, devices = world.aims[model], {g.device for g in world.groups if g.count}
    rungs = [r for r in world.rungs if r.model == model and r.device in devices]
    if not rungs:
        return "there is no host of a device that it has a profile for"
    wanted = [r for r in rungs if r.quality >= aim.floor and aim.pin in (None, r.variant)]
    if not wanted:
        return "no variant there is its pin and keeps its floor"
    room = max(g.room_bytes for g in world.groups if g.count)
    fastest, smallest = min(r.seconds(1) for r in wanted), min(r.memory_bytes for r in wanted)
    if fastest > aim.slo_seconds:
        return f"its fastest call takes {fastest:g} s, its objective is {aim.slo_seconds:g} s"
    if smallest > room:
        return f"its smallest variant takes {smallest:g} bytes, the largest host has {room:g}"
    return "no variant of it both fits a host and meets its objective there"


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
