"""Recovery: a module that was just made smaller learns the reference's outputs again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from variants.build.context import Context
from variants.build.losses import lesson
from variants.build.training import groups, schedule, train, training_data
from variants.catalog import Variant

MINUTES = 0.5


def teach(
    context: Context,
    parent: Variant | None,
    module: Any,
    *,
    minutes: float = MINUTES,
    learning_rate: float = 2e-4,
    structure: str = "",
    after_step: Callable[[], None] | None = None,
) -> tuple[int, dict[str, Any]]:
    """Train a module by distillation from the reference (`variants.build.training`, `variants.build.losses` for the
    parameters); returns how many samples it had, and what it did for the lineage. 0 minutes train nothing.

    `structure` says what the module is: a checkpoint of another one is not resumed.
    """
    plan = schedule(context, minutes=minutes, learning_rate=learning_rate)
    if plan.share(0, 0.0) >= 1.0:
        return 0, {"minutes": 0.0}
    data, count = training_data(context)
    batches = groups(context, data, plan.batch)
    taught = lesson(context, module, batches)
    origin = parent.files.get(parent.artefact, "") if parent is not None else ""
    done = train(
        context,
        plan,
        module,
        batches,
        taught.loss,
        identity=f"{origin}|{structure}|{count}",
        extra=taught.extra,
        after_step=after_step,
    )
    weights = {n: context.parameters[n] for n in ("hidden", "attention", "labels") if n in context.parameters}
    return count, {**done.report(plan), **weights, "teacher": taught.teacher, "data": context.parameter("data", "")}
