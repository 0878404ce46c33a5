"""What `trimtab serve` starts with: the plan that was in force when it last ran, or the best one that fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from budgets.batches import serving
from budgets.config import DEFAULT_GROUP
from budgets.initial import initial
from budgets.journal import journal_of, journalled_groups, last_plan
from deployments.api import Assignment
from server.settings import Settings
from variants.repository import load_catalog


def starting_assignment(settings: Settings) -> tuple[Assignment, list[str]]:
    """The first assignment, with one for each host group that a budget or a journal names, and what the operator should
    know about the repository (refused models and variants).

    Raises ConfigError when the file does not fit the models.
    """
    catalog = load_catalog(Path(settings.repository), trust_code=settings.trust_repository_code)
    settings.check(catalog)
    notes = [f"refused: {r.path}: {r.reason}" for r in catalog.refused]
    for name, entry in catalog.entries.items():
        if all(v.profile(catalog.device) is None for v in entry.variants.values()):
            notes.append(
                f"{name}: not profiled on this machine, so the controller will leave it alone (trimtab profile)"
            )
    config = settings.budgets_config()
    journal = Path(config.controller.journal)

    def of(group: str) -> Assignment:
        fresh = initial(catalog, config.of(group))
        plan = last_plan(journal_of(journal, group))
        if plan is None:
            return Assignment(1, fresh, serving=serving(catalog, config, fresh))
        kept = {
            model: plan.assignment[model]
            for model in fresh
            if model in plan.assignment
            and (plan.assignment[model] is None or plan.assignment[model] in catalog.entries[model].variants)
        }
        whose = "" if group == DEFAULT_GROUP else f" of group {group}"
        notes.append(f"continuing from plan {plan.generation} of the journal{whose}")
        variants = {**fresh, **kept}
        told = serving(catalog, config, variants, before=plan.serving, kept=plan.assignment)
        return Assignment(plan.generation + 1, variants, serving=told)

    others = {*config.groups(), *journalled_groups(journal)} - {DEFAULT_GROUP}
    return replace(of(DEFAULT_GROUP), groups={group: of(group) for group in sorted(others)}), notes
