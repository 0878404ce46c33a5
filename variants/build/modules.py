"""Torch modules behind variants, so that techniques which change or train a module can follow one another.

    <model>/modules/<variant>/recipe.json           how to make a module of that structure
    <model>/modules/<variant>/weights.safetensors   its weights

A recipe is data, never code: the factory that the module came from, and the structural steps that were applied to it.
What is served never reads these files; a variant knows the checksum of the weights that it was exported from.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from variants.build.context import Context, Draft
from variants.build.export import ARTEFACT, example, export_module
from variants.build.source import source_module
from variants.catalog import Frozen, Variant
from variants.errors import BuildError

FOLDER = "modules"
RECIPE = "recipe.json"
WEIGHTS = "weights.safetensors"
#: Structural steps by kind: `package.module:function`, called with the module and the step's fields.
STEPS: Mapping[str, str] = {
    "resize": "variants.build.prune:resize",
    "low-rank": "variants.build.lowrank:replace",
    "separable": "variants.build.compact:replace",
    "layers": "variants.build.students:keep_layers",
    "distillation-token": "variants.build.deit:add_token",
}


class Recipe(Frozen):
    """A module's structure: `base` (a factory; empty for the model's source) and the steps applied to it in order."""

    base: str = ""
    steps: tuple[Mapping[str, Any], ...] = ()

    def then(self, kind: str, **fields: Any) -> Recipe:
        """This recipe with one more step."""
        return Recipe(base=self.base, steps=(*self.steps, {"kind": kind, **fields}))


def restructure(module: Any, step: Mapping[str, Any]) -> Any:
    """Apply one structural step; returns the module (changed in place, or a new one around it)."""
    where, _, name = STEPS[step["kind"]].partition(":")
    function = getattr(importlib.import_module(where), name)
    return function(module, **{k: v for k, v in step.items() if k != "kind"})


def load_module(context: Context, parent: Variant | None) -> tuple[Any, Recipe]:
    """The torch module that a variant was exported from, and its recipe.

    Raises BuildError for a variant without one (made from a graph, or built by an older request).
    """
    where = f"{context.model.name}: {context.name}"
    if context.model.source.program is not None:
        raise BuildError(
            f"{where}: source.program ({context.model.source.program}) is a traced program, whose layers cannot be "
            "changed or trained; bring the module's factory (source.factory), or a student (distil)"
        )
    if parent is None or parent.lineage.parent is None:
        return source_module(context.folder, context.model, context.name), Recipe()
    folder = context.folder / FOLDER / parent.name
    expected = parent.lineage.parameters.get("module_sha256")
    if expected is None:
        raise BuildError(
            f"{where}: {parent.name} ({parent.lineage.technique}) is a graph, not a module that can be changed or "
            "trained; put the techniques that work on graphs (fp16, bf16, int8, …) last"
        )
    try:
        recipe = Recipe.model_validate_json((folder / RECIPE).read_text(encoding="utf-8"))
        weights = (folder / WEIGHTS).read_bytes()
    except (OSError, ValidationError) as error:
        raise BuildError(f"{where}: {folder}: cannot be read: {error}; build {parent.name} again (--force)") from error
    if hashlib.sha256(weights).hexdigest() != expected:
        raise BuildError(
            f"{where}: {folder / WEIGHTS} is not what {parent.name} was made from; build it again (--force)"
        )
    from safetensors.torch import load

    module = make(context, recipe)
    module.load_state_dict(load(weights))
    return module.eval(), recipe


def make(context: Context, recipe: Recipe) -> Any:
    """A module of a recipe's structure; what its weights are is the factory's business."""
    module = source_module(context.folder, context.model, context.name, factory=recipe.base)
    for step in recipe.steps:
        module = restructure(module, step)
    return module


def module_draft(
    context: Context,
    parent: Variant | None,
    technique: str,
    module: Any,
    recipe: Recipe,
    *,
    samples: int,
    packages: tuple[str, ...] = ("torch",),
    tolerance: float = 0.3,
    used: Mapping[str, Any],
) -> Draft:
    """A draft that exports a module as ONNX and keeps the module for techniques that follow."""
    from safetensors.torch import save

    module = module.eval()
    # Clones: tensors that share storage are not accepted.
    weights = save({name: t.detach().clone().contiguous() for name, t in module.state_dict().items()})
    lineage = context.lineage(
        parent, technique, samples, packages, **used, module_sha256=hashlib.sha256(weights).hexdigest()
    )
    record = Variant(
        name=context.name, engine="openvino", precision="fp32", artefact=ARTEFACT, lineage=lineage, tolerance=tolerance
    )

    def fill(folder: Path) -> None:
        export_module(context.model, module, example(context), folder / ARTEFACT)
        _keep(context.folder / FOLDER / context.name, recipe, weights)

    return Draft(record, fill)


def _keep(folder: Path, recipe: Recipe, weights: bytes) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        (temporary / WEIGHTS).write_bytes(weights)
        (temporary / RECIPE).write_text(recipe.model_dump_json(indent=2), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
