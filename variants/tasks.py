"""Tasks: what several models of a repository do alike, so that clients may name the task and leave the model open.

A model joins a task with `serves` in its `model.yaml`. All models of a task take and give the same tensors; where one
varies an axis that another fixes, the task takes the fixed size and may give any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from variants.catalog import RESERVED_TASKS, Frozen, Model, TensorSpec

#: What a task's name starts with where a model's name is expected.
PREFIX = "tasks/"


class Task(Frozen):
    """A task with the models that serve it (in order of name) and the tensors that all of them take and give."""

    name: str
    models: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int
    batchable: bool


def joined(task: Task | None, name: str, model: Model) -> Task:
    """The task with one more model (None: with this one alone). Raises ValueError naming what does not fit."""
    if task is None:
        return Task(
            name=name,
            models=(model.name,),
            inputs=model.inputs,
            outputs=model.outputs,
            max_batch=model.max_batch,
            batchable=model.batchable,
        )
    others = ", ".join(task.models)
    if task.batchable != model.batchable:
        raise ValueError(f"serves {name!r}: it is {_kind(model.batchable)}, but {others} {_kind(task.batchable)}")
    return Task(
        name=name,
        models=(*task.models, model.name),
        inputs=_merged(name, "input", task.inputs, model.inputs, others),
        outputs=_merged(name, "output", task.outputs, model.outputs, others),
        max_batch=min(task.max_batch, model.max_batch),
        batchable=task.batchable,
    )


def tasks(models: Iterable[Model]) -> Mapping[str, Task]:
    """Every task by name. Raises ValueError for models that do not fit together."""
    found: dict[str, Task] = {}
    for model in models:
        for name in model.serves:
            found[name] = joined(found.get(name), name, model)
    return found


def split(parts: list[str]) -> list[str]:
    """The parts of a path below `/v2/models` with a task's two (`tasks`, its name) made one, so that it stands where a
    model's name does. A model that is itself called `tasks` keeps its own paths."""
    match parts:
        case ["v2", "models", "tasks", name, *rest] if name not in RESERVED_TASKS:
            return ["v2", "models", PREFIX + name, *rest]
    return parts


def _kind(batchable: bool) -> str:
    return "batchable" if batchable else "not batchable"


def _merged(
    task: str,
    what: Literal["input", "output"],
    have: tuple[TensorSpec, ...],
    more: tuple[TensorSpec, ...],
    others: str,
) -> tuple[TensorSpec, ...]:
    given = {spec.name: spec for spec in more}
    if set(given) != {spec.name for spec in have}:
        expected = ", ".join(spec.name for spec in have)
        raise ValueError(f"serves {task!r}: its {what}s are {', '.join(given)}; those of {others} are {expected}")
    merged = []
    for spec in have:
        other = given[spec.name]
        if other.datatype != spec.datatype:
            raise ValueError(
                f"serves {task!r}: {what} {spec.name!r} is {other.datatype}; that of {others} is {spec.datatype}"
            )
        agree = len(spec.shape) == len(other.shape) and all(
            a == b or -1 in (a, b) for a, b in zip(spec.shape, other.shape, strict=True)
        )
        if not agree:
            raise ValueError(
                f"serves {task!r}: {what} {spec.name!r} has shape {list(other.shape)}; "
                f"that of {others} has {list(spec.shape)}"
            )
        choose = max if what == "input" else min  # -1, a varying axis, is below every size
        shape = tuple(choose(a, b) for a, b in zip(spec.shape, other.shape, strict=True))
        merged.append(spec.model_copy(update={"shape": shape}))
    return tuple(merged)
