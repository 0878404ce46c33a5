"""Knowledge distillation: a smaller student learns the reference's outputs, and on request its inner states.

The student is a module of its own (`student`), the reference with fewer of its layers (`layers`, or half of them), or, after
a technique that makes modules smaller, that module: `prune+distil` teaches the pruned one.
"""

from __future__ import annotations

from typing import Any

from variants.build.context import Context, Draft
from variants.build.modules import Recipe, load_module, module_draft, restructure
from variants.build.recovery import teach
from variants.build.students import blocks, choose_layers
from variants.catalog import Variant
from variants.data import resolve
from variants.errors import BuildError


def distil(context: Context, parent: Variant | None) -> Draft:
    """Train a student on `data` (samples, no labels needed; default: the calibration data).

    Parameters: `student` (a factory), or `layers` (how many, or which; half of the reference's); `minutes` (1.0, training time) or `steps`;
    `seed` (0), `learning_rate` (2e-4, falling to 0), `batch` (32), `mask` (name of an attention mask), `hidden`,
    `attention`, `labels` (weights of those losses, 0.0), `checkpoint_seconds` (20). Raises BuildError when the training
    diverges or a parameter is wrong.
    """
    student, recipe, used = _student(context, parent)
    count, report = teach(context, parent, student, minutes=1.0, structure=recipe.model_dump_json())
    return module_draft(context, parent, "distil", student, recipe, samples=count, used={**used, **report})


def _student(context: Context, parent: Variant | None) -> tuple[Any, Recipe, dict[str, Any]]:
    where = f"{context.model.name}: {context.name}"
    if parent is None:
        raise BuildError(f"{where}: needs a teacher; build fp32 first")
    factory, layers = context.parameter("student", ""), context.parameters.get("layers")
    if factory:
        return resolve(context.folder, factory)(), Recipe(base=factory), {"student": factory}
    module, recipe = load_module(context, parent)
    if layers is None and parent.lineage.parent is not None:
        return module, recipe, {"student": parent.name}
    found = blocks(module)
    if found is None and layers is None:
        raise BuildError(
            f"{where}: techniques.{context.name} names no student, and the module has no ModuleList of equal layers to leave "
            "half of out: give `student` (file.py:function), or put a technique before it that makes the module smaller "
            "(prune+distil)"
        )
    if found is None:
        raise BuildError(f"{where}: techniques.{context.name}.layers: the module has no ModuleList of equal layers")
    name, there = found
    wanted = max(1, len(there) // 2) if layers is None else layers
    step = {"kind": "layers", "name": name, "keep": choose_layers(context.model.name, context.name, len(there), wanted)}
    module = restructure(module, step)
    return module, recipe.then("layers", name=name, keep=step["keep"]), {"layers": step["keep"]}
