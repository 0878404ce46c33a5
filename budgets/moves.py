"""What degrade and restore share: the scene they look at, and how a swap is put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from budgets.config import Budget, BudgetsConfig
from budgets.options import Option, View, off_ladder
from budgets.outlook import Outlook
from budgets.plan import Direction, Memory, Pressure, Swap, Trigger, Verification
from budgets.reality import departures
from budgets.snapshot import Mode, Reading, Snapshot
from variants.catalog import Catalog

MEMORY = ("ram", "gpu_memory")


@dataclass(frozen=True)
class Scene:
    """Everything that a decision may look at."""

    catalog: Catalog
    snapshot: Snapshot
    view: View
    pressures: tuple[Pressure, ...]
    triggers: tuple[Trigger, ...]
    config: BudgetsConfig
    memory: Memory
    now: float
    outlook: Outlook = field(default_factory=Outlook)

    def pressure(self, name: str) -> Pressure:
        """The pressure of that name; one that nobody assessed is missing."""
        return next(
            (p for p in self.pressures if p.name == name), Pressure(name=name, ratio=None, missing="not assessed")
        )

    def option(self, model: str, variant: str | None) -> Option | None:
        """A variant as an option, also one that may not be chosen (pinned, dominated, below the floor); None without a
        profile."""
        found, entry = self.view.option(model, variant), self.catalog.entries.get(model)
        if found is not None or entry is None:
            return found
        return off_ladder(entry, variant, self.catalog.device, self.snapshot.shapes(model))

    def active(self) -> list[Trigger]:
        """Triggers that are not calm."""
        return [t for t in self.triggers if t.state != "calm"]

    def budgets(self, *resources: str) -> list[Budget]:
        """The budgets on these resources."""
        return [b for b in self.config.budgets if b.resource in resources]

    def room(self, budget: Budget, limit: float) -> float:
        """Bytes of a memory budget that may be in use after a plan: below its enter threshold by the headroom, less its
        reserve. Degrading aims at it and restoring stops at it."""
        return limit * (budget.enter - self.config.controller.headroom) - budget.reserve

    def pins(self) -> Mapping[str, str | None]:
        """Pins of the configuration, overlaid with those made by hand."""
        configured = {
            n: p.pin for n, p in self.config.models.items() if p.pin is not None and n in self.catalog.entries
        }
        return {**configured, **self.snapshot.pins}

    def quarantined(self, model: str, variant: str | None) -> str:
        """Why a variant must not be planned now; empty when it may."""
        return next(
            (
                q.reason
                for q in self.memory.quarantined
                if (q.model, q.variant) == (model, variant) and q.holds(self.now)
            ),
            "",
        )

    def trial(self, model: str) -> Verification | None:
        """The swap of a model that is on trial on one host, or None."""
        return next((v for v in self.memory.verifying if v.model == model and v.hosts), None)

    def swaps_left(self) -> int:
        """How many swaps of this hour's are left."""
        recent = sum(1 for at in self.memory.planned if at > self.now - 3600.0)
        return max(0, self.config.controller.swaps_per_hour - recent)

    def urgent(self) -> bool:
        """A budget is used up: relief does not wait for trials."""
        return any(t.state == "saturated" and not t.name.startswith("slo:") for t in self.triggers)

    def departed(self, model: str) -> str:
        """How hosts depart from the plan in what they run of a model, in words; empty when none does."""
        if trial := self.trial(model):
            return f"{trial.to_variant or 'parked'} is on trial on {', '.join(trial.hosts)}"
        others = departures(self.snapshot.assignment, self.snapshot.hosts, model)
        wanted = self.snapshot.assignment.get(model) or "parked"
        return f"a host runs {others[0] or 'nothing'} instead of {wanted}" if others else ""

    def cooling(self, model: str) -> float:
        """Seconds until a model may be swapped again; 0 when it may now."""
        since = self.now - self.memory.swapped_at.get(model, float("-inf"))
        return max(0.0, self.config.controller.cooldown_seconds - since)

    def outdated(self, budget: str) -> bool:
        """The budget's usage was read before a swap ended, so it does not show what that gave back or took."""
        return any(
            line.budget == budget and isinstance(line.usage, Reading) and line.usage.at < self.memory.ended_at
            for line in self.snapshot.readings.budgets
        )

    def looking_back(self, model: str) -> float:
        """Seconds until the latency window of a swapped model has forgotten the variant before; 0 when it has."""
        since = self.now - self.memory.swapped_at.get(model, float("-inf"))
        return max(0.0, self.config.controller.window_seconds - since)


def settled(scene: Scene) -> str:
    """Why nothing can be decided yet: no host, one that did not answer, or hosts still on their way to the plan in force.
    Empty when settled."""
    hosts = scene.snapshot.hosts
    if not hosts:
        return "no host answers"
    if scene.snapshot.absent and not scene.urgent():  # Serve passes over a replica that is just taking a plan
        return f"waiting: {', '.join(scene.snapshot.absent)} did not answer"
    behind = [h.host for h in hosts if h.observed_generation < scene.snapshot.generation]
    if behind:
        return f"waiting: {len(behind)} of {len(hosts)} hosts have not reached plan {scene.snapshot.generation}"
    return ""


def swap_between(
    scene: Scene,
    model: str,
    to_variant: str | None,
    direction: Direction,
    trigger: str,
    reason: str,
    before: tuple[Swap, ...],
) -> Swap:
    """The swap of a model to a variant. The memory of the swaps `before` it counts as spent (or given back)."""
    running = scene.snapshot.assignment.get(model)
    old = scene.view.current.get(model)
    new = scene.option(model, to_variant)
    moved = 0 if old is None or new is None else old.swap_bytes - new.swap_bytes
    return Swap(
        model=model,
        from_variant=running,
        to_variant=to_variant,
        direction=direction,
        mode=mode_for(scene, new, before),
        bytes_planned=abs(moved),
        quality_from=old.quality if old else 0.0,
        quality_to=new.quality if new else 0.0,
        trigger=trigger,
        reason=reason,
    )


def mode_for(scene: Scene, new: Option | None, before: tuple[Swap, ...]) -> Mode:
    """Make before break when the new variant fits beside the old within every memory budget, less its reserve."""
    if new is None or new.variant is None:
        return "make_before_break"
    for budget in scene.budgets(*MEMORY):
        pressure = scene.pressure(budget.name)
        needed = new.bytes_of(budget.resource)
        if pressure.usage is None or pressure.limit is None:
            if needed:
                return "break_before_make"  # headroom that was not measured is none
            continue
        spent = sum(_grown(scene, s, budget.resource) for s in before)
        room = pressure.limit - budget.reserve - pressure.usage - spent * scene.view.hosts
        if needed * scene.view.hosts > room:
            return "break_before_make"
    return "make_before_break"


def _grown(scene: Scene, swap: Swap, resource: str) -> int:
    """Bytes by which a planned swap changes what a host keeps; negative when it gives back."""
    old = scene.view.current.get(swap.model)
    new = scene.option(swap.model, swap.to_variant)
    return 0 if old is None or new is None else new.bytes_of(resource) - old.bytes_of(resource)
